"""The names of trainings."""

import functools

import pytest

from mlp_jax.config.compose import compose
from mlp_jax.config.saved import _WITHOUT, config_hash, from_record, to_record

NAMES = [
    (["+exp=xor"], "bf80c4eb6fa27ae9604a5c1b995dd1da"),
    (["+exp=table", "data.path=t.csv", "data.target=y"], "af4c337aaf6e88e20acddf2f66e4c775"),
]


@pytest.mark.parametrize(("overrides", "name"), NAMES)
def test_a_training_keeps_its_name_where_keys_are_added(overrides, name):
    """Else `sweep.resume=true` would train again what an earlier version has trained."""
    assert config_hash(compose(overrides)) == name
    assert config_hash(compose([*overrides, "ensemble.size=2"])) != name
    assert (
        config_hash(compose([*overrides, "data.standardize=true", "data.scaling=robust"])) != name
    )


@pytest.mark.parametrize("overrides", [overrides for overrides, _ in NAMES])
def test_what_an_earlier_version_recorded_is_read(overrides):
    """It lacks the keys that there were not, which then have the values that change nothing."""
    whole, record = (to_record(compose(overrides), 1, None) for _ in range(2))
    for key, value in _WITHOUT:
        *sections, name = key.split(".")
        within = functools.reduce(dict.__getitem__, sections, record)
        assert within.pop(name, value) == value
    assert from_record(record, "then") == from_record(whole, "now")
