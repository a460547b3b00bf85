"""`python -m mlp_jax.train +exp=xor` trains a network and records the run."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlp_jax.cli import run_command
from mlp_jax.config import Experiment

if TYPE_CHECKING:
    from mlp_jax.sweep import Sweep


def train(config: Experiment) -> float:
    """Returns what a search minimises."""
    from mlp_jax import experiment, summary

    return summary.search_loss(
        *summary.standing(experiment.run(config, command=_command(sys.argv[1:])))
    )


def open_sweep() -> "Sweep":
    from mlp_jax.sweep import Sweep

    return Sweep(_command(sys.argv[1:]), lambda overrides: _command([*_config_dir(), *overrides]))


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "mlp_jax.train", *arguments])


def _config_dir() -> list[str]:
    """The command line's --config-dir and its value, if it has one."""
    given = sys.argv[1:]
    at = [i for i, text in enumerate(given) if text.partition("=")[0] in ("--config-dir", "-cd")]
    return [text for i in at for text in given[i : i + 2 - ("=" in given[i])]]


def main() -> None:
    run_command(
        train,
        open_sweep=open_sweep,
        module="mlp_jax.train",
        summary="Trains a feedforward network, proves its gradient and records the run in MLflow.",
        examples=[
            ("+exp=xor", "XOR in seconds"),
            ("+exp=xor seed=1 model.activation=tanh", "the same with another seed and activation"),
            ("+exp=mnist data.root=DIR", "MNIST from its four IDX files"),
            ("+exp=table data.path=my.csv data.target=price", "your own table"),
            ("+exp=digits optimizer=adam schedule=cosine", "another optimizer and schedule"),
        ],
    )


if __name__ == "__main__":
    main()
