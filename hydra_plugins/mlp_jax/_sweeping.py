"""What the sweepers do: check every job, launch them, and say how many failed."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.mlp_jax.launcher import PopulationLauncher
from mlp_jax.config.compose import Composer, Job, fix_time
from mlp_jax.errors import NoResultError, RunError, UserError, redacted
from mlp_jax.experiment.console import waiting
from mlp_jax.sweep import search
from mlp_jax.tracking import store

if TYPE_CHECKING:
    from hydra_plugins.mlp_jax.sweepers import _Sweeper


def sweep(sweeper: "_Sweeper", overrides: list[str]) -> list[Sequence[JobReturn]]:
    """Runs all batches of a sweep; every job of a batch is checked before its first one starts."""
    for name in ("num_trials", "batch_size"):
        if (value := getattr(sweeper, name, 1)) < 1:
            raise UserError(f"hydra.sweeper.{name}={value}: must be a whole number > 0.")
    loader, launcher = sweeper.context.config_loader, sweeper.launcher
    fix_time(sweeper.config)
    parser = OverridesParser.create(loader)
    batches = sweeper.search(search.dimensions(parser.parse_overrides(overrides)))
    together = launcher if isinstance(launcher, PopulationLauncher) else None
    composer = together.composer if together else Composer.of(loader, sweeper.config)
    returns: list[Sequence[JobReturn]] = []
    opened = None
    with ExitStack() as stack:
        batch = next(batches)
        while batch is not None:
            first = sum(map(len, returns))
            with waiting(f"composing {len(batch):,} jobs"):
                jobs = [composer.job(first + i, job) for i, job in enumerate(batch)]
            if not returns:
                _check(jobs, together is not None)
                if together and together.trains_together:
                    opened = stack.enter_context(together.sweep(jobs))
                    sweeper.is_over = opened.is_over
                _save(sweeper.config)
            returns.append(launcher.launch(batch, initial_job_idx=first))
            batch = _next(batches, returns[-1])
        if opened is not None and sweeper.is_over():
            num_jobs = sum(map(len, returns))
            opened.num_not_begun += getattr(sweeper, "num_trials", num_jobs) - num_jobs
    _raise_failures([job for jobs in returns for job in jobs], sweeper.may_diverge)
    return returns


def _check(jobs: Sequence[Job], together: bool) -> None:
    """What can be said before anything is written. Raises `UserError`."""
    for uri in {job.config.tracking.uri for job in jobs if job.config.tracking.name != "none"}:
        store.check(uri)
    if not together and any(job.config.sweep.resume for job in jobs):
        raise UserError("sweep.resume=true: only hydra/launcher=population can resume a sweep.")
    for count in {job.config.sweep.seeds for job in jobs} - {1}:
        if not together:
            raise UserError(
                f"sweep.seeds={count}: only hydra/launcher=population trains several seeds of a "
                "job; leave the launcher out, or sweep over them: 'seed=range(16)'."
            )
    for most in {job.config.sweep.ensemble for job in jobs} - {0}:
        if not together:
            raise UserError(
                f"sweep.ensemble={most}: only hydra/launcher=population has the runs together to "
                "select from them; leave the launcher out."
            )


def _next(batches: Any, returns: Sequence[JobReturn]) -> Any:
    """The batch after one whose jobs came to `returns`; None after the last."""
    try:
        return batches.send([_loss(job) for job in returns])
    except StopIteration:
        return None


def _loss(job: JobReturn) -> float | None:
    """What a search minimises: infinite for a job that failed, None for one that was not begun."""
    if job.status == JobStatus.UNKNOWN:
        return None
    value = job.return_value if job.status == JobStatus.COMPLETED else math.inf
    return value if isinstance(value, float) and math.isfinite(value) else math.inf


def _save(config: DictConfig) -> None:
    """What was asked for, where Hydra's sweeper leaves it."""
    directory = Path(config.hydra.sweep.dir)
    directory.mkdir(parents=True, exist_ok=True)
    text = redacted(OmegaConf.to_yaml(config))
    (directory / "multirun.yaml").write_text(text, encoding="utf-8")


def _raise_failures(jobs: Sequence[JobReturn], may_diverge: bool) -> None:
    """One error for all jobs that failed; some in a search may diverge."""
    failed = [(job, job._return_value) for job in jobs if job.status == JobStatus.FAILED]
    if may_diverge and len(failed) < len(jobs):
        failed = [(job, error) for job, error in failed if not isinstance(error, NoResultError)]
    if not failed:
        return
    job, error = failed[0]
    where = " ".join(job.overrides or [])
    if not isinstance(error, (UserError, RunError)):  # a bug, whose traceback is wanted
        error.add_note(f"In the job {where}.")
        raise error
    is_mistake = all(isinstance(error, UserError) for _, error in failed)
    kind = UserError if is_mistake and len(failed) == len(jobs) else RunError
    if len(failed) == 1:
        raise kind(f"{error} (In the job {where}.)") from error
    raise kind(f"{len(failed)} of {len(jobs)} jobs failed; the first, {where}: {error}") from error
