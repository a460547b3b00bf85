"""Whatever is asked for is composed or refused in a line or two, and nothing is written.

A failure names its seed: `fuzzed(seed)` makes the overrides again.
"""

import random
import string
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from mlp_jax.config import schema as config
from mlp_jax.config.checks import to_experiment
from mlp_jax.config.guard import check_overrides, check_search_path, explain
from mlp_jax.config.schema import CHOICES, CONF, Experiment
from mlp_jax.errors import UserError

CHOICE_FILES = [(file.parent.name, file.stem) for file in sorted(CONF.glob("*/*.yaml"))]
KEYS = sorted({
    f"{section}.{item.name}" if section else item.name
    for section, schemas in {"": (Experiment,), **CHOICES}.items()
    for schema in schemas
    for item in fields(schema)
})  # fmt: skip
VALUES = [
    "0", "1", "-1", "2.5", "1e400", "nan", "-inf", "true", "null", "", "''", "abc", "[]", "[1]",
    "[[1]]", "{}", "{a: 1}", "[1,", "{a", "'", "???", "${x}", "${oc.env:X}", "${seed}", "${nope:1}",
    "${", "adam", "xor", "1,2", "range(3)", "choice(1,2)", "interval(0,1)", "glob(*)", "sigmoid",
    "softmax", "../x", "/etc/passwd", "a=b", "é", "😀", "\x00", "a\nb", " ",
    "9" * 400, "0x1f", "1_0",
]  # fmt: skip
SIGNS = ["", "", "", "", "+", "++", "~", "=", "@", "+@"]


def fuzzed(seed: int) -> list[str]:
    """One to four overrides: choices, keys, misspelt ones, and noise."""
    rng = random.Random(seed)
    return [_override(rng) for _ in range(rng.randint(1, 4))]


def _override(rng: random.Random) -> str:
    kind = rng.random()
    value = rng.choice(VALUES)
    if kind < 0.2:
        group, choice = rng.choice(CHOICE_FILES)
        return f"{'+' if group == 'exp' else rng.choice(SIGNS)}{group}={choice}"
    if kind < 0.85:
        key = rng.choice(KEYS)
        if rng.random() < 0.2:
            place = rng.randrange(len(key))
            key = key[:place] + rng.choice(string.printable) + key[place + rng.randrange(2) :]
        return f"{rng.choice(SIGNS)}{key}={value}"
    if kind < 0.93:
        return (
            f"{rng.choice(SIGNS)}hydra.{rng.choice(['x', 'run.dir', 'mode', 'job.name'])}={value}"
        )
    return "".join(rng.choice(string.printable) for _ in range(rng.randrange(12)))


PACKAGE = str(Path(config.__file__).parents[1])


def is_ours(error: Exception) -> bool:
    """Whether it was raised in this package; what Hydra and OmegaConf raise becomes a line."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)


def told(overrides: list[str], compose: Callable[[], Any]) -> str:
    """What the command says to these overrides; '' where it would train."""
    try:
        try:
            to_experiment(compose())
        except UserError:
            raise
        except Exception as error:
            if is_ours(error):
                raise
            raise explain(error, overrides) from error
    except UserError as error:
        return str(error)
    return ""


def composed(overrides: list[str]) -> Any:
    check_overrides(overrides)
    check_search_path(overrides, None)
    return hydra.compose("config", overrides)


def fuzz(seeds: range) -> None:
    refused = 0
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for seed in seeds:
            overrides = fuzzed(seed)
            try:
                said = told(overrides, lambda: composed(overrides))  # noqa: B023
            except Exception as error:
                raise AssertionError(f"fuzzed({seed}) == {overrides}") from error
            assert "Traceback" not in said and "DictConfig in" not in said, f"fuzzed({seed})"
            refused += bool(said)
    assert len(seeds) / 4 < refused < len(seeds)
    assert not list(Path.cwd().iterdir())


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    config.register_schema()
    monkeypatch.chdir(tmp_path)


def test_overrides_are_composed_or_refused():
    fuzz(range(200))


@pytest.mark.faults
def test_ten_thousand_fuzzed_override_sets():
    fuzz(range(10_000))


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """Of any type that YAML has."""
    simple = [None, True, 0, -1, 3, 2**70, 0.5, -0.0, float("nan"), float("inf"), "", "a", "adam",
              "???", "x\ny", "é" * 50]  # fmt: skip
    if depth < 2 and rng.random() < 0.3:
        children = [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return children if rng.random() < 0.5 else dict(zip("abcd", children, strict=False))
    return rng.choice(simple)


def test_values_of_any_type_are_validated():
    """What may stand in a file of one's own, without a composition for each."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        base = hydra.compose("config", ["+exp=xor"])
    keys = [key for key in KEYS if OmegaConf.select(base, key) is not None]
    refused = 0
    for seed in range(800):
        rng = random.Random(seed)
        key, value, own = rng.choice(keys), random_value(rng), base.copy()

        def changed() -> Any:
            OmegaConf.update(own, key, value)  # noqa: B023
            return own  # noqa: B023

        try:
            refused += bool(told([], changed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {key}={value}") from error
    assert 200 < refused < 800
