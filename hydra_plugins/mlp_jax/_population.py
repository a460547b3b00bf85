"""What the population launcher does: directories, one sweep, and what is left of each job."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, env_override
from omegaconf import DictConfig, OmegaConf

from mlp_jax.config.compose import Composer, Job, Template
from mlp_jax.config.saved import to_yaml
from mlp_jax.config.schema import flat_values
from mlp_jax.errors import UserError, reached, redacted

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
    """Checks all jobs, then trains them.

    Each job's directory is made, and its return filled in, as soon as its group is done. Jobs that
    an earlier sweep has done with have their directories from it.
    """
    reached("composing")
    assert launcher.config is not None
    hydra, composer = launcher.config.hydra, launcher.composer
    if hydra.job.chdir:
        raise UserError(
            "hydra.job.chdir=true: jobs that are trained together share the working directory; "
            "add hydra/launcher=basic."
        )
    jobs = [composer.job(first_index + i, texts) for i, texts in enumerate(job_overrides)]
    directories = Directories(composer, hydra.output_subdir or launcher.output_subdir)
    returns = {job.index: PopulationReturn(composer, job) for job in jobs}

    def on_done(outcome: "Outcome") -> None:
        returns[outcome.job.index].end(outcome)
        if not outcome.is_earlier:
            file = directories.make(outcome.job) / f"{hydra.job.name}.log"
            file.write_text(redacted(outcome.log), encoding="utf-8")

    env: dict[str, str] = dict(hydra.job.env_set)
    with launcher.sweep(jobs) as sweep, env_override(env):
        sweep.train(jobs, on_done)
    return list(returns.values())


class Directories:
    """Makes a directory for each job with its configs in `subdir`, as Hydra's own launchers do."""

    def __init__(self, composer: Composer, subdir: str | None) -> None:
        self._composer, self._subdir = composer, subdir
        self._forms: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def make(self, job: Job) -> Path:
        """The job's directory, absolute."""
        template = self._composer.composed(job)
        hydra = template.composed.hydra
        directory = Path(str(hydra.sweep.dir), str(hydra.sweep.subdir)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        if self._subdir is not None:
            folder = directory / self._subdir
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self._files(job, template, directory).items():
                (folder / name).write_text(redacted(text), encoding="utf-8")
        return directory

    def _files(self, job: Job, template: Template, directory: Path) -> dict[str, str]:
        if id(template) not in self._forms:
            containers: Any = [
                OmegaConf.to_container(node, enum_to_str=True)
                for node in (template.task, template.composed.hydra)
            ]
            self._forms[id(template)] = tuple(containers)
        config, hydra = self._forms[id(template)]
        _, values = self._composer.template(job)
        flat = flat_values(job.config)
        for path in values:
            _set(config, path, flat[path])
        own = template.composed.hydra.job
        _set(hydra, "job.id", own.id)
        _set(hydra, "job.num", own.num)
        _set(hydra, "job.override_dirname", own.override_dirname)
        _set(hydra, "runtime.output_dir", str(directory))
        _set(hydra, "overrides.task", list(job.overrides))
        return {
            "config.yaml": _sections(config),
            "hydra.yaml": "hydra:\n" + _sections(hydra, indent="  "),
            "overrides.yaml": to_yaml(list(job.overrides)),
        }


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        values = values[group]
    values[name] = value


def _sections(values: Mapping[str, Any], indent: str = "") -> str:
    """A config in YAML. Most of its sections are those of the job before."""
    text = "".join(_section(json.dumps({name: value})) for name, value in values.items())
    return re.sub("^(?=.)", indent, text, flags=re.MULTILINE) if indent else text


@lru_cache(maxsize=1_000)
def _section(content: str) -> str:
    return to_yaml(json.loads(content))
