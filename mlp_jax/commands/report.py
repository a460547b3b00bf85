"""`python -m mlp_jax.report EXPERIMENT` prints how its runs compare: mean ± std over the seeds."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlp_jax.commands.output import outlast
from mlp_jax.errors import UserError, nearest, redacted
from mlp_jax.sweep import compare
from mlp_jax.tracking import search, store

if TYPE_CHECKING:  # takes half a second to import
    import pandas as pd

_MAX_NAMED = 20  # in an error


def main(arguments: Sequence[str] | None = None) -> None:
    outlast()
    options = _parse(arguments)
    try:
        print_report(options)
    except UserError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        sys.exit(2)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mlp_jax.report",
        description="Compares the finished runs of an experiment, the best first: those that "
        "differ only in their seeds are one line, with their mean and standard deviation.",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="its name in MLflow, as xor")
    parser.add_argument(
        "--metric", help="what ranks the runs, as test_accuracy; default: their objective, the loss"
        " of validation or of training, or what early stopping monitors"
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("table", "markdown", "csv"), default="table", help="default: table"
    )
    parser.add_argument("--top", type=int, metavar="N", help="only the N best lines")
    parser.add_argument(
        "--uri", help="the store, as in tracking.uri=…; default: mlflow.db in the current directory"
    )
    return parser.parse_args(arguments)


def print_report(options: argparse.Namespace) -> None:
    """Raises `UserError` for an experiment without runs, and for names that are not there."""
    if options.top is not None and options.top < 1:
        raise UserError(f"--top {options.top}: must be a whole number >= 1.")
    experiment, runs = options.experiment, _runs(options.uri, options.experiment)
    runs = _trainings(runs)
    is_finished = compare.compared(runs)["status"] == "FINISHED"
    if not is_finished.any():
        raise UserError(f"{experiment}: none of its {len(runs):,} runs is finished.")
    finished = runs[is_finished].dropna(axis="columns", how="all")
    metric = _metric(options, finished)
    groups = compare.groups(compare.compared(finished), metric)
    table = compare.group_table(groups[: options.top], metric, exact=options.format == "csv")
    summary = f"{experiment}: {len(finished):,} finished runs, best first by {metric}"
    if len(table) < len(groups):
        summary += f", {len(table):,} lines of {len(groups):,}"
    if unfinished := len(runs) - len(finished):
        summary += f"; left out: {unfinished:,} that are not finished"
    print(summary, file=sys.stdout if options.format == "table" else sys.stderr)
    to_text = {
        "table": compare.to_text, "markdown": compare.to_markdown, "csv": compare.to_csv
    }  # fmt: skip
    print(to_text[options.format](table), end="")


def _trainings(runs: "pd.DataFrame") -> "pd.DataFrame":
    """Without the parents of sweeps, and with an ensemble in place of its members."""
    if "tags.mlflow.parentRunId" not in runs:
        return runs
    parents = runs["run_id"].isin(runs["tags.mlflow.parentRunId"])
    if "params.ensemble.size" not in runs:
        return runs[~parents]
    is_no_sweep = runs["tags.sweep"].isna() if "tags.sweep" in runs else True
    are_ensembles = parents & runs["params.ensemble.size"].notna() & is_no_sweep
    members = runs["tags.mlflow.parentRunId"].isin(runs["run_id"][are_ensembles])
    return runs[(~parents | are_ensembles) & ~members]


def _runs(uri: str | None, experiment: str) -> "pd.DataFrame":
    """Of a store that exists; none is created."""
    uri = store.store_uri(uri)
    if uri.startswith("sqlite:") and not store.is_ready(Path(uri.removeprefix("sqlite:///"))):
        raise UserError(
            f"{uri}: there are no runs yet. Record one with: python -m mlp_jax.train +exp=xor\n"
            "or name another store: --uri sqlite:////DIRECTORY/mlflow.db"
        )
    client = store.open_store(uri)
    runs = search.runs(client, experiment)
    if runs.empty:
        with store.store_errors(uri):
            names = [e.name for e in client.search_experiments() if e.name != "Default"]
        if experiment in names:
            raise UserError(f"{experiment}: has no runs.")
        raise UserError(
            f"{experiment}: no such experiment.{nearest(experiment, names)}{_listed(names)}"
        )
    return runs


def _metric(options: argparse.Namespace, runs: "pd.DataFrame") -> str:
    names = sorted(c.removeprefix("metrics.") for c in map(str, runs) if c.startswith("metrics."))
    if not names:
        raise UserError(f"{options.experiment}: its runs have no metrics.")
    metric: str = options.metric or _ranked_by(runs) or ""
    if metric not in names and metric.replace("/", "_") in names:  # of the end of a training
        metric = metric.replace("/", "_")
    metric = metric if metric in names or options.metric else compare.default_metric(names)
    if metric not in names:
        raise UserError(
            f"--metric {metric}: no run has it.{nearest(metric, names)}{_listed(names)}"
        )
    return metric


def _ranked_by(runs: "pd.DataFrame") -> str | None:
    """What a sweep ranks its runs by, where it is the same for all of them."""
    columns = ["tags.objective", "params.early_stopping.patience"]
    objective, patience = (runs[c].fillna("").unique() if c in runs else [""] for c in columns)
    stops_early = any(value not in ("", "null") for value in patience)
    return compare.kept(objective[0], stops_early) if len(objective) == 1 else None


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _MAX_NAMED else ""
    return f" There are {', '.join(names[:_MAX_NAMED])}{more}." if names else ""


if __name__ == "__main__":
    main()
