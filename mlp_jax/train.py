"""`python -m mlp_jax.train +exp=xor` trains a network and records the run."""

import os
import shlex
import sys
from pathlib import Path

from mlp_jax import environment, recorded, rundir
from mlp_jax.cli import OfRun, run_command
from mlp_jax.config import Experiment
from mlp_jax.errors import UserError


def train(config: Experiment) -> None:
    if config.deterministic:
        environment.pin(int(os.environ.get("NPROC") or 1))
    from mlp_jax import experiment

    experiment.run(config, command=_command())


def _command() -> str:
    return shlex.join(["python", "-m", "mlp_jax.train", *sys.argv[1:]])


def resume(name: str, overrides: list[str]) -> None:
    """Goes on with a run; says so where there is nothing to go on with."""
    directory, overrides = _find("resume", name, overrides)
    given = recorded.from_record(rundir.read(directory, rundir.CONFIG) or {}, directory)
    config = recorded.prolonged(given, overrides)
    result = rundir.read(directory, rundir.RESULT)
    if result is not None and (config == given or result["stopped_early"]):
        early = "; early stopping ended it" if result["stopped_early"] else ""
        print(f"the run has finished, at step {result['last_step']:,}{early}: {directory}")
        return
    _pin_as_recorded(directory)
    from mlp_jax import experiment

    experiment.run(config, command=_command(), directory=directory)


def _find(what: str, name: str, overrides: list[str]) -> tuple[Path, list[str]]:
    """The directory of a run, and the overrides without the one that says where to look."""
    roots = [text.partition("=")[2] for text in overrides if text.startswith("checkpoint.root=")]
    root = roots[-1] if roots else rundir.DEFAULT_ROOT
    directory = rundir.find(name, root)
    if directory is None:
        raise UserError(
            f"{what}={name}: no directory of a run, and none of that name or id below {root}; "
            "checkpoint.root=DIRECTORY says where else to look."
        )
    return directory, [text for text in overrides if not text.startswith("checkpoint.root=")]


def _pin_as_recorded(directory: Path) -> None:
    """As many threads as the run was begun with: their number may change the last bits."""
    then = rundir.read(directory, rundir.ENVIRONMENT) or {}
    if then.get("num_cores") != environment.num_cores():
        environment.pin(then["num_cores"])


def main() -> None:
    run_command(
        train,
        module="mlp_jax.train",
        summary="Trains a feedforward network, proves its gradient and records the run in MLflow.",
        examples=[
            ("+exp=xor", "XOR in seconds"),
            ("+exp=xor seed=1 model.activation=tanh", "the same with another seed and activation"),
            ("+exp=mnist data.root=DIR", "MNIST from its four IDX files"),
            ("+exp=table data.path=my.csv data.target=price", "your own table"),
            ("+exp=digits optimizer=adam schedule=cosine", "another optimizer and schedule"),
        ],
        of_runs={
            "resume": OfRun("go on from its last checkpoint; num_epochs=N may be raised", resume),
        },
    )


if __name__ == "__main__":
    main()
