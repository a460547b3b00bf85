"""What a network has to beat: a constant answer, and a linear model of the same inputs."""

import warnings
from typing import Any

import numpy as np

from mlp_jax.core import metrics
from mlp_jax.data import Dataset, Part
from mlp_jax.experiment.setup import Problem

MAX_ENTRIES = 10_000_000
"""Of the inputs of the training part: with more, a linear model takes longer than seconds."""


def baselines(problem: Problem) -> dict[str, dict[str, float]]:
    """The metrics, on the last part held out, of models that are fitted to the training part.

    `linear` is missing where it would take long, and all where nothing is held out.
    """
    dataset, fixed = problem.dataset, problem.training
    splits = _splits(dataset)
    if not splits:
        return {}
    threshold = None if fixed.threshold is None else 0.5
    names = metrics.names_of(threshold)
    y = np.concatenate([held_out.y for _, held_out in splits])
    if dataset.class_names:
        y = np.eye(len(dataset.class_names))[y]
    found = {}
    for name, model in _models(dataset).items():
        if name == "linear" and splits[0][0].train.x.size > MAX_ENTRIES:
            continue
        y_hat = np.concatenate([_predicted(model, *split) for split in splits])
        measured = metrics.of_outputs(y_hat, y, threshold=threshold, units=fixed.units, names=names)
        found[name] = {key: float(value) for key, value in measured.items()}
    return found


def _splits(dataset: Dataset) -> list[tuple[Dataset, Part]]:
    """What a model is fitted to, and the examples that it is judged by.

    Without a test part each fold in its turn, as the networks are.
    """
    folds = dataset.folds
    if folds is not None and dataset.test is None:
        return [(each, each.validation) for each in folds.datasets if each.validation]
    held_out = dataset.test or dataset.validation
    if held_out is None:
        return []
    return [(dataset if folds is None else folds.known, held_out)]


def _predicted(model: Any, dataset: Dataset, held_out: Part) -> np.ndarray:
    """Numbers, or the probabilities of the classes, of a model that is fitted anew."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is near enough to compare with
        model.fit(*dataset.train, sample_weight=dataset.weights)
    if not dataset.class_names:
        return np.reshape(model.predict(held_out.x), held_out.y.shape)
    y_hat = np.zeros((len(held_out.y), len(dataset.class_names)))
    y_hat[:, model.classes_] = model.predict_proba(held_out.x)
    return y_hat


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
