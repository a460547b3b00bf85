"""Why does squared error behind a sigmoid learn so slowly when it is badly wrong?

Its gradient (ŷ − y) ŷ(1 − ŷ) vanishes where ŷ saturates, right or wrong; that of cross-entropy,
ŷ − y, does not. Lecture §3; the one neuron is from chapter 3 of Nielsen's book. The same happens
to a deeper network on the digits of scikit-learn when its output biases start it badly wrong: how
many steps that costs follows from one output alone, its inputs held at ½.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import mlp_jax as mlp
from experiments.study import ChildRun, Results, Row, networks, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import backprop
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layer, Params
from mlp_jax.core.training import Part

LOSS_NAMES = {"squared error": "half_squared_error", "cross-entropy": "binary_cross_entropy"}
SOURCE = "lecture §3"

STARTS = {"(.6, .9)": (0.6, 0.9), "(2, 2)": (2.0, 2.0)}
NUM_EPOCHS, NEURON_ETA = 300, 0.15

SIZES = (64, 30, 30, 10)
NUM_SEEDS, BATCH_SIZE, NUM_STEPS, NETWORK_ETA = 32, 32, 400, 1.0
OUTPUT_BIASES = {"fair": 0.0, "bad": 6.0}
"""b^L at the start: with 6, every output is near .998 though nine of ten targets are 0."""


def train_neuron(loss_name: str, start: tuple[float, float]) -> tuple[np.ndarray, float]:
    """The loss before each epoch and ŷ after the last: one neuron, x = 1, y = 0."""
    w, b = start
    params = (Layer(jnp.array([[w]]), jnp.array([b])),)
    net = mlp.Network((1, 1), output="sigmoid", loss=LOSS_NAMES[loss_name])
    x, y = np.ones((1, 1)), np.zeros((1, 1))
    neuron = mlp.fit(
        net, params, x, y, validation=(x, y), learning_rate=NEURON_ETA, num_steps=NUM_EPOCHS,
        log_every=1,
    )  # fmt: skip
    return neuron.history["train/loss"], float(net.predict(neuron.params, x[0])[0])


def output_of_loss(loss_name: str, losses: np.ndarray) -> np.ndarray:
    """ŷ from the loss of the neuron with y = 0: ½ŷ² or −ln(1 − ŷ)."""
    return np.sqrt(2 * losses) if loss_name == "squared error" else -np.expm1(-losses)


def gradient_magnitude(loss_name: str, y_hat: Array) -> Array:
    """|∂L/∂z| at each ŷ for y = 1."""
    z = jax.scipy.special.logit(y_hat)
    delta = jax.vmap(LOSSES["sigmoid", LOSS_NAMES[loss_name]].delta)
    return jnp.abs(delta(z[:, None], jnp.ones((len(z), 1))))[:, 0]


def digits() -> Part:
    data = load_digits()
    return Part(jnp.asarray(data.data / 16, "float32"), jnp.eye(10, dtype="float32")[data.target])


def start_networks(output_bias: float, num_seeds: int) -> Params:
    """The same for every loss."""
    *hidden, output = networks(SIZES, "glorot_normal", num_seeds)
    return *hidden, output._replace(b=jnp.full_like(output.b, output_bias))


def train_networks(
    loss_name: str, output_bias: float, train: Part, num_seeds: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The batch's loss at each step, (num_seeds, num_steps), and the error rate after the last."""
    many = mlp.fit_many(
        mlp.Network(SIZES, "sigmoid", "sigmoid", LOSS_NAMES[loss_name]),
        *train,
        validation=(train.x, train.y),
        params=start_networks(output_bias, num_seeds),
        learning_rate=NETWORK_ETA,
        batch_size=BATCH_SIZE,
        num_steps=num_steps,
        log_every=1,
    )
    return many.history["train/loss"], 1 - many.history["validation/accuracy"][:, -1]


def gradient_ratios(output_bias: float, train: Part, num_seeds: int) -> np.ndarray:
    """∂L/∂b of cross-entropy over that of squared error at the start: each seed's median output."""

    def ratio(params: Params) -> Array:
        squared, entropy = (
            backprop(params, *train, ACTIVATIONS["sigmoid"], LOSSES["sigmoid", name])[1][-1].b
            for name in LOSS_NAMES.values()
        )
        return jnp.median(entropy / squared)

    return np.asarray(jax.jit(jax.vmap(ratio))(start_networks(output_bias, num_seeds)))


def predicted_losses(loss_name: str, output_bias: float, num_steps: int) -> np.ndarray:
    """The course of one output alone: z ← z − η(1 + n/4) δ, since its n inputs stay at ½.

    δ is the mean over the targets, a tenth of which are 1. Shape (1, num_steps).
    """
    loss = LOSSES["sigmoid", LOSS_NAMES[loss_name]]
    targets, share = jnp.array([[0.0], [1.0]]), jnp.array([0.9, 0.1])
    eta = NETWORK_ETA * (1 + SIZES[-2] / 4)

    def step(z: Array, _: None) -> tuple[Array, Array]:
        value, delta = (jax.vmap(fn, (None, 0))(z, targets) for fn in (loss.value, loss.delta))
        return z - eta * share @ delta, share @ value

    return np.asarray(jax.lax.scan(step, jnp.array([output_bias]), length=num_steps)[1])[None]


def steps_to_halve(losses: np.ndarray) -> np.ndarray:
    """The first step at which each seed's loss is at most half its first one."""
    halved = losses <= losses[:, :1] / 2
    return np.where(halved.any(axis=1), halved.argmax(axis=1), losses.shape[1])


def neuron_rows(outputs: dict[tuple[str, str], float]) -> list[Row]:
    wrong = jnp.array([0.01])
    squared = float(gradient_magnitude("squared error", wrong)[0])
    entropy = float(gradient_magnitude("cross-entropy", wrong)[0])
    y_hat = jnp.linspace(0, 1, 3001)[1:-1]
    magnitude = gradient_magnitude("squared error", y_hat)
    cut = f"{SOURCE}, cut after six decimals"
    return [
        Row(
            "ŷ after 300 epochs from (.6, .9), squared error",
            outputs["squared error", "(.6, .9)"],
            0.093955,
            cut,
        ),
        Row(
            "ŷ after 300 epochs from (2, 2), squared error",
            outputs["squared error", "(2, 2)"],
            0.202848,
            cut,
        ),
        Row(
            "ŷ after 300 epochs from (2, 2), cross-entropy",
            outputs["cross-entropy", "(2, 2)"],
            outputs["squared error", "(2, 2)"],
            "squared error",
            "≤",
        ),
        Row("|∂L/∂z| at ŷ = .01, y = 1, squared error", squared, 0.009801, "(1 − ŷ)² ŷ"),
        Row("|∂L/∂z| at ŷ = .01, y = 1, cross-entropy", entropy, 0.99, "1 − ŷ"),
        Row("their ratio", entropy / squared, 1 / (0.01 * 0.99), "1/(ŷ(1 − ŷ))"),
        Row("largest |∂L/∂z| of squared error", float(magnitude.max()), 4 / 27, "4/27"),
        Row("ŷ where it is largest", float(y_hat[magnitude.argmax()]), 1 / 3, "1/3"),
    ]


def network_rows(
    networks: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]], train: Part
) -> list[Row]:
    """Median and range over the seeds: the gradients' ratio, then how either loss trains."""

    def row(what: str, values: np.ndarray, theory: float, source: str, relation: str) -> Row:
        interval = (values.min(), values.max())
        return Row(f"network, {what}, median [range]", np.median(values), theory, source, relation,
                   interval, digits=3)  # fmt: skip

    commonest = float(train.y.mean(axis=0).max())
    rows = []
    for start, bias in OUTPUT_BIASES.items():
        ratios, y_hat = gradient_ratios(bias, train, NUM_SEEDS), float(jax.nn.sigmoid(bias))
        rows.append(row(f"{start} start: cross-entropy's ∂L/∂b over squared error's", ratios,
                        1 / (y_hat * (1 - y_hat)), "1/(ŷ(1 − ŷ)), ŷ = σ(b)", "≈"))  # fmt: skip
        for name in LOSS_NAMES:
            losses, error_rates = networks[name, start]
            predicted = steps_to_halve(predicted_losses(name, bias, NUM_STEPS))[0]
            rows += [
                row(f"{start} start, {name}: steps to halve the loss", steps_to_halve(losses),
                    float(predicted), "one output alone, its inputs at ½", "≈"),
                row(f"{start} start, {name}: error rate after {NUM_STEPS} steps", error_rates,
                    1 - commonest, "guessing the commonest digit",
                    "≈" if (name, start) == ("squared error", "bad") else "≤"),
            ]  # fmt: skip
    return rows


def measure() -> Results:
    neurons = {
        (name, start): train_neuron(name, STARTS[start]) for name in LOSS_NAMES for start in STARTS
    }
    train = digits()
    networks = {
        (name, start): train_networks(name, bias, train, NUM_SEEDS, NUM_STEPS)
        for name in LOSS_NAMES
        for start, bias in OUTPUT_BIASES.items()
    }
    outputs = {key: y_hat for key, (_, y_hat) in neurons.items()}
    steps = {name: np.median(steps_to_halve(networks[name, "bad"][0])) for name in LOSS_NAMES}
    return Results(
        headline=(
            "Its gradient has the factor ŷ(1 − ŷ): at ŷ = .01 cross-entropy's is 101 times larger. "
            f"From (2, 2) squared error brings ŷ to {outputs['squared error', '(2, 2)']:.6f} in "
            f"{NUM_EPOCHS} epochs, cross-entropy to {outputs['cross-entropy', '(2, 2)']:.6f}. A "
            f"64-30-30-10 network that starts badly wrong halves its squared error in "
            f"{steps['squared error']:.0f} steps, its cross-entropy in "
            f"{steps['cross-entropy']:.0f} (medians of {NUM_SEEDS} seeds)."
        ),
        rows=neuron_rows(outputs) + network_rows(networks, train),
        arrays={
            "neurons": {key: np.asarray(losses) for key, (losses, _) in neurons.items()},
            "networks": {key: losses for key, (losses, _) in networks.items()},
        },
        children=[
            ChildRun(
                {"network": "1-1", "loss": name, "start": start},
                {"loss": np.asarray(losses), "y_hat": y},
            )
            for (name, start), (losses, y) in neurons.items()
        ]
        + [
            ChildRun(
                {"network": "64-30-30-10", "loss": name, "start": start, "seeds": NUM_SEEDS},
                {"loss": np.median(losses, axis=0), "error_rate": np.median(error_rates)},
            )
            for (name, start), (losses, error_rates) in networks.items()
        ],
    )


COLOURS = {"squared error": "#D55E00", "cross-entropy": "#0072B2"}
MARKERS = {"squared error": "", "cross-entropy": "o"}
LINES = {"(.6, .9)": "--", "(2, 2)": "-"}


def draw_gradients(axes: Axes) -> None:
    y_hat = np.linspace(0.001, 0.999, 999)
    for name, line in zip(LOSS_NAMES, ("-", "--"), strict=True):
        magnitude = gradient_magnitude(name, jnp.asarray(y_hat))
        axes.plot(y_hat, magnitude, color=COLOURS[name], linestyle=line, label=name)
    axes.plot(1 / 3, 4 / 27, "ko")
    axes.annotate("4/27 at ŷ = 1/3", (1 / 3, 4 / 27), (0.36, 0.22))
    axes.set(xlabel="ŷ (target y = 1)", ylabel="|∂L/∂z|", title="a  Size of the gradient")
    axes.legend()


def draw_neuron_outputs(axes: Axes, neurons: dict[tuple[str, str], np.ndarray]) -> None:
    for (name, start), losses in neurons.items():
        y_hat = output_of_loss(name, losses)
        axes.plot(
            y_hat,
            color=COLOURS[name],
            linestyle=LINES[start],
            marker=MARKERS[name],
            markevery=30,
            label=f"{name}, {start}",
        )
    axes.set(
        xlabel="epoch", ylabel="ŷ (target y = 0)", title="b  One neuron, from two starts (w, b)"
    )
    axes.legend(fontsize=8, loc=(0.2, 0.5))


def draw_neuron_losses(axes: Axes, neurons: dict[tuple[str, str], np.ndarray]) -> None:
    for name, line in zip(LOSS_NAMES, ("-", "--"), strict=True):
        losses = neurons[name, "(2, 2)"]
        axes.plot(losses / losses[0], color=COLOURS[name], linestyle=line, label=name)
    axes.set(
        xlabel="epoch", ylabel="loss / first loss", title="c  One neuron, from the bad start (2, 2)"
    )
    axes.legend(fontsize=9, loc=(0.25, 0.4))


def draw_network_losses(axes: Axes, networks: dict[tuple[str, str], np.ndarray]) -> None:
    for name, line, hatch in zip(LOSS_NAMES, ("-", "--"), ("", "////"), strict=True):
        losses = networks[name, "bad"]
        low, median, high = np.percentile(losses / losses[:, :1], (5, 50, 95), axis=0)
        steps = np.arange(1, len(median) + 1)
        axes.plot(steps, median, color=COLOURS[name], linestyle=line, label=name)
        axes.fill_between(
            steps, low, high, color=COLOURS[name], alpha=0.25, hatch=hatch, linewidth=0
        )
        (predicted,) = predicted_losses(name, OUTPUT_BIASES["bad"], len(steps))
        label = None if line == "-" else "one output alone"
        axes.plot(steps, predicted / predicted[0], "k:", linewidth=1.2, label=label)
    axes.set(
        xscale="log",
        xlabel="step (batches of 32 digits)",
        ylabel="loss / first loss",
        title="d  64-30-30-10, bad start: median, 5–95 %",
    )
    axes.legend(fontsize=9, loc=(0.15, 0.4))


def draw(results: Results) -> Figure:
    neurons, networks = results.arrays["neurons"], results.arrays["networks"]
    fig, axes = subplots(2, 2, height=7)
    draw_gradients(axes[0, 0])
    draw_neuron_outputs(axes[0, 1], neurons)
    draw_neuron_losses(axes[1, 0], neurons)
    draw_network_losses(axes[1, 1], networks)
    return fig


if __name__ == "__main__":
    run_study(measure, draw)
