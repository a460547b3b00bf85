"""`python -m mlp_jax.train +exp=xor` trains a network and records the run."""

import itertools
import os
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_jax.commands import frame
from mlp_jax.commands.frame import OfRun
from mlp_jax.config import saved
from mlp_jax.config.compose import Job
from mlp_jax.config.schema import Experiment, batch_size_of, with_values
from mlp_jax.durable import rundir
from mlp_jax.errors import UserError
from mlp_jax.experiment import machine

if TYPE_CHECKING:
    from mlp_jax.data import Dataset
    from mlp_jax.experiment.console import Console
    from mlp_jax.experiment.describe import Result
    from mlp_jax.sweep.sweep import Sweep


def run(*arguments: str, quiet: bool = True) -> Any:
    """The command from Python: composed, checked, recorded in MLflow, and it can be continued.

    The arguments are those of the command line, options included. Returns the `Result` of the run;
    for `-m`, a list of Hydra's returns of the jobs, each with its `overrides` and, as
    `return_value`, the loss that a search minimises. Prints what the command prints unless it is
    to be `quiet`. Raises `UserError` for a mistake in the arguments, before anything is written,
    `RunError` for a run that fails, `KeyboardInterrupt` for one that was stopped.

    What MLflow, JAX and XLA read from the environment (MLFLOW_…, JAX_…, NPROC, XLA_FLAGS) is set in
    `os.environ` where you have not set it, and stays: threads that deliver runs go on reading it.
    Set there yourself what another use of MLflow or JAX in this process needs to be otherwise.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as root:
    ...     result = run("+exp=xor", "num_epochs=9", "tracking=none", f"checkpoint.root={root}")
    >>> result.problem.num_steps
    9
    """
    for given in arguments:
        if not isinstance(given, str):
            raise UserError(
                f"{textwrap.shorten(str(given), 80)}: overrides are texts KEY=VALUE, each an "
                'argument of its own: run("+exp=xor", "seed=1"), or run(*OVERRIDES) of a list.'
            )
    return frame.call(_command(arguments, quiet), arguments)


def main() -> None:
    arguments = sys.argv[1:]
    frame.main(_command(arguments), arguments)


def _command(arguments: Sequence[str], quiet: bool = False) -> frame.Command:
    given: dict[str, Any] = {"arguments": arguments, "quiet": quiet}
    return frame.Command(
        module="mlp_jax.train",
        summary="Trains a feedforward network, proves its gradient and records the run in MLflow.",
        examples=[
            ("+exp=xor", "XOR in seconds"),
            ("+exp=xor seed=1 model.activation=tanh", "the same with another seed and activation"),
            ("+exp=mnist data.root=DIR", "MNIST from its four IDX files"),
            ("+exp=table data.path=my.csv data.target=price", "your own table"),
            ("+exp=digits optimizer=adam schedule=cosine", "another optimizer and schedule"),
        ],
        run=partial(train, **given),
        loss=search_loss,
        open_sweep=partial(open_sweep, **given),
        of_runs={
            "resume": OfRun(
                "go on from its last checkpoint; num_epochs=N may be raised, budget=TIME changed",
                partial(resume, **given),
            ),
            "rerun": OfRun(
                "repeat it and compare the parameters, bit for bit", partial(rerun, **given)
            ),
        },
    )


def train(config: Experiment, arguments: Sequence[str], quiet: bool) -> "Result":
    console = _console(quiet)
    if most := config.sweep.ensemble:
        raise UserError(
            f"sweep.ensemble={most}: is selected from the runs of a sweep; add -m and values to "
            f"sweep over, or train ensemble.size={most} networks in one run."
        )
    _pin_if_deterministic([config])
    rundir.check_root(config.checkpoint.root)
    if config.tracking.name != "none":  # a mistake in it is told before the data is read
        from mlp_jax.tracking import check

        check(config.tracking.uri)
    from mlp_jax import data

    dataset = data.load(config.data)
    _pin_if_small(config, dataset)
    from mlp_jax.experiment import run as experiment

    return experiment.run(config, console, _line(arguments), dataset=dataset)


def search_loss(result: "Result") -> float:
    """What a search minimises."""
    from mlp_jax.experiment import describe

    return describe.search_loss(*describe.standing(result))


def open_sweep(jobs: Sequence[Job], arguments: Sequence[str], quiet: bool) -> "Sweep":
    configs = [job.config for job in jobs]
    _pin_if_deterministic(configs)
    if all(config.population.exact for config in configs):
        from mlp_jax import data

        with suppress(UserError):  # of which the sweep tells when it comes to that job
            _pin_if_small(configs[0], data.load(configs[0].data))
    from mlp_jax.sweep.sweep import Sweep

    options = _config_dir(arguments)
    alone = lambda overrides: _line([*options, *overrides])  # noqa: E731
    sweep = Sweep(_line(arguments), alone, _console(quiet))
    sweep.check(jobs)
    return sweep


def _line(arguments: Sequence[str]) -> str:
    """The command line of these arguments."""
    return shlex.join(["python", "-m", "mlp_jax.train", *arguments])


def _console(quiet: bool) -> "Console":
    from rich.console import Console as RichConsole

    from mlp_jax.experiment.console import Console

    return Console(RichConsole(quiet=True) if quiet else None)


def _config_dir(arguments: Sequence[str]) -> list[str]:
    """The --config-dir of the arguments and its value, if they have one."""
    given = list(arguments)
    at = [i for i, text in enumerate(given) if text.partition("=")[0] in ("--config-dir", "-cd")]
    return [text for i in at for text in given[i : i + 2 - ("=" in given[i])]]


def resume(
    name: str, overrides: list[str], arguments: Sequence[str] = (), quiet: bool = False
) -> "Result | None":
    """Goes on with a run; says so where there is nothing to go on with."""
    directory, overrides = _find(name, overrides)
    given = saved.from_record(rundir.read(directory, rundir.CONFIG), directory)
    config = saved.prolonged(given, overrides)
    result = rundir.result(directory)
    is_recorded = config.tracking.name == "none" or (directory / rundir.RUN).exists()
    has_ended = result is not None and not result.get("out_of_time", False)
    is_same = config == with_values(given, {"budget": config.budget})
    if result is not None and has_ended and is_recorded and (is_same or result["stopped_early"]):
        early = "; early stopping ended it" if result["stopped_early"] else ""
        if not quiet:
            print(f"the run has finished, at step {result['last_step']:,}{early}: {directory}")
        return None
    _pin_as_recorded(rundir.read(directory, rundir.ENVIRONMENT))
    from mlp_jax.experiment import run as experiment

    return experiment.run(config, _console(quiet), _line(arguments), directory)


def rerun(
    name: str, overrides: list[str], arguments: Sequence[str] = (), quiet: bool = False
) -> None:
    """Repeats a run; its directory is looked for first, then the tracking store."""
    given = dict(text.partition("=")[::2] for text in overrides)
    if odd := given.keys() - {"checkpoint.root", "tracking.uri"}:
        raise UserError(
            f"{', '.join(sorted(odd))}: a run is repeated as it was; only checkpoint.root and "
            "tracking.uri may say where it is found."
        )
    directory = rundir.find(name, given.get("checkpoint.root", rundir.DEFAULT_ROOT))
    from mlp_jax.experiment import rerun as repeat

    if directory is not None:
        original = repeat.from_directory(directory)
    else:
        original = repeat.from_store(name, given.get("tracking.uri"))
    _pin_as_recorded(original.environment)
    repeat.rerun(original, _console(quiet), _line(arguments))


def _find(name: str, overrides: list[str]) -> tuple[Path, list[str]]:
    """The directory of a run, and the overrides without the one that says where to look."""
    key = "checkpoint.root="
    roots = [text.removeprefix(key) for text in overrides if text.startswith(key)]
    root = roots[-1] if roots else rundir.DEFAULT_ROOT
    directory = rundir.find(name, root)
    if directory is None:
        raise UserError(
            f"resume={name}: no directory of a run, and none of that name or id below {root}; "
            "checkpoint.root=DIRECTORY says where else to look."
        )
    return directory, [text for text in overrides if not text.startswith(key)]


def _pin_as_recorded(then: Mapping[str, Any]) -> None:
    """As many threads as the run was begun with, and its order: they may change the last bits."""
    if then.get("num_cores") not in (None, machine.num_cores()):
        machine.pin_cores(then["num_cores"])
    machine.fix_order(then.get("xla_flags", ""))


def _pin_if_deterministic(configs: Sequence[Experiment]) -> None:
    if not any(config.deterministic for config in configs):
        return
    cores = os.environ.get("NPROC") or "1"
    if not cores.isdecimal() or int(cores) < 1:
        raise UserError(
            f"NPROC={cores}: with deterministic=true it must be the number of cores, from 1."
        )
    machine.pin_cores(int(cores))
    machine.fix_order()


_SMALL_PRODUCT = 2**20
"""Multiplications and additions, as many as 784 times 100 in a batch of 13: with fewer, threads
wait for each other longer than they compute."""


def _pin_if_small(config: Experiment, dataset: "Dataset") -> None:
    """One thread for a small network, if it is the first of its process and no $NPROC is given."""
    if os.environ.get("NPROC") or machine.has_jax():
        return
    num_examples, n_0 = dataset.train.x.shape
    sizes = [n_0, *config.model.hidden_sizes, len(dataset.class_names or dataset.target_names)]
    products = (n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
    if batch_size_of(config, num_examples) * max(products) < _SMALL_PRODUCT:
        machine.pin_cores(1)
