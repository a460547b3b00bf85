"""What the parent of a sweep holds, from its children: curves, a figure, tables and a note."""

from collections import Counter
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlp_jax.sweep import compare as comparison
from mlp_jax.sweep import figure as sweep_figure
from mlp_jax.sweep.compare import Outcome
from mlp_jax.tracking import links
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.bulk import RunRecord

if TYPE_CHECKING:  # these take seconds to import
    import matplotlib.figure
    import mlflow.entities

_CURVES = ("train/", "validation/", "test/")
_NUM_COMPARED = 20  # on one page, beside each other
_NUM_IN_NOTE = 10
_NUM_COLUMNS = 8  # of the list of runs
_NUM_IN_MARKDOWN = 100  # the other table has all of them


def log(
    client: "mlflow.MlflowClient",
    parent: tracking.Run,
    records: Sequence[RunRecord],
    run_ids: Sequence[str],
    metric: str | None = None,
    command: str = "",
) -> str:
    """Gives the parent of these runs its curves, figure, tables and note.

    `metric` ranks the runs; None takes the lowest validation loss or what comes nearest to it.
    Returns the link to the list of the runs, best first.
    """
    found = outcomes(records, run_ids)
    metric = metric or comparison.default_metric(name for run in found for name in run.metrics)
    for name, (steps, values) in curves(records, found, metric).items():
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            parent.log_metrics({name: value}, step)
    parent.log_figure(figure(records, found, metric), "sweep.png")
    columns, rows = comparison.run_table(found, metric)
    parent.log_text(comparison.to_csv((columns, rows)), "runs.csv")
    shown = [row[:-1] for row in rows[:_NUM_IN_MARKDOWN]]
    parent.log_text(comparison.to_markdown((columns[:-1], shown)), "runs.md")
    _save_view(client, parent, found, metric)
    parent.set_tag("mlflow.note.content", note(parent, found, metric, command))
    return links.view_url(links.base_url(client.tracking_uri), *_place(parent))


def _place(parent: tracking.Run) -> tuple[str, str]:
    """The ids of the experiment and the run, which the store gave before its children came."""
    assert parent.experiment_id is not None and parent.run_id is not None
    return parent.experiment_id, parent.run_id


def _save_view(
    client: "mlflow.MlflowClient", parent: tracking.Run, found: Sequence[Outcome], metric: str
) -> None:
    """The list of the children, the best first, with what differs between them."""
    keys = comparison.keys_of(run.differs for run in found)[:_NUM_COLUMNS]
    order_by = f"metrics.`{metric}`"
    experiment_id, run_id = _place(parent)
    links.save_view(
        client,
        experiment_id,
        view=run_id,
        condition=f"tags.`mlflow.parentRunId` = '{run_id}'",
        order_by=order_by,
        ascending=comparison.lower_is_better(metric),
        columns=[*(f"params.`{key}`" for key in keys), order_by],
    )


def outcomes(records: Sequence[RunRecord], run_ids: Sequence[str]) -> list[Outcome]:
    differs = comparison.differences([tracking.flat_params(record.params) for record in records])
    return [
        Outcome(
            name=record.name,
            differs=of_run,
            metrics={
                name: float(values[-1])
                for name, (_, values) in record.metrics.items()
                if len(values) and np.isfinite(values[-1])
            },
            status=comparison.status(record.status, record.tags),
            run_id=run_id,
        )
        for record, of_run, run_id in zip(records, differs, run_ids, strict=True)
    ]


def read(client: "mlflow.MlflowClient", run: "mlflow.entities.Run") -> RunRecord:
    """What `log` needs of a run that was recorded before: no artifacts, histories of the parts."""
    metrics = {}
    for name, value in run.data.metrics.items():
        steps, values = [0], [value]
        if name.startswith(_CURVES):
            history = client.get_metric_history(run.info.run_id, name)
            steps, values = [p.step for p in history], [p.value for p in history]
        metrics[name] = np.array(steps), np.array(values)
    return RunRecord(
        name=run.info.run_name,
        params=run.data.params,
        tags=run.data.tags,
        note="",
        metrics=metrics,
        status=run.info.status,
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        texts={},
        dataset=None,
    )


# --- curves ------------------------------------------------------------------------------------


class Bundle(NamedTuple):
    """The histories of one metric, a row for each run; NaN where a run has no value."""

    steps: np.ndarray
    values: np.ndarray

    def statistics(self, best: int, worst: int) -> dict[str, np.ndarray]:
        """At each step the mean and quantiles of the runs, and the values of two of them."""
        p10, median, p90 = np.nanquantile(self.values, (0.1, 0.5, 0.9), axis=0)
        return {
            "mean": np.nanmean(self.values, axis=0),
            "median": median,
            "p10": p10,
            "p90": p90,
            "best": self.values[best],
            "worst": self.values[worst],
        }


def bundle(records: Sequence[RunRecord], name: str) -> Bundle:
    """The histories of the metric `name` at the steps that at least half of its runs have.

    A run that ended early counts as long as it lasted.
    """
    nothing = np.array([], int), np.array([])
    histories = [record.metrics.get(name, nothing) for record in records]
    histories = [(steps[np.isfinite(own)], own[np.isfinite(own)]) for steps, own in histories]
    steps, counts = np.unique(np.concatenate([own for own, _ in histories]), return_counts=True)
    steps = steps[2 * counts >= sum(len(own) > 0 for own, _ in histories)]
    values = np.full((len(records), len(steps)), np.nan)
    for row, (own, of_run) in zip(values, histories, strict=True):
        is_common = np.isin(own, steps)
        row[np.searchsorted(steps, own[is_common])] = of_run[is_common]
    return Bundle(steps, values)


def curves(
    records: Sequence[RunRecord], found: Sequence[Outcome], metric: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metrics for the parent: `train/loss/mean`, `…/median`, `…/p10`, `…/p90`, and those of the
    runs that ended best and worst by `metric`.
    """
    best, worst = _ends(found, metric)
    names = dict.fromkeys(
        name
        for record in records
        for name, (steps, _) in record.metrics.items()
        if name.startswith(_CURVES) and len(steps) > 1
    )
    made = {}
    for name in names:
        histories = bundle(records, name)
        for statistic, values in histories.statistics(best, worst).items():
            is_finite = np.isfinite(values)
            made[f"{name}/{statistic}"] = (histories.steps[is_finite], values[is_finite])
    return made


def _ends(found: Sequence[Outcome], metric: str) -> tuple[int, int]:
    """The indices of the best and of the worst run; those that failed are neither."""
    ranked = comparison.best_first(found, metric)
    finished = [run for run in ranked if comparison.is_ranked(run, metric)] or ranked
    return found.index(finished[0]), found.index(finished[-1])


def figure(
    records: Sequence[RunRecord], found: Sequence[Outcome], metric: str
) -> "matplotlib.figure.Figure":
    """The curves with their bands and, where one or two hyperparameters differ, what they did."""
    name = _history_behind(metric, {name for record in records for name in record.metrics})
    histories = bundle(records, name)
    statistics = histories.statistics(*_ends(found, metric))
    groups = comparison.groups(found, metric)
    return sweep_figure.draw(name, histories.steps, statistics, groups, metric)


def _history_behind(metric: str, names: Set[str]) -> str:
    """The metric whose history `metric` sums up: `best/train_loss` is of `train/loss`."""
    if metric.startswith("best/"):
        metric = metric.removeprefix("best/").replace("_", "/", 1)
    return metric if metric in names else comparison.default_metric(sorted(names))


# --- the note ----------------------------------------------------------------------------------


def note(parent: tracking.Run, found: Sequence[Outcome], metric: str, command: str) -> str:
    """Markdown: how many runs, the links to look at them, and the best ones."""
    ranked = comparison.best_first(found, metric)
    counts = Counter(run.status for run in found)
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    # Relative, so that the links work wherever the page with the note is.
    page = links.view_url(".", *_place(parent))
    best_ids = [run.run_id for run in ranked[:_NUM_COMPARED]]
    compared = links.compare_url(".", _place(parent)[0], best_ids)
    columns, rows = comparison.run_table(ranked[:_NUM_IN_NOTE], metric)
    width = columns.index(metric) + 1
    best = comparison.to_markdown((columns[:width], [row[:width] for row in rows]))
    lines = [
        f"{len(found):,} runs, {statuses}: [all of them, best first]({page}) · "
        f"[the {len(best_ids)} best compared]({compared})",  # on top, where no fold covers it
        best,
        f"```\n{command}\n```" if command else "",
    ]
    return "\n\n".join(line for line in lines if line)
