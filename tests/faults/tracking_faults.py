"""What becomes of a run's record when the tracking store fails: a row for each fault."""

import json
import resource
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlp_jax.commands import sync
from mlp_jax.data.preprocessing import Column, Preprocessing
from mlp_jax.experiment.model import save_model
from mlp_jax.experiment.prediction import Model
from mlp_jax.tracking import recovery, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord
from tests.faults.rows import Row
from tests.faults.server import FaultyServer

if TYPE_CHECKING:
    from mlflow import MlflowClient

NUM_STEPS = 60
MODEL = Model(
    params=((np.zeros((1, 3)), np.zeros(1)),),
    activation=(),
    output="identity",
    class_names=(),
    class_values=(),
    target_names=("y",),
    preprocessing=Preprocessing(
        tuple(map(Column, "abc")), np.zeros(3), np.ones(3), np.zeros(1), np.ones(1)
    ),
)
_Faults = Mapping[int, Callable[[], None]]
"""What happens to the store just before the training logs a step."""


class Recorded(NamedTuple):
    """A run that was recorded, and how long its training waited for that."""

    run: tracking.Run
    begin: float
    longest_call: float
    end: float

    @property
    def seconds(self) -> float:
        return self.begin + self.longest_call + self.end


def record(
    uri: str, experiment: str, directory: Path, faults: _Faults, warnings: list[str]
) -> Recorded:
    """Records a run as a training does; it has every kind of thing that a run can have."""
    start = time.perf_counter()
    kept = RunRecord("a run", {"seed": 3}, note="**a note**")
    run = tracking.begin(uri, experiment, kept, directory, warn=warnings.append)
    begin = time.perf_counter() - start
    longest, end = log(run, faults)
    return Recorded(run, begin, longest, end)


def log(run: tracking.Run, faults: _Faults) -> tuple[float, float]:
    """What there is to record until the end; the seconds of the longest call and of the end."""
    longest = 0.0
    with run:
        for step in range(NUM_STEPS):
            faults.get(step, lambda: None)()
            called = time.perf_counter()
            run.log({"train/loss": 1 / (step + 1), "train/accuracy": step / 64}, step)
            longest = max(longest, time.perf_counter() - called)
        run.tag("params_sha256", "abc")
        run.add("notes/found.txt", "what was found")
        _log_model(run)
        ending = time.perf_counter()
    return longest, time.perf_counter() - ending


def _log_model(run: tracking.Run) -> None:
    run.add(tracking.MODEL, lambda path: save_model(path, MODEL, np.zeros((2, 3))))


def problems(run: tracking.Run, experiment: str) -> list[str]:
    """What is missing, doubled or wrong of a run that `record` recorded, in words."""
    from mlflow import MlflowClient

    client = MlflowClient(run.uri)
    id_ = store.experiment_id(client, experiment)
    found = client.search_runs([id_], f"tags.`run.id` = '{run.id}'")
    if len(found) != 1:
        return [f"{len(found)} runs"]
    (read,) = found
    run_id = read.info.run_id
    loss = _points(client, run_id, "train/loss")
    accuracy = _points(client, run_id, "train/accuracy")
    files = [file.path for file in client.list_artifacts(run_id, "notes")]
    models = client.search_logged_models([id_], f"tags.`run.id` = '{run.id}'")
    ready = [model.model_id for model in models if model.status == "READY"]
    outputs = [output.model_id for output in read.outputs.model_outputs] if read.outputs else []
    wrong = {
        f"status {read.info.status}": read.info.status != "FINISHED",
        f"loss {loss}": loss != Counter((s, 1 / (s + 1)) for s in range(NUM_STEPS)),
        f"accuracy {accuracy}": accuracy != Counter((s, s / 64) for s in range(NUM_STEPS)),
        f"params {read.data.params}": read.data.params != {"seed": "3"},
        f"tags {read.data.tags}": (
            read.data.tags.get("params_sha256") != "abc"
            or read.data.tags["mlflow.note.content"] != "**a note**"
        ),
        f"files {files}": files != ["notes/found.txt"],
        f"models {ready}, outputs {outputs}": ready != outputs or len(outputs) != 1,
        "left behind": recovery.is_left(run.directory),
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


def _points(client: "MlflowClient", run_id: str, key: str) -> Counter[tuple[int, float]]:
    history = client.get_metric_history(run_id, key)
    return Counter((point.step, point.value) for point in history)


# --- the faults --------------------------------------------------------------------------------


def dead_port(server: FaultyServer) -> _Faults:
    server.close()
    return {}


def hangs(server: FaultyServer) -> _Faults:
    server.set_mode("hang")
    return {}


def hangs_and_answers_late(server: FaultyServer) -> _Faults:
    server.set_mode("late")
    return {}


def answers_500(server: FaultyServer) -> _Faults:
    server.set_mode("error")
    return {}


def loses_answers(server: FaultyServer) -> _Faults:
    server.set_mode("lost")
    return {}


def is_slow(server: FaultyServer) -> _Faults:
    server.set_mode("slow")
    return {}


def dies_midway(server: FaultyServer) -> _Faults:
    return {30: server.close}


def hangs_midway(server: FaultyServer) -> _Faults:
    return {30: lambda: server.set_mode("hang")}


def comes_back(server: FaultyServer) -> _Faults:
    server.close()
    return {30: server.open}


SERVER_FAULTS: dict[str, Callable[[FaultyServer], _Faults]] = {
    "dead port": dead_port,
    "hangs": hangs,
    "hangs, then does what it was asked": hangs_and_answers_late,
    "answers 500": answers_500,
    "does its work and answers 500": loses_answers,
    "is slow": is_slow,
    "dies midway": dies_midway,
    "hangs midway": hangs_midway,
    "comes back midway": comes_back,
}


class Trial(NamedTuple):
    """What came of one fault: what was wrong at last, what it cost, what the user was told."""

    problems: list[str]
    recorded: Recorded
    warnings: list[str]


def try_server(server: FaultyServer, fault: str, directory: Path) -> Trial:
    """Records a run while the server has the fault, then mends the server and delivers."""
    warnings: list[str] = []
    try:
        recorded = record(server.uri, "server", directory, SERVER_FAULTS[fault](server), warnings)
    finally:
        server.open()
    wrong = _deliver_later(recorded.run)
    return Trial(wrong + problems(recorded.run, "server"), recorded, warnings)


def _deliver_later(run: tracking.Run) -> list[str]:
    """As `python -m mlp_jax.sync` does, once the thread of the run has let go of it."""
    run.wait()
    is_told = run.is_delivered or not recovery.is_left(run.directory)
    return [] if is_told or sync.sync([run.directory]) else ["not delivered"]


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program writes to the SQLite file and does not end."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full_disk(database: Path) -> Iterator[None]:
    """No file can grow beyond the size that the database has."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (database.stat().st_size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


FILE_FAULTS = {"locked": locked, "disk full": full_disk}


def try_file(store_uri: str, fault: str, step: int | None, directory: Path) -> Trial:
    """The same with an SQLite file, which has the fault from a step on; None: from the start."""
    database = Path(store_uri.removeprefix("sqlite:///"))
    warnings: list[str] = []
    with ExitStack() as stack:

        def begin_fault() -> None:
            stack.enter_context(FILE_FAULTS[fault](database))

        if step is None:
            begin_fault()
        faults = {} if step is None else {step: begin_fault}
        recorded = record(store_uri, "file", directory, faults, warnings)
    wrong = _deliver_later(recorded.run)
    return Trial(wrong + problems(recorded.run, "file"), recorded, warnings)


# --- the table ---------------------------------------------------------------------------------


def tracking_rows(folder: Path) -> list[Row]:
    """Each fault of a server and of an SQLite file, tried once in an empty directory."""
    server = FaultyServer(folder)
    trials = {
        **{f"server {fault}": try_server(server, fault, folder / "runs" / fault)
           for fault in SERVER_FAULTS},
        **{f"SQLite {fault}, from {'the start' if step is None else f'step {step}'}":
           try_file(server.store_uri, fault, step, folder / "runs" / f"{fault}{step}")
           for fault in FILE_FAULTS for step in (None, 30)},
    }  # fmt: skip
    server.close()
    return [
        Row(
            fault,
            1,
            "training time +5 s at most; nothing missing or doubled afterwards",
            f"+{trial.recorded.seconds:.1f} s; a call of the training took at most "
            f"{trial.recorded.longest_call * 1000:.1f} ms; {len(trial.warnings)} warning",
            tuple(trial.problems) + ("took too long",) * (trial.recorded.seconds > 5.0),
        )
        for fault, trial in trials.items()
    ]


def kill_row(folder: Path) -> Row:
    """Kill -9 after each thing that was delivered, and the run resumed."""
    uri = f"sqlite:///{folder}/mlflow.db"
    store.open_store(uri)
    command = [sys.executable, "-m", "tests.faults.kills", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes = json.loads(done.stdout)
    wrong = tuple(f"after {number} entries: {what}" for number, what in outcomes.items() if what)
    return Row(
        "kill -9 between a delivery and its note, then resume",
        len(outcomes),
        "each (key, step), file, tag and model exactly once",
        f"{len(outcomes) - len(wrong)} of {len(outcomes)} exactly once",
        wrong,
    )


def many_processes_row(folder: Path, rounds: int = 20) -> Row:
    """Eight processes at once on a fresh store, then eight writers of five runs each."""
    wrong = []
    for number in range(rounds):
        place = folder / str(number)
        place.mkdir()
        wrong += [f"round {number}: {what}" for what in eight_processes(place, 1)]
        wrong += [f"round {number}: {what}" for what in eight_processes(place, 5, before=1)]
    return Row(
        "8 processes at once on a fresh store; 8 writers",
        rounds,
        "0 failures",
        f"{len(wrong)} failures",
        tuple(wrong),
    )


# Forked after the imports, so that all eight arrive at the same instant.
EIGHT_AT_ONCE = """
import multiprocessing, sys
from mlp_jax.tracking import store, run as tracking
from mlp_jax.tracking.facts import RunRecord
store.preload()

def work(barrier, number):
    barrier.wait()
    for turn in range(int(sys.argv[2])):
        with tracking.begin(sys.argv[1], "race", RunRecord(f"{number}", {"number": number})) as run:
            run.log({"train/loss": number}, step=0)
        assert run.is_delivered

context = multiprocessing.get_context("fork")
barrier = context.Barrier(8)
workers = [context.Process(target=work, args=(barrier, number)) for number in range(8)]
for worker in workers: worker.start()
for worker in workers: worker.join()
sys.exit(any(worker.exitcode for worker in workers))
"""


def eight_processes(folder: Path, runs_each: int, before: int = 0) -> list[str]:
    """What is wrong after eight processes at once recorded so many runs on the store there.

    `before` is how many each had recorded before.
    """
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-c", EIGHT_AT_ONCE, uri, str(runs_each)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    client = MlflowClient(uri)
    runs = client.search_runs([store.experiment_id(client, "race")])
    values = Counter(run.data.metrics.get("train/loss") for run in runs)
    wrong = {
        done.stderr[-1000:]: done.returncode != 0,
        f"{values}": values != Counter(list(range(8)) * (before + runs_each)),
        "status": {run.info.status for run in runs} != {"FINISHED"},
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]
