"""Can one hidden layer of perceptrons compute every Boolean function, and with how many units?

Every function of one to four inputs is built and checked at every vertex. Few are linearly
separable, so few need one unit only; parity is the hard case, and n units do for it.
Minsky & Papert 1969, "Perceptrons"; the counts: Muroga 1971, "Threshold logic", table 2.3.2.
"""

import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study import ChildRun, Results, Row, run_study, subplots
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.network import Params, apply
from mlp_jax.errors import UserError
from mlp_jax.library.boolean import boolean, boolean_padded, num_inputs_of, parity, vertices

STEP = ACTIVATIONS["step"]
SEPARABLE = {1: 4, 2: 14, 3: 104, 4: 1882}
SEPARABLE_OF_MORE = {5: 94_572, 6: 15_028_134}
FEWEST = {1: {1: 4}, 2: {1: 14, 2: 2}, 3: {1: 104, 2: 150, 3: 2}}
MAX_PARITY = 12


def values(params: Params, x: Array) -> Array:
    """The Boolean outputs H(z^L) at many inputs."""
    return jax.vmap(lambda x: STEP.g(apply(params, x, STEP))[0])(x) == 1


@jax.jit
def exact(tables: Array, x: Array) -> Array:
    """Which of the constructed networks equal their truth table at all vertices."""
    return jax.vmap(lambda table: jnp.all(values(boolean_padded(table), x) == table))(tables)


def truth_tables(num_inputs: int) -> Bool[np.ndarray, "functions vertices"]:
    """Every Boolean function of 1 to 4 inputs; bit i of row k's number k is its value at vertex i.

    >>> truth_tables(1).astype(int).tolist()
    [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    if not 1 <= num_inputs <= 4:
        raise UserError(f"all functions of {num_inputs} inputs: allowed are 1 to 4 inputs.")
    numbers = np.arange(2**2**num_inputs)[:, None]
    return (numbers >> np.arange(2**num_inputs) & 1).astype(bool)


def linearly_separable(
    tables: Bool[np.ndarray, "functions vertices"],
) -> Bool[np.ndarray, " functions"]:
    """Which Boolean functions one perceptron can represent, of at most 7 inputs.

    A function is not linearly separable if x + x' = y + y' for some x, x' where it is true and
    y, y' where it is false. For up to 7 inputs the converse holds as well: linear programs find
    weights for every other function. Muroga 1971, "Threshold logic and its applications".

    >>> np.flatnonzero(~linearly_separable(truth_tables(2))).tolist()  # XOR and its complement
    [6, 9]
    """
    num_inputs = num_inputs_of(tables.shape[1])
    if num_inputs > 7:
        raise UserError(f"linear separability of functions of {num_inputs} inputs: at most 7.")
    first, second = np.triu_indices(2**num_inputs)
    v = vertices(num_inputs)
    sums = (v[first] + v[second]) @ 3 ** np.arange(num_inputs)  # x + x' as a number in base 3

    def sums_of(tables: np.ndarray) -> np.ndarray:
        found = np.zeros((len(tables), 3**num_inputs), bool)
        function, pair = np.nonzero(tables[:, first] & tables[:, second])
        found[function, sums[pair].astype(int)] = True
        return found

    return ~(sums_of(tables) & sums_of(~tables)).any(axis=1)


def fewest_hidden_units(num_inputs: int) -> np.ndarray:
    """The fewest `step` units in one hidden layer that represent each function of 1 to 3 inputs.

    By exhaustion over the linearly separable functions of the inputs for the hidden units and of
    the hidden units for the output. The order is that of `truth_tables`.

    >>> fewest_hidden_units(2).tolist()
    [1, 1, 1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    """
    if not 1 <= num_inputs <= 3:
        raise UserError(f"fewest hidden units for {num_inputs} inputs: allowed are 1 to 3 inputs.")

    def separable(num_inputs: int) -> np.ndarray:
        tables = truth_tables(num_inputs)
        return tables[linearly_separable(tables)]

    # A unit and its complement serve alike, because the output may complement its inputs.
    units = separable(num_inputs)
    units = units[~units[:, 0]]
    place_values = 2 ** np.arange(2**num_inputs)
    fewest = np.zeros(2**2**num_inputs, int)
    num_units = 0
    while not fewest.all():
        num_units += 1
        chosen = np.array(list(itertools.combinations(range(len(units)), num_units)))
        hidden = np.moveaxis(units[chosen], 1, -1) @ 2 ** np.arange(num_units)
        for output in separable(num_units):
            functions = np.unique(output[hidden] @ place_values)
            fewest[functions[fewest[functions] == 0]] = num_units
    return fewest


def regular_functions(num_inputs: int) -> Bool[np.ndarray, "functions vertices"]:
    """The monotone functions to which an earlier input matters at least as much as a later one.

    Every linearly separable function becomes one of them when its inputs are negated and permuted
    so that their weights are positive and fall.
    """
    ones_so_far = vertices(num_inputs).cumsum(axis=1)
    above = np.all(ones_so_far[:, None] <= ones_so_far, axis=-1)
    tables = np.zeros((1, 2**num_inputs), bool)
    for vertex in np.argsort(-ones_so_far.sum(axis=1), kind="stable"):
        must_be_true = np.flatnonzero(above[vertex])
        grown = tables[tables[:, must_be_true[must_be_true != vertex]].all(axis=1)]
        grown[:, vertex] = True
        tables = np.concatenate([tables, grown])
    return tables


def num_variants(table: np.ndarray) -> int:
    """How many functions a regular one becomes by permuting and negating its inputs."""
    n = len(table).bit_length() - 1
    f = table.reshape((2,) * n)
    num_essential = sum(not np.array_equal(f.take(0, i), f.take(1, i)) for i in range(n))
    # Inputs that may be swapped are neighbours.
    alike = [1]
    for i in range(n - 1):
        if np.array_equal(f, f.swapaxes(i, i + 1)):
            alike[-1] += 1
        else:
            alike.append(1)
    return 2**num_essential * math.factorial(n) // math.prod(map(math.factorial, alike))


def count_separable(num_inputs: int) -> int:
    """The number of linearly separable functions, from those that are regular."""
    tables = regular_functions(num_inputs)
    return sum(num_variants(table) for table in tables[linearly_separable(tables)])


def separated_by_small_weights(num_inputs: int, max_weight: int) -> set[int]:
    """The functions H(w·x − θ) with whole weights |w_i| ≤ max_weight, numbered by truth table."""
    w = np.array(list(itertools.product(range(-max_weight, max_weight + 1), repeat=num_inputs)))
    sums = w @ vertices(num_inputs).T
    place_values = 2 ** np.arange(2**num_inputs)
    most = num_inputs * max_weight
    thresholds = np.arange(-most, most + 2) - 0.5
    return {int(n) for t in thresholds for n in np.unique((sums >= t) @ place_values)}


def measure() -> Results:
    rows, children = [], []
    for n, expected in SEPARABLE.items():
        tables, x = truth_tables(n), jnp.asarray(vertices(n))
        start = time.perf_counter()
        num_exact = int(exact(jnp.asarray(tables), x).sum())
        seconds = time.perf_counter() - start
        num_ones = tables.sum(axis=1)
        most_units = int(np.minimum(num_ones, 2**n - num_ones).max())
        separable = int(linearly_separable(tables).sum())
        rows += [
            Row(f"functions exact, n={n}", num_exact, 2**2**n, "2^(2^n), all of them"),
            Row(f"most hidden units, n={n}", most_units, 2 ** (n - 1), "2^(n−1)", "≤"),
            Row(f"linearly separable, n={n}", separable, expected, "Muroga 1971"),
        ]
        children.append(ChildRun({"n": n}, {"exact": num_exact, "separable": separable}))
    rows.append(
        Row(
            "separated by whole weights of at most 3, n=4",
            len(separated_by_small_weights(4, 3)),
            SEPARABLE[4],
            "Muroga 1971",
        )
    )
    rows += [
        Row(f"linearly separable, n={n}", count_separable(n), expected, "Muroga 1971")
        for n, expected in SEPARABLE_OF_MORE.items()
    ]
    for n, counts in FEWEST.items():
        found = fewest_hidden_units(n)
        rows += [
            Row(
                f"need {units} hidden unit{'s' * (units > 1)}, n={n}",
                int((found == units).sum()),
                count,
                "lecture §1",
            )
            for units, count in counts.items()
        ]
    for n in range(2, MAX_PARITY + 1):
        x = jnp.asarray(vertices(n))
        wrong = int((values(parity(n), x) != x.sum(axis=1) % 2).sum())
        rows.append(Row(f"parity wrong with n units, n={n}", wrong, 0, "Minsky & Papert 1969"))
    return Results(
        headline=f"Yes: all {num_exact:,} functions of four inputs are exact with at most "
        f"{most_units} hidden units, checked in one compiled call ({seconds:.1f} s with its "
        f"compilation); {separable:,} of them need one unit, and for parity n units do.",
        rows=rows,
        arrays={"fewest": fewest_hidden_units(3), "ones": truth_tables(3).sum(axis=1)},
        children=children,
    )


def draw(results: Results) -> Figure:
    fig, axes = subplots(2, 2, height=7.2)
    draw_xor(axes[0, 0])
    draw_separable(axes[0, 1])
    draw_units(axes[1, 0], results)
    draw_parity(axes[1, 1])
    return fig


def draw_xor(ax: Axes) -> None:
    """XOR's two hidden units, each alone at its vertex."""
    params = boolean([0, 1, 1, 0])
    u = np.linspace(-0.6, 1.6, 221)
    x = np.stack(np.meshgrid(u, u), axis=-1).reshape(-1, 2)
    inside = np.asarray(values(params, jnp.asarray(x))).reshape(len(u), len(u)).astype(float)
    ax.contourf(u, u, inside, [0.5, 1], colors=["#dddddd"], hatches=["//"])
    for (w, b), name, style in zip(
        zip(*params[0], strict=True), ("h at (0, 1)", "h at (1, 0)"), ("--", "-."), strict=True
    ):
        ax.plot(u, -(w[0] * u + b) / w[1], style, color="black", label=f"edge of {name}")
    for v, value in zip(vertices(2), (0, 1, 1, 0), strict=True):
        ax.plot(*v, "o", ms=11, mfc="black" if value else "white", mec="black", zorder=3)
    ax.set(xlim=(-0.6, 1.6), ylim=(-0.6, 1.6), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    ax.set(xticks=(0, 1), yticks=(0, 1), title="XOR, true at the black vertices")
    ax.legend(loc="upper right", fontsize=8.5, frameon=True, framealpha=1)


def draw_separable(ax: Axes) -> None:
    n = np.array(list(SEPARABLE))
    for offset, counts, label, face, hatch in (
        (-0.2, 2.0**2**n, "all functions", "#cccccc", ""),
        (0.2, np.array(list(SEPARABLE.values())), "linearly separable", "#0072B2", "//"),
    ):
        bars = ax.bar(
            n + offset, counts, 0.4, label=label, color=face, hatch=hatch, edgecolor="black"
        )
        ax.bar_label(bars, [f"{int(count):,}" for count in counts], fontsize=8.5)
    ax.set(yscale="log", ylim=(1, 5e5), xticks=n, xlabel="inputs n", ylabel="functions")
    ax.set_title("One perceptron is enough for few")
    ax.legend(loc="upper left")


def draw_units(ax: Axes, results: Results) -> None:
    ones = results.arrays["ones"]
    constructed = np.maximum(1, np.minimum(ones, 8 - ones))
    units = np.arange(1, 5)
    for offset, used, label, face, hatch in (
        (-0.2, constructed, "constructed: one a vertex", "#cccccc", ""),
        (0.2, results.arrays["fewest"], "fewest possible", "#0072B2", "//"),
    ):
        counts = (used[:, None] == units).sum(axis=0)
        bars = ax.bar(
            units + offset, counts, 0.4, label=label, color=face, hatch=hatch, edgecolor="black"
        )
        ax.bar_label(bars, fontsize=8.5)
    ax.set(xticks=units, ylim=(0, 215), xlabel="hidden units", ylabel="functions")
    ax.set_title("The 256 functions of three inputs")
    ax.legend(loc="upper right")


def draw_parity(ax: Axes) -> None:
    n = np.arange(1, MAX_PARITY + 1)
    ax.plot(n, 2.0 ** (n - 1), "--o", color="#D55E00", label="one unit a vertex: $2^{n-1}$")
    ax.plot(n, n, "-s", color="black", label="one unit a threshold: $n$")
    ax.set(yscale="log", xlabel="inputs n", ylabel="hidden units", xticks=n)
    ax.set_title("Parity")
    ax.legend()


if __name__ == "__main__":
    run_study(measure, draw)
