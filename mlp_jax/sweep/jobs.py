"""The jobs of a sweep: which may train together, and how they differ."""

import json
from collections.abc import Sequence

from mlp_jax.config import schema as config
from mlp_jax.config.compose import Job
from mlp_jax.config.schema import Experiment


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that differ only in traced numbers together, in the order of their first job."""
    by_structure: dict[str, list[Job]] = {}
    for job in jobs:
        by_structure.setdefault(_structure(job.config), []).append(job)
    return list(by_structure.values())


def _structure(experiment: Experiment) -> str:
    """All that the networks of one population have in common, as text.

    Whether a key that may be null is null belongs to it; so does the data where the weights of
    the classes are counted from it, and whether labels are smoothed, which not all data allow.
    """
    counts_classes = experiment.model.class_weights == "balanced"
    structure = {
        path: value
        for path, value in config.flat_values(experiment).items()
        if path not in config.RECORD_KEYS
        and (
            path not in config.TRACED_KEYS
            or value is None
            or (path == "model.label_smoothing" and value == 0)
            or (counts_classes and path.startswith("data."))
        )
    }
    return json.dumps(structure)


def differences(jobs: Sequence[Job]) -> list[str]:
    """The keys whose overrides are not the same in all jobs."""
    given = [assignments(job) for job in jobs]
    keys = dict.fromkeys(key for values in given for key in values)
    return [key for key in keys if len({values.get(key) for values in given}) > 1]


def assignments(job: Job) -> dict[str, str]:
    """The overrides of a job as `{"seed": "3", …}`."""
    pairs = (override.partition("=") for override in job.overrides)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def own_overrides(job: Job) -> list[str]:
    """The overrides of a job that are about its own training."""
    of_sweep = ("sweep.", "population.")
    return [text for text in job.overrides if not text.lstrip("+~").startswith(of_sweep)]
