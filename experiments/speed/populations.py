"""How fast populations train and sweeps run: each row of the table as a line of JSON."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import jax
import numpy as np

from experiments.speed.loops import Work, torch_loop
from experiments.speed.timing import REPEATS, Paired, Row, in_turn, seconds
from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import with_values
from mlp_jax.core.fit import compile_programs, fit
from mlp_jax.core.population import Trainer, make_mesh
from mlp_jax.experiment.setup import prepare
from mlp_jax.sweep.groups import population_of, spread_over_cores

NUM_TORCH_STEPS = 2_000
XOR = ("+exp=xor", "tracking=none")
DIGITS = (
    "+exp=digits", "tracking=none", "model.hidden_sizes=[32]", "batch_size=32", "num_epochs=10",
)  # fmt: skip


def population_loop(
    overrides: tuple[str, ...], num_networks: int, num_points: int
) -> Callable[[], object]:
    """Networks that differ in their seed, at their first `num_points` log points, ever again."""
    config = compose(list(overrides))
    base = prepare(config, data.load(config.data))
    problems = [
        replace(base, config=with_values(base.config, {"seed": i})) for i in range(num_networks)
    ]
    trainer = Trainer(population_of(problems), make_mesh(num_networks))
    networks = trainer.begin(np.arange(num_networks)).networks
    trainer.num_points = num_points

    def run() -> object:
        nonlocal networks
        networks, logged = trainer.advance(networks, trainer.shared, 0, num_points)
        return logged

    return run


def xor_against_torch() -> Row:
    """1,024 networks, a network-step against a step of PyTorch eager."""
    num_networks, num_steps = 1024, 1_000
    ours = population_loop(XOR, num_networks, 100)
    theirs = torch_loop(Work((2, 8, 1), 4, 4, NUM_TORCH_STEPS), NUM_TORCH_STEPS, 1)
    paired = in_turn(theirs, ours)
    a_step = [seconds / NUM_TORCH_STEPS for seconds in paired.a]
    a_network_step = [seconds / (num_networks * num_steps) for seconds in paired.b]
    ratio = Paired(a_step, a_network_step)
    return Row(
        "1,024 networks 2-8-1, full batch: a network-step against PyTorch eager, one by one",
        ratio.text,
        "≥ 1,000×",
        f"{1e9 * ratio.median(ratio.b):.0f} ns against {1e6 * ratio.median(ratio.a):.0f} µs",
    )


def xor_by_size() -> Row:
    """A network-step in populations of 64 to 16,384 networks, the best of rounds over all sizes."""
    num_points = {size: 100 if size <= 1024 else 10 for size in (64, 256, 1024, 4096, 16_384)}
    loops = {size: population_loop(XOR, size, points) for size, points in num_points.items()}
    for loop in loops.values():
        loop()
    rounds = [{size: seconds(loop) for size, loop in loops.items()} for _ in range(REPEATS)]
    cost = {
        size: min(times[size] for times in rounds) / (size * 10 * points)
        for size, points in num_points.items()
    }
    listed = ", ".join(f"{size:,}: {1e9 * value:.0f}" for size, value in cost.items())
    return Row(
        "a network-step of XOR in populations of 64 to 16,384, dearest against cheapest",
        f"{max(cost.values()) / min(cost.values()):.2f}×",
        "≤ 1.5×",
        f"ns a network-step, {listed}",
    )


def digits_against_one_by_one() -> Row:
    """64 networks for 10 epochs, against the single training's loop, one after the other."""
    num_networks = 64
    together = population_loop(DIGITS, num_networks, 10)
    config = compose(list(DIGITS))
    problem = prepare(config, data.load(config.data))
    programs = compile_programs(problem)

    def one_by_one() -> object:
        return [fit(problem, programs).params for _ in range(num_networks)]

    paired = in_turn(one_by_one, together, repeats=5)
    total = num_networks * problem.num_steps
    ours, theirs = (1e6 * paired.median(values) / total for values in (paired.b, paired.a))
    return Row(
        f"{num_networks} networks 64-32-10 on digits, batch 32, 10 epochs, against one by one",
        paired.text,
        "≥ 3×",
        f"{ours:.1f} µs a network-step against {theirs:.1f}",
    )


def memory_of_16384() -> Row:
    """The most memory that a process with 16,384 networks took, JAX and all."""
    program = (
        "import resource, numpy as np\n"
        "from experiments.speed.populations import XOR\n"
        "from mlp_jax.config.compose import compose\n"
        "from mlp_jax.config.schema import with_values\n"
        "from mlp_jax.sweep.groups import spread_over_cores, train\n"
        "spread_over_cores()\n"
        "config = compose(list(XOR))\n"
        "train([with_values(config, {'seed': i}) for i in range(16_384)])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    gigabytes = int(result.stdout) * unit / 1e9
    return Row(
        "memory of 16,384 XOR networks",
        f"{gigabytes:.2f} GB",
        "< 2 GB",
        f"the whole process, {time.perf_counter() - start:.0f} s",
    )


def sweep_against_basic_launcher() -> Row:
    """A job of `-m seed=range(1000)`, tracked, against one of 100 by Hydra's own launcher."""
    with tempfile.TemporaryDirectory() as folder:

        def seconds_a_job(num_jobs: int, *options: str) -> float:
            line = [sys.executable, "-m", "mlp_jax.train", "-m", "+exp=xor"]
            line += [f"seed=range({num_jobs})", *options]
            start = time.perf_counter()
            subprocess.run(line, cwd=folder, check=True, capture_output=True, env=os.environ)
            return (time.perf_counter() - start) / num_jobs

        seconds_a_job(2)  # creates the store
        theirs = seconds_a_job(100, "hydra/launcher=basic", "hydra/sweeper=basic")
        ours = [seconds_a_job(1000) for _ in range(3)]
    ratios = [theirs / value for value in ours]
    return Row(
        "-m +exp=xor 'seed=range(1000)', tracked, a job, against the basic launcher and sweeper",
        f"{statistics.median(ratios):.0f}× ({min(ratios):.0f} to {max(ratios):.0f})",
        "≥ 15×",
        f"{1e3 * statistics.median(ours):.1f} ms a job, the whole command, against "
        f"{1e3 * theirs:.0f} of 100 jobs",
    )


def rows() -> list[Callable[[], Row]]:
    """Those that can be measured here; what the host alone does is measured on a CPU."""
    with_torch = [xor_against_torch] if find_spec("torch") else []
    on_host = [memory_of_16384, sweep_against_basic_launcher]
    return [
        *with_torch,
        xor_by_size,
        digits_against_one_by_one,
        *(on_host if jax.default_backend() == "cpu" else []),
    ]


if __name__ == "__main__":
    spread_over_cores()
    for measure in rows():
        print(json.dumps(measure()), flush=True)
