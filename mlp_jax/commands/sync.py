"""`python -m mlp_jax.sync` delivers what a store did not take while the runs went on."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.tracking import recovery, store

if TYPE_CHECKING:  # takes seconds to import
    import mlflow


def main(arguments: Sequence[str] | None = None) -> None:
    """The exit status is 0 when nothing is left to deliver, 1 when something is or is damaged."""
    parser = argparse.ArgumentParser(
        prog="python -m mlp_jax.sync",
        description="Delivers what the tracking store could not take while the runs went on, each "
        "thing once, and marks runs KILLED whose process is gone.",
        epilog="Where the address of the store has a password, give it in $MLFLOW_TRACKING_URI.",
    )
    parser.add_argument(
        "directories",
        nargs="*",
        type=Path,
        metavar="DIRECTORY",
        help="of a run, or one that holds those of runs; default: runs",
    )
    chosen = parser.parse_args(arguments).directories
    for directory in chosen:
        if not directory.is_dir():
            print(f"error: {directory}: is not a directory.", file=sys.stderr)
            sys.exit(2)
    runs = [run for root in chosen or [Path("runs")] for run in recovery.run_directories(root)]
    sys.exit(0 if sync(runs) else 1)


def sync(runs: Sequence[Path]) -> bool:
    """Delivers the runs of these directories, a line for each; says whether all are whole there."""
    left = [run for run in runs if recovery.is_left(run)]
    print(f"{len(runs)} runs here, {len(left)} with something to deliver", flush=True)
    clients: dict[str, mlflow.MlflowClient | Exception] = {}
    lines = [line for run in runs if (line := _sync_run(run, run in left, clients))]
    return not lines


def _sync_run(
    run: Path, is_left: bool, clients: "dict[str, mlflow.MlflowClient | Exception]"
) -> str:
    """Delivers a run where that is left; returns what is wrong with it at the end."""
    uri = wrong = ""
    try:
        if is_left:
            uri = _full_uri(recovery.read(run)["uri"])
            done = recovery.recover(run, _client(uri, clients))
            killed = ", marked KILLED because its process is gone" if done.is_repaired else ""
            print(f"{run}: delivered, {done.name!r}{killed}", flush=True)
        if damage := recovery.damage(run):
            wrong = f"DAMAGED: {'; '.join(damage)}; the rest is in the store"
    except (UserError, RunError) as error:
        wrong = f"left: {' '.join(redacted(str(error)).split())}"
    except Exception as error:  # whatever the store and its client come up with
        wrong = f"left: {' '.join(store.failure(error, uri).split())}"
    if wrong:
        print(f"{run}: {wrong}", flush=True)
    return wrong


def _full_uri(redacted_uri: str) -> str:
    """The address of a store with its password, which `run.json` does not hold."""
    own = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redacted(own) == redacted_uri:
        return own
    if "***" in redacted_uri:
        raise UserError(
            f"the password of {redacted_uri} is not kept; set $MLFLOW_TRACKING_URI to the whole "
            "address."
        )
    return redacted_uri


def _client(
    uri: str, clients: "dict[str, mlflow.MlflowClient | Exception]"
) -> "mlflow.MlflowClient":
    """Opens each store once, and tries one that does not answer only once."""
    if uri not in clients:
        try:
            clients[uri] = store.open_store(uri)
        except UserError as error:
            clients[uri] = error
    client = clients[uri]
    if isinstance(client, Exception):
        raise client
    return client


if __name__ == "__main__":
    main()
