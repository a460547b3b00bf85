"""The user's own table: CSV, Parquet or NPZ, its target a column."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.columns import Raw
from mlp_jax.data.files import (
    check_npz,
    check_regular,
    half_of_memory,
    insist_on_text,
    reading,
    shortened,
    unpacked,
)  # fmt: skip
from mlp_jax.data.kinds import Typed, counts_rows, typed
from mlp_jax.data.preprocessing import (
    Column,
    as_floats,
    as_texts,
    finite_numbers,
)  # fmt: skip
from mlp_jax.data.text import read_text
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas

Entries = list[tuple[str, Any]]
Notes = tuple[str, ...]


def _read_text(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    content = unpacked(file)
    insist_on_text(content.read(64))
    content.seek(0)
    return read_text(content, config)


def _read_parquet(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    import pandas as pd
    import pyarrow.parquet

    facts = pyarrow.parquet.ParquetFile(file)
    size = facts.metadata.num_rows * facts.metadata.num_columns * 8
    if size > half_of_memory():
        raise ValueError(f"it unpacks to {size:,} bytes or more; at most {half_of_memory():,}")
    _insist_on_different(facts.schema_arrow.names, config)
    file.seek(0)
    frame = pd.read_parquet(file).reset_index(drop=True)
    # Parquet keeps categories of texts only; that others were some stands in pandas' own facts.
    stored = (facts.schema_arrow.pandas_metadata or {}).get("columns", [])
    are_categories = {column["name"] for column in stored if column["pandas_type"] == "categorical"}
    return (
        [
            (str(name), values.astype("category") if name in are_categories else values)
            for name, values in frame.items()
        ],
        (),
        ".",
    )


def _read_npz(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    if zipfile.is_zipfile(file):
        check_npz(file)
    file.seek(0)
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array, not several with names as numpy.savez writes them")
    return (
        [
            (name, np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values)
            for name, values in arrays.items()
        ],
        (),
        ".",
    )


TABLE_READERS = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_text),
    **dict.fromkeys((".parquet", ".pq"), _read_parquet),
    ".npz": _read_npz,
}


def _insist_on_different(names: list[str], config: Table) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"data.path={config.path}: more than one column is called {repeated[0]!r}.")


def table(config: Table) -> Raw:
    """The table as raw inputs and a target; its notes say what the file and its columns are."""
    import pandas as pd

    entries, notes, decimal = _read_table(config)
    columns, target_names = _as_columns(entries, config)
    columns, more = _without_empty(columns, config)
    notes += more
    _check_shape(columns, target_names, config, notes)
    found = {columns[at][0]: column for at, column in typed(columns, config, decimal).items()}
    notes += tuple(note for column in found.values() for note in column.notes)
    notes += _row_numbers(found, set(target_names))
    frame = pd.DataFrame({name: column.values for name, column in found.items()})
    frame, more = _without_missing(frame, target_names, config)
    notes += more
    if all(found[name].is_numeric for name in target_names):
        y, classes, reason = _numeric_target(frame[target_names], config)
    else:
        y, classes, reason = _categorical_target(frame[target_names], config)
    if config.task == "auto":
        notes += (reason,)
    x = {
        name: as_floats(values) if found[str(name)].is_numeric else as_texts(values)
        for name, values in frame.drop(columns=target_names).items()
    }
    return Raw(
        pd.DataFrame(x),
        y,
        source=str(Path(config.path).expanduser().resolve()),
        feature_names=tuple(map(str, x)),
        target_names=tuple(target_names),
        class_names=tuple(map(str, classes)),
        class_values=classes,
        columns=tuple(
            Column(name, decimal=column.decimal, missing=column.missing)
            for name, column in found.items()
        ),
        notes=notes,
    )


def _read_table(config: Table) -> tuple[Entries, Notes, str]:
    """The columns or arrays with their names, without the ignored ones; notes; the decimal mark."""
    path = Path(config.path)
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if suffix not in TABLE_READERS:
        raise UserError(
            f"data.path={path}: must end in {', '.join(TABLE_READERS)}, or .csv.gz; of a workbook, "
            "save the sheet as CSV."
        )
    with reading("data.path", path):
        check_regular("data.path", path)
        with path.expanduser().open("rb") as file:
            entries, notes, decimal = TABLE_READERS[suffix](file, config)
    names = [name for name, _ in entries]
    for key, wanted in (("target", [config.target]), ("ignore", config.ignore)):
        absent = [name for name in wanted if name not in names]
        if absent:
            raise UserError(
                f"data.{key}={absent[0]}: {absent[0]!r} is no column of {path}, which has "
                f"{shortened(names)}."
                f"{_nearest_name(absent[0], names)}{_how_to_quote(key, absent[0], names)}"
            )
    if config.target in config.ignore:
        raise UserError(f"data.ignore={config.target}: this column is data.target.")
    entries = [(name, values) for name, values in entries if name not in config.ignore]
    return entries, notes, decimal


def _nearest_name(name: str, names: list[str]) -> str:
    return nearest(name, names, {other: shortened([other]) for other in names})


def _how_to_quote(key: str, name: str, names: list[str]) -> str:
    """How a name is given that Hydra reads as a number, as true or false, or as nothing."""

    def as_read(text: str) -> str:
        try:
            return str(float(text))
        except ValueError:
            return text.strip().lower()

    meant = [other for other in names if as_read(other) == as_read(name) and len(other) <= 40]
    if not meant:
        return ""
    quoted = f'["{meant[0]}"]' if key == "ignore" else f'"{meant[0]}"'
    return f" Such a name is put in two pairs of quotes: 'data.{key}={quoted}'."


def _as_columns(entries: Entries, config: Table) -> tuple[list[tuple[str, Any]], list[str]]:
    """Columns, a 2-D array `x` becoming `x_0`, `x_1`, …, the target first; and the target's."""
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
        columns += [(part, pd.Series(of_part, name=part)) for part, of_part in parts]
        if name == config.target:
            target_names = [part_name for part_name, _ in parts]
    _insist_on_different([name for name, _ in columns], config)
    return columns, target_names


def _check_shape(
    columns: list[tuple[str, Any]], target_names: list[str], config: Table, notes: Notes
) -> None:
    has_rows = len(columns[0][1]) > 0
    if not has_rows or len(columns) == len(target_names):
        lacks = "no columns besides the target" if has_rows else "no rows"
        said = "".join(f" {note}." for note in notes)
        raise UserError(f"data.path={config.path}: there are {lacks}.{said}")


def _without_empty(
    columns: list[tuple[str, Any]], config: Table
) -> tuple[list[tuple[str, Any]], Notes]:
    """Without the columns and rows that have no entry at all, which say nothing."""
    if not len(columns[0][1]):
        return columns, ()
    notes: Notes = ()
    empty = [name for name, values in columns[1:] if values.isna().all()]
    if empty and columns[0][1].notna().any():
        columns = [(name, values) for name, values in columns if name not in empty]
        notes += (f"left out, because without any entry: {shortened(empty)}",)
    is_empty = np.logical_and.reduce([values.isna().to_numpy() for _, values in columns])
    if is_empty.any() and not is_empty.all():
        columns = [(n, values[~is_empty].reset_index(drop=True)) for n, values in columns]
        notes += (f"left out, because without any entry: {is_empty.sum()} rows",)
    return columns, notes


def _row_numbers(found: dict[str, Typed], target_names: set[str]) -> Notes:
    """Takes out a nameless column that counts the rows; one that has a name is pointed out."""
    notes: Notes = ()
    for name in [name for name in found if name not in target_names]:
        if not (found[name].is_numeric and counts_rows(found[name].values)):
            continue
        if name.startswith("Unnamed: ") and len(found) > len(target_names) + 1:
            del found[name]
            notes += (f"left out, because it is the row number: {name!r}",)
        else:
            notes += (
                f"column {name!r} counts the rows: if it only numbers them, leave it out with "
                f"'data.ignore=[{name}]'",
            )
    return notes


def _without_missing(
    frame: "pandas.DataFrame", target_names: list[str], config: Table
) -> tuple["pandas.DataFrame", Notes]:
    """Drops rows with missing entries, or refuses them; `mean` is left to the preprocessing."""
    missing = frame.isna()
    if config.missing == "drop":
        incomplete = missing.any(axis=1)
        if incomplete.all():
            worst = missing.sum().idxmax()
            raise UserError(
                f"data.missing=drop: every row of {config.path} lacks an entry, most of them in "
                f"{worst!r} ({missing[worst].sum()}); leave it out with 'data.ignore=[{worst}]'."
            )
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
) -> tuple[np.ndarray, tuple[Any, ...], str]:
    if config.task == "regression" or targets.shape[1] > 1:
        raise UserError(
            f"data.task={config.task}: the target {config.target!r} holds texts, such as "
            f"{str(targets.iloc[0, 0])!r}; one column of them goes with data.task=classification."
        )
    reason = f"data.task=classification: {config.target!r} holds categories"
    values = targets.iloc[:, 0].astype(object).map(_label)
    return *_labels(values, config), reason


def _label(value: Any) -> int | bool | str:
    """A class as Python has it: true and false and whole numbers stay, all else is a text."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer | float | np.floating) and value == int(value):
        return int(value)
    return str(value)


def _numeric_target(
    targets: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray, tuple[Any, ...], str]:
    """Labels or targets. Left to itself, a target is a class where it is one column of whole
    numbers, with two different ones, or with at most 20 that have ten rows each on average.
    """
    import pandas as pd

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
        return *_labels(pd.Series(y[:, 0].astype(np.int64)), config), reason
    if num_values < 2:
        raise UserError(f"data.target={config.target}: every row has {y.flat[0]:g}.")
    return y, (), f"data.task=regression: {config.target!r} holds numbers"


def _labels(
    values: "pandas.Series[Any]", config: Table
) -> tuple[np.ndarray, tuple[int | bool | str, ...]]:
    """Each row's class by its number, and the classes as Python has them, in order."""
    classes, labels = np.unique(values.to_numpy(), return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"data.target={config.target}: every row has {str(classes[0])!r}; "
            "a classification needs at least two classes."
        )
    return labels.astype(np.int64), tuple(classes.tolist())
