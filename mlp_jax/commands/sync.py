"""`python -m mlp_jax.sync` delivers what a store did not take while the runs went on."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.tracking import recovery, store
from mlp_jax.tracking.journal import read_record

if TYPE_CHECKING:  # takes seconds to import
    import mlflow


def main(arguments: Sequence[str] | None = None) -> None:
    """The exit status is 0 when nothing is left to deliver, 1 when something is."""
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
    """Delivers the runs of these directories, a line for each; says whether nothing is left."""
    left = [run for run in runs if recovery.is_left(run)]
    print(f"{len(runs)} runs here, {len(left)} with something to deliver", flush=True)
    clients: dict[str, mlflow.MlflowClient | Exception] = {}
    done = [_sync_run(run, clients) for run in left]
    return all(done)


def _sync_run(run: Path, clients: "dict[str, mlflow.MlflowClient | Exception]") -> bool:
    uri = ""
    try:
        uri = _full_uri(read_record(run)["uri"])
        done = recovery.recover(run, _client(uri, clients))
    except (UserError, RunError) as error:
        print(f"{run}: left: {' '.join(redacted(str(error)).split())}", flush=True)
        return False
    except Exception as error:  # whatever the store and its client come up with
        print(f"{run}: left: {' '.join(store.failure(error, uri).split())}", flush=True)
        return False
    killed = ", marked KILLED because its process is gone" if done.repaired else ""
    lost = f"; LOST: {done.num_lost} damaged entries" if done.num_lost else ""
    print(f"{run}: {done.num_delivered} entries delivered, {done.name!r}{killed}{lost}", flush=True)
    return not done.num_lost


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
