"""The network: its parameters, their initial values and the forward pass.

    a^0 = x                        or its embedding
    z^l = W^l a^{l-1} + b^l        for l = 1 … L
    a^l = g_l(z^l)                 for l = 1 … L−1
    ŷ   = O(z^L)

With dropout a^l is multiplied by its mask m^l, element by element.

The functions are about one example; `jax.vmap` over x adds the batch. Shapes are written as
`jaxtyping` annotations with these axis names:

| axis       | size                                            |
|------------|-------------------------------------------------|
| `batch`    | examples in a batch                             |
| `n_in`     | neurons of the layer before, n_{l-1}            |
| `n_out`    | neurons of this layer, n_l                      |
| `n_0`      | inputs of the network                           |
| `n_L`      | outputs of the network                          |
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray
from numpy.typing import ArrayLike

from mlp_jax.core.activations import ACTIVATIONS, Activation
from mlp_jax.core.embedding import Embedding, embed
from mlp_jax.core.initializers import INITIALIZERS, Initializer
from mlp_jax.core.losses import LOSSES, MATCHED_LOSS, Loss


class Layer(NamedTuple):
    """One dense layer, z = W a_prev + b."""

    W: Float[Array, "n_out n_in"]
    b: Float[Array, " n_out"]


if TYPE_CHECKING:  # as a caller of the library has them, who embeds nothing
    Params = tuple[Layer, ...]
else:
    Params = tuple[Embedding | Layer, ...]
"""A network's parameters θ: those of an embedding of x, if there is one, then those of each layer
from the first hidden one to the output layer."""

Layers = Sequence[tuple[ArrayLike, ArrayLike]]
"""Parameters as the caller has them: W and b of each layer."""

Activations = Activation | tuple[Activation, ...]
"""One activation for all hidden layers, or one for each."""

Masks = tuple[Array | None, ...]
"""Dropout's factors m^0 … m^{L−1} of the inputs and of each hidden layer; `None` stands for 1."""

T = TypeVar("T")


def init_params(
    key: PRNGKeyArray,
    sizes: Sequence[int],
    initializer: Initializer,
    *,
    bias_initializer: Initializer = INITIALIZERS["zeros"],
    scale: float | Array = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Layer, ...]:
    """Parameters of a network with `sizes` = (n_0, …, n_L) neurons.

    Every weight is multiplied by `scale`. A bias is drawn like a weight from one neuron, n_in = 1.
    """
    layers = []
    W_keys, b_keys = jax.random.split(key, (2, len(sizes) - 1))
    for W_key, b_key, n_in, n_out in zip(W_keys, b_keys, sizes[:-1], sizes[1:], strict=True):
        W = scale * initializer(W_key, n_out, n_in)
        b = bias_initializer(b_key, n_out, 1)[:, 0]
        layers.append(Layer(W.astype(dtype), b.astype(dtype)))
    return tuple(layers)


def embedding_of(params: Params) -> Embedding | None:
    """The embedding in front of the layers, if there is one."""
    first: object = params[0]
    return first if isinstance(first, Embedding) else None


def layers_of(params: Params) -> tuple[Layer, ...]:
    """The layers, without an embedding in front of them."""
    return tuple(layer for layer in params if isinstance(layer, Layer))


def behind(embedding: Embedding | None, layers: Iterable[Layer]) -> Params:
    """The parameters of layers behind an embedding, if there is one."""
    return tuple(layers) if embedding is None else cast(Params, (embedding, *layers))


def part_names(params: Params) -> list[str]:
    """What the parts of the parameters are called: "the embedding", "layer 1", …"""
    first = ["the embedding"] if embedding_of(params) is not None else []
    return first + [f"layer {number}" for number in range(1, len(params) - len(first) + 1)]


def dtype_of(params: Params) -> np.dtype[Any]:
    """The dtype that all parameters have."""
    return np.dtype(jax.tree.leaves(params)[0].dtype)


def hidden_activations(params: Params, activation: Activations) -> tuple[Activation, ...]:
    """One activation for each hidden layer of `params`."""
    return _one_each(activation, len(layers_of(params)) - 1)


def _one_each(chosen: Any, num_hidden: int) -> tuple[Any, ...]:
    each = (chosen,) * num_hidden if isinstance(chosen, str | Activation) else chosen
    if len(each) != num_hidden:
        raise ValueError(
            f"{len(each)} activations for {num_hidden} hidden layers; "
            "give one for all of them or one for each"
        )
    return each


def masked(a: Array, mask: Array | None) -> Array:
    """The activation m ⊙ a of a layer with dropout."""
    return a if mask is None else mask * a


def forward(
    params: Params,
    x: Float[Array, " n_0"],
    activation: Activations,
    masks: Masks | None = None,
) -> tuple[list[Array], list[Array]]:
    """The forward pass of one example, keeping what the backward pass needs.

    Returns `zs` = [z^1, …, z^L] and `activations` = [a^0, …, a^{L−1}]; the logits are `zs[-1]`.
    With `masks` an activation is m^l ⊙ a^l.
    Raises `ValueError` where the activations are not one for each hidden layer.

    >>> params = (
    ...     Layer(W=jnp.array([[1.0, -2.0]]), b=jnp.array([0.5])),
    ...     Layer(W=jnp.array([[3.0]]), b=jnp.array([1.0])),
    ... )
    >>> zs, activations = forward(params, jnp.array([1.0, 1.0]), ACTIVATIONS["relu"])
    >>> [z.tolist() for z in zs], [a.tolist() for a in activations]
    ([[-0.5], [1.0]], [[1.0, 1.0], [0.0]])
    """
    embedding, layers = embedding_of(params), layers_of(params)
    first, *others = masks or (None,) * len(layers)
    zs: list[Array] = []
    activations = [masked(x if embedding is None else embed(embedding, x), first)]
    for (W, b), act, mask in zip(
        layers[:-1], hidden_activations(params, activation), others, strict=True
    ):
        z = W @ activations[-1] + b
        zs.append(z)
        activations.append(masked(act.g(z), mask))
    W, b = layers[-1]
    zs.append(W @ activations[-1] + b)
    return zs, activations


def apply(
    params: Params,
    x: Float[Array, " n_0"],
    activation: Activations,
    masks: Masks | None = None,
) -> Float[Array, " n_L"]:
    """The logits z^L."""
    zs, _ = forward(params, x, activation, masks)
    return zs[-1]


def predict(
    params: Params, x: Float[Array, " n_0"], activation: Activations, loss: Loss
) -> Float[Array, " n_L"]:
    """The network's output ŷ = O(z^L)."""
    return loss.output(apply(params, x, activation))


def num_params(params: Params) -> int:
    """Σ_l n_{l−1} n_l weights and Σ_l n_l biases."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@dataclass(frozen=True)
class Network:
    """A network as plain data: its sizes (n_0, …, n_L), and the functions in it by their names.

    Names are those of `ACTIVATIONS`, `LOSSES` and `INITIALIZERS`; `activation` is one for all
    hidden layers or a sequence with one for each. An `Activation` or a `Loss` of your own stands
    in place of a name; a `Loss` brings its output with it. Where `output` or `loss` is left out,
    it is the one that matches the other. Raises `ValueError` for what is no network.

    >>> net = mlp.Network((2, 3, 1), activation="tanh", output="sigmoid")
    >>> net.loss
    'binary_cross_entropy'
    >>> params = net.init(jax.random.key(0), "glorot_normal")
    >>> [layer.W.shape for layer in params]
    [(3, 2), (1, 3)]
    >>> net.predict(params, jnp.zeros(2)).shape, net.predict(params, jnp.zeros((5, 2))).shape
    ((1,), (5, 1))
    """

    sizes: Sequence[int | np.integer[Any]]
    activation: str | Activation | Sequence[str | Activation] = "tanh"
    output: str | None = None
    loss: str | Loss | None = None

    def __post_init__(self) -> None:
        """Checks the fields and gives each its one form, so that equal networks are equal."""

        def set_field(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        try:
            set_field("sizes", tuple(operator.index(size) for size in self.sizes))
        except TypeError:
            raise ValueError(f"sizes={self.sizes!r}: must be whole numbers (n_0, …, n_L)") from None
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(
                f"sizes={self.sizes}: must be (n_0, …, n_L), at least the numbers of inputs and of "
                "outputs, each 1 or more"
            )
        if not isinstance(self.activation, str | Activation):
            set_field("activation", tuple(self.activation))
        _ = self.activation_functions  # raises where a name is none
        if not isinstance(self.loss, Loss):
            output, loss = _matched(self.output, self.loss)
            set_field("output", output)
            set_field("loss", loss)
        elif self.output is not None:
            raise ValueError(
                f"output={self.output!r}: the loss that is given brings its own output; "
                "leave output out"
            )

    @property
    def activation_functions(self) -> tuple[Activation, ...]:
        """The activation of each hidden layer."""
        each = _one_each(self.activation, len(self.sizes) - 2)
        return tuple(_named("activation", given, ACTIVATIONS) for given in each)

    @property
    def loss_function(self) -> Loss:
        """The output activation and the loss behind it."""
        if isinstance(self.loss, Loss):
            return self.loss
        assert self.output is not None and self.loss is not None
        return LOSSES[self.output, self.loss]

    def init(
        self,
        key: PRNGKeyArray,
        initializer: str | Initializer = "glorot_uniform",
        *,
        scale: float | Array = 1.0,
        bias_initializer: str | Initializer = "zeros",
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[Layer, ...]:
        """Initial parameters, every weight times `scale`. The draws are made in float32."""
        return _init_params(
            key,
            self.sizes,
            _named("initializer", initializer, INITIALIZERS),
            bias_initializer=_named("bias_initializer", bias_initializer, INITIALIZERS),
            scale=scale,
            dtype=jnp.dtype(dtype),
        )

    def logits(self, params: Layers, x: ArrayLike) -> Float[Array, "*batch n_L"]:
        """z^L of one example (n_0,) or of a batch (batch, n_0)."""
        return self.on_examples(apply, params, x)

    def predict(self, params: Layers, x: ArrayLike) -> Float[Array, "*batch n_L"]:
        """The output ŷ = O(z^L) of one example (n_0,) or of a batch (batch, n_0)."""
        return self.on_examples(partial(predict, loss=self.loss_function), params, x)

    def on_examples(self, function: Callable[..., T], params: Layers, x: ArrayLike) -> T:
        """`function(params, x, activation)` of one example (n_0,) or of a batch (batch, n_0)."""
        layers = as_layers(self, params)
        x = jnp.asarray(x, layers[0].W.dtype)
        if x.ndim not in (1, 2) or x.shape[-1] != self.sizes[0]:
            raise ValueError(
                f"x has shape {x.shape}: the network takes one example, ({self.sizes[0]},), "
                f"or a batch, (batch, {self.sizes[0]})"
            )
        of_one = partial(function, layers, activation=self.activation_functions)
        return of_one(x) if x.ndim == 1 else jax.vmap(of_one)(x)


def as_layers(net: Network, params: Any, *, of_many: bool = False) -> tuple[Layer, ...]:
    """`params` as layers of JAX's arrays in one floating dtype, held against the sizes of `net`.

    Whole numbers become floats. `of_many` networks have a leading axis, the same in all arrays.

    >>> as_layers(Network((1, 1)), [(np.array([[2]]), np.array([1]))])[0].W.tolist()
    [[2.0]]
    """
    try:
        layers = tuple(Layer(*map(jnp.asarray, layer)) for layer in params)
    except TypeError as error:
        raise ValueError(
            f"params: must be a pair of arrays (W, b) for each layer of {net} ({error})"
        ) from None
    shapes = [(layer.W.shape, layer.b.shape) for layer in layers]
    lead = shapes[0][0][:1] if of_many and shapes else ()
    wanted = [((*lead, n, m), (*lead, n)) for m, n in itertools.pairwise(net.sizes)]
    if shapes != wanted:
        behind = ", all behind a leading axis of the networks" if of_many else ""
        raise ValueError(
            f"params: the shapes of W and b are {shapes}; {net} needs {wanted}{behind}"
        )
    dtype = jnp.result_type(*jax.tree.leaves(layers))
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), layers)


_init_params = jax.jit(
    init_params, static_argnames=("sizes", "initializer", "bias_initializer", "dtype")
)


def _named(what: str, given: str | T, table: dict[str, T]) -> T:
    """A member of a table by its name; what is no name stands for itself."""
    if not isinstance(given, str):
        return given
    if given not in table:
        raise ValueError(f"{what}={given!r}: must be one of {', '.join(table)}")
    return table[given]


def _matched(output: str | None, loss: str | None) -> tuple[str, str]:
    """The pair of `LOSSES` that has this output and this loss, as far as they are given."""
    if output is None:
        outputs = [o for o, name in LOSSES if loss in (None, name)]
        output = outputs[0] if outputs else "identity"
    if loss is None:
        loss = MATCHED_LOSS.get(output, "squared_error")
    if (output, loss) not in LOSSES:
        pairs = ", ".join(f"{o} with {name}" for o, name in LOSSES)
        raise ValueError(f"output={output!r} with loss={loss!r}: must be one of {pairs}")
    return output, loss
