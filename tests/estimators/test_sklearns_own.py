"""scikit-learn's own tests of its multilayer perceptrons, with our classes in their place."""

import importlib.util
from unittest.mock import patch

import pytest

from mlp_jax.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.usefixtures("compiled_quickly")

LEFT_OUT = {
    "test_gradient": "calls the private _loss_grad_lbfgs; test_mlp.py checks our gradient",
}

# A copy of the module of its own, in which `from sklearn.neural_network import …` finds ours.
spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
theirs = importlib.util.module_from_spec(spec)
with patch.multiple(
    "sklearn.neural_network", MLPClassifier=MLPClassifier, MLPRegressor=MLPRegressor
):
    spec.loader.exec_module(theirs)
tests = {name: test for name, test in vars(theirs).items() if name.startswith("test_")}
globals().update({name: test for name, test in tests.items() if name not in LEFT_OUT})


@pytest.fixture
def global_random_seed():
    """As scikit-learn's default."""
    return 42


def test_what_is_left_out_is_there_and_ours_are_tested():
    assert LEFT_OUT.keys() <= tests.keys()
    assert theirs.MLPClassifier is MLPClassifier
    assert theirs.MLPRegressor is MLPRegressor
