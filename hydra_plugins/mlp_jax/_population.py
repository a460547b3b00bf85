"""What the population launcher does: directories, one sweep, and what is left of each job."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, env_override, setup_globals
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.mlp_jax._directories import Directories
from mlp_jax.errors import UserError, reached, redacted
from mlp_jax.sweep.jobs import Composer, Job

if TYPE_CHECKING:
    from hydra_plugins.mlp_jax.launcher import PopulationLauncher
    from mlp_jax.sweep.sweep import Outcome


class PopulationReturn(JobReturn):
    """A job's return, whose configs are made when they are looked at."""

    def __init__(self, composer: Composer, job: Job) -> None:
        self._composer, self._job = composer, job
        self.overrides = list(job.overrides)
        self.working_dir = str(Path.cwd())
        self.task_name = JobRuntime.instance().get("name")
        self.status = JobStatus.UNKNOWN

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        return copy.deepcopy(self._composer.composed(self._job).task)

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        composed = self._composer.composed(self._job).composed
        return copy.deepcopy(OmegaConf.masked_copy(composed, "hydra"))

    def end(self, outcome: "Outcome") -> None:
        failed = outcome.error is not None
        self.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        self.return_value = outcome.error if failed else outcome.loss


def launch(
    launcher: "PopulationLauncher", job_overrides: Sequence[Sequence[str]], first_index: int
) -> list[JobReturn]:
    """Checks all jobs, then makes their directories and trains them.

    Each job's log is written and its return is filled in as soon as its group is done.
    """
    reached("composing")
    setup_globals()
    assert launcher.config is not None
    hydra, composer = launcher.config.hydra, launcher.composer
    if hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true: jobs that are trained together share the working directory; "
            "add hydra/launcher=basic."
        )
    jobs = [composer.job(first_index + i, texts) for i, texts in enumerate(job_overrides)]
    subdir = hydra.output_subdir or launcher.output_subdir
    directories = Directories(composer, hydra.sweep.dir, subdir)
    folders = {job.index: directories.make(job) for job in jobs}
    returns = {job.index: PopulationReturn(composer, job) for job in jobs}

    def on_done(outcome: "Outcome") -> None:
        index = outcome.job.index
        file = folders[index] / f"{hydra.job.name}.log"
        file.write_text(redacted(outcome.log), encoding="utf-8")
        returns[index].end(outcome)

    env: dict[str, str] = dict(hydra.job.env_set)
    with launcher.sweep(jobs) as sweep, env_override(env):
        sweep.train(jobs, on_done)
    return list(returns.values())
