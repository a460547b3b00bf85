"""What do information, entropy and cross-entropy measure, and why a softmax before them?

The lecture's four teams, p = (.2, .1, .4, .3), of which the second wins; cross-entropy is smallest
where q = p, and there it is the entropy H(p), not 0. Outputs of sigmoids don't sum to one, those
of a softmax do, also at logits whose exponentials overflow. Lecture §2 and §3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mlp_jax as mlp
from experiments.study import ChildRun, Results, Row, run_study, subplots
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.metrics import LN2, cross_entropy, entropy, information, kl_divergence
from mlp_jax.core.network import Layer

SOURCE = "lecture §3"
P = (0.2, 0.1, 0.4, 0.3)
"""The prediction ŷ: the probability that each team wins."""
WINNER = (0.0, 1.0, 0.0, 0.0)
PROFITS = (10.0, 5.0, 8.0, 1.0)
LOGITS = (10.0, 20.0, -30.0)
EXTREME_LOGITS = (1000.0, 2000.0, -3000.0)
SOFTMAX = LOSSES["softmax", "cross_entropy"]
NUM_PAIRS = 10_000
NUM_STEPS = 2_000


def random_distributions(seed: int, num: int) -> Array:
    """Distributions over 4 events, uniform on the simplex."""
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(4), num))


def fit_distribution(p: Array) -> tuple[Array, Array]:
    """Gradient descent on H(p, softmax(b)) over b, from b = 0: the losses in nats, and q."""
    net, x = mlp.Network((1, 4), output="softmax"), jnp.zeros((1, 1))
    fitted = mlp.fit(
        net, (Layer(jnp.zeros((4, 1)), jnp.zeros(4)),), x, p[None], validation=(x, p[None]),
        learning_rate=1.0, num_steps=NUM_STEPS, log_every=1,
    )  # fmt: skip
    return jnp.asarray(fitted.history["train/loss"]), net.predict(fitted.params, x[0])


def naive_cross_entropy(z: Array, y: Array) -> Array:
    """−ln ŷ_t with ŷ = e^z / Σ e^z as on paper, where e^z overflows beyond z = 709 in float64."""
    exponentials = jnp.exp(z)
    return -jnp.log(jnp.dot(y, exponentials / jnp.sum(exponentials)))


def information_rows(p: Array) -> list[Row]:
    theories = (2.321928094887362, 3.321928094887362, 1.3219280948873622, 1.736965594166206)
    winner, profits = jnp.array(WINNER), jnp.array(PROFITS)
    H = float(entropy(p))
    rows = [
        Row(f"information of p = {p_i:g} in bits", bits, theory, "−log₂ p", digits=10)
        for p_i, bits, theory in zip(P, information(p).tolist(), theories, strict=True)
    ]
    rows += [
        Row("entropy H(p) in bits", H, 1.8464393446710154, SOURCE, digits=10),
        Row("entropy H(p) in nats", H * LN2, 1.2798542258336676, SOURCE, digits=10),
        Row("expected profit in K", float(p @ profits), 6.0, SOURCE),
        Row(
            "cross-entropy of the winner, H(e(2), p), in bits",
            float(cross_entropy(winner, p)),
            3.321928094887362,
            SOURCE,
            digits=10,
        ),
        Row(
            "cross-entropy of the winner in nats, by the network's loss",
            float(SOFTMAX.value(jnp.log(p), winner)),
            2.302585092994046,
            "−ln .1",
            digits=10,
        ),
    ]
    return rows


def divergence_rows(p: Array) -> tuple[list[Row], Array]:
    ps, qs = random_distributions(0, NUM_PAIRS), random_distributions(1, NUM_PAIRS)
    divergences = jax.vmap(kl_divergence)(ps, qs)
    differences = jax.vmap(cross_entropy)(ps, qs) - jax.vmap(entropy)(ps)
    losses, q = fit_distribution(p)
    pairs = f"over {NUM_PAIRS:,} random pairs"
    return [
        Row(f"smallest D(p‖q) {pairs}, bits", float(divergences.min()), 0.0, "Gibbs", "≥"),
        Row(
            f"largest |H(p, q) − H(p) − D(p‖q)| {pairs}, bits",
            float(jnp.abs(differences - divergences).max()),
            1e-12,
            "rounding in float64",
            "≤",
        ),
        Row(
            "smallest H(p, q) over q, by gradient descent, bits",
            float(losses[-1]) / LN2,
            float(entropy(p)),
            "H(p)",
            digits=10,
        ),
        Row("max |q − p| there", float(jnp.abs(q - p).max()), 1e-6, "q = p", "≤"),
    ], losses


def output_rows(p: Array) -> list[Row]:
    z, extreme = jnp.array(LOGITS), jnp.array(EXTREME_LOGITS)
    first = jnp.array([1.0, 0.0, 0.0])
    bits_gradient = jax.grad(lambda z: cross_entropy(jnp.array(WINNER), jax.nn.softmax(z)))
    ratios = bits_gradient(jnp.log(p)) / SOFTMAX.delta(jnp.log(p), jnp.array(WINNER))
    huge = jnp.array([1e9, -1e9, 0.0])
    finite = jnp.isfinite(jnp.append(SOFTMAX.delta(huge, first), SOFTMAX.value(huge, 1 - first)))
    return [
        Row(
            "sum of the sigmoids of (10, 20, −30)",
            float(jax.nn.sigmoid(z).sum()),
            1.9999546000702375,
            "lecture §2",
            digits=9,
        ),
        Row("sum of their softmax", float(SOFTMAX.output(z).sum()), 1, "lecture §2", digits=9),
        Row(
            "softmax of (10, 20, −30), first",
            float(SOFTMAX.output(z)[0]),
            4.5397868702434395e-05,
            "lecture §2",
            digits=9,
        ),
        Row(
            "softmax of (1000, 2000, −3000), second",
            float(SOFTMAX.output(extreme)[1]),
            1,
            "lecture §2",
        ),
        Row(
            "cross-entropy there of the first class in nats",
            float(SOFTMAX.value(extreme, first)),
            1000,
            "2000 − 1000",
        ),
        Row("values not finite at logits ±1e9", int((~finite).sum()), 0, "computed on logits"),
        Row(
            "gradient in bits over gradient in nats, smallest",
            float(ratios.min()),
            1.4426950408889634,
            "1/ln 2",
            digits=10,
        ),
        Row(
            "gradient in bits over gradient in nats, largest",
            float(ratios.max()),
            1.4426950408889634,
            "1/ln 2",
            digits=10,
        ),
    ]


def measure() -> Results:
    p = jnp.array(P)
    rows, losses = divergence_rows(p)
    H = float(entropy(p))
    return Results(
        headline=(
            f"The four teams carry {H:.4f} bits and an expected profit of "
            f"{float(p @ jnp.array(PROFITS)):.1f}K; the second team's win costs "
            f"{float(cross_entropy(jnp.array(WINNER), p)):.4f} bits. Cross-entropy falls to "
            f"{float(losses[-1]) / LN2:.4f} bits = H(p), never below; three sigmoids sum to "
            f"{float(jax.nn.sigmoid(jnp.array(LOGITS)).sum()):.7f}, a softmax to 1."
        ),
        rows=information_rows(p) + rows + output_rows(p),
        children=[
            ChildRun(
                {"fit": "softmax to p"}, {"cross_entropy_bits": np.asarray(losses[:500]) / LN2}
            )
        ],
    )


def draw_information(axes: Axes) -> None:
    p = jnp.linspace(0.01, 1, 200)
    axes.plot(p, information(p))
    bits = information(jnp.array(P))
    axes.plot(P, bits, "o", color="#D55E00")
    for p_i, bits_i in zip(P, bits.tolist(), strict=True):
        axes.annotate(f"{bits_i:.4f}", (p_i, bits_i), (p_i + 0.02, bits_i + 0.1), fontsize=9)
    axes.set(
        xlabel="probability p",
        ylabel="information −log₂ p (bits)",
        title="a  Information: rare events say more",
    )


def draw_divergence(axes: Axes) -> None:
    """Two events with p = .3, as q runs from 0 to 1."""
    p = jnp.array([0.3, 0.7])
    q = jnp.linspace(0.01, 0.99, 197)
    values = np.asarray(jax.vmap(lambda q: cross_entropy(p, jnp.array([q, 1 - q])))(q))
    H = float(entropy(p))
    axes.plot(q, values, label="cross-entropy H(p, q)")
    axes.axhline(H, color="#D55E00", linestyle="--", label=f"entropy H(p) = {H:.4f}")
    axes.fill_between(
        q, H, values, color="#0072B2", alpha=0.25, hatch="///", linewidth=0, label="D(p‖q) ≥ 0"
    )
    axes.plot(0.3, H, "ko")
    axes.set(
        xlabel="q of the event with p = .3",
        ylabel="bits",
        title="b  Cross-entropy − entropy = KL",
        ylim=(0, 3),
    )
    axes.legend(fontsize=9, loc="upper left")


def draw_outputs(axes: Axes) -> None:
    z, places = jnp.array(LOGITS), np.arange(3)
    for i, (name, output, colour, hatch) in enumerate(
        (("sigmoids", jax.nn.sigmoid, "#E69F00", "///"), ("softmax", SOFTMAX.output, "#0072B2", ""))
    ):
        y_hat = output(z)
        bars = axes.bar(
            places + 0.4 * i - 0.2,
            y_hat,
            0.38,
            color=colour,
            hatch=hatch,
            edgecolor="black",
            label=f"{name}: sum {float(y_hat.sum()):.7f}",
        )
        axes.bar_label(
            bars,
            [f"{value:.2g}" if value < 0.01 else f"{value:.5f}" for value in y_hat.tolist()],
            fontsize=8,
            padding=2,
        )
    axes.set(
        xlabel="logit z",
        ylabel="output ŷ",
        title="c  Only a softmax is a distribution",
        xticks=places,
        xticklabels=[f"{v:g}" for v in LOGITS],
        ylim=(0, 1.5),
    )
    axes.legend(loc="upper right", fontsize=9)


def draw_overflow(axes: Axes) -> None:
    scale = jnp.linspace(0, 600, 601)
    first = jnp.array([1.0, 0.0, 0.0])

    def along(loss: Callable[[Array, Array], Array]) -> np.ndarray:
        return np.asarray(jax.vmap(lambda s: loss(s * jnp.array([1.0, 2.0, -3.0]), first))(scale))

    nats, naive = along(SOFTMAX.value), along(naive_cross_entropy)
    last = np.flatnonzero(np.isfinite(naive))[-1]
    axes.plot(scale, nats / LN2, label="in bits, slope × 1.442695")
    axes.plot(scale, nats, label="in nats")
    axes.plot(
        scale[: last + 1],
        naive[: last + 1],
        color="0.7",
        linestyle="-",
        linewidth=6,
        zorder=1,
        label="in nats, with e^z as on paper",
    )
    axes.plot(scale[last], naive[last], "kX", markersize=9)
    axes.annotate("e^z overflows", (scale[last], naive[last]), (scale[last] + 20, naive[last] - 70))
    axes.set(
        xlabel="s, with logits s · (1, 2, −3)",
        ylabel="loss of the first class",
        title="d  On logits it stays finite; nats and bits",
    )
    axes.legend(fontsize=9)


def draw(results: Results) -> Figure:
    fig, axes = subplots(2, 2, height=7)
    draw_information(axes[0, 0])
    draw_divergence(axes[0, 1])
    draw_outputs(axes[1, 0])
    draw_overflow(axes[1, 1])
    return fig


if __name__ == "__main__":
    run_study(measure, draw)
