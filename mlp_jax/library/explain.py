"""Backpropagation by hand: every derivative written out as the chain rule's sum over paths.

    ∂L/∂w^l_jk = Σ ∂L/∂ŷ_o ∂ŷ_o/∂z^L_p ∂z^L_p/∂a^{L−1}_q ∂a^{L−1}_q/∂z^{L−1}_q ⋯ ∂z^l_j/∂w^l_jk

A path leads from the loss back to the parameter through one neuron of every layer between them.
`backprop` computes the same sum and shares between the paths what they have in common.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from mlp_jax.core import network
from mlp_jax.core.backprop import backprop
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layers, Network, Params, as_layers
from mlp_jax.errors import UserError

MAX_PATHS = 10_000

Path = dict[str, float]
"""The factors of one path by name, from the loss to the parameter."""


class Derivative(NamedTuple):
    """∂L/∂θ of one parameter θ: its paths, and the value that `backprop` has for it."""

    name: str
    paths: list[Path]
    backprop: float

    @property
    def value(self) -> float:
        """The sum over the paths of the product of each one's factors."""
        return math.fsum(math.prod(path.values()) for path in self.paths)

    def __str__(self) -> str:
        """Names, then numbers, then the sum; where there are several paths, each one's product."""
        names = [list(path) for path in self.paths]
        numbers = [[_number(value) for value in path.values()] for path in self.paths]
        widths = [max(map(len, column)) for column in zip(*names, *numbers, strict=True)]
        lines = []
        for rows in names, numbers:
            for sign, row in zip("=" + "+" * len(rows), rows, strict=False):
                cells = (cell.center(width) for cell, width in zip(row, widths, strict=True))
                lines.append(f"{sign} {' × '.join(cells)}".rstrip())
        if len(self.paths) > 1:
            products = [f"   ({_number(math.prod(path.values()))})" for path in self.paths]
            first = len(self.paths)
            lines[first:] = map(str.__add__, lines[first:], products)
        lines.append(f"= {_number(self.value)}    backprop: {_number(self.backprop)}")
        return f"{self.name} " + ("\n" + " " * (len(self.name) + 1)).join(lines)


class Explanation(NamedTuple):
    """The forward pass of one example by symbol, as "z¹₂", and the derivative by each parameter.

    `weights[l, j, k]` is ∂L/∂w^l_jk and `biases[l, j]` is ∂L/∂b^l_j = δ^l_j; l, j, k count from 1.
    """

    forward: dict[str, float]
    weights: dict[tuple[int, int, int], Derivative]
    biases: dict[tuple[int, int], Derivative]

    def __str__(self) -> str:
        """The forward pass, a value a line, then the derivatives from the output layer down."""
        values = "\n".join(f"{symbol} = {_number(value)}" for symbol, value in self.forward.items())
        derivatives = [*self.weights.values(), *self.biases.values()]
        return "\n\n".join([values, *map(str, derivatives)])


def explain(net: Network, params: Layers, x: ArrayLike, y: ArrayLike) -> Explanation:
    """Every factor of every path of one example: its input `x` (n_0,) and its target `y` (n_L,).

    Everything is computed in float64 on the CPU. ∂L/∂ŷ ∂ŷ/∂z^L is one factor ∂L/∂z^L for a loss
    that is not in `LOSSES`, and where ŷ has rounded to 0 or 1 so that ∂L/∂ŷ is not finite. Raises
    `ValueError` for other shapes, such as a batch's, and for more than `MAX_PATHS` paths.

    >>> net = mlp.Network((1, 1), output="sigmoid")
    >>> print(mlp.explain(net, [(np.array([[2]]), np.array([-1]))], x=[0.5], y=[1.0]))
    x₁ = 0.5
    z¹₁ = 0
    ŷ₁ = 0.5
    L = 0.6931471806
    <BLANKLINE>
    ∂L/∂w¹₁₁ = ∂L/∂ŷ₁ × ∂ŷ₁/∂z¹₁ × ∂z¹₁/∂w¹₁₁
             =   -2   ×   0.25   ×    0.5
             = -0.25    backprop: -0.25
    <BLANKLINE>
    ∂L/∂b¹₁ = ∂L/∂ŷ₁ × ∂ŷ₁/∂z¹₁ × ∂z¹₁/∂b¹₁
            =   -2   ×   0.25   ×     1
            = -0.5    backprop: -0.5
    """
    _check(net, np.shape(x), np.shape(y))
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        layers = jax.tree.map(partial(np.asarray, dtype=np.float64), as_layers(net, params))
        n = _numbers(net, layers, x, y)
    num_layers = len(layers)
    paths_to_z = _output_paths(n, num_layers)
    weights, biases = {}, {}
    for layer in range(num_layers, 0, -1):
        if layer < num_layers:
            slopes = n["hidden_slopes"][layer - 1]
            paths_to_z = _hidden_paths(paths_to_z, layers[layer].W, slopes, layer)
        grad = n["grads"][layer - 1]
        for j, paths in enumerate(paths_to_z, start=1):
            z, b = _symbol("z", layer, j), _symbol("b", layer, j)
            biases[layer, j] = _derivative(paths, z, b, 1.0, grad.b[j - 1])
            for k, a in enumerate(n["activations"][layer - 1], start=1):
                w = _symbol("w", layer, j, k)
                weights[layer, j, k] = _derivative(paths, z, w, a, grad.W[j - 1, k - 1])

    forward = _by_symbol("x", None, n["activations"][0])
    for layer in range(1, num_layers):
        forward |= _by_symbol("z", layer, n["zs"][layer - 1])
        forward |= _by_symbol("a", layer, n["activations"][layer])
    forward |= _by_symbol("z", num_layers, n["zs"][-1]) | _by_symbol("ŷ", None, n["y_hat"])
    return Explanation(forward | {"L": float(n["value"])}, weights, biases)


def _check(net: Network, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    sizes = tuple(net.sizes)
    name = f"this {'-'.join(map(str, sizes))} network"
    if x_shape != sizes[:1] or y_shape != sizes[-1:]:
        raise UserError(
            f"explain: x and y have the shapes {x_shape} and {y_shape}; one example of {name} has "
            f"{sizes[:1]} and {sizes[-1:]}. Take one row of a batch, x[0] and y[0]."
        )
    num_paths = sum(
        (sizes[layer - 1] + 1) * math.prod(sizes[layer:]) for layer in range(1, len(sizes))
    )
    if num_paths > MAX_PATHS:
        raise UserError(
            f"explain: {name} has {num_paths:,} paths from the loss to its parameters; at most "
            f"{MAX_PATHS:,} are written out. Explain a network with fewer or smaller layers."
        )


_LOSS_SLOPES: dict[str, Callable[[Array, Array], Array]] = {
    "squared_error": lambda y_hat, y: 2 * (y_hat - y),
    "half_squared_error": lambda y_hat, y: y_hat - y,
    "huber": lambda y_hat, y: (y_hat - y).clip(-1, 1),
    "absolute_error": lambda y_hat, y: jnp.sign(y_hat - y),
    "binary_cross_entropy": lambda y_hat, y: (1 - y) / (1 - y_hat) - y / y_hat,
    "cross_entropy": lambda y_hat, y: -y / y_hat,
}
"""∂L/∂ŷ."""

_LOSS_NAMES = {loss: name for (_, name), loss in LOSSES.items()}


def _numbers(net: Network, params: Params, x: ArrayLike, y: ArrayLike) -> dict[str, Any]:
    """What the paths are made of; `loss_slopes` is ∂L/∂ŷ, `jacobian` ∂ŷ/∂z^L, `delta` ∂L/∂z^L."""
    activation, loss = net.activation_functions, net.loss_function
    loss_slopes = _LOSS_SLOPES.get(_LOSS_NAMES.get(loss, ""), lambda y_hat, y: None)

    @jax.jit
    def numbers(params: Params, x: Array, y: Array) -> dict[str, Any]:
        zs, activations = network.forward(params, x, activation)
        y_hat = loss.output(zs[-1])
        value, grads = backprop(params, x[None], y[None], activation, loss)
        return {
            "zs": zs,
            "activations": activations,
            "hidden_slopes": [act.dg(z) for act, z in zip(activation, zs[:-1], strict=True)],
            "y_hat": y_hat,
            "loss_slopes": loss_slopes(y_hat, y),
            "jacobian": jax.jacobian(loss.output)(zs[-1]),
            "delta": loss.delta(zs[-1], y),
            "value": value,
            "grads": grads,
        }

    at = jax.device_put((params, np.asarray(x, np.float64), np.asarray(y, np.float64)))
    return jax.device_get(numbers(*at))


def _output_paths(n: dict[str, Any], layer: int) -> list[list[Path]]:
    """The paths from the loss to each z^L_p: one for an elementwise output, for softmax k."""
    loss_slopes, jacobian, delta = n["loss_slopes"], n["jacobian"].tolist(), n["delta"].tolist()
    symbols = [(_symbol("ŷ", None, p), _symbol("z", layer, p)) for p in range(1, len(delta) + 1)]
    if loss_slopes is None or not np.all(np.isfinite(loss_slopes)):
        return [[{f"∂L/∂{z}": d}] for (_, z), d in zip(symbols, delta, strict=True)]
    return [
        [
            {f"∂L/∂{y_hat}": float(loss_slopes[o]), f"∂{y_hat}/∂{z}": jacobian[o][p]}
            for o, (y_hat, _) in enumerate(symbols)
            if o == p or jacobian[o][p] != 0
        ]
        for p, (_, z) in enumerate(symbols)
    ]


def _hidden_paths(
    paths_to_z: list[list[Path]], W: np.ndarray, slopes: np.ndarray, layer: int
) -> list[list[Path]]:
    """The paths to each z^l_j from those to each z^{l+1}_p, with W^{l+1} and the slopes g'(z^l)."""

    def step(p: int, j: int) -> Path:
        z_next, a, z = _symbol("z", layer + 1, p), _symbol("a", layer, j), _symbol("z", layer, j)
        return {f"∂{z_next}/∂{a}": float(W[p - 1, j - 1]), f"∂{a}/∂{z}": float(slopes[j - 1])}

    return [
        [path | step(p, j) for p, paths in enumerate(paths_to_z, start=1) for path in paths]
        for j in range(1, len(slopes) + 1)
    ]


def _derivative(paths: list[Path], z: str, parameter: str, slope: Any, grad: Any) -> Derivative:
    """∂L/∂θ from the paths to the z that θ is part of, with ∂z/∂θ as the last factor."""
    last = {f"∂{z}/∂{parameter}": float(slope)}
    return Derivative(f"∂L/∂{parameter}", [path | last for path in paths], float(grad))


_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _symbol(letter: str, layer: int | None, *indices: int) -> str:
    """As the lecture writes it: w¹₁₃; with a comma, w¹₁,₁₃, where an index has two digits."""
    superscript = "" if layer is None else str(layer).translate(_SUPERSCRIPTS)
    comma = "," if max(indices) > 9 else ""
    return letter + superscript + comma.join(map(str, indices)).translate(_SUBSCRIPTS)


def _by_symbol(letter: str, layer: int | None, values: np.ndarray) -> dict[str, float]:
    return {_symbol(letter, layer, i): v for i, v in enumerate(values.tolist(), start=1)}


def _number(value: float) -> str:
    return f"{value + 0.0:.10g}"  # + 0.0 turns −0 into 0
