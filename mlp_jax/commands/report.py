"""`python -m mlp_jax.report EXPERIMENT` prints how its runs compare: mean ± std over the seeds."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlp_jax.errors import UserError, nearest, redacted
from mlp_jax.sweep import compare as comparison
from mlp_jax.sweep.compare import Outcome
from mlp_jax.tracking import store

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

_PAGE = 1000
_MAX_NAMED = 20  # in an error


def main(arguments: Sequence[str] | None = None) -> None:
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
        "--metric", help="what ranks the runs, as test/accuracy; default: their objective, the loss"
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
    runs = _runs(_client(options.uri), options.experiment)
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    single = [run for run in runs if run.info.run_id not in parents]
    finished = [
        run for run in single if comparison.status(run.info.status, run.data.tags) == "FINISHED"
    ]
    if not finished:
        raise UserError(f"{options.experiment}: none of its {len(single):,} runs is finished.")
    metric = _metric(options, finished)
    found = comparison.groups(_outcomes(finished), metric)
    is_exact = options.format == "csv"
    table = comparison.group_table(found[: options.top], metric, exact=is_exact)
    summary = f"{options.experiment}: {len(finished):,} finished runs, best first by {metric}"
    if options.top is not None and options.top < len(found):
        summary += f", {options.top:,} lines of {len(found):,}"
    if unfinished := len(single) - len(finished):
        summary += f"; left out: {unfinished:,} that are not finished"
    print(summary, file=sys.stdout if options.format == "table" else sys.stderr)
    to_text = {
        "table": comparison.to_text,
        "markdown": comparison.to_markdown,
        "csv": comparison.to_csv,
    }
    print(to_text[options.format](table), end="")


def _client(uri: str | None) -> "mlflow.MlflowClient":
    """Of a store that exists; none is created."""
    uri = store.store_uri(uri)
    if uri.startswith("sqlite:") and not store.is_ready(Path(uri.removeprefix("sqlite:///"))):
        raise UserError(
            f"{uri}: there are no runs yet. Record one with: python -m mlp_jax.train +exp=xor\n"
            "or name another store: --uri sqlite:////DIRECTORY/mlflow.db"
        )
    return store.open_store(uri)


def _runs(client: "mlflow.MlflowClient", experiment: str) -> list["mlflow.entities.Run"]:
    with store.store_errors(client.tracking_uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = [e.name for e in client.search_experiments() if e.name != "Default"]
            raise UserError(
                f"{experiment}: no such experiment.{nearest(experiment, names)}{_listed(names)}"
            )
        runs = list(_search(client, found.experiment_id))
    if not runs:
        raise UserError(f"{experiment}: has no runs.")
    return runs


def _search(client: "mlflow.MlflowClient", experiment_id: str) -> Iterator["mlflow.entities.Run"]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _metric(options: argparse.Namespace, runs: Sequence["mlflow.entities.Run"]) -> str:
    names = sorted({name for run in runs for name in run.data.metrics})
    if not names:
        raise UserError(f"{options.experiment}: its runs have no metrics.")
    metric: str = options.metric or _default_metric(runs, names)
    if metric not in names:
        raise UserError(
            f"--metric {metric}: no run has it.{nearest(metric, names)}{_listed(names)}"
        )
    return metric


def _default_metric(runs: Sequence["mlflow.entities.Run"], names: Sequence[str]) -> str:
    """What a sweep ranks its runs by, where it is the same for all runs."""
    objectives = {run.data.tags.get("objective", "") for run in runs}
    stops = any(run.data.params.get("early_stopping.patience", "null") != "null" for run in runs)
    ranked_by = {comparison.kept(objective, stops) for objective in objectives}
    if len(ranked_by) == 1 and ranked_by <= set(names):
        return ranked_by.pop()
    return comparison.default_metric(names)


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _MAX_NAMED else ""
    return f" There are {', '.join(names[:_MAX_NAMED])}{more}." if names else ""


def _outcomes(runs: Sequence["mlflow.entities.Run"]) -> list[Outcome]:
    differs = comparison.differences([run.data.params for run in runs])
    return [
        Outcome(
            run.info.run_name,
            of_run,
            run.data.metrics,
            comparison.status(run.info.status, run.data.tags),
            run.info.run_id,
        )
        for run, of_run in zip(runs, differs, strict=True)
    ]


if __name__ == "__main__":
    main()
