"""`hydra/sweeper=grid`, `random`, `latin_hypercube` and `optuna`: the jobs of a sweep."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridConf:
    _target_: str = "hydra_plugins.mlp_jax.sweepers.GridSweeper"
    params: Optional[dict[str, str]] = field(default_factory=dict)
    """Overrides of every sweep, KEY: VALUES; the command line comes after them."""


@dataclass
class RandomConf(GridConf):
    _target_: str = "hydra_plugins.mlp_jax.sweepers.RandomSweeper"
    num_trials: int = 64
    seed: int = 0


@dataclass
class LatinHypercubeConf(RandomConf):
    _target_: str = "hydra_plugins.mlp_jax.sweepers.LatinHypercubeSweeper"


@dataclass
class OptunaConf(RandomConf):
    _target_: str = "hydra_plugins.mlp_jax.sweepers.OptunaSweeper"
    batch_size: int = 16
    """Trials that are proposed and trained together."""
    storage: Optional[str] = None
    """Of Optuna, sqlite:///FILE.db; null: in memory."""
    study_name: Optional[str] = None
    """A study of the storage by this name is continued."""


for _name, _node in {
    "grid": GridConf,
    "random": RandomConf,
    "latin_hypercube": LatinHypercubeConf,
    "optuna": OptunaConf,
}.items():
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_node, provider="mlp_jax")


class _Sweeper(Sweeper):
    """What the sweepers share: the jobs are checked, then launched, and failures counted."""

    may_diverge = True
    """Whether some of the jobs are expected to come to nothing."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = params or {}
        self.is_over: Callable[[], bool] = lambda: False
        """Whether no further batch is wanted."""
        self.config: DictConfig
        self.context: HydraContext
        self.launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.config, self.context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hydra_plugins.mlp_jax._sweeping import sweep

        given = [f"{key}={values}" for key, values in self.params.items()]
        return sweep(self, [*given, *arguments])

    @abstractmethod
    def search(self, dimensions: Sequence[Any]) -> Any:
        """Yields batches of jobs, each a list of overrides, and is sent their losses.

        A job that was not begun, since the time was up, has None.
        """


class GridSweeper(_Sweeper):
    """Every combination, as Hydra's basic sweeper has it."""

    may_diverge = False

    def search(self, dimensions: Sequence[Any]) -> Any:
        from mlp_jax.sweep import search

        yield search.grid(dimensions)


class RandomSweeper(_Sweeper):
    """Independent random points."""

    def __init__(self, num_trials: int, seed: int, params: dict[str, str] | None = None) -> None:
        super().__init__(params)
        self.num_trials, self.seed = num_trials, seed

    def search(self, dimensions: Sequence[Any]) -> Any:
        from mlp_jax.sweep import search

        yield search.random(dimensions, self.num_trials, self.seed)


class LatinHypercubeSweeper(RandomSweeper):
    """Random points, spread evenly in each dimension."""

    def search(self, dimensions: Sequence[Any]) -> Any:
        from mlp_jax.sweep import search

        yield search.latin_hypercube(dimensions, self.num_trials, self.seed)


class OptunaSweeper(RandomSweeper):
    """Optuna's proposals, a batch at a time."""

    def __init__(
        self,
        num_trials: int,
        seed: int,
        batch_size: int,
        storage: str | None = None,
        study_name: str | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(num_trials, seed, params)
        self.batch_size, self.storage, self.study_name = batch_size, storage, study_name

    def search(self, dimensions: Sequence[Any]) -> Any:
        from mlp_jax.sweep import search

        resume = search.resumes(dimensions)
        study = search.Study(dimensions, self.seed, self.storage, self.study_name, resume=resume)
        with closing(study):
            for start in range(0, self.num_trials, self.batch_size):
                losses = yield study.ask(min(self.batch_size, self.num_trials - start))
                study.tell(losses)
                if self.is_over():
                    return
