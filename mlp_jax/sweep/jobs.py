"""The jobs of a sweep: how they differ."""

from collections.abc import Sequence

from mlp_jax.config.compose import Job


def differences(jobs: Sequence[Job]) -> list[str]:
    """The keys whose overrides are not the same in all jobs."""
    given = [assignments(job) for job in jobs]
    keys = dict.fromkeys(key for values in given for key in values)
    return [key for key in keys if len({values.get(key) for values in given}) > 1]


def assignments(job: Job) -> dict[str, str]:
    """The overrides of a job as `{"seed": "3", …}`."""
    pairs = (override.partition("=") for override in job.overrides)
    return {key.lstrip("+~"): value for key, _, value in pairs}


ALONE = {"sweep.ensemble": 0, "sweep.seeds": 1}
"""The values, without which a training alone is refused, of keys that ask for a sweep."""


def own_overrides(job: Job, seed: int | None = None) -> list[str]:
    """The overrides of a job that are about its own training, or that of one of its seeds.

    What a file of `exp/` asks of a sweep is taken back.
    """
    values, given = vars(job.config.sweep), assignments(job)
    of_file = [
        f"{key}={alone}"
        for key, alone in ALONE.items()
        if key not in given and values[key.removeprefix("sweep.")] != alone
    ]
    others = ("sweep.", "population.", "budget=", *([] if seed is None else ["seed="]))
    own = [text for text in job.overrides if not text.lstrip("+~").startswith(others)]
    own += of_file
    return own if seed is None else [*own, f"seed={seed}"]
