"""A run that was interrupted and continued ends with the bits of one that was not."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from mlflow import MlflowClient

from mlp_jax import data
from mlp_jax.commands import sync, train
from mlp_jax.config.compose import compose
from mlp_jax.core import fit as fitting
from mlp_jax.core.fit import compile_programs, fit, template
from mlp_jax.core.history import LogPoint
from mlp_jax.durable import rundir
from mlp_jax.durable.checkpoint import Checkpoints
from mlp_jax.errors import RunError, UserError
from mlp_jax.experiment import machine
from mlp_jax.experiment import rerun as repeat
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment import setup as problem
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.run import from_arrays, to_arrays
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.runs import find_finished
from mlp_jax.tracking import search, store
from mlp_jax.tracking.record import BusyError, Record

SMALL = ["data=iris", "model.hidden_sizes=[4]", "num_epochs=null", "batch_size=16"]
FULL_BATCH = ["data=iris", "model.hidden_sizes=[4]", "num_epochs=null"]
TRAININGS = {
    "gradient_descent": [*SMALL, "num_steps=23", "log_every=5"],
    "momentum": [*SMALL, "optimizer=momentum", "num_steps=14", "log_every=7", "dtype=float64"],
    "adagrad": [*SMALL, "optimizer=adagrad", "num_steps=12", "log_every=1"],
    "rmsprop": [*SMALL, "optimizer=rmsprop", "num_steps=12", "log_every=12"],
    "adam": [*SMALL, "optimizer=adam", "schedule=cosine", "num_steps=26", "log_every=6"],
    "adamw": [*SMALL, "optimizer=adamw", "schedule=warmup_cosine", "num_steps=12", "log_every=4",
              "optimizer.clip_norm=1"],
    "lion": [*SMALL, "optimizer=lion", "schedule=piecewise", "num_steps=12", "log_every=4"],
    "lbfgs": [*FULL_BATCH, "optimizer=lbfgs", "num_steps=8", "log_every=3"],
    "early stopping": [*SMALL, "optimizer=adam", "optimizer.learning_rate=0.3", "num_steps=400",
                       "log_every=5", "early_stopping.patience=3", "data.validation_size=30"],
}  # fmt: skip


class StopError(Exception):
    """A stand-in for whatever ends a process."""


def assert_same_bits(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def last_pause(prepared, programs):
    """The training without interruption, as its last pause, and what was fitted."""
    pauses = []
    fitted = fit(prepared, programs, on_pause=lambda pause: pauses.append(pause._replace(
        carry=programs.copy(pause.carry), history=list(pause.history))))  # fmt: skip
    return pauses[-1], fitted


@pytest.mark.parametrize("name", TRAININGS)
def test_interrupted_at_every_step_it_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    config = compose([*TRAININGS[name], "tracking=none"])
    with problem.numeric_settings(config):
        prepared = problem.prepare(config, data.load(config.data))
        programs = compile_programs(prepared)
        wanted, wanted_fitted = last_pause(prepared, programs)
        monkeypatch.setattr(fitting, "CALL_SECONDS", 0.0)  # one step a call
        checkpoints = Checkpoints(tmp_path, keep=2)

        def stop(pause):
            checkpoints.save(pause.step, to_arrays(pause.carry), pause.history)
            raise StopError

        carry, history, steps = None, [], []
        while not steps or steps[-1] < wanted.step:
            with pytest.raises(StopError):
                fit(prepared, programs, carry, history, on_pause=stop)
            restored = checkpoints.restore(pytest.fail)
            carry = from_arrays(template(prepared), restored)
            history = [LogPoint(*point) for point in restored.history]
            steps.append(int(carry.state.step))
        assert steps == list(range(1, wanted.step + 1))
        assert_same_bits(carry, wanted.carry)
        assert history == wanted.history
        fitted = fit(prepared, programs, carry, history, on_pause=stop)
        assert (fitted.step, fitted.history) == (wanted_fitted.step, wanted_fitted.history)
        assert_same_bits(fitted.params, wanted_fitted.params)


# --- whole runs --------------------------------------------------------------------------------

CIRCLES = ["+exp=circles", "num_epochs=20", "log_every=25", "tracking.model=false",
           "tracking.figures=false"]  # fmt: skip
QUIET = [*CIRCLES, "tracking=none"]
COMPILED = {}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.open_store(f"sqlite:///{file}")
    return file


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch, empty_store):
    shutil.copy(empty_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """A training is compiled, and its gradient proved, in the first test that has it."""
    for name in ("compile_programs", "check"):
        original = getattr(experiment, name)

        def remembered(prepared, *rest, original=original, name=name):
            key = name, repr((prepared.config.data, prepared.config.optimizer))
            if key not in COMPILED:
                COMPILED[key] = original(prepared, *rest)
            return COMPILED[key]

        monkeypatch.setattr(experiment, name, remembered)


def run(*overrides):
    return experiment.run(compose(list(overrides)))


def directories():
    return sorted(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def interrupted(monkeypatch):
    """Runs until the log point of a step, where the process gets a signal; returns the message."""

    def run_until(step, *overrides, number=signal.SIGTERM):
        def show(self, *lengths):
            return nullcontext(lambda at, metrics: at != step or os.kill(os.getpid(), number))

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
            patch.setattr(Console, "progress", show)
            run(*overrides)
        return str(stopped.value)

    return run_until


def points_of(run_id):
    """Every point that MLflow holds of a run, by key, but for what the clock measured."""
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    names = set(client.get_run(run_id).data.metrics) - {"steps_per_second"}
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in names
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_as_killed_and_resume_ends_it_as_if_it_had_not(
    number, interrupted, monkeypatch, capsys
):
    message = interrupted(100, *CIRCLES, number=number)
    directory = directories()[0]
    assert message == f"stopped. Continue with: python -m mlp_jax.train resume={directory}"
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run_id = rundir.read(directory, "run.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    assert [step for step, _ in points_of(run_id)["train/loss"]] == [25, 50, 75, 100]

    with monkeypatch.context() as patch:
        place = str(directory.absolute())
        patch.chdir("/")  # a directory says all that is needed
        train.resume(place, [])
    assert "resumed at step 100 of 180" in capsys.readouterr().out
    resumed = client.get_run(run_id)
    assert resumed.info.status == "FINISHED"
    run(*CIRCLES)
    whole = client.get_run(rundir.read(directories()[1], "run.json")["run_id"])
    assert points_of(run_id) == points_of(whole.info.run_id)
    for name in ("params_sha256", "sizes"):
        assert resumed.data.tags[name] == whole.data.tags[name]
    assert Path("runs").exists() and not Path("/runs").exists()


def test_the_store_knows_a_run_that_was_prolonged():
    run(*CIRCLES, "num_epochs=3")
    run_id = rundir.read(directories()[0], "run.json")["run_id"]
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    before = client.get_run(run_id).data.tags
    train.resume(directories()[0].name, ["num_epochs=4"])
    after = client.get_run(run_id).data.tags
    assert "prolonged" not in before and after["prolonged"] == "num_epochs=4"
    assert before["config_hash"] != after["config_hash"]


def test_a_run_that_is_prolonged_is_the_longer_one(capsys):
    run(*QUIET, "num_epochs=11")  # 99 steps: the last log point is off the grid
    (directory,) = directories()
    train.resume(directory.name, ["num_epochs=20"])
    longer = run(*QUIET)
    assert rundir.read(directory, "result.json") == rundir.read(directories()[1], "result.json")
    assert rundir.read(directory, "config.json")["num_epochs"] == 20
    history = Checkpoints(directory / "checkpoints", 1).restore(pytest.fail).history
    assert [tuple(point) for point in longer.fitted.history] == [p for p in history if p[0] != 99]
    capsys.readouterr()
    train.resume(directory.name, [])
    assert capsys.readouterr().out == f"the run has finished, at step 180: {directory.absolute()}\n"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["num_epochs=10"], "num_epochs=10: the run has 20, which may only be raised."),
        (["num_epochs=null"], "num_epochs=None: the run has 20, which may only be raised."),
        (["num_steps=1000"], "num_steps=1000: the run has None, which may only be raised."),
        (["num_epochs=-3"], "num_epochs=-3: must be a whole number from 1"),
        (["num_epochs=a"], "num_epochs=a: must be a whole number from 1"),
        (
            ["seed=4", "model.l2=1"],
            r"seed=4 \(the run has 0\), model.l2=1.0 \(the run has 0.0\): a",
        ),
        (["+exp=xor"], r"\+exp=xor: not a key of the run's config"),
        (["optimizer=adam"], "optimizer=adam: not a key"),
        (["optimizer.nope=1"], "optimizer.nope=1: not a key"),
        (["data._target_=os.getcwd"], "data._target_=os.getcwd: not a key"),
    ],
)
def test_only_the_length_may_change_and_only_grow(overrides, error, interrupted):
    interrupted(100, *QUIET)
    (directory,) = directories()
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with pytest.raises(UserError, match=error):
        train.resume(str(directory), overrides)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_schedule_that_depends_on_the_length_is_not_prolonged(interrupted):
    interrupted(100, *QUIET, "schedule=cosine")
    with pytest.raises(UserError, match="only a run with schedule=constant can be prolonged"):
        train.resume(directories()[0].name, ["num_epochs=30"])


def test_a_run_that_is_not_there():
    for name in ("nope", "", "..", "runs"):
        with pytest.raises(UserError, match=f"resume={name}: no directory of a run"):
            train.resume(name, [])


# --- a budget ----------------------------------------------------------------------------------


@pytest.fixture
def ticks(monkeypatch):
    """The clock is a second later after each step."""
    clock = itertools.count(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "CALL_SECONDS", 0.0)  # one step a call
        patch.setattr(Console, "seconds", lambda console: next(clock))
        yield patch


def test_a_run_whose_time_is_up_keeps_what_it_has_and_goes_on_to_the_same_bits(ticks, capsys):
    result = run(*CIRCLES, "budget=40s")
    (directory,) = directories()
    assert (result.out_of_time_at, result.fitted.step) == (41, 41)
    assert [point.step for point in result.fitted.history] == [25]
    said = f"budget=40s: the time was up at step 41 of 180. {rundir.how_to_resume(directory)}"
    assert said in capsys.readouterr().out
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run_id = rundir.read(directory, "run.json")["run_id"]
    tags = client.get_run(run_id).data.tags
    assert tags["out_of_time_at"] == "41"
    assert not len(find_finished(search.runs(client, "circles"), [Job(0, (), compose(CIRCLES))]))
    for name in (str(directory), run_id):
        with pytest.raises(UserError, match="its budget ended the run"):
            train.rerun(name, [f"checkpoint.root={'runs' if name == str(directory) else 'none'}"])

    ticks.undo()
    train.resume(directory.name, ["budget=2h"])
    assert "resumed at step 41 of 180" in capsys.readouterr().out
    run(*CIRCLES)
    a, b = (rundir.read(path, "result.json") for path in directories())
    assert a == b
    resumed = client.get_run(run_id).data.tags
    assert (resumed["out_of_time_at"], resumed["config_hash"]) == ("", tags["config_hash"])
    train.resume(directory.name, ["budget=1h"])
    assert "the run has finished, at step 180" in capsys.readouterr().out


def test_a_time_that_is_up_before_the_first_log_point(ticks, capsys):
    with pytest.raises(RunError, match=r"^budget=3s: .* step 4, before the first log point, step"):
        run(*QUIET, "budget=3s")
    train.resume(directories()[0].name, ["budget=null"])
    assert "resumed at step 4 of 180" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["config.json", "environment.json"])
@pytest.mark.parametrize("damage", ["0", "]"])
def test_a_damaged_record_is_an_error(file, damage, interrupted):
    interrupted(100, *QUIET)
    path = directories()[0] / file
    text = path.read_text()
    path.write_text(text.replace("1", damage, 1))
    with pytest.raises(RunError, match=file):
        train.resume(path.parent.name, [])


def test_a_record_of_an_earlier_version_lacks_keys_that_have_defaults(interrupted):
    interrupted(100, *QUIET, "optimizer=adam")
    run(*QUIET, "optimizer=adam")
    (directory, whole) = directories()
    record = rundir.read(directory, rundir.CONFIG)
    del record["optimizer"]["eps_inside_sqrt"], record["sweep"], record["deterministic"]
    rundir.write(directory, rundir.CONFIG, record)
    train.resume(directory.name, [])
    a, b = (rundir.read(path, "result.json") for path in (directory, whole))
    assert a == b


@pytest.mark.parametrize(("key", "value"), [("nois", 0.1), ("noise", "loud"), ("noise", -1)])
def test_a_record_of_a_later_version_or_with_a_bad_value_is_refused(interrupted, key, value):
    interrupted(100, *QUIET)
    (directory,) = directories()
    record = rundir.read(directory, rundir.CONFIG)
    record["data"][key] = value
    rundir.write(directory, rundir.CONFIG, record)
    with pytest.raises(RunError, match=rf"of this version: .*{key}"):
        train.resume(directory.name, [])


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(interrupted, capsys):
    interrupted(100, *QUIET, "checkpoint.every_epochs=4")
    (directory,) = directories()
    first, last = sorted((directory / "checkpoints").iterdir())[-2:]
    last.write_bytes(last.read_bytes()[:-1])
    train.resume(directory.name, [])
    output = capsys.readouterr().out
    assert f"damaged checkpoint {last.absolute()}: its SHA-256 is another" in output
    assert f"resumed at step {int(first.stem)} of 180" in output
    run(*QUIET)
    a, b = (rundir.read(path, "result.json") for path in directories())
    assert a == b


def test_without_a_whole_checkpoint_it_is_an_error_and_without_any_a_new_beginning(
    interrupted, capsys
):
    interrupted(100, *QUIET)
    (directory,) = directories()
    for checkpoint in directory.glob("checkpoints/*"):
        checkpoint.write_text("{}")
    with pytest.raises(RunError, match=r"every checkpoint is damaged. Remove this directory"):
        train.resume(directory.name, [])
    shutil.rmtree(directory / "checkpoints")
    train.resume(directory.name, [])
    assert "resumed at step 0 of 180" in capsys.readouterr().out
    run(*QUIET)
    a, b = (rundir.read(path, "result.json") for path in directories())
    assert a == b


def test_a_directory_that_was_moved_goes_on_where_it_is(interrupted, tmp_path):
    interrupted(100, *QUIET, "checkpoint.root=old/runs")
    (directory,) = Path("old/runs").iterdir()
    moved = directory.rename(tmp_path / "moved")
    shutil.rmtree("old")
    Path("old").touch()  # so that no directory can be made where it was
    train.resume(str(moved), [])
    assert rundir.result(moved)


def test_one_process_at_a_time_trains_a_run(interrupted):
    interrupted(100, *QUIET)
    (directory,) = directories()
    with (
        rundir.locked(directory.absolute()),
        pytest.raises(RunError, match="another process is training this run"),
    ):
        train.resume(directory.name, [])


def test_a_run_that_cannot_be_prolonged_stays_as_it_was():
    run(*CIRCLES, "num_epochs=11")
    (directory,) = directories()
    before = [(directory / name).read_bytes() for name in ("result.json", "config.json")]
    with closing(Record(directory)), pytest.raises(BusyError):
        train.resume(directory.name, ["num_epochs=20"])
    assert [(directory / name).read_bytes() for name in ("result.json", "config.json")] == before


def test_a_run_goes_on_without_its_record_where_that_is_damaged(interrupted, capsys):
    for _ in range(2):
        interrupted(100, *CIRCLES)
    damaged, other = directories()
    run_id = rundir.read(other, "run.json")["run_id"]
    (damaged / "run.json").write_text("{}")
    for name in (damaged.name, run_id):  # which is looked for in the damaged record, too
        train.resume(name, [])
    output = " ".join(capsys.readouterr().out.split())
    assert "run.json: cannot be read ('sha256'). The run goes on without being recorded." in output
    a, b = (rundir.read(path, "result.json") for path in (damaged, other))
    assert a == b


def test_a_run_whose_record_is_gone_is_named_and_recorded_anew(capsys):
    run(*CIRCLES)
    run("tracking=none", *CIRCLES[:-1], "num_epochs=1")
    directory = next(path for path in directories() if (path / "run.json").exists())
    first = rundir.read(directory, "run.json")["run_id"]
    (directory / "run.json").unlink()
    with pytest.raises(SystemExit) as ended:
        sync.main([])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "run.json: is gone" in told and "1 runs here, 1 with" in told
    command = f"python -m mlp_jax.train resume=runs/{directory.name}"
    assert command in told
    train.resume(directory.name, [])
    assert sync.sync([directory])
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    again = rundir.read(directory, "run.json")["run_id"]
    losses = [
        [(point.step, point.value) for point in client.get_metric_history(run_id, "train/loss")]
        for run_id in (first, again)
    ]
    assert first != again and losses[0] == losses[1]
    assert client.get_run(again).info.status == "FINISHED"


def test_a_run_that_the_store_refuses_leaves_nothing():
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    client.delete_experiment(store.experiment_id(client, "circles"))
    with pytest.raises(UserError, match="this MLflow experiment was deleted"):
        run(*CIRCLES)
    assert not Path("runs").exists()


def test_what_is_no_longer_as_it_was_is_said(interrupted, monkeypatch, capsys):
    interrupted(100, *QUIET)
    (directory,) = directories()
    monkeypatch.setattr(machine, "version", lambda package: "7")
    train.resume(directory.name, [])
    assert f"not bit for bit as it was begun: mlp_jax {version('mlp_jax')} → 7, jax" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("cores", ["1", "77"])
def test_cores_and_order_are_pinned_as_they_were(deterministic, cores, monkeypatch):
    monkeypatch.setattr(machine, "keep_programs", lambda: None)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("NPROC", cores)
    train._pin_if_deterministic([compose([*QUIET, f"deterministic={deterministic}"])])
    then = machine.environment(jax.devices()[0], "")
    assert (then["xla_flags"] != "") == deterministic
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("NPROC", "1")
    train._pin_as_recorded(then)
    assert machine.environment(jax.devices()[0], "") == then


@pytest.mark.parametrize(
    ("overrides", "given", "has_jax", "is_pinned"),
    [
        ([], None, False, True),
        ([], "", False, True),
        ([], "2", False, False),
        ([], None, True, False),
        (["batch_size=90"], None, False, True),
        (["model.hidden_sizes=[1024,1024]"], None, False, False),
        (["model.hidden_sizes=[256,256]"], None, False, False),
        (["model.hidden_sizes=[255,256]"], None, False, True),
        (["model.hidden_sizes=[1000]", "batch_size=90"], None, False, True),
        (["model.hidden_sizes=[3000]", "batch_size=90"], None, False, False),
        (["model.hidden_sizes=[3000]", "batch_size=null"], None, False, False),
    ],
)
def test_a_small_network_is_given_one_thread(overrides, given, has_jax, is_pinned, monkeypatch):
    pinned = []
    monkeypatch.setattr(machine, "pin_cores", pinned.append)
    monkeypatch.setattr(machine, "has_jax", lambda: has_jax)
    monkeypatch.delenv("NPROC", raising=False)
    if given is not None:
        monkeypatch.setenv("NPROC", given)
    config = compose(["data=iris", "batch_size=16", *overrides])
    train._pin_if_small(config, data.load(config.data))
    assert pinned == [1] * is_pinned


@pytest.mark.faults
def test_alone_job_by_job_or_exact_a_small_network_has_the_same_bits():
    """Of a mean over so many examples that two threads would add otherwise."""
    line = [sys.executable, "-m", "mlp_jax.train", "data=sine", "data.num_examples=60000",
            "num_epochs=20", "tracking.model=false", "tracking.figures=false"]  # fmt: skip
    for given in (["seed=3"], ["-m", "seed=3,4", "population.exact=true"],
                  ["-m", "seed=3,4", "hydra/launcher=basic"]):  # fmt: skip
        subprocess.run([*line[:3], *given, *line[3:]], check=True, capture_output=True)
    assert {rundir.read(at, rundir.ENVIRONMENT)["num_cores"] for at in directories()} == {1}
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    found = client.search_runs(["1"], "params.seed = '3' and tags.params_sha256 != ''")
    assert len(found) == 3
    assert len({run.data.tags["params_sha256"] for run in found}) == 1


@pytest.mark.parametrize("cores", ["abc", "0", "-1", "²", "1.5"])
def test_a_number_of_cores_that_is_none(cores, monkeypatch):
    monkeypatch.setenv("NPROC", cores)
    with pytest.raises(UserError, match=f"^NPROC={cores}: with deterministic=true it must be"):
        train._pin_if_deterministic([compose([*QUIET, "deterministic=true"])])


def test_data_that_has_changed_is_refused(interrupted):
    rows = [f"{i},{i * i % 7},{'ab'[i % 2]}\n" for i in range(60)]
    Path("table.csv").write_text("".join(["x,y,c\n", *rows]))
    table = ["data=table", "data.path=table.csv", "data.target=c", "num_epochs=200", "log_every=50"]
    interrupted(100, *table, "tracking=none")
    Path("table.csv").write_text("".join(["x,y,c\n", *rows[:-1], "59,5,a\n"]))
    with pytest.raises(UserError, match="the data is not what the run was begun with"):
        train.resume(directories()[0].name, [])


# --- once more ---------------------------------------------------------------------------------


def test_a_run_made_again_is_identical_and_says_so(capsys):
    run(*QUIET, "early_stopping.patience=2")
    train.rerun(directories()[0].name, [])
    assert "identical: every bit of the parameters is as in" in capsys.readouterr().out
    a, b = (rundir.read(path, "result.json") for path in directories())
    assert a == b


def test_a_run_made_again_from_the_store_alone(capsys, monkeypatch):
    run(*CIRCLES)
    run_id = rundir.read(directories()[0], "run.json")["run_id"]
    shutil.move("runs", "elsewhere")
    train.rerun(run_id, [])
    assert f"identical: every bit of the parameters is as in {run_id}" in capsys.readouterr().out
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    again = rundir.read(directories()[0], "run.json")["run_id"]
    assert client.get_run(again).data.tags["rerun_of"] == run_id
    with pytest.raises(UserError, match="rerun=nope: no such run, neither as a directory nor in"):
        train.rerun("nope", [])


def test_a_run_that_comes_out_otherwise_says_by_how_much(monkeypatch):
    run(*QUIET)
    begin = problem.initial_params
    monkeypatch.setattr(
        problem, "initial_params", lambda *a: jax.tree.map(lambda w: w * 1.001, begin(*a))
    )
    monkeypatch.setattr(machine, "num_cores", lambda: 77)
    original = repeat.from_directory(directories()[0])
    with pytest.raises(RunError, match=r"differ from those of .*: by at most .*e-\d+, rel.*\n.*77"):
        repeat.rerun(original)
    with pytest.raises(RunError, match=r"population\.exact=true"):
        repeat.rerun(original._replace(is_of_sweep=True))


def test_an_unfinished_run_has_nothing_to_compare(interrupted):
    interrupted(100, *QUIET)
    with pytest.raises(UserError, match="has not finished, so there is nothing to compare with"):
        train.rerun(directories()[0].name, [])
    with pytest.raises(UserError, match="seed: a run is repeated as it was"):
        train.rerun(directories()[0].name, ["seed=1"])
