"""Runs side by side: in what they differ, which is best, and what repeating with other seeds gave.

All of it is computed from what a run has in MLflow: its flat parameters, which are texts, and the
last value of each metric.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_PARTS = ("train/", "validation/", "test/", "best/")
_NOT_COMPARED = ("name", "tracking.", "checkpoint.")


class Outcome(NamedTuple):
    """A run: what sets it apart from the others, and what came out; metrics are the last values."""

    name: str
    differs: Mapping[str, str]
    metrics: Mapping[str, float]
    status: str
    run_id: str


class Group(NamedTuple):
    """Runs that differ only in their seeds, and one metric of each of them."""

    differs: Mapping[str, str]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation over the seeds; one run has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def differences(params: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """For each run, its values of the parameters that two runs have different values of.

    A parameter that only some runs have, as that of another optimizer, and all the same, is no
    difference of its own.

    >>> differences([{"a": "1", "b": "2"}, {"a": "3", "b": "2", "c": "4"}])
    [{'a': '1'}, {'a': '3'}]
    """
    values: dict[str, set[str]] = {}
    for of_run in params:
        for key, value in of_run.items():
            values.setdefault(key, set()).add(value)
    keys = [k for k, v in values.items() if len(v) > 1 and not k.startswith(_NOT_COMPARED)]
    return [{key: of_run[key] for key in keys if key in of_run} for of_run in params]


def is_seed(key: str) -> bool:
    """Whether runs that differ in this key repeat each other."""
    return key.rpartition(".")[2] == "seed"


def lower_is_better(metric: str) -> bool:
    """For a loss; of anything else more is better."""
    return metric.endswith("loss")


def default_metric(metrics: Iterable[str]) -> str:
    """The lowest validation loss, else the lowest training loss, else any loss, else anything."""
    names = list(dict.fromkeys(metrics))
    preferred = ("best/validation_loss", "best/train_loss", "validation/loss", "train/loss")
    losses = [name for name in names if lower_is_better(name)]
    return next(name for name in (*preferred, *losses, *names) if name in names)


def kept(objective: str, stops_early: bool) -> str:
    """The metric with the value that the objective has for the parameters that a run keeps.

    Those of its last step, or of its best where it stops early.

    >>> kept("validation/loss", stops_early=True)
    'best/validation_loss'
    """
    return f"best/{objective.replace('/', '_')}" if stops_early else objective


def status(status: str, tags: Mapping[str, str]) -> str:
    """A run's status; HALVED where successive halving ended it, so that it is not ranked."""
    return "HALVED" if status == "FINISHED" and "halved_at" in tags else status


def is_ranked(outcome: Outcome, metric: str) -> bool:
    return outcome.status == "FINISHED" and metric in outcome.metrics


def best_first(outcomes: Iterable[Outcome], metric: str) -> list[Outcome]:
    """Sorted by a metric; runs that failed or lack it come last."""
    sign = 1 if lower_is_better(metric) else -1

    def order(outcome: Outcome) -> tuple[bool, float]:
        value = outcome.metrics.get(metric)
        return not is_ranked(outcome, metric), math.inf if value is None else sign * value

    return sorted(outcomes, key=order)


def groups(outcomes: Iterable[Outcome], metric: str) -> list[Group]:
    """The FINISHED runs with this metric, gathered over the seeds; the best mean comes first."""
    gathered: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for outcome in outcomes:
        if is_ranked(outcome, metric):
            key = tuple((k, v) for k, v in outcome.differs.items() if not is_seed(k))
            gathered.setdefault(key, []).append(outcome.metrics[metric])
    sign = 1 if lower_is_better(metric) else -1
    found = [Group(dict(key), tuple(values)) for key, values in gathered.items()]
    return sorted(found, key=lambda group: sign * group.mean)


def keys_of(differs: Iterable[Mapping[str, str]]) -> list[str]:
    """All keys, in the order in which they come; seeds last."""
    keys = dict.fromkeys(key for of_run in differs for key in of_run)
    return sorted(keys, key=is_seed)


def as_number(value: str) -> float | None:
    try:
        number = json.loads(value)
    except ValueError:
        return None
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return float(number) if is_number else None


# --- tables ------------------------------------------------------------------------------------

Table = tuple[list[str], list[list[str | float | int]]]
"""The names of the columns, and the rows."""


def run_table(outcomes: Sequence[Outcome], metric: str) -> Table:
    """What differs, the final metrics, the status and the id of each run, best first."""
    keys = keys_of(outcome.differs for outcome in outcomes)
    names = dict.fromkeys(
        name for outcome in outcomes for name in outcome.metrics if name.startswith(_PARTS)
    )
    metrics = [metric, *(name for name in names if name != metric)]
    rows = [
        [
            outcome.name,
            *(outcome.differs.get(key, "") for key in keys),
            *(outcome.metrics.get(name, "") for name in metrics),
            outcome.status,
            outcome.run_id,
        ]
        for outcome in best_first(outcomes, metric)
    ]
    return ["run", *keys, *metrics, "status", "run_id"], rows


def group_table(found: Sequence[Group], metric: str, *, exact: bool = False) -> Table:
    """The mean and the standard deviation of each group, its best run and the number of its runs.

    `exact` has mean and deviation as numbers in two columns, else they are a text in one.
    """
    keys = keys_of(group.differs for group in found)
    best = min if lower_is_better(metric) else max
    rows: list[list[str | float | int]] = [
        [
            *(group.differs.get(key, "") for key in keys),
            *(
                [group.mean, "" if group.std is None else group.std]
                if exact
                else [_mean_std(group)]
            ),
            best(group.values),
            len(group.values),
        ]
        for group in found
    ]
    return [*keys, metric, *(["std"] if exact else []), "best", "runs"], rows


def _mean_std(group: Group) -> str:
    deviation = "" if group.std is None else f" ± {group.std:.2g}"
    return f"{group.mean:.4g}{deviation}"


def to_csv(table: Table) -> str:
    """All digits."""
    columns, rows = table
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Four digits."""
    columns, rows = table
    rule = ["--:" if is_numeric else "---" for is_numeric in _are_numeric(table)]
    cells = [[_cell(cell).replace("|", r"\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [columns, rule, *cells])


def to_text(table: Table) -> str:
    """Four digits, in columns of even width."""
    columns, rows = table
    lines = [columns, *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = [">" if is_numeric else "<" for is_numeric in _are_numeric(table)]
    layout = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return "".join(layout.format(*line).rstrip() + "\n" for line in lines)


def _are_numeric(table: Table) -> list[bool]:
    columns, rows = table
    return [all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))]


def _cell(value: str | float | int) -> str:
    """Four digits of a number with a fraction, be it a value that a parameter has."""
    if isinstance(value, str) and not value.lstrip("-").isdecimal():
        value = value if (number := as_number(value)) is None else number
    return f"{value:.4g}" if isinstance(value, float) else str(value)
