"""The user's own table: CSV, Parquet or NPZ, its target a column."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.columns import Raw
from mlp_jax.data.files import check_npz, reading
from mlp_jax.data.preprocessing import Column, as_floats, as_texts, finite_numbers
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas


def _read_csv(file: IO[bytes]) -> list[tuple[str, Any]]:
    import warnings

    import pandas as pd

    header = pd.read_csv(file, header=None, nrows=1, dtype=str).iloc[0]
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(file, index_col=False, low_memory=False)
        except pd.errors.ParserWarning as warning:  # its rows are longer than its header
            raise ValueError(warning) from warning
    names = header.where(header.notna(), frame.columns)  # pandas renames the second of two equals
    return list(zip(names, (frame[name] for name in frame), strict=True))


def _read_parquet(file: IO[bytes]) -> list[tuple[str, Any]]:
    import pandas as pd

    frame = pd.read_parquet(file).reset_index(drop=True)
    return [(str(name), values) for name, values in frame.items()]


def _read_npz(file: IO[bytes]) -> list[tuple[str, Any]]:
    if zipfile.is_zipfile(file):
        check_npz(file)
    file.seek(0)
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array, not several with names as numpy.savez writes them")
    return list(arrays.items())


TABLE_READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}


def table(config: Table) -> Raw:
    import pandas as pd

    frame, target_names = _as_frame(_read_table(config), config)
    numeric = {name: _is_numeric(values) for name, values in frame.items()}
    frame, notes = _without_missing(frame, target_names, config)
    if all(numeric[name] for name in target_names):
        y, class_names, reason = _numeric_target(frame[target_names], config)
    else:
        y, class_names, reason = _categorical_target(frame[target_names], config)
    if config.task == "auto":
        notes += (reason,)
    x = {
        name: as_floats(values) if numeric[name] else as_texts(values)
        for name, values in frame.drop(columns=target_names).items()
    }
    return Raw(
        pd.DataFrame(x),
        y,
        source=str(Path(config.path).expanduser().resolve()),
        feature_names=tuple(map(str, x)),
        target_names=tuple(target_names),
        class_names=class_names,
        notes=notes,
    )


def _read_table(config: Table) -> list[tuple[str, Any]]:
    """The table's columns or arrays with their names, without the ignored ones."""
    path = Path(config.path)
    if path.suffix.lower() not in TABLE_READERS:
        raise UserError(f"data.path={path}: must end in {', '.join(TABLE_READERS)}.")
    with reading("data.path", path), path.expanduser().open("rb") as file:
        entries = TABLE_READERS[path.suffix.lower()](file)
    names = [name for name, _ in entries]
    for key, wanted in (("target", [config.target]), ("ignore", config.ignore)):
        absent = [name for name in wanted if name not in names]
        if absent:
            raise UserError(
                f"data.{key}={absent[0]}: no such column in {path}; it has "
                f"{', '.join(names[:20])}{', …' * (len(names) > 20)}.{nearest(absent[0], names)}"
            )
    if config.target in config.ignore:
        raise UserError(f"data.ignore={config.target}: this column is data.target.")
    return [(name, values) for name, values in entries if name not in config.ignore]


def _as_frame(
    entries: list[tuple[str, Any]], config: Table
) -> tuple["pandas.DataFrame", list[str]]:
    """One data frame, a 2-D array `x` becoming `x_0`, `x_1`, …; and the target's columns."""
    import pandas as pd

    rows = np.shape(dict(entries)[config.target])[:1]
    columns: list[tuple[str, Any]] = []
    target_names: list[str] = []
    for name, values in sorted(entries, key=lambda entry: entry[0] != config.target):
        if values.ndim not in (1, 2) or values.shape[:1] != rows or 0 in values.shape[1:]:
            raise UserError(
                f"data.path={config.path}: array {name!r} has shape {values.shape}; must have one "
                f"or two dimensions and as many rows as the target. Leave it out with "
                f"'data.ignore=[{name}]'."
            )
        parts = [(name, values)]
        if values.ndim == 2:
            parts = [(f"{name}_{j}", values[:, j]) for j in range(values.shape[1])]
        columns += parts
        if name == config.target:
            target_names = [part_name for part_name, _ in parts]
    repeated = [name for name, count in Counter(name for name, _ in columns).items() if count > 1]
    if repeated:
        raise UserError(f"data.path={config.path}: more than one column is called {repeated[0]!r}.")
    if rows == (0,) or len(columns) == len(target_names):
        lacks = "no rows" if rows == (0,) else "no columns besides the target"
        raise UserError(f"data.path={config.path}: there are {lacks}.")
    return pd.DataFrame(dict(columns)), target_names


def _is_numeric(values: "pandas.Series[Any]") -> bool:
    """Whether a column holds numbers; else it holds categories. Raises `UserError` for the rest."""
    from pandas.api.types import infer_dtype

    kind = infer_dtype(values, skipna=True)
    if kind in ("string", "boolean", "categorical"):
        return False
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        return True
    raise UserError(
        f"column {values.name!r}: its entries ({kind}) are neither numbers, texts nor true and "
        f"false; turn it into numbers, or leave it out with 'data.ignore=[{values.name}]'."
    )


def _without_missing(
    frame: "pandas.DataFrame", target_names: list[str], config: Table
) -> tuple["pandas.DataFrame", tuple[str, ...]]:
    """Drops rows with missing entries, or refuses them; `mean` is left to the preprocessing."""
    missing = frame.isna()
    if config.missing == "drop":
        incomplete = missing.any(axis=1)
        if incomplete.all():
            raise UserError(f"data.missing=drop: every row of {config.path} lacks an entry.")
        dropped = f"dropped {incomplete.sum()} of {len(frame)} rows, which lack an entry"
        return frame[~incomplete], (dropped,) * bool(incomplete.any())
    counts = missing[target_names].sum() if config.missing == "mean" else missing.sum()
    listed = [f"{name!r} ({count})" for name, count in counts.items() if count]
    if listed:
        fill = "" if set(counts[counts > 0].index) & set(target_names) else " or data.missing=mean"
        raise UserError(
            f"data.missing={config.missing}: entries are missing in {', '.join(listed)} of "
            f"{config.path}; set data.missing=drop{fill}."
        )
    return frame, ()


def _categorical_target(
    targets: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray, tuple[str, ...], str]:
    if config.task == "regression" or targets.shape[1] > 1:
        raise UserError(
            f"data.task={config.task}: the target {config.target!r} holds texts, such as "
            f"{str(targets.iloc[0, 0])!r}; one column of them goes with data.task=classification."
        )
    reason = f"data.task=classification: {config.target!r} holds categories"
    return *_labels(targets.iloc[:, 0].astype(str).to_numpy(object), config), reason


def _numeric_target(
    targets: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Labels or targets. Left to itself, a target is a class where it is one column of whole
    numbers, with two different ones, or with at most 20 that have ten rows each on average.
    """
    columns = [Column(str(name)) for name in targets]
    y = finite_numbers(
        np.column_stack([as_floats(v) for _, v in targets.items()]), columns, np.float64
    )
    whole = y.shape[1] == 1 and bool((y == np.round(y)).all()) and np.abs(y).max() < 2**53
    num_values = len(np.unique(y))
    few = num_values == 2 or num_values <= min(20, len(y) / 10)
    if config.task == "classification" and not whole:
        raise UserError(
            f"data.task=classification: the target {config.target!r} must be one column of texts "
            "or whole numbers."
        )
    if config.task == "classification" or (config.task == "auto" and whole and few):
        reason = f"data.task=classification: {config.target!r} holds {num_values} whole numbers"
        return *_labels(y[:, 0].astype(np.int64), config), reason
    if num_values < 2:
        raise UserError(f"data.target={config.target}: every row has {y.flat[0]:g}.")
    return y, (), f"data.task=regression: {config.target!r} holds numbers"


def _labels(values: np.ndarray, config: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    classes, labels = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"data.target={config.target}: every row has {str(classes[0])!r}; "
            "a classification needs at least two classes."
        )
    return labels.astype(np.int64), tuple(map(str, classes))
