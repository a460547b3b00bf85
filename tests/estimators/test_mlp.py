"""The estimators train as scikit-learn's do, and keep the promises of its interface."""

import pickle
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network as theirs
from jax.flatten_util import ravel_pytree
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mlp_jax as mlp
from mlp_jax.core.network import apply
from mlp_jax.estimators import MLPClassifier, MLPRegressor, epochs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.RandomState(0)
X = RNG.randn(60, 4)
WEIGHT = RNG.uniform(0.1, 2, 60)
CLASSES = np.array(["a", "b", "c"])[np.argmax(X[:, :3] + RNG.randn(60, 3), axis=1)]
LABELS = (X[:, :3] + RNG.randn(60, 3) > 0).astype(int)
TARGETS = np.tanh(X[:, :2] + X[:, 2:])

TRAININGS = {
    "adam": (theirs.MLPClassifier, {}, CLASSES),
    "the last batch is smaller": (theirs.MLPClassifier, {"batch_size": 16}, CLASSES),
    "several labels": (theirs.MLPClassifier, {"activation": "logistic"}, LABELS),
    "nesterov, invscaling": (
        theirs.MLPClassifier,
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
        CLASSES == "a",
    ),
    "momentum, adaptive": (
        theirs.MLPRegressor,
        {"solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": False}
        | {"learning_rate_init": 0.1, "tol": 0.05, "n_iter_no_change": 2},
        TARGETS[:, 0],
    ),
    "early stopping": (theirs.MLPClassifier, {"early_stopping": True, "tol": 0.01}, CLASSES),
    "several targets, early stopping": (theirs.MLPRegressor, {"early_stopping": True}, TARGETS),
    "poisson": (theirs.MLPRegressor, {"loss": "poisson", "alpha": 0.1}, np.exp(TARGETS)),
    "lbfgs": (theirs.MLPClassifier, {"solver": "lbfgs", "alpha": 1.0, "max_iter": 15}, CLASSES),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_is_scikit_learns(training):
    kind, parameters, y = TRAININGS[training]
    parameters = {"hidden_layer_sizes": (5,), "max_iter": 40, "random_state": 3, **parameters}
    weight = None if training == "adam" else WEIGHT
    wanted = kind(**parameters).fit(X, y, weight)
    found = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[kind.__name__]
    found = found(**parameters).fit(X, y, weight)
    assert found.n_iter_ == wanted.n_iter_
    assert found.t_ == wanted.t_
    for mine, theirs_ in zip(
        found.coefs_ + found.intercepts_, wanted.coefs_ + wanted.intercepts_, strict=True
    ):
        np.testing.assert_allclose(mine, theirs_, rtol=1e-9, atol=1e-11)
    names = ["loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"]
    for name in names if parameters.get("solver") != "lbfgs" else ["loss_"]:
        mine, theirs_ = (getattr(model, name) for model in (found, wanted))
        if theirs_ is None:
            assert mine is None
        else:
            np.testing.assert_allclose(mine, theirs_, rtol=1e-9)
    assert (found.predict(X) == wanted.predict(X)).all() or "MLPRegressor" in str(kind)
    assert found.get_params().keys() - wanted.get_params().keys() == {"hidden_sizes"}


def test_all_parameters_and_attributes_of_scikit_learn_are_here():
    for ours, other in (MLPClassifier, theirs.MLPClassifier), (MLPRegressor, theirs.MLPRegressor):
        defaults = ours().get_params()
        assert defaults.pop("hidden_sizes") is None
        assert defaults == other().get_params()
        y = CLASSES if ours is MLPClassifier else TARGETS
        fitted = {"max_iter": 1, "hidden_layer_sizes": (5,)}
        attributes = {a for a in vars(other(**fitted).fit(X, y)) if a.endswith("_")}
        assert attributes <= set(vars(ours(**fitted).fit(X, y)))


@pytest.mark.parametrize("output", epochs.OUTPUTS)
def test_the_gradient_is_that_of_jax(output):
    with jax.enable_x64(True):
        rng = np.random.RandomState(1)
        model = MLPRegressor(hidden_sizes=(3,), activation="tanh", max_iter=1, random_state=0)
        params = model.fit(X, TARGETS)._params(np.float64)
        x, weight = X[:6], np.append(rng.uniform(0.5, 2, 5), 0.0)
        y = rng.dirichlet([1, 1], 6)
        rule = epochs.Rule("tanh", output, "adam", nesterov=True)
        loss = epochs.OUTPUTS[output]

        def objective(params):
            logits = jax.vmap(lambda x: apply(params, x, mlp.ACTIVATIONS["tanh"]))(x)
            losses = jax.vmap(loss.value)(logits, y)
            penalty = 0.3 / 2 * sum((W**2).sum() for W, _ in params)
            return (weight @ losses + penalty) / weight.sum()

        theta, as_params = ravel_pytree(params)
        examples = epochs.Examples(x, y, weight)
        value, grads = epochs.objective_at(rule, theta, params, 0.3, examples)
        grads = as_params(grads)
        wanted, wanted_grads = jax.value_and_grad(objective)(params)
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        for mine, its in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True):
            np.testing.assert_allclose(mine, its, atol=1e-12)


def test_candidates_that_differ_in_numbers_share_a_program():
    model = MLPClassifier(hidden_sizes=(6,), max_iter=3, random_state=0)
    GridSearchCV(model, {"alpha": [0.1]}, cv=3).fit(X, CLASSES)
    before = epochs.train_epoch._cache_size()
    grid = {"alpha": [0.0, 1.0], "learning_rate_init": [0.01, 0.1], "beta_1": [0.5], "tol": [0.1]}
    search = GridSearchCV(model, grid, cv=3).fit(X, CLASSES)
    assert epochs.train_epoch._cache_size() == before
    wanted = GridSearchCV(
        theirs.MLPClassifier(hidden_layer_sizes=(6,), max_iter=3, random_state=0), grid, cv=3
    ).fit(X, CLASSES)
    assert (
        search.cv_results_["mean_test_score"].tolist()
        == wanted.cv_results_["mean_test_score"].tolist()
    )


def test_pandas_pipelines_and_labels_of_the_users_own_type():
    frame = pd.DataFrame(X, columns=list("pqrs"))
    model = MLPClassifier(hidden_sizes=6, max_iter=60, learning_rate_init=0.05, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    assert cross_val_score(pipeline, frame, pd.Series(CLASSES), cv=3).mean() > 0.4
    model.fit(frame, pd.Series(CLASSES))
    assert set(model.predict(frame)) <= set(CLASSES)
    assert model.feature_names_in_.tolist() == list("pqrs")
    assert model.predict_proba(frame).sum(axis=1) == pytest.approx(np.ones(60))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"p": "q", "q": "p"}))


def test_hidden_sizes_is_the_projects_word_and_counts():
    model = mlp.MLPRegressor(hidden_sizes=(3, 2), hidden_layer_sizes=(9,), max_iter=2)
    model.fit(X, TARGETS)
    assert [coef.shape for coef in model.coefs_] == [(4, 3), (3, 2), (2, 2)]
    with pytest.raises(ValueError, match="hidden_sizes"):
        mlp.MLPClassifier(hidden_sizes="wide").fit(X, CLASSES)


@pytest.mark.parametrize("solver", ["gradient_descent", "rmsprop", "lion"])
def test_the_optimizers_of_the_core_are_solvers(solver):
    parameters = {"solver": solver, "learning_rate_init": 0.01, "max_iter": 30}
    model = MLPRegressor(hidden_sizes=(5,), activation="softplus", random_state=0, **parameters)
    model.fit(X, TARGETS)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_a_copy_continues_as_the_model_does():
    model = MLPClassifier(hidden_sizes=(5,), random_state=1)
    for _ in range(3):
        model.partial_fit(X, CLASSES, classes=["a", "b", "c"])
    copy = pickle.loads(pickle.dumps(model))
    for each in model, copy:
        each.partial_fit(X, CLASSES)
    assert all((a == b).all() for a, b in zip(model.coefs_, copy.coefs_, strict=True))
    assert model.loss_curve_ == copy.loss_curve_
    assert len(model.loss_curve_) == 4
    assert not hasattr(clone(model), "coefs_")


def test_a_generator_stands_where_scikit_learn_leaves_it():
    ours, other = np.random.RandomState(5), np.random.RandomState(5)
    parameters = {"hidden_layer_sizes": (5,), "tol": 1.0, "n_iter_no_change": 2}
    MLPClassifier(random_state=ours, **parameters).fit(X, CLASSES)
    theirs.MLPClassifier(random_state=other, **parameters).fit(X, CLASSES)
    assert ours.randint(2**31) == other.randint(2**31)


def test_float32_stays_float32_and_a_users_setting_stays_too():
    before = jax.config.jax_enable_x64
    model = MLPRegressor(hidden_sizes=(5,), solver="lbfgs", max_iter=20, random_state=0)
    assert model.fit(X.astype(np.float32), TARGETS).predict(X.astype(np.float32)).dtype == "float32"
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(np.float32)}
    assert jax.config.jax_enable_x64 == before


def test_mistakes_are_said():
    with pytest.raises(ValueError, match=r"needs targets of 0 or more, got -"):
        MLPRegressor(loss="poisson").fit(X, TARGETS)
    with pytest.raises(ValueError, match="'activation' parameter of MLPClassifier"):
        MLPClassifier(activation="relu6").fit(X, CLASSES)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\)"):
        MLPRegressor(hidden_sizes=(5,), max_iter=2).fit(X, TARGETS)


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_scikit_learns_checks_of_an_estimator_pass(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator(max_iter=100), on_skip=None)
