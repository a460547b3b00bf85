"""The vocabulary every other module speaks: layers, parameters and named axes.

Shapes are written as `jaxtyping` annotations with these axis names:

| axis       | size                                            |
|------------|-------------------------------------------------|
| `batch`    | examples in a batch                             |
| `n_in`     | neurons of the layer before, n_{l-1}            |
| `n_out`    | neurons of this layer, n_l                      |
| `n_0`      | inputs of the network                           |
| `n_L`      | outputs of the network                          |
"""

from typing import NamedTuple

from jax import Array
from jaxtyping import Float


class Layer(NamedTuple):
    """One dense layer, z = W a_prev + b."""

    W: Float[Array, "n_out n_in"]
    b: Float[Array, " n_out"]


Params = tuple[Layer, ...]
"""A network's parameters θ, from the first hidden layer to the output layer."""


class UserError(Exception):
    """A mistake in what the user asked for or gave: one or two lines say what, and how to fix it.

    The commands print it without a traceback and exit with status 2.
    """


class RunError(Exception):
    """A run that cannot go on: one or two lines say why, and what to try.

    The commands print it without a traceback and exit with status 1.
    """
