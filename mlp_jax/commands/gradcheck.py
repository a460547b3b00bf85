"""`python -m mlp_jax.gradcheck +exp=xor` proves the gradient of an experiment, layer by layer."""

from mlp_jax.commands import frame
from mlp_jax.config.schema import Experiment


def gradcheck(config: Experiment) -> None:
    from mlp_jax.experiment import run as experiment

    experiment.prove(config)


def main() -> None:
    frame.main(
        frame.Command(
            module="mlp_jax.gradcheck",
            summary="Holds backprop against jax.grad and central differences, and trains nothing.",
            examples=[
                ("+exp=xor", "XOR"),
                ("+exp=xor model.activation=relu", "with another activation"),
                ("+exp=mnist data.root=DIR", "MNIST from its four IDX files"),
                ("+exp=table data.path=my.csv data.target=price", "your own table"),
                ("+exp=digits model.l1=0.01 model.l2=0.1", "with penalties"),
            ],
            run=gradcheck,
        )
    )
