"""What a network has to beat: a constant answer, and a linear model of the same inputs."""

import warnings
from typing import Any

import numpy as np

from mlp_jax.core import metrics
from mlp_jax.data import Dataset
from mlp_jax.experiment.setup import Problem

MAX_ENTRIES = 10_000_000
"""Of the inputs of the training part: with more, a linear model takes longer than seconds."""


def baselines(problem: Problem) -> dict[str, dict[str, float]]:
    """The metrics, on the last part held out, of models that are fitted to the training part.

    `linear` is missing where it would take long, and all where nothing is held out.
    """
    from sklearn.exceptions import ConvergenceWarning

    dataset, fixed = problem.dataset, problem.training
    held_out = dataset.test or dataset.validation
    if held_out is None:
        return {}
    y = held_out.y
    if dataset.class_names:
        y = np.eye(len(dataset.class_names))[y]
    found = {}
    for name, model in _models(dataset).items():
        if name == "linear" and dataset.train.x.size > MAX_ENTRIES:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is near enough to compare with
            model.fit(*dataset.train, sample_weight=dataset.weights)
        y_hat = np.zeros(y.shape)
        if dataset.class_names:
            y_hat[:, model.classes_] = model.predict_proba(held_out.x)
        else:
            y_hat[:] = model.predict(held_out.x).reshape(y.shape)
        threshold = None if fixed.threshold is None else 0.5
        names = metrics.names_of(threshold)
        measured = metrics.measure(
            np.zeros(len(y)), y_hat, y, threshold=threshold, units=fixed.units, names=names
        )
        found[name] = {key: float(measured[key]) for key in names if key != "loss"}
    return found


def _models(dataset: Dataset) -> dict[str, Any]:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    if dataset.class_names:
        return {"majority": DummyClassifier(), "linear": LogisticRegression(max_iter=1000)}
    units = dataset.preprocessing
    in_own_unit = TransformedTargetRegressor(
        DummyRegressor(),
        func=units.decode_targets,
        inverse_func=units.encode_targets,
        check_inverse=False,
    )
    return {"mean": in_own_unit, "linear": Ridge()}
