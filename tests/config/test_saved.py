"""The names of trainings."""

import pytest

from mlp_jax.config.compose import compose
from mlp_jax.config.saved import config_hash


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["+exp=xor"], "bf80c4eb6fa27ae9604a5c1b995dd1da"),
        (
            ["+exp=table", "data.path=t.csv", "data.target=y"],
            "af4c337aaf6e88e20acddf2f66e4c775",
        ),
    ],
)
def test_a_training_keeps_its_name_where_keys_are_added(overrides, name):
    """Else `sweep.resume=true` would train again what an earlier version has trained."""
    assert config_hash(compose(overrides)) == name
    assert config_hash(compose([*overrides, "ensemble.size=2"])) != name
    assert (
        config_hash(compose([*overrides, "data.standardize=true", "data.scaling=robust"])) != name
    )
