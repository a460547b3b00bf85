"""Repeats a run from what it has recorded and compares the parameters, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from omegaconf import OmegaConf

from mlp_jax.config import saved
from mlp_jax.config.schema import Experiment
from mlp_jax.core import training
from mlp_jax.core.fit import template
from mlp_jax.core.network import Layer, Params
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints
from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.experiment import describe, machine, run
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.prediction import Model
from mlp_jax.experiment.setup import Problem
from mlp_jax.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Original(NamedTuple):
    """A finished run, as it recorded itself."""

    name: str
    config: Experiment
    environment: dict[str, Any]
    params_sha256: str
    params: Callable[[Problem], Params | None]
    """Loads them, where they were kept, for a problem of the same config."""
    is_of_sweep: bool = False


def from_directory(directory: Path) -> Original:
    result = rundir.result(directory)
    if result is None:
        raise UserError(
            f"rerun={directory}: the run has not finished, so there is nothing to compare with. "
            f"{rundir.how_to_resume(directory)}"
        )

    def params(problem: Problem) -> Params | None:
        checkpoints = Checkpoints(directory / rundir.CHECKPOINTS, keep=1)
        last = checkpoints.restore(warn=lambda text: None)
        return last and training.kept(run.from_arrays(template(problem), last).state)[0]

    return Original(
        str(directory),
        saved.from_record(rundir.read(directory, rundir.CONFIG), directory),
        rundir.read(directory, rundir.ENVIRONMENT),
        result["params_sha256"],
        params,
    )


def from_store(run_id: str, uri: str | None) -> Original:
    """A run of which only the tracking store knows."""
    address = store.check(uri)
    unknown = UserError(
        f"rerun={run_id}: no such run, neither as a directory nor in {redacted(address)}; "
        "checkpoint.root=DIRECTORY and tracking.uri=STORE say where else to look."
    )
    file = address.removeprefix("sqlite:///")
    if file != address and not store.is_ready(Path(file)):
        raise unknown  # opening it would create it
    client = store.open_store(uri)
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run_id)
    except MlflowException:
        raise unknown from None
    config, then = (_artifact(client, run_id, name) for name in ("config", "environment"))
    if "params_sha256" not in found.data.tags:
        raise UserError(f"rerun={run_id}: the run has not finished; there is nothing to compare.")

    def params(problem: Problem) -> Params | None:
        import mlflow

        models = found.outputs.model_outputs if found.outputs else []
        if not models:
            return None
        mlflow.set_tracking_uri(client.tracking_uri)
        with TemporaryDirectory() as folder:
            uri = f"models:/{models[-1].model_id}"
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            loaded = Model.load(next(Path(path).rglob("params.npz")).parent)
            return tuple(Layer(*layer) for layer in loaded.params)

    return Original(
        run_id,
        saved.from_record(config, f"config.yaml of run {run_id}"),
        then,
        found.data.tags["params_sha256"],
        params,
        "mlflow.parentRunId" in found.data.tags,
    )


def _artifact(client: "MlflowClient", run_id: str, name: str) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run_id, f"{name}.yaml", folder)
        except (MlflowException, OSError):
            raise RunError(
                f"rerun={run_id}: the run has no {name}.yaml to be repeated from."
            ) from None
        values = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def rerun(original: Original, console: Console | None = None, command: str = "") -> None:
    """Makes the run again, as a new one. Raises `RunError` where a bit is another."""
    console = console or Console()
    result = run.run(original.config, console, command, tags={"rerun_of": Path(original.name).name})
    if describe.params_sha256(result.fitted.params) == original.params_sha256:
        console.line(f"identical: every bit of the parameters is as in {original.name}")
        return
    now = machine.environment(jax.devices()[0], result.problem.dataset.digest)
    changes = machine.differences(original.environment, now)
    why = f"\nWhat else is different: {', '.join(changes)}." if changes else ""
    if original.is_of_sweep:
        why += (
            "\nIt was trained side by side with others, which agrees to about 1e-5; a sweep with "
            "population.exact=true gives each bit of the runs alone."
        )
    how_much = "by how much is not known, they were not kept"
    if (params := original.params(result.problem)) is not None:
        how_much = f"by at most {_distance(result.fitted.params, params):.1e}, relative to each "
        how_much += "array's largest"
    raise RunError(f"the parameters differ from those of {original.name}: {how_much}.{why}")


def _distance(a: Params, b: Params) -> float:
    def relative(left: Any, right: Any) -> float:
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        return float(np.max(np.abs(left - right)) / max(np.max(np.abs(right)), 1e-300))

    return max(jax.tree.leaves(jax.tree.map(relative, a, b)))
