"""`python -m mlp_jax.train +exp=xor` trains a network and records the run."""

import shlex
import sys
from typing import TYPE_CHECKING

from mlp_jax.cli import run_command
from mlp_jax.config import Experiment

if TYPE_CHECKING:
    from mlp_jax.sweep import Sweep


def train(config: Experiment) -> float:
    """Returns what a search minimises."""
    from mlp_jax import experiment, summary

    return summary.search_loss(experiment.run(config, command=_command()))


def open_sweep() -> "Sweep":
    from mlp_jax.sweep import Sweep

    return Sweep(command=_command())


def _command() -> str:
    return shlex.join(["python", "-m", "mlp_jax.train", *sys.argv[1:]])


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
