"""A sweep's jobs are trained together, recorded as they would be alone, and never lost."""

import csv
import errno
import io
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from rich.console import Console as RichConsole
from sklearn.metrics import log_loss, root_mean_squared_error

from mlp_jax.commands import sync
from mlp_jax.config.compose import compose
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import Experiment, with_values
from mlp_jax.core.history import History, Progress
from mlp_jax.errors import NoResultError, RunError, UserError
from mlp_jax.experiment import describe
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.describe import Result
from mlp_jax.sweep import groups, sweep
from mlp_jax.sweep import runs as family
from mlp_jax.sweep.jobs import Job, own_overrides
from mlp_jax.sweep.runs import Runs
from mlp_jax.sweep.sweep import Outcome, Sweep
from mlp_jax.tracking import bulk, recovery, store
from mlp_jax.tracking.store import UnreachableError

SHORT = ["+exp=xor", "num_epochs=40", "log_every=10", "sweep.best=0", "checkpoint.root=runs"]


class Printed:
    """A console that remembers."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.console = Console(RichConsole(file=self.file, width=200, soft_wrap=True))

    @property
    def text(self) -> str:
        return self.file.getvalue()


def make_jobs(*all_overrides: Sequence[str], common: Sequence[str] = SHORT) -> list[Job]:
    return [
        Job(index, (*common, *given), compose([*common, *given]))
        for index, given in enumerate(all_overrides)
    ]


def run(jobs: Sequence[Job], printed: Printed | None = None, **options: Any) -> list[Outcome]:
    console = (printed or Printed()).console
    with Sweep("the command", console=console, **options) as opened:
        return opened.train(jobs)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty directory with a store, where the module's tests run."""
    folder, before = tmp_path_factory.mktemp("sweep"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


class Trainer:
    """`groups.train`, which trains no network twice."""

    def __init__(self) -> None:
        self.train, self.members = groups.train, {}
        self.num_asked: list[int] = []

    def __call__(self, configs: Sequence[Experiment], **options: Any) -> list[Result]:
        self.num_asked.append(len(configs))
        if any(config_hash(config) not in self.members for config in configs):
            trained = self.train(configs, **options)
            self.members |= zip(map(config_hash, configs), trained, strict=True)
        return [with_config(self.members[config_hash(config)], config) for config in configs]


def with_config(result: Result, config: Experiment) -> Result:
    model = result.problem.config.model
    pair = {"model.output": model.output, "model.loss": model.loss}
    return result._replace(problem=replace(result.problem, config=with_values(config, pair)))


@pytest.fixture(scope="module", autouse=True)
def trainer(place: Path) -> Iterator[Trainer]:
    trainer = Trainer()
    rates = [
        ["seed=1", "optimizer.learning_rate=3"],
        ["optimizer.learning_rate=1e38", "model.l2=1"],
    ]
    rates += [[f"seed={seed}"] for seed in range(4)]
    adam = [["seed=2", "optimizer.learning_rate=0.01"], ["seed=0"], ["seed=1"]]
    trainer([job.config for job in make_jobs(*rates)])
    trainer([job.config for job in make_jobs(*(["optimizer=adam", *given] for given in adam))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "train", trainer)
        yield trainer


@pytest.fixture(scope="module")
def client(place: Path) -> MlflowClient:
    return store.open_store(None)


def runs_of(client: MlflowClient, name: str) -> list[Run]:
    found = client.get_experiment_by_name(name)
    return client.search_runs([found.experiment_id]) if found else []


def children(client: MlflowClient, name: str) -> list[Run]:
    return [run for run in runs_of(client, name) if "mlflow.parentRunId" in run.data.tags]


def parents(client: MlflowClient, name: str) -> list[Run]:
    return [run for run in runs_of(client, name) if "sweep" in run.data.tags]


def artifacts(client: MlflowClient, run: Run) -> set[str]:
    return {file.path for file in client.list_artifacts(run.info.run_id)}


# --- what is recorded --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture(place: Path) -> tuple[list[Job], list[Outcome], str]:
    """Two groups, one network of which diverges, and one group that cannot be trained."""
    jobs = make_jobs(
        ["name=mixture", "seed=0"],
        ["name=mixture", "seed=1", "optimizer.learning_rate=3"],
        ["name=mixture", "optimizer=adam", "seed=2", "optimizer.learning_rate=0.01"],
        ["name=mixture", "optimizer.learning_rate=1e38", "model.l2=1"],
        ["name=mixture", "seed=3"],
        ["name=mixture", "batch_size=5"],
    )  # fmt: skip
    printed = Printed()
    return jobs, run(jobs, printed), printed.text


def test_every_job_has_an_outcome(mixture: tuple[list[Job], list[Outcome], str]) -> None:
    jobs, outcomes, _ = mixture
    by_index = {outcome.job.index: outcome for outcome in outcomes}
    assert sorted(by_index) == list(range(len(jobs)))
    assert [by_index[i].error is None for i in range(6)] == [True, True, True, False, True, False]
    assert isinstance(by_index[3].error, NoResultError)
    assert isinstance(by_index[5].error, UserError)
    for index in (0, 1, 2, 4):
        assert by_index[index].objective == "train/log_loss"
        assert 0 < by_index[index].value == by_index[index].loss < 2
        assert by_index[index].run_id is not None
        assert "gradient  proved" in by_index[index].log
    assert "batch_size=5: there are 4 training examples" in by_index[5].log


def test_a_group_that_fails_is_reported_and_the_best_is_named(
    mixture: tuple[list[Job], list[Outcome], str],
) -> None:
    _, outcomes, text = mixture
    best = min((o for o in outcomes if o.error is None), key=lambda outcome: outcome.value)
    assert "1 of the jobs failed, such as" in text
    assert "batch_size=5: there are 4 training examples" in text
    assert f"best  {' '.join(own_overrides(best.job))}\n" in text
    assert "2 of 6 jobs failed or diverged" in text
    assert "gradients proved" in text


def test_the_runs_of_a_sweep(
    client: MlflowClient, mixture: tuple[list[Job], list[Outcome], str]
) -> None:
    _, outcomes, text = mixture
    [parent] = parents(client, "mixture")
    found = {run.info.run_id: run for run in children(client, "mixture")}
    by_index = {outcome.job.index: found.get(outcome.run_id or "") for outcome in outcomes}
    assert set(found) == {outcome.run_id for outcome in outcomes if outcome.run_id}
    assert len(found) == 5
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    lost = by_index[3]
    assert lost is not None
    assert lost.info.status == "FAILED"
    assert 0 < int(lost.data.tags["diverged_at"]) <= 40
    assert "diverged" in lost.data.tags["error"]
    assert all(run.info.status == "FINISHED" for run in found.values() if run is not lost)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_id in text
    assert {"train/loss/mean", "train/loss/best", "train/loss/p90"} <= set(parent.data.metrics)
    assert {"sweep.png", "runs.csv"} <= artifacts(client, parent)


MOONS = ["+exp=moons", "num_epochs=6", "data.num_examples=60", "early_stopping.patience=9",
         "early_stopping.monitor=accuracy", "tracking.model=false", "sweep.best=0",
         "tracking.figures=false", "checkpoint.root=runs"]  # fmt: skip


def test_a_child_has_all_that_its_run_alone_has(client: MlflowClient, place: Path) -> None:
    """Both rank by the validation part's accuracy, the highest first."""
    _, outcome = run(make_jobs(["seed=5"], ["seed=3"], common=[*MOONS, "name=moons"]))
    assert outcome.objective == "validation/accuracy"
    assert outcome.loss == -outcome.value < 0
    child = client.get_run(str(outcome.run_id))
    alone = [*MOONS, "name=alone", "seed=3"]
    experiment.run(compose(alone), Printed().console, command=" ".join(own_overrides(outcome.job)))
    [single] = runs_of(client, "alone")

    assert {**child.data.params, "name": "alone"} == single.data.params
    own = {"mlflow.parentRunId": child.data.tags["mlflow.parentRunId"]}
    bits = {name: child.data.tags[name] for name in ("params_sha256", "gradcheck")}
    of_process = {name for name in single.data.tags if name.startswith("run.")}
    shared = {name: single.data.tags[name] for name in single.data.tags.keys() - of_process}
    assert child.data.tags == {**shared, **own, **bits}
    assert set(child.data.metrics) == set(single.data.metrics)
    for name in single.data.metrics:
        history, expected = (
            [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
            for run_id in (child.info.run_id, single.info.run_id)
        )
        assert [step for step, _ in history] == [step for step, _ in expected]
        if not name.startswith("steps_per_second"):
            values = [value for _, value in expected]
            assert [value for _, value in history] == pytest.approx(values, rel=1e-5)
    assert artifacts(client, child) == artifacts(client, single)
    assert child.inputs.dataset_inputs[0].dataset == single.inputs.dataset_inputs[0].dataset
    assert child.info.run_name == single.info.run_name
    assert outcome.value == child.data.metrics["best_validation_accuracy"]


def test_the_best_have_figures_and_a_model(client: MlflowClient, place: Path) -> None:
    jobs = make_jobs(
        ["seed=0"], ["seed=1"], ["seed=2"], common=[*SHORT, "name=best", "sweep.best=2"]
    )
    outcomes = sorted(run(jobs), key=lambda outcome: outcome.value)
    kept = [client.get_run(str(outcome.run_id)) for outcome in outcomes]
    assert ["loss_curves.png" in artifacts(client, run) for run in kept] == [True, True, False]
    assert [bool(run.outputs and run.outputs.model_outputs) for run in kept] == [True, True, False]


def test_jobs_of_two_experiments_have_two_parents(client: MlflowClient, place: Path) -> None:
    printed = Printed()
    run(make_jobs(["name=one"], ["name=two"], ["name=two", "seed=1"]), printed)
    assert [len(children(client, name)) for name in ("one", "two")] == [1, 2]
    assert [len(parents(client, name)) for name in ("one", "two")] == [1, 1]
    assert printed.text.count("best first") == 2


def test_an_untracked_sweep_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes = run(make_jobs(["seed=0"], ["seed=1"], common=[*SHORT, "tracking=none"]))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert not list(tmp_path.iterdir())


def test_batches_are_one_sweep(client: MlflowClient, place: Path) -> None:
    first, second = make_jobs(["seed=0"], ["seed=1"], common=[*SHORT, "name=batches"])
    with Sweep(console=Printed().console) as opened:
        opened.train([first])
        opened.train([second])
    assert len(parents(client, "batches")) == 1
    assert len(children(client, "batches")) == 2


def test_successive_halving(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    def halve(configs: Sequence[Experiment], halvings: int, **options: Any) -> list[Result]:
        assert halvings == 2
        plain = [with_values(config, {"sweep.halvings": 0}) for config in configs]
        first, *others = trainer(plain, **options)
        return [first._replace(halved_at=10), *others]

    monkeypatch.setattr(groups, "train", halve)
    common = [*SHORT, "name=halving", "sweep.halvings=2"]
    printed = Printed()
    first, second = run(make_jobs(["seed=0"], ["seed=1"], common=common), printed)
    assert (first.is_halved, second.is_halved) == (True, False)
    assert f"best  {' '.join(own_overrides(second.job))}\n" in printed.text
    assert "ended by successive halving at step 10" in first.log
    assert client.get_run(str(first.run_id)).data.tags["halved_at"] == "10"
    [parent] = parents(client, "halving")
    table = Path(client.download_artifacts(parent.info.run_id, "runs.csv")).read_text()
    rows = csv.DictReader(table.splitlines())
    assert [row["status"] for row in rows] == ["FINISHED", "HALVED"]
    tags = client.get_experiment(parent.info.experiment_id).tags
    view = tags[f"mlflow.sharedViewState.{parent.info.run_id}"]
    assert "tags.`halved_at` IS NULL" in view
    assert "those trained to the end, best first" in parent.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("data", "swept", "objective"),
    [
        ("moons", "model.label_smoothing=0.3,0", "validation/log_loss"),
        ("moons", "model.class_weights=[9,9],null", "validation/log_loss"),
        ("moons", "model.loss=squared_error,half_squared_error", "validation/log_loss"),
        ("diabetes", "model.loss=squared_error,half_squared_error", "validation/rmse"),
    ],
)
def test_runs_are_ranked_by_a_metric_that_no_key_scales(
    place: Path, data: str, swept: str, objective: str
) -> None:
    """It is scikit-learn's, of the probabilities or numbers that the network predicts."""
    key, _, values = swept.partition("=")
    first, _, second = values.rpartition(",")
    common = [f"data={data}", "num_epochs=5", "tracking=none", "batch_size=null"]
    if data == "moons":
        common += ["data.num_examples=60", "model.output=sigmoid"]
    jobs = make_jobs([f"{key}={first}"], [f"{key}={second}"], common=common)
    for outcome in run(jobs):
        assert outcome.objective == objective, outcome.log
        [result] = groups.train([outcome.job.config])
        dataset = result.problem.dataset
        y_hat = describe.outputs(result, dataset.validation.x)
        if data == "moons":
            expected = log_loss(dataset.validation.y, y_hat[:, 0])
        else:
            decode = dataset.preprocessing.decode_targets
            expected = root_mean_squared_error(decode(dataset.validation.y), decode(y_hat))
        assert outcome.value == pytest.approx(expected, rel=1e-5)


def test_the_best_so_far_is_that_of_all_groups(trainer: Trainer, place: Path) -> None:
    """The second group is worse than the first one from its beginning to its end."""
    printed = Printed()
    trainer.members.clear()
    given = [["optimizer=adam", "optimizer.learning_rate=0.3"], ["optimizer.learning_rate=1e-5"]]
    first, _ = run(make_jobs(*given, common=[*SHORT, "tracking=none"]), printed)
    said = re.findall(r"best so far (\S+)", printed.text)
    assert float(said[-1]) <= float(f"{first.value:.4g}")
    assert "1/2 networks done" in printed.text


def test_the_best_so_far_is_what_the_networks_are_now() -> None:
    said: list[str] = []
    meter = sweep._Meter(lambda share, done, doing, steps: said.append(doing), 3, 0)
    for best in 0.5, 0.7:
        meter.update(Progress(0.5, 0, 2, 10, best, False))
    meter.end_group(2)
    meter.update(Progress(0.5, 0, 1, 10, 0.9, False))
    assert said == ["best so far 0.5", "best so far 0.7", "best so far 0.7"]


def test_each_run_has_its_share_of_the_time(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    """By its steps, of what the networks of a group took together."""
    now = iter([0, 9_000])
    monkeypatch.setattr(sweep, "_now", lambda: 1_700_000_000_000 + next(now))

    def shorter(configs: Sequence[Experiment], **options: Any) -> list[Result]:
        first, second = trainer(configs, **options)
        points = list(first.fitted.history)
        half = History.of(points[: len(points) // 2])
        return [first._replace(fitted=first.fitted._replace(history=half)), second]

    monkeypatch.setattr(groups, "train", shorter)
    outcomes = run(make_jobs(["seed=0"], ["seed=1"], common=[*SHORT, "name=shares"]))
    infos = [client.get_run(str(outcome.run_id)).info for outcome in outcomes]
    shares = [info.end_time - info.start_time for info in infos]
    assert sum(shares) == pytest.approx(9_000, abs=2)
    assert shares[0] == pytest.approx(shares[1] / 2, rel=0.05)


def test_a_wrong_gradient_is_no_result(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> None:
    def wrong(configs: Sequence[Experiment], **options: Any) -> list[Result]:
        first, *others = trainer(configs, **options)
        layers = [layer._replace(autodiff_error=1.0) for layer in first.gradient.layers]
        gradient = first.gradient._replace(layers=tuple(layers))
        return [first._replace(gradient=gradient), *others]

    monkeypatch.setattr(groups, "train", wrong)
    printed = Printed()
    jobs = make_jobs(["seed=0"], ["seed=1"], common=[*SHORT, "tracking=none"])
    first, second = run(jobs, printed)
    assert "the gradient is wrong in layer" in str(first.error)
    assert second.error is None
    assert "WRONG in 1 of them" in printed.text


# --- resuming ----------------------------------------------------------------------------------

RESUME = [*SHORT, "sweep.resume=true"]


def test_a_sweep_that_is_resumed_trains_the_rest(client: MlflowClient, trainer: Trainer) -> None:
    given = [[f"seed={seed}"] for seed in range(3)]
    before = run(make_jobs(*given[:2], common=[*SHORT, "name=resumed"]))
    trainer.num_asked.clear()
    printed = Printed()
    after = run(make_jobs(*given, common=[*RESUME, "name=resumed"]), printed)
    assert trainer.num_asked == [1]
    assert "2 of 3 jobs have FINISHED before" in printed.text
    assert [outcome.run_id for outcome in after[:2]] == [outcome.run_id for outcome in before]
    assert [outcome.value for outcome in after[:2]] == [outcome.value for outcome in before]
    assert len(children(client, "resumed")) == 3
    run(make_jobs(*given, common=[*RESUME, "name=resumed"]))
    assert trainer.num_asked == [1]
    assert len(parents(client, "resumed")) == 2


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later each time it is looked at."""
    clock = itertools.count(1.0)
    monkeypatch.setattr(Console, "seconds", lambda console: next(clock))


@pytest.mark.usefixtures("ticks")
def test_after_its_time_no_group_begins_and_the_rest_is_trained_when_resumed(
    client: MlflowClient, trainer: Trainer
) -> None:
    given = [["seed=0"], ["seed=1"], ["optimizer=adam"]]
    common, printed = [*SHORT, "name=in time"], Printed()
    trainer.num_asked.clear()
    # It looks at the clock before the first training, and before each group.
    outcomes = run(make_jobs(*given, common=[*common, "budget=2s"]), printed)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert trainer.num_asked == [2]
    assert "budget=2s: the time was up; 1 of 3 jobs were not begun." in printed.text
    assert "best  " in printed.text and "budget" not in printed.text.split("best  ")[1][:80]
    resumed = [*common, "sweep.resume=true", "budget=9min"]
    assert len(run(make_jobs(*given, common=resumed), printed)) == 3
    assert trainer.num_asked == [2, 1]


@pytest.mark.usefixtures("ticks")
def test_a_time_that_is_up_before_the_first_training(client: MlflowClient) -> None:
    with pytest.raises(UserError, match=r"^budget=0\.5s: the time was up before the first"):
        run(make_jobs(["seed=0"], common=[*SHORT, "name=no time", "budget=0.5s"]))
    assert not runs_of(client, "no time")


def test_ctrl_c_leaves_a_sweep_that_can_be_resumed(client: MlflowClient, trainer: Trainer) -> None:
    jobs = make_jobs(["seed=0"], ["optimizer=adam"], common=[*SHORT, "name=stopped"])

    def stop(configs: Sequence[Experiment], **options: Any) -> list[Result]:
        if configs[0].optimizer.name == "adam":
            raise KeyboardInterrupt
        return trainer(configs, **options)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(KeyboardInterrupt, match=r"Continue with: the command sweep\.resume=true$"),
    ):
        patch.setattr(groups, "train", stop)
        run(jobs)
    [parent] = parents(client, "stopped")
    assert parent.info.status == "KILLED"
    check_resumed(client, "stopped", ["seed=0"], ["optimizer=adam"])


KILLED_WHILE_WRITING = """
import os, signal
from mlp_jax.tracking import bulk
from mlp_jax.config.compose import compose
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.sweep import Sweep

rows, calls = bulk._rows, []
def die(*args):
    calls.append(args)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows(*args)
bulk._rows = die
given = {given}
with Sweep("the command") as sweep:
    sweep.train([Job(i, tuple(each), compose(each)) for i, each in enumerate(given)])
"""


@pytest.mark.faults
def test_a_sweep_killed_in_the_middle_of_a_write_can_be_resumed(
    client: MlflowClient, place: Path
) -> None:
    own = [["seed=0"], ["seed=1"], ["optimizer=adam"], ["optimizer=adam", "seed=1"]]
    given = [[*SHORT, "name=killed", *each] for each in own]
    program = KILLED_WHILE_WRITING.format(given=given)
    ended = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len(children(client, "killed")) == 2
    check_resumed(client, "killed", *own)


def check_resumed(client: MlflowClient, name: str, *given: Sequence[str]) -> None:
    """Neither doubles nor holes, and one parent."""
    jobs = make_jobs(*given, common=[*RESUME, f"name={name}"])
    run(jobs)
    [parent] = parents(client, name)
    assert parent.info.status == "FINISHED"
    found = children(client, name)
    assert sorted(run.data.tags["config_hash"] for run in found) == sorted(
        config_hash(job.config) for job in jobs
    )
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {parent.info.run_id}
    assert all(run.info.status == "FINISHED" for run in found)


def test_what_was_left_unfinished_is_removed(client: MlflowClient, place: Path) -> None:
    """As where a process died while it wrote to a tracking server, run by run."""
    run(make_jobs(["seed=0"], common=[*SHORT, "name=torn"]))
    [parent], [child] = parents(client, "torn"), children(client, "torn")
    client.update_run(parent.info.run_id, status="KILLED")
    tags = {"mlflow.parentRunId": parent.info.run_id, "config_hash": "torn"}
    client.create_run(child.info.experiment_id, tags=tags)
    check_resumed(client, "torn", ["seed=0"], ["seed=1"])
    assert children(client, "torn")[-1].info.run_id == child.info.run_id


def test_a_sweep_that_is_alive_keeps_its_children(client: MlflowClient, place: Path) -> None:
    run(make_jobs(["seed=0"], common=[*SHORT, "name=alive"]))
    [parent], [child] = parents(client, "alive"), children(client, "alive")
    client.update_run(parent.info.run_id, status="RUNNING")  # of this very process
    run(make_jobs(["seed=0"], ["seed=1"], common=[*RESUME, "name=alive"]))
    assert client.get_run(parent.info.run_id).info.lifecycle_stage == "active"
    tags = client.get_run(child.info.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(children(client, "alive")) == 2


@pytest.mark.parametrize("rate", ["1e38", "30"])  # before the first log point, and after it
def test_a_sweep_of_which_nothing_is_left(client: MlflowClient, place: Path, rate: str) -> None:
    printed, lost = Printed(), [f"optimizer.learning_rate={rate}", "model.l2=1"]
    [outcome] = run(make_jobs(lost, common=[*SHORT, f"name=lost {rate}"]), printed)
    assert isinstance(outcome.error, NoResultError)
    assert "1 of 1 jobs failed or diverged" in printed.text
    [child], [parent] = children(client, f"lost {rate}"), parents(client, f"lost {rate}")
    assert bool(child.data.metrics) == (rate == "30")
    assert (child.info.status, parent.info.status) == ("FAILED", "FINISHED")


def test_a_disk_that_is_full_ends_the_sweep(
    client: MlflowClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(bulk, "_write_text", fail)
    with pytest.raises(RunError, match=r"could not be recorded: .*no space left"):
        run(make_jobs(["seed=0"], common=[*SHORT, "name=full"]))
    assert not children(client, "full")
    assert parents(client, "full")[0].info.status == "FAILED"


def lose_store(patch: pytest.MonkeyPatch) -> None:
    """It fails as the first runs are written."""

    def fail(*args: Any) -> None:
        raise MlflowException("the server is gone")

    patch.setattr(bulk, "_insert", fail)


def lose_store_midway(patch: pytest.MonkeyPatch) -> None:
    """It takes the first run, which is written through the client, and half of the second one."""
    log_artifact, calls = MlflowClient.log_artifact, []

    def fail(*args: Any) -> None:
        calls.append(args)
        if len(calls) > 3:  # of two files for each run
            raise MlflowException("the server is gone")
        log_artifact(*args)

    patch.setattr(store, "_KNOWN_SCHEMA", "another")
    patch.setattr(MlflowClient, "log_artifact", fail)


def never_answers(patch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise UnreachableError("connection refused")

    patch.setattr(store, "open_store", fail)


@pytest.mark.parametrize("lose", [lose_store, lose_store_midway, never_answers])
def test_a_store_that_fails_loses_no_run(
    lose: Callable[[pytest.MonkeyPatch], None], client: MlflowClient, trainer: Trainer
) -> None:
    name, printed = f"lost by {lose.__name__}", Printed()
    given = [["seed=0"], ["seed=1"], ["seed=2"], ["optimizer=adam"]]
    with pytest.MonkeyPatch.context() as patch:
        lose(patch)
        outcomes = run(make_jobs(*given, common=[*SHORT, f"name={name}"]), printed)
    assert all(outcome.error is None for outcome in outcomes)
    assert "python -m mlp_jax.sync" in printed.text
    assert sync.sync(recovery.run_directories(Path("runs")))
    assert not any(map(recovery.is_left, recovery.run_directories(Path("runs"))))
    found = children(client, name)
    assert len(found) == 4
    assert {run.info.status for run in found} == {"FINISHED"}
    for run_ in found:
        assert [p.step for p in client.get_metric_history(run_.info.run_id, "train/loss")] == [
            10, 20, 30, 40
        ]  # fmt: skip
        assert artifacts(client, run_) == {"config.yaml", "environment.yaml"}
        assert run_.inputs.dataset_inputs
    assert parents(client, name)[0].info.status == "FAILED"
    trainer.num_asked.clear()
    check_resumed(client, name, *given)
    assert trainer.num_asked == []


def test_a_sweep_killed_before_its_best_had_a_model_makes_it_when_resumed(
    client: MlflowClient, trainer: Trainer
) -> None:
    given = [["seed=0"], ["seed=1"], ["optimizer=adam"]]
    common = ["name=without", "sweep.best=2", "tracking.figures=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runs, "_attach", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(make_jobs(*given, common=[*SHORT, *common]))
    assert not any(has_model(run) for run in children(client, "without"))
    run(make_jobs(*given, common=[*RESUME, *common]))
    by_loss = sorted(children(client, "without"), key=lambda run: run.data.metrics["train/loss"])
    assert [has_model(run) for run in by_loss] == [True, True, False]
    trainer.num_asked.clear()
    run(make_jobs(*given, ["seed=5"], common=[*RESUME, *common]))
    assert trainer.num_asked == [1]


def test_a_sweep_is_trained_again_where_its_file_has_changed(
    client: MlflowClient, trainer: Trainer
) -> None:
    given = ["data=table", "data.path=own.csv", "data.target=y", "name=own", "batch_size=null"]
    common = [text for text in RESUME if text != "+exp=xor"]
    for rows, num_asked in (("0,1,1,0", [1]), ("0,1,1,0", []), ("0,0,1,1", [1])):
        ys = rows.split(",") * 10
        lines = [f"{x / 7},{y}" for x, y in enumerate(ys)]
        Path("own.csv").write_text("\n".join(["x,y", *lines]))
        trainer.members.clear()
        trainer.num_asked.clear()
        run(make_jobs(given, common=common))
        assert trainer.num_asked == num_asked


def test_what_is_not_tracked_cannot_be_resumed() -> None:
    with pytest.raises(UserError, match="tracking=none"):
        run(make_jobs(["tracking=none"], common=RESUME))


def has_model(run: Run) -> bool:
    return bool(run.outputs and run.outputs.model_outputs)


def test_the_command_that_resumes_asks_for_it_once() -> None:
    again = family.resume_command("train -m sweep.resume=true seed=1,2")
    assert again == "train -m seed=1,2 sweep.resume=true" == family.resume_command(again)


def test_the_command_of_a_job_alone_takes_back_what_a_file_asks_of_a_sweep():
    overrides = ("+exp=xor", "seed=3", "sweep.resume=true")
    asked = with_values(compose(list(overrides)), {"sweep.ensemble": 5, "sweep.seeds": 4})
    alone = ["+exp=xor", "seed=3", "sweep.ensemble=0", "sweep.seeds=1"]
    assert own_overrides(Job(0, overrides, asked)) == alone
    given = Job(0, (*overrides, "sweep.seeds=4"), asked)
    assert own_overrides(given, seed=6) == ["+exp=xor", "sweep.ensemble=0", "seed=6"]
