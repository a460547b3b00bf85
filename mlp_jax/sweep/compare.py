"""Runs side by side: in what they differ, which is best, and what repeating with other seeds gave.

All of it is computed from a data frame with a row for each run, as `tracking.search.runs` has it:
`run_id`, `name`, `status`, `params.…`, which are texts, `metrics.…`, the last values, and `tags.…`.
A metric is named without `metrics.`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlp_jax.config.schema import RECORD_KEYS
from mlp_jax.core.history import lower_is_better
from mlp_jax.experiment.repeats import interval_of

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd

_PARTS = ("train", "validation", "test", "best")


def compared(runs: "pd.DataFrame") -> "pd.DataFrame":
    """Of the parameters only those that two runs have different values of, seeds last.

    A parameter that only some runs have, as that of another optimizer, and all the same, is no
    difference of its own. The status is HALVED where successive halving ended a run.
    """
    keys = [k for k in keys_of(runs) if k not in RECORD_KEYS]
    keys = [k for k in sorted(keys, key=is_seed) if runs[f"params.{k}"].nunique() > 1]
    others = [c for c in map(str, runs) if not c.startswith(("params.", "tags."))]
    table = runs[[*(f"params.{key}" for key in keys), *others]].copy()
    if "tags.halved_at" in runs:
        is_halved = runs["tags.halved_at"].notna() & (runs["status"] == "FINISHED")
        table["status"] = runs["status"].mask(is_halved, "HALVED")
    return table


def keys_of(runs: "pd.DataFrame") -> list[str]:
    """The parameters of a frame, without `params.`."""
    return [c.removeprefix("params.") for c in map(str, runs) if c.startswith("params.")]


def is_seed(key: str) -> bool:
    """Whether runs that differ in this key repeat each other."""
    return key.rpartition(".")[2] == "seed"


def default_metric(metrics: Iterable[str]) -> str:
    """The lowest validation loss, else the lowest training loss, else any loss, else anything."""
    names = list(dict.fromkeys(metrics))
    best = ("best_validation_loss", "best/validation_loss", "best_train_loss", "best/train_loss")
    preferred = (*best, "validation/loss", "train/loss")  # with a slash in earlier versions
    losses = [name for name in names if lower_is_better(name)]
    return next(name for name in (*preferred, *losses, *names) if name in names)


def kept(objective: str, stops_early: bool) -> str:
    """The metric with the value that the objective has for the parameters that a run keeps.

    Those of its last step, or of its best where it stops early.

    >>> kept("validation/loss", stops_early=True)
    'best_validation_loss'
    """
    return f"best_{objective.replace('/', '_')}" if stops_early else objective


def is_ranked(runs: "pd.DataFrame", metric: str) -> "pd.Series[bool]":
    return (runs["status"] == "FINISHED") & runs[f"metrics.{metric}"].notna()


def best_first(runs: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """Sorted by a metric; runs that failed or lack it come last."""
    lost = ~is_ranked(runs, metric)
    ascending = [True, lower_is_better(metric)]
    by = ["lost", f"metrics.{metric}"]
    order = runs.assign(lost=lost).sort_values(by, ascending=ascending, kind="stable").index
    return runs.loc[order]


def groups(runs: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """The FINISHED runs with this metric, gathered over the seeds; the best mean comes first.

    The columns `mean`, `std` (over the seeds; one run has none), `best`, `worst` and `runs` stand
    beside the parameters, and `interval` where each run is itself a mean of seeds.
    """
    keys = [f"params.{key}" for key in keys_of(runs) if not is_seed(key)]
    ranked = runs[is_ranked(runs, metric)].fillna(dict.fromkeys(keys, ""))
    best, worst = ("min", "max") if lower_is_better(metric) else ("max", "min")
    grouped = ranked.assign(all="").groupby([*keys, "all"], sort=False)[f"metrics.{metric}"]
    table = grouped.agg(mean="mean", std="std", best=best, worst=worst, runs="size").reset_index()
    if intervals(ranked, metric) and len(table) == len(ranked):
        table["interval"] = ranked[f"metrics.{interval_of(metric)}"].to_numpy()
    ascending = lower_is_better(metric)
    return table.drop(columns="all").sort_values("mean", ascending=ascending, kind="stable")


def intervals(runs: "pd.DataFrame", metric: str) -> list[str]:
    """The name of the half intervals of a metric, where runs are the means of several seeds."""
    name = interval_of(metric)
    return [name] if f"metrics.{name}" in runs else []


# --- tables ------------------------------------------------------------------------------------


def run_table(runs: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """What differs, the final metrics, the status and the id of each run, best first."""
    parts = tuple(f"metrics.{part}" for part in _PARTS)
    metrics = [c for c in map(str, runs) if c.startswith(parts)]
    first = f"metrics.{metric}"
    keys = [f"params.{key}" for key in keys_of(runs)]
    steps = ["steps"] if "steps" in runs and runs["steps"].nunique() > 1 else []  # some were ended
    beside = [f"metrics.{name}" for name in intervals(runs, metric)]
    others = [c for c in metrics if c not in (first, *beside)]
    columns = ["name", *keys, *steps, first, *beside, *others, "status", "run_id"]
    table = best_first(runs, metric)[columns].fillna(dict.fromkeys(keys, ""))
    return table.rename(columns=lambda c: "run" if c == "name" else _short(c))


def group_table(found: "pd.DataFrame", metric: str, *, exact: bool = False) -> "pd.DataFrame":
    """The mean and the standard deviation of each group, its best run and the number of its runs.

    `exact` has mean and deviation as numbers in two columns, else they are a text in one.
    """
    table = found.rename(columns=_short).rename(columns={"mean": metric})
    table = table.drop(columns=["worst", "interval"], errors="ignore")
    if exact:
        return table
    deviations = table.pop("std")
    table[metric] = [
        f"{mean:.4g}" + (f" ± {std:.2g}" if std == std else "")
        for mean, std in zip(table[metric], deviations, strict=True)
    ]
    return table


def _short(column: str) -> str:
    return column.removeprefix("params.").removeprefix("metrics.")


def to_csv(table: "pd.DataFrame") -> str:
    """All digits."""
    return table.to_csv(index=False, lineterminator="\n")


def to_markdown(table: "pd.DataFrame") -> str:
    """Four digits."""
    rule = ["--:" if is_numeric else "---" for is_numeric in _are_numeric(table)]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in cells(table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in [[*map(str, table)], rule, *rows])


def to_text(table: "pd.DataFrame") -> str:
    """Four digits, in columns of even width."""
    lines = [[*map(str, table)], *cells(table)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = [">" if is_numeric else "<" for is_numeric in _are_numeric(table)]
    layout = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return "".join(layout.format(*line).rstrip() + "\n" for line in lines)


def cells(table: "pd.DataFrame") -> Sequence[list[str]]:
    """Its rows as texts."""
    return table.map(_cell).to_numpy().tolist()


def _are_numeric(table: "pd.DataFrame") -> list[bool]:
    return [dtype.kind in "fi" for dtype in table.dtypes]


def _cell(value: Any) -> str:
    """Four digits of a number with a fraction, be it a value that a parameter has."""
    if isinstance(value, str) and not value.lstrip("-").isdecimal():
        value = value if (number := as_number(value)) is None else number
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return str(value)


def as_number(value: str) -> float | None:
    try:
        number = json.loads(value)
    except ValueError:
        return None
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return float(number) if is_number else None
