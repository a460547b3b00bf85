"""Datasets that are computed, or that scikit-learn brings along."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlp_jax.config.schema import Boolean, ScikitLearn, Synthetic
from mlp_jax.data.columns import Raw
from mlp_jax.errors import UserError, nearest

BOOLEAN_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "false": lambda x: x.sum(axis=1) < 0,
    "true": lambda x: x.sum(axis=1) >= 0,
    "and": lambda x: x.sum(axis=1) == x.shape[1],
    "or": lambda x: x.sum(axis=1) > 0,
    "nand": lambda x: x.sum(axis=1) < x.shape[1],
    "nor": lambda x: x.sum(axis=1) == 0,
    "xor": lambda x: x.sum(axis=1) % 2 == 1,
    "xnor": lambda x: x.sum(axis=1) % 2 == 0,
    "parity": lambda x: x.sum(axis=1) % 2 == 1,
    "majority": lambda x: 2 * x.sum(axis=1) > x.shape[1],
    # x1 ∧ … ∧ x_{n−1} → x_n
    "implies": lambda x: (x[:, :-1].sum(axis=1) < x.shape[1] - 1) | x[:, -1],
}


def truth_table(function: Any, num_inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """All vertices in binary counting order, x1 the most significant bit, and f of each.

    `function` is a name, or the number whose bit i is f of the i-th vertex (6 is XOR).
    """
    num_vertices = 2**num_inputs
    x = (np.arange(num_vertices)[:, None] >> np.arange(num_inputs)[::-1] & 1).astype(bool)
    # YAML reads true and false as values; Python refuses to write very long numbers in decimal.
    name = hex(function) if type(function) is int else str(function).lower()
    if name in BOOLEAN_FUNCTIONS:
        return x, BOOLEAN_FUNCTIONS[name](x)
    if not isinstance(function, int) or not 0 <= function < 2**num_vertices:
        raise UserError(
            f"data.function={function}: must be one of {', '.join(BOOLEAN_FUNCTIONS)}, or a number "
            f">= 0 and < 2**{num_vertices}, the truth table of {num_inputs} inputs."
            f"{nearest(name, BOOLEAN_FUNCTIONS)}"
        )
    bits = np.frombuffer(function.to_bytes(num_vertices // 8 + 1, "little"), np.uint8)
    return x, np.unpackbits(bits, count=num_vertices, bitorder="little").astype(bool)


def boolean(config: Boolean) -> Raw:
    if config.name == "xor" and config.function != "xor":
        raise UserError(f"data.function={config.function}: data=xor has xor; use data=boolean.")
    x, y = truth_table(config.function, config.num_inputs)
    function = hex(config.function) if type(config.function) is int else config.function
    return Raw(
        x.astype(np.float64),
        y.astype(np.int64),
        source=f"truth table of {function}, {config.num_inputs} inputs",
        feature_names=tuple(f"x{i + 1}" for i in range(config.num_inputs)),
        class_names=("0", "1"),
        class_values=(0, 1),
    )


def _circles(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_circles

    return make_circles(
        config.num_examples, noise=config.noise, factor=0.5, random_state=config.seed
    )


def _moons(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_moons

    return make_moons(config.num_examples, noise=config.noise, random_state=config.seed)


def _gauss(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds around (2, 2) and (−2, −2), as in the TensorFlow Playground."""
    rng = np.random.default_rng(config.seed)
    y = np.arange(config.num_examples) % 2
    x = rng.normal((2 - 4 * y)[:, None], config.noise, (config.num_examples, 2))
    return x, y


def _spiral(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    """Two arms of 1 ¾ turns and radius 5, as in the TensorFlow Playground."""
    rng = np.random.default_rng(config.seed)
    y = np.arange(config.num_examples) % 2
    along = np.arange(config.num_examples) / config.num_examples
    angle = 2 * np.pi * 1.75 * along + np.pi * y
    arm = 5 * along[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return arm + rng.normal(0, config.noise, arm.shape), y


def synthetic(config: Synthetic) -> Raw:
    source = f"{config.name}, {config.num_examples} examples, noise {config.noise:g}"
    if config.name == "sine":
        rng = np.random.default_rng(config.seed)
        x = rng.uniform(-1, 1, (config.num_examples, 1))
        y = np.sin(2 * np.pi * x) + rng.normal(0, config.noise, x.shape)
        return Raw(x, y, source, feature_names=("x",), target_names=("y",))
    make = {"circles": _circles, "moons": _moons, "gauss": _gauss, "spiral": _spiral}
    x, y = make[config.name](config)
    return Raw(
        x,
        y.astype(np.int64),
        source,
        feature_names=("x1", "x2"),
        class_names=("0", "1"),
        class_values=(0, 1),
    )


def scikit_learn(config: ScikitLearn) -> Raw:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{config.name}")()
    raw = Raw(
        bunch.data,
        bunch.target.astype(np.int64),
        source=f"sklearn.datasets.load_{config.name}",
        feature_names=tuple(map(str, bunch.feature_names)),
    )
    if config.name == "diabetes":
        return raw._replace(y=bunch.target[:, None], target_names=("disease progression",))
    x_scale = 16.0 if config.name == "digits" else 1.0
    classes = np.asarray(bunch.target_names).tolist()
    return raw._replace(
        class_names=tuple(map(str, classes)), class_values=tuple(classes), x_scale=x_scale
    )
