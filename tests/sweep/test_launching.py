"""The population launcher gives each job what Hydra's own give it; the sweepers make the jobs."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus

from mlp_jax.config import schema as config
from mlp_jax.config.schema import CONF
from mlp_jax.errors import NoResultError, RunError, UserError
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.sweep import Outcome
from mlp_jax.tracking import store

Multirun = Callable[..., list[JobReturn]]


class Recorder:
    """A sweep that trains nothing: a job's loss is its seed, and some jobs fail."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors, self.batches, self.num_opened = errors, [], 0
        self.batches: list[list[Job]] = []
        self.earlier: set[int] = set()
        """The seeds that an earlier sweep has trained."""
        self.num_left = 10**6
        """How many jobs it trains before it is killed."""
        self.num_in_time = 10**6
        """How many jobs begin before the time is up."""
        self.num_not_begun = 0

    def __enter__(self) -> "Recorder":
        self.num_opened += 1
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def is_over(self) -> bool:
        return self.num_in_time <= 0

    def train(self, jobs: Sequence[Job], on_done: Callable[[Outcome], None]) -> None:
        self.batches.append(list(jobs))
        for job in jobs:
            self.num_in_time -= 1
            if self.num_in_time < 0:
                self.num_not_begun += 1
                continue
            error = self.errors.get(job.config.seed)
            log = f"log of {job.index}\n"
            self.num_left -= 1
            if self.num_left < 0:
                raise KeyboardInterrupt
            is_earlier = job.config.seed in self.earlier
            loss = float(job.config.seed)
            on_done(Outcome(job, "train/loss", loss, error, log, is_earlier=is_earlier))


@pytest.fixture
def errors() -> dict[int, Exception]:
    """What the jobs of some seeds fail with."""
    return {}


@pytest.fixture
def recorder(errors: dict[int, Exception]) -> Recorder:
    return Recorder(errors)


@pytest.fixture
def multirun(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Recorder,
    errors: dict[int, Exception],
) -> Multirun:
    """Hydra's own multirun, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    version.setbase("1.3")
    config.register_schema()

    def task(composed: Any) -> float:
        if composed.seed in errors:
            raise errors[composed.seed]
        return float(composed.seed)

    def run(*overrides: str) -> list[JobReturn]:
        path = create_automatic_config_search_path(None, None, str(CONF))
        task.open_sweep = lambda jobs: recorder  # type: ignore[attr-defined]
        try:
            hydra = Hydra.create_main_hydra2("the_job", path)
            given = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=out", *overrides]
            return [job for batch in hydra.multirun("config", task, given) for job in batch]
        finally:
            GlobalHydra.instance().clear()

    return run


def read(folder: Path) -> dict[str, Any]:
    return {file.name: yaml.safe_load(file.read_text()) for file in folder.iterdir()}


AWKWARD = ["name='a: b, \"c\" #é'", "seed=3,4", "optimizer.learning_rate=1e-05,0.3", "+exp=xor"]


def test_a_job_has_the_files_that_hydra_writes(multirun: Multirun, tmp_path: Path) -> None:
    ours = multirun(*AWKWARD)
    made = {job: read(tmp_path / "out" / job / ".hydra") for job in "0123"}
    theirs = multirun(*AWKWARD, "hydra/launcher=basic", "hydra.output_subdir=.hydra")
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        expected, got = read(tmp_path / "out" / str(index) / ".hydra"), made[str(index)]
        assert got["config.yaml"] == expected["config.yaml"]
        assert got["overrides.yaml"] == expected["overrides.yaml"]
        got, expected = got["hydra.yaml"]["hydra"], expected["hydra.yaml"]["hydra"]
        for name in ("launcher", "output_subdir"):
            del got[name], expected[name]
        del got["runtime"]["choices"], expected["runtime"]["choices"]
        expected["overrides"]["hydra"] = got["overrides"]["hydra"]
        assert got == expected
        assert (our.cfg, our.overrides, our.status) == (their.cfg, their.overrides, their.status)
        assert our.return_value == their.return_value
        assert our.hydra_cfg.hydra.job.num == their.hydra_cfg.hydra.job.num == index
        assert our.task_name == their.task_name == "the_job"


def test_sweeps_that_start_together_have_directories_of_their_own(
    multirun: Multirun, tmp_path: Path
) -> None:
    default = yaml.safe_load((CONF / "config.yaml").read_text())["hydra"]["sweep"]["dir"]
    for _ in range(3):
        multirun("seed=3", f"hydra.sweep.dir={default}")
    assert len(list(tmp_path.glob("multirun/*/*/0"))) == 3


def test_a_job_of_an_earlier_sweep_gets_no_second_directory(
    multirun: Multirun, recorder: Recorder, tmp_path: Path
) -> None:
    recorder.earlier = {3}
    assert [job.return_value for job in multirun("seed=3,4")] == [3.0, 4.0]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["1"]


def test_a_job_has_its_log(multirun: Multirun, tmp_path: Path) -> None:
    multirun("seed=3,4")
    assert (tmp_path / "out/1/the_job.log").read_text() == "log of 1\n"
    assert yaml.safe_load((tmp_path / "out/multirun.yaml").read_text())["seed"] == 0


def test_a_sweep_has_one_directory(multirun: Multirun, tmp_path: Path) -> None:
    multirun("seed=3,4", "hydra.sweep.dir=sweeps/${now:%H-%M-%S-%f}")
    (directory,) = (tmp_path / "sweeps").iterdir()
    assert {file.name for file in directory.iterdir()} == {"multirun.yaml", "0", "1"}


def test_a_directory_may_be_named_by_the_overrides(multirun: Multirun, tmp_path: Path) -> None:
    multirun("seed=3,4", "hydra.sweep.subdir=${hydra.job.override_dirname}/${hydra.job.num}")
    names = {str(file.parent.relative_to(tmp_path)) for file in tmp_path.rglob("*.log")}
    assert names == {"out/seed=3/0", "out/seed=4/1"}


def test_a_password_reaches_no_file(
    multirun: Multirun, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command line with one is refused; one from elsewhere is left out."""
    monkeypatch.setattr(store, "_connect", lambda uri: None)  # there is none
    multirun("seed=3,4", "tracking.uri=postgresql://me:s3cret@host/db")
    assert recorder.batches[0][0].config.tracking.uri == "postgresql://me:s3cret@host/db"
    texts = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(texts) == 1 + 2 * 4
    assert not any("s3cret" in text for text in texts)


def test_jobs_that_train_together_share_the_directory(multirun: Multirun) -> None:
    with pytest.raises(UserError, match="add hydra/launcher=basic"):
        multirun("seed=3,4", "hydra.job.chdir=true")


@pytest.mark.parametrize("launcher", ["population", "basic"])
def test_a_bad_job_is_refused_before_any_starts(
    multirun: Multirun, tmp_path: Path, recorder: Recorder, launcher: str
) -> None:
    with pytest.raises(
        UserError, match=r"^seed=-1: must be .* \(In the job seed=-1 model\.l2=0\.\)"
    ):
        multirun("seed=3,-1", "model.l2=0", f"hydra/launcher={launcher}")
    assert not recorder.batches
    assert not list(tmp_path.iterdir())


# --- launchers and sweepers together -----------------------------------------------------------


@pytest.mark.parametrize("sweeper", ["grid", "basic"])
@pytest.mark.parametrize("launcher", ["population", "basic", "joblib"])
def test_each_launcher_runs_the_jobs_of_each_sweeper(
    multirun: Multirun, recorder: Recorder, launcher: str, sweeper: str
) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    returns = multirun("seed=3,4", f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}")
    assert [job.return_value for job in returns] == [3.0, 4.0]
    assert bool(recorder.batches) == (launcher == "population")


def test_a_command_without_populations_runs_job_by_job(
    multirun: Multirun, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra_plugins.mlp_jax.launcher import PopulationLauncher

    monkeypatch.setattr(PopulationLauncher, "trains_together", False)
    assert [job.return_value for job in multirun("seed=3,4")] == [3.0, 4.0]
    assert not recorder.batches


PARAMS = """# @package _global_
hydra:
  sweeper:
    params:
      seed: 1,2
      model.l2: 0.5
"""


def test_the_params_of_a_sweeper_come_before_the_command_line(
    multirun: Multirun, tmp_path: Path
) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "own.yaml").write_text(PARAMS)
    found = f"hydra.searchpath=['file://{tmp_path}']"
    overrides = [job.overrides for job in multirun(found, "+exp=own", "model.l2=0,0.25")]
    expected = [[f"seed={s}", f"model.l2={l2}", "+exp=own"] for s in (1, 2) for l2 in (0, 0.25)]
    assert overrides == expected


# --- failures ----------------------------------------------------------------------------------

ERROR, DIVERGED = RunError("no luck"), NoResultError("training diverged")
RANDOM = ["hydra/sweeper=random", "hydra.sweeper.num_trials=9", "seed=3,4"]


@pytest.mark.parametrize("launcher", ["population", "basic"])
@pytest.mark.parametrize(
    ("arguments", "failing", "kind", "message"),
    [
        (["seed=3,4,5"], {4: ERROR}, RunError, r"^no luck \(In the job seed=4\.\)$"),
        (["seed=3,4,5"], {4: ERROR, 5: DIVERGED}, RunError, "^2 of 3 jobs failed; the first, seed"),
        (["seed=3,4"], {4: DIVERGED}, RunError, "diverged"),
        (["seed=3,4"], {3: UserError("x"), 4: UserError("x")}, UserError, "2 of 2 jobs failed"),
        (["seed=3,4"], {3: UserError("x"), 4: ERROR}, RunError, "2 of 2 jobs failed"),
        (["seed=3,4"], {3: UserError("x")}, RunError, "^x "),  # the other one was trained
        (["seed=3,4"], {4: ZeroDivisionError("a bug")}, ZeroDivisionError, "a bug"),
        (RANDOM, {4: ERROR}, RunError, "of 9 jobs failed"),
        (RANDOM, {3: DIVERGED, 4: DIVERGED}, RunError, "9 of 9 jobs failed"),
    ],
)
def test_failing_jobs_make_the_sweep_fail(
    multirun: Multirun, errors: dict[int, Exception], launcher: str,
    arguments: list[str], failing: dict[int, Exception], kind: type[Exception], message: str,
) -> None:  # fmt: skip
    errors |= failing
    with pytest.raises(kind, match=message):
        multirun(*arguments, f"hydra/launcher={launcher}")


def test_some_trials_of_a_search_may_diverge(
    multirun: Multirun, errors: dict[int, Exception]
) -> None:
    errors[4] = DIVERGED
    returns = multirun(*RANDOM)
    assert {job.status for job in returns} == {JobStatus.COMPLETED, JobStatus.FAILED}


# --- search ------------------------------------------------------------------------------------


def numbers(returns: Sequence[JobReturn], key: str) -> list[float]:
    given = [dict(text.split("=", 1) for text in job.overrides or []) for job in returns]
    return [json.loads(values[key]) for values in given]


@pytest.mark.parametrize("sweeper", ["random", "latin_hypercube", "optuna"])
def test_a_search_draws_from_ranges_and_choices(
    multirun: Multirun, recorder: Recorder, sweeper: str
) -> None:
    if sweeper == "optuna":
        pytest.importorskip("optuna")
    arguments = ["seed=interval(0,1000)", "model.l2=tag(log,interval(1e-6,1))", "batch_size=1,2,4",
                 "num_epochs=tag(log,interval(1,100))", "optimizer.learning_rate=0.5",
                 f"hydra/sweeper={sweeper}", "hydra.sweeper.num_trials=40"]  # fmt: skip
    returns = multirun(*arguments)
    assert len(returns) == 40
    assert recorder.num_opened == 1
    assert len(recorder.batches) == (3 if sweeper == "optuna" else 1)
    assert [job.index for batch in recorder.batches for job in batch] == list(range(40))
    l2, seeds = numbers(returns, "model.l2"), numbers(returns, "seed")
    epochs = numbers(returns, "num_epochs")
    assert all(1e-6 <= value <= 1 for value in l2)
    assert 5 < sum(value < 1e-3 for value in l2) < 35
    assert all(isinstance(seed, int) and 0 <= seed <= 1000 for seed in seeds)
    assert 5 < sum(value <= 10 for value in epochs) < 35
    assert set(numbers(returns, "batch_size")) == {1, 2, 4}
    assert set(numbers(returns, "optimizer.learning_rate")) == {0.5}
    assert numbers(multirun(*arguments), "model.l2") == l2
    assert numbers(multirun(*arguments, "hydra.sweeper.seed=1"), "model.l2") != l2


SEARCH = ["seed=interval(0,1000)", "model.l2=tag(log,interval(1e-6,1))", "batch_size=1,2,4",
          "hydra.sweeper.num_trials=16"]  # fmt: skip


@pytest.mark.parametrize(
    ("sweeper", "num_before"),
    [("random", 5), ("latin_hypercube", 5), ("optuna", 11), ("storage", 0), ("storage", 11),
     ("storage", 16)],
)  # fmt: skip
def test_a_search_that_was_killed_proposes_the_same_jobs(
    multirun: Multirun, recorder: Recorder, sweeper: str, num_before: int
) -> None:
    optuna, storage = pytest.importorskip("optuna"), "sqlite:///optuna.db"
    search = [*SEARCH, f"hydra/sweeper={sweeper}"]
    if sweeper in ("optuna", "storage"):
        search = [*SEARCH, "hydra/sweeper=optuna", "hydra.sweeper.batch_size=6"]
    whole = [job.overrides for job in multirun(*search)]
    if sweeper == "storage":
        search += [f"hydra.sweeper.storage={storage}", "hydra.sweeper.study_name=s"]
    recorder.num_left = num_before
    if num_before < 16:
        with pytest.raises(KeyboardInterrupt):
            multirun(*search)
    else:  # killed after its last trial
        multirun(*search)
    recorder.num_left = 16
    resumed = multirun(*search, "sweep.resume=true")
    assert [job.overrides for job in resumed] == [[*job, "sweep.resume=true"] for job in whole]
    if sweeper == "storage":
        trials = optuna.load_study(study_name="s", storage=storage).trials
        assert [trial.value for trial in trials] == [job.return_value for job in resumed]


@pytest.mark.parametrize(("num_in_time", "num_asked"), [(8, 12), (12, 12)])
def test_a_search_whose_time_is_up_asks_for_no_more_and_can_go_on(
    multirun: Multirun, recorder: Recorder, num_in_time: int, num_asked: int
) -> None:
    optuna, storage = pytest.importorskip("optuna"), "sqlite:///optuna.db"
    search = [*SEARCH, "hydra/sweeper=optuna", "hydra.sweeper.batch_size=6"]
    whole = [job.overrides for job in multirun(*search)]
    search += [f"hydra.sweeper.storage={storage}", "hydra.sweeper.study_name=s"]
    recorder.num_in_time = num_in_time
    ended = multirun(*search)
    assert [job.overrides for job in ended] == whole[:num_asked]
    assert recorder.num_not_begun == 16 - num_in_time
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert sum(trial.value is not None for trial in trials) == num_in_time
    recorder.num_in_time = 16
    resumed = multirun(*search, "sweep.resume=true")
    assert [job.overrides for job in resumed] == [[*job, "sweep.resume=true"] for job in whole]
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.value for trial in trials] == [job.return_value for job in resumed]


def test_a_latin_hypercube_covers_each_range_evenly(multirun: Multirun) -> None:
    arguments = ["hydra/sweeper=latin_hypercube", "hydra.sweeper.num_trials=20"]
    returns = multirun("model.l2=interval(0,20)", "seed=range(10)", *arguments)
    assert sorted(int(value) for value in numbers(returns, "model.l2")) == list(range(20))
    assert sorted(numbers(returns, "seed")) == sorted([*range(10)] * 2)


def test_optuna_learns_from_its_trials(multirun: Multirun) -> None:
    pytest.importorskip("optuna")
    arguments = ["hydra/sweeper=optuna", "hydra.sweeper.num_trials=60"]
    seeds = numbers(multirun("seed=interval(0,1000)", *arguments), "seed")  # the loss is the seed
    assert sum(seeds[-20:]) < sum(seeds[:20]) / 2


def test_a_study_is_continued(multirun: Multirun) -> None:
    optuna = pytest.importorskip("optuna")
    kept = ["hydra/sweeper=optuna", "hydra.sweeper.num_trials=2", "hydra.sweeper.study_name=s",
            "hydra.sweeper.storage=sqlite:///optuna.db"]  # fmt: skip
    for _ in range(2):
        multirun("model.l2=interval(0,1)", "seed=3", *kept)
    study = optuna.load_study(study_name="s", storage="sqlite:///optuna.db")
    assert [trial.value for trial in study.trials] == [3.0] * 4
    with pytest.raises(UserError, match="study_name=s: this study has other ranges or choices"):
        multirun("model.l2=0,1", *kept)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["model.l2=interval(0,1)"],
            "model.l2=interval(0,1): a grid has no values of an interval.",
        ),
        (["model.l2=tag(log,interval(1e-3,1))"], "Add hydra/sweeper=random"),
        (["seed=range(3,3)"], "seed=range(3,3): has no values"),
        (["seed=range(1000000000)"], "seed=range(1000000000): has more than 1,000,000 values"),
        (["seed=range(10000)", "data.seed=range(10000)"], "has 100,000,000 combinations"),
        (["hydra/sweeper=random", "model.l2=interval(1,0)"], "of the interval must rise"),
        (["hydra/sweeper=random", "model.l2=tag(log,interval(0,1))"], "must be > 0 on a log scale"),
        (["hydra/sweeper=random", "seed=interval(0.5,3)"], "must be whole"),
        (["hydra/sweeper=random", "seed=interval(0,inf)"], "must be finite"),
        (["hydra/sweeper=random", "model.l2=interval(-2,-1)"], "must be a number >= 0"),
        (["hydra/sweeper=random", "hydra.sweeper.num_trials=0"], "hydra.sweeper.num_trials=0"),
        (["seed=0,1", "tracking.uri=x://a"], "tracking.uri=x://a: not a store"),
        (["seed=0,1", "hydra/launcher=basic", "sweep.resume=true"], "sweep.resume=true: only"),
        (["hydra/sweeper=optuna", "hydra.sweeper.storage=x://a:b@c"], "storage=x://***@c: "),
    ],
)
def test_a_search_that_cannot_be(
    multirun: Multirun, tmp_path: Path, arguments: list[str], error: str
) -> None:
    with pytest.raises(UserError) as raised:
        multirun(*arguments)
    assert error in str(raised.value)
    assert not list(tmp_path.iterdir())


# --- the door ----------------------------------------------------------------------------------


def test_the_wheel_has_the_plugin() -> None:
    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())
    assert "hydra_plugins" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert not (CONF.parent / "hydra_plugins" / "__init__.py").exists()  # others share it
