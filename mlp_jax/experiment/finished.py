"""The record of a training that is over, as that of a run alone would be."""

import uuid

import jax
import numpy as np

from mlp_jax.config import saved
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import MAX_NAME_LENGTH, Experiment
from mlp_jax.core.fit import divergence
from mlp_jax.errors import NoResultError, redacted
from mlp_jax.experiment import describe, machine
from mlp_jax.experiment.describe import Result
from mlp_jax.tracking import store
from mlp_jax.tracking.facts import RunRecord


def error_of(result: Result) -> NoResultError | None:
    """What a training that diverged ended with."""
    step = result.diverged_at
    if step is None:
        return None
    what = divergence(step, result.problem.advice)
    if result.repeats is None:
        return NoResultError(what)
    lost = [one for one in result.repeats if one.diverged_at is not None]
    seed = lost[0].problem.config.seed
    return NoResultError(f"{len(lost)} of {len(result.repeats)} seeds; seed {seed}: {what}")


def record(
    result: Result,
    config: Experiment,
    device: jax.Device,
    command: str,
    ranked_by: str,
    start_time: int,
    end_time: int,
) -> RunRecord:
    """All that `run` would have recorded; `command` trains it alone, times are in ms."""
    error = error_of(result)
    problem, history = result.problem, result.fitted.history
    metrics = {name: (history.steps, values) for name, values in history.metrics.items()}
    tags = describe.tags(problem, device, command)
    tags |= {"config_hash": config_hash(config)}
    if error is not None:
        tags |= {"error": f"DivergedError: {error}", "diverged_at": str(result.diverged_at)}
    else:
        tags |= describe.final_tags(result)
        last = history.steps[-1:]
        speed = {"steps_per_second": last[0] / result.seconds}
        final = {**describe.final_metrics(result), **speed}
        metrics |= {name: (last, np.array([value])) for name, value in final.items()}
    name = config.tracking.run_name or describe.run_name(problem)
    if result.halved_at is not None:  # MLflow has no status for it
        tags["halved_at"] = str(result.halved_at)
        name = f"halved at step {result.halved_at:,}, {name}"
    texts = {
        "config.yaml": saved.to_record(
            problem.config, problem.log_every, store.store_uri(problem.config.tracking.uri)
        ),
        "environment.yaml": machine.environment(device, problem.dataset.digest),
    }
    return RunRecord(
        name=name[:MAX_NAME_LENGTH],
        params=describe.parameters(problem),
        tags=tags,
        note=describe.note(problem, device, command, result),
        metrics=describe.in_order(metrics, ranked_by),
        status="FINISHED" if error is None else "FAILED",
        start_time=start_time,
        end_time=end_time,
        texts={file: redacted(saved.to_yaml(values)) for file, values in texts.items()},
        data=describe.data_facts(problem.dataset),
        id=uuid.uuid4().hex,
    )
