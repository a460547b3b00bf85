"""MLflow's UI: addresses of its pages, the Markdown that they show, the command that opens it."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from mlp_jax.errors import redacted
from mlp_jax.tracking.store import is_server, store_uri

UI_PORT = 5000


def base_url(uri: str, port: int = UI_PORT) -> str:
    """The tracking server, or the UI that runs on this machine."""
    if not is_server(uri):
        return f"http://127.0.0.1:{port}"
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def run_url(base: str, experiment_id: str, run_id: str) -> str:
    """The page of a run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{_VIEW}"


def experiment_url(base: str, experiment_id: str) -> str:
    """The list of an experiment's runs."""
    return f"{base}/#/experiments/{experiment_id}/runs?{_VIEW}"


def view_url(base: str, experiment_id: str, view: str) -> str:
    """The list of an experiment's runs as the view of that name has it, see `view_tag`."""
    return f"{experiment_url(base, experiment_id)}&viewStateShareKey={view}"


def view_tag(
    view: str, *, condition: str, order_by: str, ascending: bool, columns: Sequence[str]
) -> tuple[str, str]:
    """The tag of an experiment that keeps a view of its runs, as "Share" in MLflow's UI does it.

    `order_by` and `columns` are as in ``metrics.`train/loss` `` and ``params.`seed` ``. The UI has
    no other way to a list with columns of one's choice.
    """
    state = {
        "searchFilter": condition,
        "orderByKey": order_by,
        "orderByAsc": ascending,
        "selectedColumns": list(columns),
    }
    return f"mlflow.sharedViewState.{view}", json.dumps(state)


def compare_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that shows runs beside each other."""
    runs, experiments = (
        json.dumps(ids, separators=(",", ":")) for ids in (run_ids, [experiment_id])
    )
    return f"{base}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}&{_VIEW}"


_VIEW = "workflowType=machine_learning"  # else the pages open in their view for language models


def ui_command(uri: str) -> str | None:
    """The command that starts the UI on this store; `None` for a server, which has its own."""
    if is_server(uri):
        return None
    on_path = shutil.which("python")
    is_this = on_path is not None and Path(on_path).absolute() == Path(sys.executable)
    python = "python" if is_this else sys.executable
    command = [python, "-m", "mlp_jax.ui", *([redacted(uri)] * (uri != store_uri(None)))]
    return shlex.join(command)


# --- Markdown, whose tables the pages set close and whose lines they do not break ----------------


def spaced(table: str) -> str:
    """A table in Markdown with room between its columns."""
    is_rule = re.compile(r"[-:| ]+")
    lines = table.strip().split("\n")
    return "\n".join(
        line if is_rule.fullmatch(line) else line.replace(" |", "&emsp;|") for line in lines
    )


def code(command: str) -> str:
    """A command in lines that fit."""
    if len(command) > 80:
        command = re.sub(r" (?=[-+\w.'\"/]*=)", " \\\n    ", command)
    return f"```\n{command}\n```"
