"""Cross-validation: each of a few equal parts of the examples is held out once."""

import numpy as np

from mlp_jax.config.schema import Data
from mlp_jax.errors import UserError


def held_out(y: np.ndarray, class_names: tuple[str, ...], config: Data) -> list[np.ndarray]:
    """The rows of each fold, as in scikit-learn's `KFold` or, of classes, `StratifiedKFold`.

    All have as many, so that the networks without them have equal shapes: the fewest that one of
    them had. The rows left over, fewer than there are folds and classes, are never held out.
    """
    assert config.folds is not None
    _check(y, class_names, config.folds)
    from sklearn.model_selection import KFold, StratifiedKFold

    shuffle = getattr(config, "shuffle", True)
    splitter = (StratifiedKFold if class_names else KFold)(
        config.folds, shuffle=shuffle, random_state=config.seed if shuffle else None
    )
    folds = [rows for _, rows in splitter.split(y, y)]
    return [rows[: min(map(len, folds))] for rows in folds]


def _check(y: np.ndarray, class_names: tuple[str, ...], num_folds: int) -> None:
    """Raises `UserError` for more folds than there are examples, of each class."""
    counts = np.bincount(y, minlength=len(class_names)) if class_names else np.array([len(y)])
    few = int(counts.argmin())
    if counts[few] < num_folds:
        what = f"class {class_names[few]!r} has" if class_names else "there are"
        raise UserError(
            f"data.folds={num_folds}: {what} {counts[few]} examples outside the test part, so "
            f"there can be at most {counts[few]} folds"
            + "; if the target is a number, set data.task=regression."
            * bool(class_names)
        )
