"""Does backpropagation by hand give the network's own gradient, factor by factor?

The lecture's worked example, ŷ = .25, y = 1, a = .37, w² = 12, w¹ = .1, x₁ = 60, η = .01, and its
assignment ∂L/∂w¹₁₃, lecture §4. The command prints every derivative as the lecture writes it; the
figure shows values flowing forward and gradients flowing back.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.study import Results, Row, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import batch_loss
from mlp_jax.core.losses import LOSSES, Loss
from mlp_jax.core.metrics import LN2
from mlp_jax.core.network import Layer, Network, Params
from mlp_jax.core.optimizers import gradient_descent
from mlp_jax.library.explain import Explanation, explain

SIGMOID = ACTIVATIONS["sigmoid"]
BINARY_CROSS_ENTROPY = LOSSES["sigmoid", "binary_cross_entropy"]
NETWORK = Network((3, 1, 1), activation="sigmoid", output="sigmoid")
ETA = 0.01
SOURCE = "lecture §4"


def worked_example() -> tuple[Params, Array, Array]:
    """The 3-1-1 network, its input and its target.

    The lecture gives a and ŷ, which fix the biases: b¹ = logit(.37) − w¹₁₁ x₁ and
    b² = logit(.25) − w²₁₁ a. It leaves x₂ and x₃ open; here w¹₁₂ = w¹₁₃ = 0 keeps z¹ as it is.
    """
    params = (
        Layer(jnp.array([[0.1, 0.0, 0.0]]), jnp.array([-6.532216813747308])),
        Layer(jnp.array([[12.0]]), jnp.array([-5.538612288668109])),
    )
    return params, jnp.array([60.0, 20.0, 5.0]), jnp.array([1.0])


def several_paths() -> tuple[Params, Array, Array]:
    """A 2-3-2-3 network for a softmax: 2 · 3 paths to each neuron of layer 1, times 3 outputs."""
    draw = np.random.default_rng(0).normal
    params = tuple(
        Layer(jnp.asarray(draw(size=(n_out, n_in))), jnp.asarray(draw(size=n_out)))
        for n_in, n_out in itertools.pairwise((2, 3, 2, 3))
    )
    return params, jnp.array([0.6, -0.2]), jnp.array([0.0, 1.0, 0.0])


def autodiff(params: Params, x: Array, y: Array, loss: Loss) -> dict[tuple[int, ...], float]:
    """`jax.grad` by (l, j, k) for the weights and (l, j) for the biases, from 1."""
    grads = jax.grad(batch_loss)(params, x[None], y[None], SIGMOID, loss)
    return {
        (layer, *(i + 1 for i in index)): float(value)
        for layer, leaves in enumerate(grads, start=1)
        for leaf in leaves
        for index, value in np.ndenumerate(leaf)
    }


def updated(params: Params, explanation: Explanation) -> Params:
    """θ − η ∂L/∂θ with the derivatives by hand."""
    grads = tuple(
        Layer(
            W=jnp.array([[explanation.weights[layer, 1, k + 1].value for k in range(W.shape[1])]]),
            b=jnp.array([explanation.biases[layer, 1].value]),
        )
        for layer, (W, _) in enumerate(params, start=1)
    )
    optimizer = gradient_descent(lambda step: jnp.asarray(ETA))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def deviation_over_several_paths() -> tuple[int, float]:
    """The number of paths, and max |by hand − backprop or jax.grad| over the parameters."""
    params, x, y = several_paths()
    net = Network((2, 3, 2, 3), activation="sigmoid", output="softmax")
    explanation = explain(net, params, x, y)
    by_jax = autodiff(params, x, y, net.loss_function)
    by_hand = explanation.weights | explanation.biases
    return sum(len(d.paths) for d in by_hand.values()), max(
        abs(derivative.value - other)
        for key, derivative in by_hand.items()
        for other in (derivative.backprop, by_jax[key])
    )


def measure() -> Results:
    params, x, y = worked_example()
    explanation = explain(NETWORK, params, x, y)
    by_jax = autodiff(params, x, y, BINARY_CROSS_ENTROPY)
    forward, weights, biases = explanation
    factors = weights[1, 1, 1].paths[0]
    new = updated(params, explanation)
    num_paths, deviation = deviation_over_several_paths()

    def row(quantity: str, measured: float, theory: float, source: str) -> Row:
        return Row(quantity, measured, theory, source, digits=12)

    rows = [
        row("a¹₁", forward["a¹₁"], 0.37, SOURCE),
        row("ŷ₁", forward["ŷ₁"], 0.25, SOURCE),
        row("L in nats", forward["L"], math.log(4), "ln 4"),
        row("L in bits", forward["L"] / LN2, 2, "−log₂ ŷ"),
    ]
    theories = (
        (-4, "−y/ŷ + (1 − y)/(1 − ŷ)"),
        (0.1875, "ŷ(1 − ŷ)"),
        (12, "w²₁₁"),
        (0.2331, "a¹₁(1 − a¹₁)"),
        (60, "x₁"),
    )
    rows += [
        row(name, value, theory, source)
        for (name, value), (theory, source) in zip(factors.items(), theories, strict=True)
    ]
    rows += [
        row("δ² = ∂L/∂z²₁", biases[2, 1].value, -0.75, "ŷ − y"),
        row("∂L/∂a¹₁", math.prod(list(factors.values())[:3]), -9, "(ŷ − y) w²₁₁"),
        row("δ¹ = ∂L/∂z¹₁", biases[1, 1].value, -2.0979, "(ŷ − y) w²₁₁ a¹₁(1 − a¹₁)"),
    ]
    for key, theory, source in (
        ((2, 1, 1), -0.2775, SOURCE),
        ((1, 1, 1), -125.874, SOURCE),
        ((1, 1, 3), -2.0979 * 5, "assignment: −2.0979 x₃, here x₃ = 5"),
    ):
        derivative = weights[key]
        rows += [
            row(f"{derivative.name} by hand", derivative.value, theory, source),
            row(f"{derivative.name} by backprop", derivative.backprop, theory, source),
            row(f"{derivative.name} by jax.grad", by_jax[key], theory, source),
        ]
    rows += [
        row("w²₁₁ after the step", float(new[1].W[0, 0]), 12.002775, SOURCE),
        row("w¹₁₁ after the step", float(new[0].W[0, 0]), 1.35874, SOURCE),
        Row(
            f"largest deviation from backprop and jax.grad, {num_paths} paths of a 2-3-2-3 softmax",
            deviation,
            1e-15,
            "rounding in float64",
            relation="≤",
            digits=3,
        ),
    ]
    return Results(
        headline=(
            "Yes, to all digits: −4 × 0.1875 × 12 × 0.2331 × 60 = "
            f"{weights[1, 1, 1].value:.6g} is ∂L/∂w¹₁₁ by hand, by backprop and by jax.grad; over "
            f"the {num_paths} paths of a 2-3-2-3 softmax network they differ by {deviation:.1g}."
        ),
        rows=rows,
        arrays={"explanation": explanation, "params": params},
    )


FORWARD_BOX: dict[str, Any] = {"boxstyle": "round,pad=0.4", "facecolor": "white"}
BACKWARD_BOX = FORWARD_BOX | {"boxstyle": "square,pad=0.4", "facecolor": "#dddddd"}
FORWARD_ARROW = {"color": "black"}
BACKWARD_ARROW = {"color": "#D55E00", "linestyle": "--"}

CHAIN = ("x₁", "z¹₁", "a¹₁", "z²₁", "ŷ₁", "L")
PARAMETERS = {"w¹₁₁": (0.6, 1), "b¹₁": (1.4, 1), "w²₁₁": (2.6, 3), "b²₁": (3.4, 3)}
"""Column of each parameter, and of the z it is part of."""


def _box(axes: Axes, x: float, y: float, text: str, style: dict[str, Any]) -> Text:
    return axes.text(x, y, text, ha="center", va="center", bbox=style)


def _arrow(axes: Axes, start: Text, end: Text, style: dict[str, Any]) -> None:
    patches = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
    axes.annotate(
        "",
        xy=end.get_position(),
        xytext=start.get_position(),
        arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 1} | patches | style,
    )


def _draw_forward(axes: Axes, values: dict[str, float]) -> Text:
    """The values of the chain and, above it, of the parameters; returns the loss's box."""
    chain = [
        _box(axes, x, 2, f"{symbol}\n{values[symbol]:.5g}", FORWARD_BOX)
        for x, symbol in enumerate(CHAIN)
    ]
    for start, end in itertools.pairwise(chain):
        _arrow(axes, start, end, FORWARD_ARROW)
    for symbol, (column, x_of_z) in PARAMETERS.items():
        box = _box(axes, column, 3, f"{symbol}\n{values[symbol]:.5g}", FORWARD_BOX)
        _arrow(axes, box, chain[x_of_z], FORWARD_ARROW)
    return chain[-1]


def _draw_backward(axes: Axes, previous: Text, explanation: Explanation) -> None:
    """The gradients by the chain's quantities, from the loss's box on, and by the parameters."""
    boxes, gradient = {}, 1.0
    factors = explanation.weights[1, 1, 1].paths[0].items()
    for x, (name, factor) in zip((4, 3, 2, 1), factors, strict=False):
        gradient *= factor
        boxes[x] = _box(axes, x, 1, f"∂L/∂{CHAIN[x]}\n{gradient:.6g}", BACKWARD_BOX)
        _arrow(axes, previous, boxes[x], BACKWARD_ARROW)
        beside = (x + 0.5, 1.4) if x < 4 else (x + 0.85, 1.25)  # the first arrow is a diagonal
        axes.text(*beside, f"{name}\n× {factor:.6g}", ha="center", va="center", fontsize=9)
        previous = boxes[x]
    derivatives = [*explanation.weights.values(), *explanation.biases.values()]
    by_name = {derivative.name: derivative for derivative in derivatives}
    for symbol, (column, x_of_z) in PARAMETERS.items():
        derivative = by_name[f"∂L/∂{symbol}"]
        box = _box(axes, column, 0, f"{derivative.name}\n{derivative.value:.6g}", BACKWARD_BOX)
        _arrow(axes, boxes[x_of_z], box, BACKWARD_ARROW)
        slope = list(derivative.paths[0].values())[-1]
        axes.text(
            x_of_z + np.sign(column - x_of_z) * 0.42,
            0.55,
            f"× {slope:.6g}",
            ha="center",
            fontsize=9,
        )


def draw(results: Results) -> Figure:
    explanation, params = results.arrays["explanation"], results.arrays["params"]
    values = explanation.forward | {
        f"{letter}{superscript}₁{subscript}": float(leaf.ravel()[0])
        for superscript, layer in zip("¹²", params, strict=True)
        for letter, subscript, leaf in (("w", "₁", layer.W), ("b", "", layer.b))
    }
    fig, axes = subplots(height=4.6)
    axes.set_axis_off()
    axes.set(xlim=(-0.4, 5.4), ylim=(-0.4, 3.4))
    loss_box = _draw_forward(axes, values)
    _draw_backward(axes, loss_box, explanation)
    style: dict[str, Any] = {"ha": "right", "va": "center", "style": "italic"}
    axes.text(5.4, 3, "forward: values", **style)
    axes.text(5.4, 0, "backward: gradients,\neach × the factor at its arrow", **style)
    return fig


if __name__ == "__main__":
    with jax.enable_x64(True):
        print(explain(NETWORK, *worked_example()), end="\n\n")
    run_study(measure, draw)
