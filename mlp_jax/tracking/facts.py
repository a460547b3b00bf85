"""What is kept of a run, as numbers and texts, and what a run says of where it came from."""

import getpass
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlp_jax.errors import redacted

_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 5000


class Data(NamedTuple):
    """The data of a run as MLflow shows it; the last three are JSON."""

    name: str
    digest: str
    source: str
    schema: str
    profile: str


class RunRecord(NamedTuple):
    """What is kept of a run: all of a finished one, of one that begins what is known of it.

    `params` may be nested; `note` is Markdown for the top of the run's page. `metrics` maps a name
    to its steps, which must increase, and its values. `status` is RUNNING, FINISHED, FAILED or
    KILLED; times are in ms since 1970. `texts` are files by their name.
    """

    name: str
    params: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    note: str = ""
    metrics: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    status: str = "RUNNING"
    start_time: int = 0
    end_time: int = 0
    texts: Mapping[str, str] = {}
    data: Data | None = None
    id: str = ""
    """Its own, by which it is found again where it is in doubt whether the store has it."""


def not_finite_tag(metric: str, value: float, step: int) -> tuple[str, str]:
    """What stands for the points of a metric that are no numbers a chart could show."""
    return f"not_finite.{metric}", f"{value} at step {step}"


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as `{"optimizer.learning_rate": "0.1", …}`, written as in JSON.

    >>> flat_params({"model": {"hidden_sizes": [8], "loss": None}})
    {'model.hidden_sizes': '[8]', 'model.loss': 'null'}
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = redacted(text)[:_MAX_PARAM_LENGTH]
    return flat


def run_tags(record: RunRecord, context: Mapping[str, str]) -> dict[str, str]:
    """All tags of a run at its start, without secrets and cut to what a store takes."""
    all_tags = {**context, "mlflow.note.content": record.note, **record.tags}
    return {name: tag_text(value) for name, value in all_tags.items()}


def begun(record: RunRecord, context: Mapping[str, str]) -> dict[str, Any]:
    """What `run.json` says of a run at its start, but for its place."""
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "started": int(time.time() * 1000),
        "start_time": record.start_time,
        "params": flat_params(record.params),
        "tags": run_tags(record, context),
        "data": record.data,
    }


def tag_text(value: str) -> str:
    """As a store takes the value of a tag."""
    return redacted(value)[:_MAX_TAG_LENGTH]


def context_tags() -> dict[str, str]:
    """The tags that MLflow's fluent client sets, and `git.dirty`."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
        **_git_tags(Path(__file__).parents[1]),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "unknown"


def _git_tags(directory: Path) -> dict[str, str]:
    """The commit of the checkout around `directory`, and whether a tracked file differs from it."""
    command = ["git", "-c", "core.fsmonitor=false"]  # which could be any command
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = re.search("^# branch.oid ([0-9a-f]+)$", status, re.MULTILINE)
    if commit is None:
        return {}
    dirty = re.search("^[^#]", status, re.MULTILINE) is not None
    return {"mlflow.source.git.commit": commit[1], "git.dirty": str(dirty).lower()}
