"""`python -m experiments.speed` measures every figure of the table; `--write` records them.

Each is a ratio of two timings taken in turn, A B A B …, in one run on one machine; the table gives
the median ratio and its range. PyTorch comes with `pip install -e '.[bench]'`; without it the
comparisons with it are left out. On a GPU it runs there, too, and what the host alone does is left
out; the processes share its memory with `XLA_PYTHON_CLIENT_PREALLOCATE=false`.
"""

import argparse
import gzip
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console as RichConsole
from rich.markdown import Markdown

from experiments.speed.loops import Work, examples, our_loop, torch_loop
from experiments.speed.recording import bulk_against_client
from experiments.speed.timing import REPEATS, Paired, Row, in_turn, percent, seconds
from experiments.study import machine
from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import backprop, batch_loss
from mlp_jax.core.fit import compile_programs, no_block
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.experiment.machine import num_cores

HERE = Path(__file__).parent


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


def on_one_thread(name: str) -> Row:
    """A row of `SMALL` in a process of its own with one thread, as `mlp_jax.train` gives it."""
    result = subprocess.run(
        [sys.executable, "-m", "experiments.speed", name],
        env=os.environ | {"NPROC": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row = Row(*json.loads(result.stdout))
    return row._replace(details=f"one thread, {row.details}")


def small_batch() -> Row:
    return against_torch(Work((784, 100, 10), 50_000, 10, 5_000), 1_000, "≥ 5×")


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


def growth_with_rows() -> Row:
    """A step's seconds at 10⁴ to 10⁷ examples, the drawing of their order included."""
    cost = {}
    for num_examples in (10**4, 10**5, 10**6, 10**7):
        work = Work((8, 32, 1), num_examples, 1_000, 10_000)
        loop = our_loop(work)
        loop()
        cost[num_examples] = min(seconds(loop) for _ in range(3)) / work.num_steps
    listed = ", ".join(f"{rows:,}: {1 / cost[rows]:,.0f}" for rows in cost)
    return Row(
        "8-32-1, batch 1,000: a step at 10⁴ to 10⁷ examples, dearest against cheapest",
        f"{max(cost.values()) / min(cost.values()):.2f}×",
        "≤ 1.5×",
        f"steps/s at {listed} examples",
    )


def tracked_against_bare() -> Row:
    """Steps/s of `mlp_jax.train` with tracking on against its compiled loop, log points and all."""
    from mlp_jax import data
    from mlp_jax.config.compose import compose
    from mlp_jax.experiment import run as experiment
    from mlp_jax.experiment import setup as problem
    from mlp_jax.experiment.console import Console

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_random_mnist(root)
        experiment_config = compose(
            ["+exp=nielsen_3", "num_epochs=5", f"data.root={root}", "tracking.model=false",
             "tracking.figures=false", f"tracking.uri=sqlite:///{root}/mlflow.db",
             f"checkpoint.root={root}/runs"]
        )  # fmt: skip
        prepared = problem.prepare(experiment_config, data.load(experiment_config.data))
        programs = compile_programs(prepared)

        def loop() -> object:
            carry, block = programs.start(prepared.params), no_block(prepared)
            for epoch in range(5):
                start, stop = (np.int32(k * prepared.log_every) for k in (epoch, epoch + 1))
                carry, block, _ = programs.advance(
                    carry, block, prepared.order, prepared.train, start, stop
                )
                carry, logged = programs.log_point(carry, prepared.train, prepared.validation)
            return carry, logged

        quiet = Console(RichConsole(quiet=True))
        shares = []
        loop()
        for _ in range(5):
            bare = seconds(loop)
            result = experiment.run(experiment_config, quiet)
            shares.append(bare / result.seconds)
    return Row(
        "steps/s in mlp_jax.train with tracking on, against the bare loop",
        percent(shares),
        "≥ 90 %",
        f"784-100-10, batch 10, 5 epochs of 50,000 examples, "
        f"{prepared.num_steps / bare:,.0f} steps/s bare",
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


def of_populations() -> list[Row]:
    """In a process of its own, where every core is a device."""
    line = [sys.executable, "-m", "experiments.speed.populations"]
    result = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(*json.loads(row)) for row in result.stdout.splitlines()]


SMALL = {"small_batch": small_batch, "tracked_against_bare": tracked_against_bare}


def measure() -> list[Row]:
    rows = []
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed (pip install -e '.[bench]'): left out")
    else:
        rows += [
            against_torch(Work((2, 8, 1), 4, 4, 100_000), 2_000, "≥ 40×"),
            on_one_thread("small_batch"),
            against_torch(Work((784, 100, 10), 50_000, 128, 780), 390, "≥ 2.5×"),
        ]
    rows.append(large_network_against_matmul())
    rows += backprop_against_autodiff()
    rows.append(growth_with_rows())
    rows.append(on_one_thread("tracked_against_bare"))
    rows += of_populations()
    if jax.default_backend() != "cpu":  # what must be reached is said of a CPU
        return [row._replace(must="–") for row in rows]
    return [*rows, end_to_end_against_imports(), Row(*bulk_against_client())]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("row", nargs="?", choices=SMALL, help="only this one, as JSON")
    parser.add_argument("--write", action="store_true", help="rewrite the record of this device")
    options = parser.parse_args()
    if row := options.row:
        print(json.dumps(SMALL[row]()))
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
    if options.write:
        (HERE / f"{device.platform}.md").write_text(text, encoding="utf-8")
    RichConsole().print(Markdown(text))


if __name__ == "__main__":
    main()
