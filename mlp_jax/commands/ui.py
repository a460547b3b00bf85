"""`python -m mlp_jax.ui` opens MLflow's UI at the last run: one worker, on this machine only."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from mlp_jax.config.schema import RECORD_KEYS
from mlp_jax.core.history import lower_is_better
from mlp_jax.errors import UserError, redacted
from mlp_jax.sweep import compare
from mlp_jax.tracking import links, store

_HOST = "127.0.0.1"
_VIEW = "best_first"
_NUM_COLUMNS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mlp_jax.ui",
        description="Serves the MLflow UI on this machine and prints the link to the last run or "
        "sweep. Ctrl-C stops it.",
    )
    parser.add_argument(
        "uri",
        nargs="?",
        help="the store, as in tracking.uri=…; default: mlflow.db in the current directory",
    )
    parser.add_argument("--port", type=int, default=links.UI_PORT, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        serve(store.store_uri(options.uri), options.port)
    except UserError as error:
        print(redacted(str(error)), file=sys.stderr)
        sys.exit(2)


def serve(uri: str, port: int) -> None:
    """Runs the UI until Ctrl-C or SIGTERM. Raises `UserError` where it cannot start."""
    _check(uri, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", _HOST, "--port", str(port)]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # here, since `ps` shows the arguments to everybody
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a second server, which nothing here uses
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [*command, "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that its workers can be ended with it
        )
        try:
            print(f"MLflow UI on {redacted(uri)}, starting …", flush=True)
            base = links.base_url(uri, port)
            _wait_until_up(server, base)
            if server.poll() is None:
                print(f"{_last_run(base)}\nCtrl-C stops it.", flush=True)
            server.wait()
            log.seek(0)
            raise UserError(f"The MLflow UI ended by itself:\n{log.read()[-2000:]}")
        except KeyboardInterrupt:
            print("\nStopped.")
        finally:
            _end(server)


def _check(uri: str, port: int) -> None:
    if uri.startswith("http"):
        raise UserError(f"{links.base_url(uri)} is a tracking server: open that in a browser.")
    if uri.startswith("sqlite:") and not store.is_ready(Path(uri.removeprefix("sqlite:///"))):
        raise UserError(
            f"{uri}: there are no runs yet. Record one with: python -m mlp_jax.train +exp=xor\n"
            "or name another store: python -m mlp_jax.ui sqlite:////DIRECTORY/mlflow.db"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--port {port}: cannot be opened ({error}). Maybe the UI is running already, see "
                f"http://{_HOST}:{port}; or take another port, --port {(port + 1) % 65536}."
            ) from None


def _last_run(base: str) -> str:
    """What ran last and its page: a sweep rather than one of its runs."""
    experiments = _ask(base, "experiments/search", max_results=1000).get("experiments", [])
    ids = [experiment["experiment_id"] for experiment in experiments]
    query = {"experiment_ids": ids, "order_by": ["start_time DESC"], "max_results": 1}
    latest = _ask(base, "runs/search", **query).get("runs")
    if not latest:
        return base
    run, kind = latest[0], "run"
    parent_id = [tag["value"] for tag in run["data"]["tags"] if tag["key"] == "mlflow.parentRunId"]
    if parent_id:
        try:
            run, kind = _ask(base, "runs/get", run_id=parent_id[0])["run"], "sweep"
        except HTTPError:  # it was deleted for good
            return base
    info = run["info"]
    page = links.run_url(base, info["experiment_id"], info["run_id"])
    runs = _best_first(base, info["experiment_id"])
    return f"the last {kind}, {info['run_name']}:\n{page}\nits experiment, best first:\n{runs}"


def _best_first(base: str, experiment_id: str) -> str:
    """The list of an experiment's runs with the metric that ranks them and what differs."""
    query = {"experiment_ids": [experiment_id], "order_by": ["start_time DESC"]}
    runs = [run["data"] for run in _ask(base, "runs/search", **query, max_results=200)["runs"]]
    tags, params = (
        [{item["key"]: item["value"] for item in run.get(what, [])} for run in runs]
        for what in ("tags", "params")
    )
    # A sweep's parent has all values of a key as one text.
    params = [own for own, of_run in zip(params, tags, strict=True) if "sweep" not in of_run]
    found = {
        key: len({own[key] for own in params if key in own})
        for key in dict.fromkeys(key for own in params for key in own)
        if key not in RECORD_KEYS
    }
    keys = sorted((k for k, count in found.items() if count > 1), key=lambda k: -found[k])
    objective = next(
        (of_run["objective"] for of_run in tags if "objective" in of_run), "train/loss"
    )
    stops_early = any(of_run.get("early_stopping.patience", "null") != "null" for of_run in params)
    order_by = f"metrics.`{compare.kept(objective, stops_early)}`"
    key, value = links.view_tag(
        _VIEW,
        condition="",
        order_by=order_by,
        ascending=lower_is_better(objective),
        columns=[order_by, *(f"params.`{key}`" for key in keys[:_NUM_COLUMNS])],
    )
    tag = {"experiment_id": experiment_id, "key": key, "value": value}
    _ask(base, "experiments/set-experiment-tag", **tag)
    return links.view_url(base, experiment_id, _VIEW)


def _ask(base: str, what: str, **query: Any) -> dict[str, Any]:
    """Asks the server itself: importing MLflow here would take seconds."""
    url = f"{base}/api/2.0/mlflow/{what}"
    if what.endswith("/get"):
        request = Request(f"{url}?{urlencode(query)}")
    else:
        headers = {"Content-Type": "application/json"}
        request = Request(url, json.dumps(query).encode(), headers)
    with urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _wait_until_up(server: subprocess.Popen[bytes], base: str) -> None:
    """Returns when the server answers, or has ended."""
    while server.poll() is None:
        try:
            with urlopen(f"{base}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
