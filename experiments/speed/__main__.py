"""`python -m experiments.speed` measures every figure of the table and writes it down.

Each is a ratio of two timings taken in turn, A B A B …, in one run on one machine; the table gives
the median ratio and its range. PyTorch comes with `pip install -e '.[bench]'`; without it the
comparisons with it are left out.
"""

import gzip
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console as RichConsole
from rich.markdown import Markdown

from experiments.study import machine
from mlp_jax import config, network, training
from mlp_jax.activations import ACTIVATIONS
from mlp_jax.backprop import backprop, batch_loss
from mlp_jax.initializers import INITIALIZERS
from mlp_jax.losses import LOSSES
from mlp_jax.optimizers import make_learning_rate, make_optimizer
from mlp_jax.training import Part, Training

HERE = Path(__file__).parent
REPEATS = 9


class Row(NamedTuple):
    """One line of the table: a ratio, what it must be, and both timings behind it."""

    work: str
    ratio: str
    must: str
    details: str


class Paired(NamedTuple):
    """Seconds of A and of B, and A/B pair by pair."""

    a: list[float]
    b: list[float]

    def median(self, values: list[float] | None = None) -> float:
        return statistics.median(self.ratios if values is None else values)

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.a, self.b, strict=True)]

    @property
    def text(self) -> str:
        return f"{self.median():.3g}× ({min(self.ratios):.3g} to {max(self.ratios):.3g})"


def percent(shares: list[float]) -> str:
    low, middle, high = (
        f"{100 * share:.0f}" for share in (min(shares), statistics.median(shares), max(shares))
    )
    return f"{middle} % ({low} to {high})"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_turn(a: Callable[[], object], b: Callable[[], object], repeats: int = REPEATS) -> Paired:
    """Times A and B alternately, after one call of each that is not counted."""
    a(), b()
    pairs = [(seconds(a), seconds(b)) for _ in range(repeats)]
    return Paired([pair[0] for pair in pairs], [pair[1] for pair in pairs])


# --- the same training twice -------------------------------------------------------------------


class Work(NamedTuple):
    """A network, its data and how many steps are timed."""

    sizes: tuple[int, ...]
    num_examples: int
    batch_size: int
    num_steps: int

    @property
    def name(self) -> str:
        batch = "full batch" if self.batch_size == self.num_examples else f"batch {self.batch_size}"
        return f"{'-'.join(map(str, self.sizes))}, {batch}"


def examples(work: Work) -> Part:
    rng = np.random.default_rng(0)
    x = rng.random((work.num_examples, work.sizes[0]), np.float32)
    y = np.eye(max(work.sizes[-1], 2))[rng.integers(0, max(work.sizes[-1], 2), work.num_examples)]
    return Part(jnp.asarray(x), jnp.asarray(y[:, -work.sizes[-1] :], jnp.float32))


def our_loop(work: Work) -> Callable[[], object]:
    """`num_steps` of gradient descent as one scan; each call goes on from the last one's state."""
    chosen = config.GradientDescent(learning_rate=0.1, clip_norm=None)
    eta = make_learning_rate(config.Constant(), chosen.learning_rate, work.num_steps)
    pair = (
        ("sigmoid", "binary_cross_entropy") if work.sizes[-1] == 1 else ("softmax", "cross_entropy")
    )
    fixed = Training(
        activation=ACTIVATIONS["sigmoid"],
        loss=LOSSES[pair],
        penalty=None,
        optimizer=make_optimizer(chosen, eta),
        learning_rate=eta,
        batch_size=work.batch_size,
    )
    params = network.init_params(jax.random.key(0), work.sizes, INITIALIZERS["glorot_normal"])
    steps = partial(training.train_steps, fixed, num_steps=work.num_steps, aligned=True)
    loop = jax.jit(steps, donate_argnums=0)
    part, shuffle_key = examples(work), jax.random.key(1)
    state = training.init_state(fixed, params)

    def run() -> object:
        nonlocal state
        state, losses = loop(state, shuffle_key, part)
        return losses

    return run


def torch_loop(work: Work, num_steps: int, num_threads: int) -> Callable[[], object]:
    """The same training in PyTorch, eager, as its tutorials write it."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[Any] = []
    for n_in, n_out in zip(work.sizes[:-1], work.sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
    model = nn.Sequential(*layers[:-1])
    part = examples(work)
    x, y = (torch.from_numpy(np.array(array)) for array in part)
    loss: Any = nn.BCEWithLogitsLoss()
    if work.sizes[-1] > 1:
        y, loss = y.argmax(dim=1), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps_per_epoch = work.num_examples // work.batch_size

    def run() -> None:
        torch.set_num_threads(num_threads)
        for step in range(num_steps):
            if work.batch_size == work.num_examples:
                batch_x, batch_y = x, y
            else:
                if step % steps_per_epoch == 0:
                    order = torch.randperm(work.num_examples)
                at = step % steps_per_epoch * work.batch_size
                rows = order[at : at + work.batch_size]
                batch_x, batch_y = x[rows], y[rows]
            optimizer.zero_grad()
            loss(model(batch_x), batch_y).backward()
            optimizer.step()

    return run


def against_torch(work: Work, num_torch_steps: int, must: str) -> Row:
    """Our seconds a step against PyTorch's at the number of threads that suits it best."""
    candidates = {n: torch_loop(work, num_torch_steps, n) for n in (1, num_cores())}
    for loop in candidates.values():
        loop()
    num_threads = min(candidates, key=lambda n: min(seconds(candidates[n]) for _ in range(5)))
    paired = in_turn(candidates[num_threads], our_loop(work))
    scale = work.num_steps / num_torch_steps
    per_step = Paired([a * scale for a in paired.a], paired.b)
    ours, theirs = per_step.median(per_step.b) / work.num_steps, per_step.median(per_step.a)
    return Row(
        f"{work.name}: steps/s against PyTorch eager",
        per_step.text,
        must,
        f"{1e6 * ours:.2f} µs a step against {1e6 * theirs / work.num_steps:.1f} "
        f"(PyTorch with {num_threads} threads)",
    )


SMALL_BATCH = Work((784, 100, 10), 50_000, 10, 5_000)


def on_one_thread() -> Row:
    """The small batch in a process of its own, where XLA has one thread: it is faster so."""
    result = subprocess.run(
        [sys.executable, "-m", "experiments.speed", "--small-batch"],
        env=os.environ | {"NPROC": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    row = Row(*json.loads(result.stdout))
    return row._replace(details=f"NPROC=1, {row.details}")


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the other rows ----------------------------------------------------------------------------


def large_network_against_matmul() -> Row:
    """Floating-point operations a second of a training against those of one large product."""
    work = Work((784, 1024, 1024, 10), 12_800, 128, 100)
    weights = sum(m * n for m, n in zip(work.sizes[:-1], work.sizes[1:], strict=True))
    # Forward, and backward for the weights; for the deltas except before the first layer.
    flop_a_step = 2 * work.batch_size * (3 * weights - work.sizes[0] * work.sizes[1])
    matrix = jnp.asarray(np.random.default_rng(0).random((4096, 4096), np.float32))
    product = jax.jit(jnp.matmul)
    paired = in_turn(lambda: product(matrix, matrix), our_loop(work))
    flop_of_product = 2 * 4096**3
    rates = [
        (work.num_steps * flop_a_step / ours) / (flop_of_product / theirs)
        for theirs, ours in zip(paired.a, paired.b, strict=True)
    ]
    gigaflops = work.num_steps * flop_a_step / paired.median(paired.b) / 1e9
    return Row(
        f"{work.name}: share of the rate of a 4096² product",
        percent(rates),
        "≥ 90 %",
        f"{gigaflops:.0f} Gflop/s against {flop_of_product / paired.median(paired.a) / 1e9:.0f}",
    )


def backprop_against_autodiff() -> list[Row]:
    """The hand-written gradient against `jax.value_and_grad`: time and matrix products."""
    work = Work((784, 1024, 1024, 10), 128, 128, 1)
    params = network.init_params(jax.random.key(0), work.sizes, INITIALIZERS["glorot_normal"])
    arguments = (params, *examples(work))
    fixed = (ACTIVATIONS["sigmoid"], LOSSES["softmax", "cross_entropy"])
    programs = [
        jax.jit(lambda params, x, y, f=f: f(params, x, y, *fixed)).lower(*arguments).compile()
        for f in (backprop, jax.value_and_grad(batch_loss))
    ]

    def many(program: Callable[..., object]) -> Callable[[], object]:
        return lambda: [program(*arguments) for _ in range(50)]

    paired = in_turn(many(programs[0]), many(programs[1]), 3 * REPEATS)
    products = [
        len(re.findall(r"\bdot\(|custom-call.*matmul", str(program.as_text())))
        for program in programs
    ]
    ours, theirs = (1000 * paired.median(values) / 50 for values in paired)
    return [
        Row(
            "backprop against jax.value_and_grad: time",
            paired.text,
            "≤ 1.02×",
            f"{ours:.2f} ms against {theirs:.2f}, {work.name}",
        ),
        Row(
            "backprop against jax.value_and_grad: matrix products",
            f"{products[0]} and {products[1]}",
            "equal",
            "dots in the compiled program",
        ),
    ]


def tracked_against_bare() -> Row:
    """Steps/s of `mlp_jax.train` with tracking on against the bare compiled loop."""
    from mlp_jax import data, experiment, problem
    from mlp_jax.cli import compose
    from mlp_jax.console import Console

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_random_mnist(root)
        experiment_config = compose(
            ["+exp=nielsen_3", "num_epochs=5", f"data.root={root}", "tracking.model=false",
             "tracking.figures=false", f"tracking.uri=sqlite:///{root}/mlflow.db"]
        )  # fmt: skip
        prepared = problem.prepare(experiment_config, data.load(experiment_config.data))
        num_steps = prepared.num_steps
        loop = jax.jit(
            partial(training.train_steps, prepared.training, num_steps=num_steps, aligned=True)
        )
        state = training.init_state(prepared.training, prepared.params)
        quiet = Console(RichConsole(quiet=True))
        shares = []
        loop(state, prepared.shuffle_key, prepared.train)
        for _ in range(3):
            bare = seconds(lambda: loop(state, prepared.shuffle_key, prepared.train))
            result = experiment.run(experiment_config, quiet)
            shares.append(bare / result.seconds)
    return Row(
        "steps/s in mlp_jax.train with tracking on, against the bare loop",
        percent(shares),
        "≥ 90 %",
        f"784-100-10, batch 10, 5 epochs of 50,000 examples, {num_steps / bare:,.0f} steps/s bare",
    )


def write_random_mnist(root: Path) -> None:
    """Four IDX files of MNIST's shapes with random contents: speed does not depend on them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.integers(0, 10, count, np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            with gzip.open(root / f"{part}-{name}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header + array.tobytes())


def end_to_end_against_imports() -> Row:
    """The whole command on XOR, its store already there, against importing what it stands on."""
    with tempfile.TemporaryDirectory() as folder:

        def command(*arguments: str) -> Callable[[], object]:
            line = [sys.executable, *arguments]
            return lambda: subprocess.run(line, cwd=folder, check=True, capture_output=True)

        paired = in_turn(
            command("-m", "mlp_jax.train", "+exp=xor"),
            command("-c", "import jax, optax, hydra, mlflow"),
        )
    whole, imports = (paired.median(values) for values in paired)
    return Row(
        "+exp=xor end to end, against python -c 'import jax, optax, hydra, mlflow'",
        paired.text,
        "≤ 2.2×",
        f"{whole:.2f} s against {imports:.2f} s",
    )


def measure() -> list[Row]:
    rows = []
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed (pip install -e '.[bench]'): left out")
    else:
        rows += [
            against_torch(Work((2, 8, 1), 4, 4, 100_000), 2_000, "≥ 40×"),
            on_one_thread(),
            against_torch(Work((784, 100, 10), 50_000, 128, 780), 390, "≥ 2.5×"),
        ]
    rows.append(large_network_against_matmul())
    rows += backprop_against_autodiff()
    rows.append(tracked_against_bare())
    rows.append(end_to_end_against_imports())
    return rows


def main() -> None:
    if "--small-batch" in sys.argv:
        print(json.dumps(against_torch(SMALL_BATCH, 1_000, "≥ 5×")))
        return
    rows = measure()
    device = jax.devices()[0]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    packages = ("jax", "jaxlib", "optax", "mlflow")
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = (
        f"# Speed on {device.device_kind} ({device.platform})\n\n"
        "`python -m experiments.speed`: the median of the ratios, with the lowest and highest.\n\n"
        f"| work | ratio | must | timings |\n|---|---|---|---|\n{table}\n\n"
        f"Machine: {machine()}. Commit {commit}; "
        f"{', '.join(f'{name} {version(name)}' for name in packages)}.\n"
    )
    (HERE / f"{device.platform}.md").write_text(text, encoding="utf-8")
    RichConsole().print(Markdown(text))


if __name__ == "__main__":
    main()
