"""Repeats a run from what it has recorded and compares the parameters, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml

from mlp_jax.config import saved
from mlp_jax.config.schema import Experiment, num_folds, with_values
from mlp_jax.core import training
from mlp_jax.core.fit import from_arrays, template
from mlp_jax.core.network import Layer, Params, layers_of
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints
from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.experiment import describe, machine, run
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.prediction import Model
from mlp_jax.experiment.setup import Problem
from mlp_jax.tracking import search, store


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
    if result.get("out_of_time"):
        raise UserError(
            f"rerun={directory}: its budget ended the run, at a step that cannot be repeated. "
            f"{rundir.how_to_resume(directory)}"
        )

    def params(problem: Problem) -> Params | None:
        if problem.config.ensemble.size * num_folds(problem.config) > 1:
            return None
        checkpoints = Checkpoints(directory / rundir.CHECKPOINTS, keep=1)
        last = checkpoints.restore(warn=lambda text: None)
        return last and training.kept(from_arrays(template(problem), last).state)[0]

    return Original(
        str(directory),
        saved.from_record(rundir.read(directory, rundir.CONFIG), directory),
        rundir.read(directory, rundir.ENVIRONMENT),
        result["params_sha256"],
        params,
    )


def from_store(run_id: str, uri: str | None) -> Original:
    """A run of which only the tracking store knows."""
    found = search.find(uri, run_id)
    if found is None:
        raise UserError(
            f"rerun={run_id}: no such run, neither as a directory nor in "
            f"{redacted(store.store_uri(uri))}; checkpoint.root=DIRECTORY and tracking.uri=STORE "
            "say where else to look."
        )

    def values(name: str) -> dict[str, Any]:
        text = found.text(name)
        if text is None:
            raise RunError(f"rerun={run_id}: the run has no {name} to be repeated from.")
        return dict(yaml.safe_load(text))

    config, then = values("config.yaml"), values("environment.yaml")
    if "params_sha256" not in found.tags:
        raise UserError(f"rerun={run_id}: the run has not finished; there is nothing to compare.")

    if found.tags.get(describe.OUT_OF_TIME):
        raise UserError(
            f"rerun={run_id}: its budget ended the run, at a step that cannot be repeated; resume "
            "it where it was trained."
        )

    original = saved.from_record(config, f"config.yaml of run {run_id}")
    is_of_sweep = "mlflow.parentRunId" in found.tags
    if is_of_sweep and original.sweep.seeds * num_folds(original) > 1:
        raise UserError(
            f"rerun={run_id}: a job of several networks in a sweep has no bits of its own to be "
            "compared with; the command of its sweep trains it again, from its parent run."
        )

    def params(problem: Problem) -> Params | None:
        with TemporaryDirectory() as folder:
            model = found.download_model(Path(folder))
            if model is None:
                return None
            loaded = Model.load(next(model.rglob("params.npz")).parent)
        return tuple(Layer(*layer) for layer in loaded.params)

    return Original(run_id, original, then, found.tags["params_sha256"], params, is_of_sweep)


def rerun(original: Original, console: Console | None = None, command: str = "") -> None:
    """Makes the run again, as a new one. Raises `RunError` where a bit is another."""
    console = console or Console()
    config = with_values(original.config, {"budget": None})
    result = run.run(config, console, command, tags={"rerun_of": Path(original.name).name})
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

    layers = layers_of(a), layers_of(b)  # those of a recorded model stand without its embedding
    return max(jax.tree.leaves(jax.tree.map(relative, *layers)))
