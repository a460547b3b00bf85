"""`hydra/launcher=population`: the jobs of a sweep, trained together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Optional

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

if TYPE_CHECKING:
    from mlp_jax.config.compose import Composer, Job


@dataclass
class PopulationLauncherConf:
    _target_: str = "hydra_plugins.mlp_jax.launcher.PopulationLauncher"
    output_subdir: Optional[str] = ".hydra"
    """Where in a job's directory its configs go, unless hydra.output_subdir says so."""


ConfigStore.instance().store(
    group="hydra/launcher", name="population", node=PopulationLauncherConf, provider="mlp_jax"
)


class PopulationLauncher(BasicLauncher):
    """Hands all jobs to the command at once, if it can train populations.

    A command says so by the attribute `open_sweep` of its task function, a function of the first
    jobs that returns a context with `train(jobs, on_done)`. The jobs of other commands run one by
    one, as with `hydra/launcher=basic`.
    """

    def __init__(self, output_subdir: str | None = ".hydra") -> None:
        super().__init__()
        self.output_subdir = output_subdir
        self._sweep: Any = None

    @property
    def trains_together(self) -> bool:
        return getattr(self.task_function, "open_sweep", None) is not None

    @cached_property
    def composer(self) -> "Composer":
        """Composes and checks the jobs; it remembers those that it has seen."""
        from mlp_jax.config.compose import Composer

        assert self.hydra_context is not None and self.config is not None
        return Composer.of(self.hydra_context.config_loader, self.config)

    @contextmanager
    def sweep(self, jobs: "Sequence[Job]") -> Iterator[Any]:
        """The sweep that `launch` adds to: one for each launch, or one around several of them."""
        if self._sweep is not None:
            yield self._sweep
            return
        with self.task_function.open_sweep(jobs) as self._sweep:  # type: ignore[union-attr]
            try:
                yield self._sweep
            finally:
                self._sweep = None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        if not self.trains_together:
            return super().launch(job_overrides, initial_job_idx)
        from hydra_plugins.mlp_jax._population import launch

        return launch(self, job_overrides, initial_job_idx)
