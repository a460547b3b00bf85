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
