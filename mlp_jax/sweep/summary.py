"""What the parent of a sweep holds, from its children: curves, a figure, tables and a note."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_jax.core.history import lower_is_better
from mlp_jax.experiment import figures
from mlp_jax.sweep import compare
from mlp_jax.sweep import figure as sweep_figure
from mlp_jax.sweep.candidates import Ensemble
from mlp_jax.tracking import links
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord, flat_params
from mlp_jax.tracking.links import code, spaced

if TYPE_CHECKING:  # these take seconds to import
    import mlflow
    import pandas as pd

_CURVES = ("train/", "validation/", "test/")
_NUM_COMPARED = 20  # on one page, beside each other
_NUM_IN_NOTE = 10
_NUM_MEMBERS = 5  # of an ensemble: a note has no more than 5,000 characters
_NUM_COLUMNS = 8  # of the list of runs
_NUM_IN_MARKDOWN = 100  # the other table has all of them


def log(
    client: "mlflow.MlflowClient",
    parent: tracking.Run,
    records: Mapping[str, RunRecord],
    metric: str | None = None,
    command: str = "",
    warn: figures.OnWarning = print,
    ensemble: Ensemble | None = None,
) -> str:
    """Gives the parent of runs, by their ids, its curves, figure, tables and note.

    `metric` ranks the runs; None takes the lowest validation loss or what comes nearest to it.
    `ensemble` was selected from them.
    Returns the link to the list of the runs, best first.
    """
    runs = frame(records)
    if metric is None:
        metric = compare.default_metric(n for record in records.values() for n in record.metrics)
    if f"metrics.{metric}" not in runs:  # as where no training came to an end
        runs[f"metrics.{metric}"] = np.nan
    best, worst = ends(runs, metric)
    histories = [record.metrics for record in records.values()]
    names = dict.fromkeys(
        name
        for metrics in histories
        for name, (steps, _) in metrics.items()
        if name.startswith(_CURVES) and len(steps) > 1
    )
    for name in names:
        for statistic, (steps, values) in curves(histories, name, best, worst).items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                if np.isfinite(value):
                    parent.log({f"{name}/{statistic}": value}, step)

    groups = compare.groups(runs, metric)

    def draw_sweep() -> Any:
        name = _history_behind(metric, names or {n for metrics in histories for n in metrics})
        tags = [record.tags for record in records.values()]
        halvings = {int(of_run["halved_at"]) for of_run in tags if "halved_at" in of_run}
        num_seeds = {int(of_run.get("seeds", 1)) for of_run in tags}
        shown = curves(histories, name, best, worst)
        return sweep_figure.draw(name, shown, groups, metric, sorted(halvings), min(num_seeds))

    drawings = {"sweep": draw_sweep}
    if len(compare.keys_of(groups)) > 1 and len(groups) > 2:
        drawings["keys"] = lambda: sweep_figure.draw_keys(groups, metric)
    for name, draw in drawings.items():
        if (picture := figures.to_png(name, draw, warn)) is not None:
            parent.add(f"{name}.png", picture)
    table = compare.run_table(runs, metric)
    parent.add("runs.csv", compare.to_csv(table))
    left_out = [name for name in map(str, table) if name == "run_id" or name.endswith("_std")]
    parent.add("runs.md", compare.to_markdown(table.drop(columns=left_out)[:_NUM_IN_MARKDOWN]))
    _save_view(client, parent, runs, metric)
    selected = ""
    if ensemble is not None:
        num_picks = sum(ensemble.model.counts)
        for whose, parts in ("ensemble", ensemble.metrics), ("best_run", ensemble.best_alone):
            for part, measured in parts.items():
                parent.log({f"{whose}_{part}_{name}": v for name, v in measured.items()}, num_picks)
        members = _members(ensemble, records)
        parent.add("ensemble.csv", compare.to_csv(members))
        selected = ensemble_in_markdown(ensemble, members, _place(parent)[0])
    parent.tag("mlflow.note.content", note(parent, runs, metric, command, selected))
    return links.view_url(links.base_url(client.tracking_uri), *_place(parent))


def _place(parent: tracking.Run) -> tuple[str, str]:
    """The ids of the experiment and the run, which the store gave before its children came."""
    assert parent.experiment_id is not None and parent.run_id is not None
    return parent.experiment_id, parent.run_id


def _save_view(
    client: "mlflow.MlflowClient", parent: tracking.Run, runs: "pd.DataFrame", metric: str
) -> None:
    """The list of the children, the best first, with what differs between them."""
    order_by = f"metrics.`{metric}`"
    experiment_id, run_id = _place(parent)
    # Runs that were halved have other steps behind them: their numbers are no better or worse.
    to_the_end = " AND tags.`halved_at` IS NULL" if _are_halved(runs) else ""
    tag = links.view_tag(
        run_id,
        condition=f"tags.`mlflow.parentRunId` = '{run_id}'{to_the_end}",
        order_by=order_by,
        ascending=lower_is_better(metric),
        columns=[*(f"params.`{key}`" for key in compare.keys_of(runs)[:_NUM_COLUMNS]), order_by],
    )
    client.set_experiment_tag(experiment_id, *tag)


def _are_halved(runs: "pd.DataFrame") -> bool:
    """Whether any of them were ended by successive halving."""
    return bool((runs["status"] == "HALVED").any())


def frame(records: Mapping[str, RunRecord]) -> "pd.DataFrame":
    """Runs as they are compared, a row each, in their order."""
    import pandas as pd

    rows = [
        {
            "run_id": run_id,
            "name": record.name,
            "status": record.status,
            "tags.halved_at": record.tags.get("halved_at"),
            "steps": max(
                (steps[-1] for steps, _ in record.metrics.values() if len(steps)), default=0
            ),
            **{f"params.{k}": v for k, v in flat_params(record.params).items()},
            **{
                f"metrics.{name}": float(values[-1])
                for name, (_, values) in record.metrics.items()
                if len(values) and np.isfinite(values[-1])
            },
        }
        for run_id, record in records.items()
    ]
    return compare.compared(pd.DataFrame(rows))


def read(client: "mlflow.MlflowClient", run: Mapping[Any, Any]) -> RunRecord:
    """What `log` needs of a run in the store, a row of `tracking.search.runs`.

    No artifacts, and histories of the parts only.
    """
    metrics = {}
    for name, value in _part(run, "metrics.").items():
        steps, values = [0], [value]
        if name.startswith(_CURVES):
            history = client.get_metric_history(run["run_id"], name)
            steps, values = [p.step for p in history], [p.value for p in history]
        metrics[name] = np.array(steps), np.array(values)
    return RunRecord(
        name=run["name"],
        params=_part(run, "params."),
        tags=_part(run, "tags."),
        note="",
        metrics=metrics,
        status=run["status"],
        start_time=run["start_time"],
        end_time=run["end_time"],
    )


def _part(run: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """What a row has; the values of others are NaN in it."""
    mine = ((k, v) for k, v in run.items() if k.startswith(prefix) and v is not None and v == v)
    return {name.removeprefix(prefix): value for name, value in mine}


# --- curves ------------------------------------------------------------------------------------

Histories = Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]
"""Of each run the steps and the values of its metrics."""


def aligned(histories: Histories, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps that at least half of the runs with the metric `name` have, and its values.

    The values have a row for each run. A run that ended early counts as long as it lasted: it has
    NaN beyond.
    """
    nothing = np.array([], int), np.array([])
    found = [metrics.get(name, nothing) for metrics in histories]
    found = [(steps[np.isfinite(own)], own[np.isfinite(own)]) for steps, own in found]
    steps, counts = np.unique(np.concatenate([own for own, _ in found]), return_counts=True)
    steps = steps[2 * counts >= sum(len(own) > 0 for own, _ in found)]
    values = np.full((len(found), len(steps)), np.nan)
    for row, (own, of_run) in zip(values, found, strict=True):
        is_common = np.isin(own, steps)
        row[np.searchsorted(steps, own[is_common])] = of_run[is_common]
    return steps, values


def curves(
    histories: Histories, name: str, best: int, worst: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """At each step the mean and quantiles of the runs, and the whole curves of two of them."""
    steps, values = aligned(histories, name)
    p10, median, p90 = np.nanquantile(values, (0.1, 0.5, 0.9), axis=0)
    of_all = {"mean": np.nanmean(values, axis=0), "median": median, "p10": p10, "p90": p90}
    found = {statistic: (steps, curve) for statistic, curve in of_all.items()}
    nothing = np.array([], int), np.array([])
    for end, row in ("best", best), ("worst", worst):
        found[end] = histories[row].get(name, nothing)
    return found


def ends(runs: "pd.DataFrame", metric: str) -> tuple[int, int]:
    """The rows of the best and of the worst run; those that failed are neither."""
    ranked = compare.best_first(runs, metric)
    finished = ranked[compare.is_ranked(ranked, metric)]
    index = (ranked if finished.empty else finished).index
    return int(index[0]), int(index[-1])


def _history_behind(metric: str, names: Collection[str]) -> str:
    """The metric whose history `metric` sums up: `best_train_loss` is of `train/loss`."""
    if metric.startswith(("best_", "best/")):
        metric = metric[5:].replace("_", "/", 1)
    return metric if metric in names else compare.default_metric(sorted(names))


# --- the note ----------------------------------------------------------------------------------


def note(
    parent: tracking.Run, runs: "pd.DataFrame", metric: str, command: str, ensemble: str = ""
) -> str:
    """Markdown: how many runs, the links to look at them, the ensemble, and the best ones."""
    counts = runs["status"].value_counts(sort=False)
    statuses = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    # Relative, so that the links work wherever the page with the note is.
    page = links.view_url(".", *_place(parent))
    table = compare.run_table(runs, metric)
    best_ids = table["run_id"][:_NUM_COMPARED].tolist()
    compared = links.compare_url(".", _place(parent)[0], best_ids)
    last = [metric, *compare.intervals(runs, metric)][-1]
    best = table.loc[:, :last][:_NUM_IN_NOTE]
    pages = [links.run_url(".", _place(parent)[0], run_id) for run_id in best_ids[:_NUM_IN_NOTE]]
    best["run"] = [f"[{name}]({page})" for name, page in zip(best["run"], pages, strict=True)]
    shown = "those trained to the end" if _are_halved(runs) else "all of them"
    lines = [
        f"{len(runs):,} runs, {statuses}: [{shown}, best first]({page}) · "
        f"[the {len(best_ids)} best compared]({compared})",  # on top, where no fold covers it
        ensemble,
        spaced(compare.to_markdown(best)),
        code(command) if command else "",
    ]
    return "\n\n".join(line for line in lines if line)


def _members(ensemble: Ensemble, records: Mapping[str, RunRecord]) -> "pd.DataFrame":
    """The runs that an ensemble consists of, the one that was picked most often first."""
    import pandas as pd

    run_ids = [str(member.run_id) for member in ensemble.members]
    names = [records[run_id].name for run_id in run_ids]
    return pd.DataFrame({"run_id": run_ids, "run": names, "picks": ensemble.model.counts})


def ensemble_in_markdown(ensemble: Ensemble, members: "pd.DataFrame", experiment_id: str) -> str:
    """Its metrics beside those of the best run, and links to its members with their counts."""
    import pandas as pd

    columns: dict[str, dict[str, float]] = {}
    for part, measured in ensemble.metrics.items():
        columns[f"{part}: ensemble"] = measured
        columns[f"{part}: best run"] = ensemble.best_alone[part]
    table = pd.DataFrame(columns).rename_axis("metric").reset_index()
    shown = [
        f"{picks} × [{name}]({links.run_url('.', experiment_id, run_id)})"
        for run_id, name, picks in members[:_NUM_MEMBERS].itertuples(index=False)
    ]
    more = len(members) - len(shown)
    return (
        f"The ensemble, {sum(members['picks']):,} picks selected on the validation part from "
        f"{ensemble.num_candidates:,} runs: {', '.join(shown)}"
        + (f" and {more:,} more" if more else "")
        + f"\n\n{spaced(compare.to_markdown(table))}"
    )
