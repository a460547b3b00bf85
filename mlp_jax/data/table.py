"""The user's own table: CSV, Parquet or NPZ, its target a column."""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlp_jax.config.schema import Table
from mlp_jax.data.columns import Raw
from mlp_jax.data.files import (
    check_npz,
    insist_on_memory,
    insist_on_text,
    opened,
    shortened,
    unpacked,
)  # fmt: skip
from mlp_jax.data.kinds import Typed, counts_rows, typed
from mlp_jax.data.preprocessing import Column, as_texts, finite_numbers
from mlp_jax.data.text import read_text
from mlp_jax.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas

Entries = Iterable[tuple[str, Any]]
Notes = tuple[str, ...]


def _read_text(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    content = unpacked(file)
    insist_on_text(content.read(64))
    content.seek(0)
    return read_text(content, config)


def _read_parquet(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    groups = [table.metadata.row_group(at) for at in range(table.metadata.num_row_groups)]
    num_entries = sum(group.num_rows for group in groups) * table.metadata.num_columns
    size = max(8 * num_entries, sum(group.total_byte_size for group in groups))
    insist_on_memory(size, "it unpacks to at least")
    # Parquet keeps categories of texts only; that others were some stands in pandas' own facts.
    stored = (table.schema_arrow.pandas_metadata or {}).get("columns", [])
    are_categories = {column["name"] for column in stored if column["pandas_type"] == "categorical"}
    frame = table.read().to_pandas().reset_index(drop=True)
    return (
        [
            (str(name), values.astype("category") if name in are_categories else values)
            for name, values in frame.items()
        ],
        (),
        ".",
    )


def _read_npz(file: IO[bytes], config: Table) -> tuple[Entries, Notes, str]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is not a zip archive of arrays as numpy.savez writes them")
    check_npz(file)
    file.seek(0)
    arrays = np.load(file, allow_pickle=False)
    return (
        [
            (name, np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values)
            for name, values in arrays.items()
        ],
        (),
        ".",
    )


TABLE_READERS: dict[str, Callable[[IO[bytes], Table], tuple[Entries, Notes, str]]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_text),
    **dict.fromkeys((".parquet", ".pq"), _read_parquet),
    ".npz": _read_npz,
}
"""From a file: its columns, or arrays of one or two dimensions; notes; the decimal mark."""


def table(config: Table) -> Raw:
    """The table as raw inputs and a target; its notes say what the file and its columns are."""
    import pandas as pd

    entries, notes, decimal = _read(config)
    columns, target_names = _as_columns(entries, config)
    no_inputs = [*target_names, *([config.weights] if config.weights else [])]
    columns, of_empty = _without_empty(columns, no_inputs)
    _insist_on_rows_and_inputs(columns, no_inputs, config, of_empty)
    found = typed(columns, config, decimal)
    of_words = tuple(note for column in found.values() for note in column.notes)
    of_numbers = _row_numbers(found, no_inputs)
    frame = pd.DataFrame({name: column.values for name, column in found.items()})
    frame, of_missing = _without_missing(frame, no_inputs, config)
    are_numbers = all(found[name].is_numeric for name in target_names)
    read_target = _numeric_target if are_numbers else _categorical_target
    y, classes, of_task = read_target(frame[target_names], config)
    of_transform = _transform(y, classes, target_names, config)
    weights, of_weights = _weights(found, frame, config)
    inputs = [column for name, column in found.items() if name not in no_inputs]
    x = pd.DataFrame({
        name: frame[name] if found[name].is_numeric or found[name].column.style
        else as_texts(frame[name])
        for name in found if name not in no_inputs
    })  # fmt: skip
    return Raw(
        x,
        y,
        source=str(Path(config.path).expanduser().resolve()),
        feature_names=tuple(map(str, x)),
        target_names=tuple(target_names),
        class_names=tuple(map(str, classes)),
        class_values=classes,
        columns=tuple(column.column for column in inputs),
        notes=(
            *notes,
            *of_empty,
            *of_words,
            *of_numbers,
            *of_missing,
            *of_task,
            *of_transform,
            *of_weights,
        ),
        weights=weights,
    )


def _read(config: Table) -> tuple[dict[str, Any], Notes, str]:
    """The columns or arrays by name, without the ignored ones; notes; the decimal mark."""
    path = Path(config.path)
    suffix = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if suffix not in TABLE_READERS:
        raise UserError(
            f"data.path={path}: must end in {', '.join(TABLE_READERS)}, or .csv.gz; of a workbook, "
            "save the sheet as CSV."
        )
    with opened("data.path", path) as file:
        entries, notes, decimal = TABLE_READERS[suffix](file, config)
    names = [name for name, _ in entries]
    _insist_on_different(names, config)
    of_weights = [config.weights] if config.weights else []
    keys = {"target": config.targets, "weights": of_weights, "ignore": config.ignore}
    for key, wanted in keys.items():
        absent = [name for name in wanted if name not in names]
        if absent:
            hint = nearest(absent[0], names, {name: shortened([name]) for name in names})
            raise UserError(
                f"data.{key}={absent[0]}: {absent[0]!r} is no column of {path}, which has "
                f"{shortened(names)}.{hint}{_how_to_quote(key, absent[0], names)}"
            )
    for key, others in (("weights", "target"), ("ignore", "target"), ("ignore", "weights")):
        for name in set(keys[key]) & set(keys[others]):
            raise UserError(f"data.{key}={name}: this column is data.{others}.")
    return {n: values for n, values in entries if n not in config.ignore}, notes, decimal


def _insist_on_different(names: list[str], config: Table) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"data.path={config.path}: more than one column is called {shortened(repeated[:1])}; "
            "give each its own name in the file."
        )


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


def _as_columns(
    entries: dict[str, Any], config: Table
) -> tuple[dict[str, "pandas.Series[Any]"], list[str]]:
    """Columns, a 2-D array `x` becoming `x_0`, `x_1`, …; and the names of the target's."""
    import pandas as pd

    targets = config.targets
    num_rows = np.shape(entries[targets[0]])[:1]
    columns: list[tuple[str, Any]] = []
    target_names: list[str] = []
    in_order = [*targets, *(name for name in entries if name not in targets)]
    for name, values in ((name, entries[name]) for name in in_order):
        if values.ndim not in (1, 2) or values.shape[:1] != num_rows or 0 in values.shape[1:]:
            raise UserError(
                f"data.path={config.path}: array {name!r} has shape {values.shape}; must have one "
                f"or two dimensions and as many rows as the target. Leave it out with "
                f"'data.ignore=[{name}]'."
            )
        parts = {name: values}
        if values.ndim == 2:
            parts = {f"{name}_{j}": values[:, j] for j in range(values.shape[1])}
        columns += [(part, pd.Series(of_part)) for part, of_part in parts.items()]
        if name in targets:
            target_names += list(parts)
    _insist_on_different([name for name, _ in columns], config)
    return dict(columns), target_names


def _without_empty(
    columns: dict[str, "pandas.Series[Any]"], no_inputs: list[str]
) -> tuple[dict[str, "pandas.Series[Any]"], Notes]:
    """Without the columns and rows that have no entry at all, which say nothing."""
    notes: Notes = ()
    has_entry = {name: values.notna().to_numpy() for name, values in columns.items()}
    empty = [n for n, has in has_entry.items() if not has.any() and n not in no_inputs]
    if empty and any(has_entry[name].any() for name in no_inputs):
        columns = {name: values for name, values in columns.items() if name not in empty}
        notes += (f"left out, because without any entry: {shortened(empty)}",)
    has_any = np.logical_or.reduce(list(has_entry.values()))
    if has_any.any() and not has_any.all():
        columns = {n: values[has_any].reset_index(drop=True) for n, values in columns.items()}
        notes += (f"left out, because without any entry: {(~has_any).sum()} rows",)
    return columns, notes


def _insist_on_rows_and_inputs(
    columns: dict[str, Any], no_inputs: list[str], config: Table, notes: Notes
) -> None:
    has_rows = len(columns[no_inputs[0]]) > 0
    if not has_rows or len(columns) == len(no_inputs):
        lacks = "no columns besides the target" if has_rows else "no rows"
        said = "".join(f" {note}." for note in notes)
        raise UserError(f"data.path={config.path}: there are {lacks}.{said}")


def _row_numbers(found: dict[str, Typed], no_inputs: list[str]) -> Notes:
    """Takes out a nameless column that counts the rows; one that has a name is pointed out."""
    notes: Notes = ()
    for name in [name for name in found if name not in no_inputs]:
        if not (found[name].is_numeric and counts_rows(found[name].values)):
            continue
        if name.startswith("Unnamed: ") and len(found) > len(no_inputs) + 1:
            del found[name]
            notes += (f"left out, because it is the row number: {name!r}",)
        else:
            notes += (
                f"column {name!r} counts the rows: if it only numbers them, leave it out with "
                f"'data.ignore=[{name}]'",
            )
    return notes


def _without_missing(
    frame: "pandas.DataFrame", no_inputs: list[str], config: Table
) -> tuple["pandas.DataFrame", Notes]:
    """Drops rows that lack an entry, or a target where the preprocessing fills; or refuses them."""
    missing = frame.isna()
    if config.missing == "refuse":
        listed = [f"{name!r} ({count})" for name, count in missing.sum().items() if count]
        if not listed:
            return frame, ()
        raise UserError(
            f"data.missing=refuse: entries are missing in {', '.join(listed)} of {config.path}; "
            "set data.missing=drop, mean or indicator."
        )
    needed = list(frame) if config.missing == "drop" else no_inputs
    incomplete = missing[needed].any(axis=1)
    if incomplete.all():
        worst = missing[needed].sum().idxmax()
        leave_out = f"; leave it out with 'data.ignore=[{worst}]'" * (worst not in no_inputs)
        raise UserError(
            f"data.missing={config.missing}: every row of {config.path} lacks an entry, most of "
            f"them in {worst!r} ({missing[worst].sum()}){leave_out}."
        )
    what = "an entry" if config.missing == "drop" else " or ".join(map(repr, needed))
    dropped = f"dropped {incomplete.sum()} of {len(frame)} rows, which lack {what}"
    return frame[~incomplete], (dropped,) * bool(incomplete.any())


def _named(config: Table) -> str:
    return shortened(config.targets)


_Target = tuple[np.ndarray, tuple[int | bool | str, ...], Notes]
"""Targets, a row each, or the numbers of classes; the classes; a note on a task found out."""


def _categorical_target(targets: "pandas.DataFrame", config: Table) -> _Target:
    if config.task == "regression" or targets.shape[1] > 1:
        name = next(name for name in targets if targets[name].dtype != np.float64)
        raise UserError(
            f"data.task={config.task}: the target {name!r} holds texts, such as "
            f"{str(targets[name].iloc[0])!r}; one column of them goes with "
            "data.task=classification."
        )
    return _classes(targets.iloc[:, 0].astype(object).map(_label), config, "categories")


def _label(value: Any) -> int | bool | str:
    """A class as Python has it: true and false and whole numbers stay, all else is a text."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer | float | np.floating) and value == int(value):
        return int(value)
    return str(value)


def _numeric_target(targets: "pandas.DataFrame", config: Table) -> _Target:
    """Labels or targets. Left to itself, a target is a class where it is one column of whole
    numbers, with two different ones, or with at most 20 that have ten rows each on average.
    """
    y = finite_numbers(targets.to_numpy(), [Column(str(name)) for name in targets], np.float64)
    whole = y.shape[1] == 1 and bool((y % 1 == 0).all())
    num_values = len(np.unique(y))
    few = num_values == 2 or num_values <= min(20, len(y) / 10)
    if config.task == "classification" and not whole:
        raise UserError(
            f"data.task=classification: the target {_named(config)} must be one column of texts "
            "or whole numbers."
        )
    if config.task == "classification" or (config.task == "auto" and whole and few):
        return _classes(targets.iloc[:, 0].astype(int), config, f"{num_values} whole numbers")
    for name, values in zip(targets, y.T, strict=True):
        if (values == values[0]).all() and len(config.targets) == len(y.T):
            raise UserError(f"data.target={name}: every row has {values[0]:g}.")
    if num_values < 2:
        raise UserError(f"data.target={config.target}: every row has {y.flat[0]:g}.")
    holds = "holds" if len(config.targets) == 1 else "hold"
    note = f"data.task=regression: {_named(config)} {holds} numbers"
    return y, (), (note,) * (config.task == "auto")


def _transform(
    y: np.ndarray, classes: tuple[Any, ...], target_names: list[str], config: Table
) -> Notes:
    """Says that logarithms are learned; refuses targets that have none."""
    if config.target_transform == "none":
        return ()
    if classes:
        raise UserError(
            f"data.target_transform={config.target_transform}: {_named(config)} is a class; set "
            "data.task=regression if it is a number, else data.target_transform=none."
        )
    for name, values in zip(target_names, y.T, strict=True):
        odd = values[values <= 0]
        if len(odd):
            raise UserError(
                f"data.target_transform={config.target_transform}: {name!r} must be > 0 in every "
                f"row, and is not in {len(odd)} of {len(values)}, such as {odd[0]:g}; use none."
            )
    return (f"data.target_transform=log: the logarithm of {_named(config)} is learned",)


def _weights(
    found: dict[str, Typed], frame: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray | None, Notes]:
    """A row's weight each, where a column has them; refuses what is none."""
    name = config.weights
    if name is None:
        return None, ()
    if not found[name].is_numeric:
        raise UserError(
            f"data.weights={name}: must be a column of numbers >= 0, not "
            f"{str(frame[name].iloc[0])[:40]!r}."
        )
    weights = finite_numbers(frame[[name]].to_numpy(), [Column(name)], np.float64)[:, 0]
    negative = weights[weights < 0]
    if len(negative):
        raise UserError(
            f"data.weights={name}: must be >= 0, and {len(negative)} of {len(weights)} are not, "
            f"such as {negative[0]:g}."
        )
    return weights, (
        f"data.weights={name}: in training a row's loss counts by it; metrics count all rows alike",
    )


def _classes(values: "pandas.Series[Any]", config: Table, what: str) -> _Target:
    """Each row's class by its number, and the classes in order."""
    classes, labels = np.unique(values.to_numpy(), return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"data.target={config.target}: every row has {str(classes[0])!r}; "
            "a classification needs at least two classes."
        )
    note = f"data.task=classification: {_named(config)} holds {what}"
    return labels.astype(np.int64), tuple(classes.tolist()), (note,) * (config.task == "auto")
