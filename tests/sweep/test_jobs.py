"""Jobs that are composed quickly are the jobs that Hydra composes, and find their groups."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import hydra
import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mlp_jax.config import checks
from mlp_jax.config import schema as config
from mlp_jax.config.compose import Composer, Job
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import CHOICES, CONF, SECTIONS, TRACED_KEYS, Experiment
from mlp_jax.errors import UserError
from mlp_jax.sweep import groups, jobs

LINKED = """# @package _global_
name: seed ${seed} of ${optimizer.learning_rate}
num_epochs: 7
data:
  seed: ${seed}
tracking:
  run_name: job ${hydra:job.num} of ${oc.env:HOME}
"""


class Sweep:
    """Hydra's composition of jobs, counted, and a composer that uses it."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.num_loaded = 0
        self.composer = Composer(self.load, master.hydra.overrides.hydra)

    def load(self, overrides: list[str]) -> DictConfig:
        self.num_loaded += 1
        return self.loader.load_sweep_config(self.master, overrides)

    def jobs(self, *all_overrides: list[str]) -> list[Job]:
        return [self.composer.job(index, given) for index, given in enumerate(all_overrides)]

    def in_full(self, index: int, overrides: list[str]) -> tuple[DictConfig, DictConfig]:
        """What Hydra's launchers compose: the whole config, and that of the task."""
        composed = self.loader.load_sweep_config(self.master, overrides)
        with open_dict(composed):
            composed.hydra.job.id, composed.hydra.job.num = str(index), index
        HydraConfig.instance().set_config(composed)
        task = copy.deepcopy(composed)
        with open_dict(task):
            del task["hydra"]
        return composed, task


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Sweep]]:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "exp").mkdir()
    (folder / "exp" / "linked.yaml").write_text(LINKED)
    config.register_schema()
    before = HydraConfig.instance().cfg
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = [f"hydra.searchpath=['file://{folder}']", "hydra.mode=MULTIRUN"]
        master = loader.load_configuration("config", given, RunMode.MULTIRUN)
        yield lambda: Sweep(loader, master)
    HydraConfig.instance().cfg = before


@pytest.mark.parametrize(
    ("mixture", "num_compositions"),
    [
        ("+exp=xor seed={seed} optimizer.learning_rate={rate}", 1),
        ("seed={seed} +exp=moons data.noise={rate} optimizer=adam optimizer.b1=0.5", 1),
        ("seed={seed} optimizer.clip_norm={rate} schedule=cosine schedule.final_factor=1", 1),
        ("seed={seed} optimizer.clip_norm=null model.hidden_sizes=[4,4] model.l2={rate}", 1),
        ("+exp=linked seed={seed} optimizer.learning_rate={rate}", 1),
        ("data.seed={seed} seed=5 data.seed=2 model.l2={rate}", 1),
        ("model.hidden_sizes=[{seed}1,4] model.l2={rate} name=x{seed} batch_size={seed}1", 1),
        ("batch_size='{seed}1' model.l1={rate}", 1),
        ("seed='{seed}' model.l1={rate} model.class_weights=[1,{rate}]", 1),
        ("model.activation=relu num_epochs=null num_steps={seed}1", 1),
        ("optimizer.name=gradient_descent name=${{seed}}{seed} seed={seed}", 2),
        ("seed=7 ++seed={seed} model.l1={rate}", 2),  # the order counts
        ("model.l2=3 model={{l2:{rate}}} seed={seed}", 2),
    ],
)
def test_a_job_is_what_hydra_composes(
    sweep: Callable[[], Sweep], mixture: str, num_compositions: int
) -> None:
    work = sweep()
    given = [mixture.format(seed=s, rate=r).split() for s, r in ((0, "0.5"), (3, "1"))]
    made = work.jobs(*given)
    assert work.num_loaded == num_compositions
    for job, overrides in zip(made, given, strict=True):
        composed, task = work.in_full(job.index, overrides)
        assert repr(job.config) == repr(checks.to_experiment(task))
        template = work.composer.composed(job)
        assert OmegaConf.to_container(template.task) == OmegaConf.to_container(task)
        assert OmegaConf.to_container(template.composed) == OmegaConf.to_container(composed)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("seed=-1", "seed=-1: must be a whole number from 0 to 4,294,967,295."),
        ("seed=1.0", "seed=1.0: must be a whole number"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0.0: must be a number > 0."),
        ("model.l2=nan", "model.l2=nan: must be a number >= 0."),
        ("model.initializer_scale=2", "standard_normal has scale 1"),
        ("data.noise=1", "data.noise: no such key."),
        ("optimizer=adm", "Did you mean adam?"),
        ("seed=[1", "not an override"),
        ("model.l2.x=1", "model.l2 has no keys"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_bad_job_is_refused_by_its_overrides(
    sweep: Callable[[], Sweep], bad: str, error: str, is_first: bool
) -> None:
    """Whether Hydra composes it or its numbers are put into another job's config."""
    work = sweep()
    key = bad.partition("=")[0]
    if not is_first and key in TRACED_KEYS and key != "data.noise":
        work.jobs(["+exp=xor", f"{key}=1"])
    with pytest.raises(UserError) as raised:
        work.composer.job(5, ["+exp=xor", bad])
    assert error in str(raised.value)
    assert "(In the job +exp=xor " in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_job_is_composed_once(sweep: Callable[[], Sweep]) -> None:
    work = sweep()
    [job] = work.jobs(["seed=3"])
    assert work.composer.job(0, ("seed=3",)) is job


# --- groups ------------------------------------------------------------------------------------


def group_sizes(made: list[Job]) -> list[list[int]]:
    return [[job.index for job in group] for group in groups.by_structure(made)]


def test_a_mixed_sweep_finds_its_groups(sweep: Callable[[], Sweep]) -> None:
    made = sweep().jobs(
        ["seed=0"],
        ["seed=1", "optimizer.learning_rate=3"],
        ["optimizer=adam"],
        ["optimizer.learning_rate=1", "model.l2=0.1", "name=other", "tracking.run_name=x"],
        ["model.hidden_sizes=[9]"],
        ["optimizer=adam", "optimizer.b1=0.5", "seed=7"],
        ["optimizer.clip_norm=1"],
        ["optimizer.clip_norm=2", "model.initializer_scale=2"],
        ["batch_size=2"],
        ["population.exact=true"],
        ["++seed=5"],
        ["sweep.halvings=2"],
        ["model.label_smoothing=0.1"],
        ["model.label_smoothing=0.2"],
    )
    assert group_sizes(made) == [[0, 1, 3, 10], [2, 5], [4], [6, 7], [8], [9], [11], [12, 13]]


def test_weights_counted_from_the_data_make_it_structure(sweep: Callable[[], Sweep]) -> None:
    common = ["data=moons", "model.output=softmax"]
    made = sweep().jobs(
        *([*common, f"data.seed={seed}", "seed=1"] for seed in (0, 1)),
        *([*common, f"data.seed={seed}", "model.class_weights=balanced"] for seed in (0, 1)),
        [*common, "model.class_weights=balanced", "seed=4"],
    )
    assert group_sizes(made) == [[0, 1], [2, 4], [3]]


def test_the_hash_names_the_training(sweep: Callable[[], Sweep]) -> None:
    work = sweep()
    same = work.jobs(
        ["+exp=xor", "seed=3"], ["seed=3", "+exp=xor", "tracking=none", "sweep.resume=true"],
        ["+exp=xor", "++seed=3", "name=other", "optimizer.learning_rate=1"],
    )  # fmt: skip
    other = work.jobs(
        ["+exp=xor", "seed=4"], ["+exp=xor", "seed=3", "sweep.halvings=2"], ["seed=3"],
        ["+exp=xor", "seed=3", "model.l2=1e-9"], ["+exp=xor", "seed=3", "optimizer=nesterov"],
    )  # fmt: skip
    hashes = [config_hash(job.config) for job in (*same, *other)]
    assert len(set(hashes[:3])) == 1
    assert len(set(hashes)) == 1 + len(other)


def test_the_keys_that_differ(sweep: Callable[[], Sweep]) -> None:
    made = sweep().jobs(["+exp=xor", "seed=3", "model.l2=0"], ["+exp=xor", "seed=4"])
    assert jobs.differences(made) == ["seed", "model.l2"]
    assert jobs.assignments(made[0]) == {"exp": "xor", "seed": "3", "model.l2": "0"}


# --- the schema --------------------------------------------------------------------------------

NOT_TRACED = {
    "data.validation_size", "data.test_size", "schedule.warmup", "checkpoint.every_minutes",
}  # fmt: skip
"""Numbers that change shapes or the program, or do not touch the training."""


def keys_of_type(kind: Any) -> set[str]:
    schemas = {"": (Experiment,), **CHOICES, **SECTIONS}
    return {
        f"{section}.{item.name}".removeprefix(".")
        for section, choices in schemas.items()
        for choice in choices
        for item in fields(choice)
        if item.type is kind or kind in getattr(item.type, "__args__", ())
    }


def test_every_decimal_is_traced_or_known_not_to_be() -> None:
    decimals = keys_of_type(float) - {"schedule.boundaries"}
    assert decimals - TRACED_KEYS == NOT_TRACED
    assert TRACED_KEYS - decimals == {"seed", "data.seed", "data.fold"}


def test_numbers_take_the_place_of_others(sweep: Callable[[], Sweep]) -> None:
    [job] = sweep().jobs(["seed=3"])
    changed = checks.with_numbers(job.config, {"model.l2": 2, "seed": 4})
    expected = replace(job.config, seed=4, model=replace(job.config.model, l2=2.0))
    assert repr(changed) == repr(expected)
    fold = checks.with_numbers(sweep().jobs(["data.folds=3"])[0].config, {"data.fold": 2}).data.fold
    assert type(fold) is int
    with pytest.raises(UserError, match=r"data\.fold=1\.5"):
        sweep().jobs(["data.folds=3", "data.fold=1.5"])
    with pytest.raises(UserError, match=r"^model\.l2=inf: must be a number >= 0\.$"):
        checks.with_numbers(job.config, {"model.l2": 10**400})
