"""What a process left behind is found, finished and said; what is alive is left alone."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mlp_jax.commands import sync
from mlp_jax.errors import UserError
from mlp_jax.tracking import recovery, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord
from mlp_jax.tracking.record import FACTS, FORM, LOCK, BusyError, Record, digest, read_facts


@pytest.fixture(scope="module")
def client(tmp_path_factory, make_store):
    return store.open_store(make_store(tmp_path_factory.mktemp("store")))


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def dead_port():
    """Nobody listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def start(client, directory, **kwargs):
    place = Path("runs") / directory
    facts = {name: kwargs.pop(name) for name in ("params", "note") if name in kwargs}
    return tracking.begin(client, "recovery", RunRecord(place.name, **facts), place, **kwargs)


def left_by_a_kill(client, directory, monkeypatch, *, elsewhere=False):
    """A run that logged a point, and whose process is gone without a trace of its end."""
    with monkeypatch.context() as patched:
        if elsewhere:
            other = {"host": "elsewhere", "process": "1/another", "directory": "/nowhere"}
            patched.setattr(tracking, "process_facts", lambda directory: other)
        run = start(client, directory)
    run.log({"m": 0.5}, 7)
    die(run)
    return run


def die(run):
    """Its thread stops and lets go of the lock, as the system does after a process."""
    with run._live._changed:
        run._live._is_abandoned = True
        run._live._changed.notify_all()
    run.wait()


def read(client, run):
    """The one run with its id, as the store has it."""
    experiment = client.get_experiment_by_name("recovery").experiment_id
    (found,) = client.search_runs([experiment], f"tags.`run.id` = '{run.id}'")
    return found


def status(client, run):
    return read(client, run).info.status


def steps(client, run):
    history = client.get_metric_history(read(client, run).info.run_id, "m")
    return Counter(point.step for point in history)


# --- repair ------------------------------------------------------------------------------------


def test_the_next_start_marks_what_was_left_running_and_says_how_to_go_on(client, monkeypatch):
    left = left_by_a_kill(client, "left", monkeypatch)
    assert status(client, left) == "RUNNING"
    said = []
    with start(client, "next", warn=said.append):
        pass
    assert status(client, left) == "KILLED"
    assert steps(client, left) == {7: 1}
    assert "left RUNNING" in read(client, left).data.tags["run.repaired"]
    [line] = said
    assert "'left'" in line and line.endswith("python -m mlp_jax.train resume=runs/left")
    assert read_facts(left.directory)["status"] == "KILLED"


def test_a_run_is_found_by_its_tags_where_its_directory_is_not_below_this_root(client, monkeypatch):
    left = left_by_a_kill(client, "left", monkeypatch)
    with start(client, "../other/a", warn=[].append):
        pass
    assert status(client, left) == "KILLED"
    assert steps(client, left) == {7: 1}


def test_a_run_is_found_by_its_tags_where_its_directory_is_gone(client, monkeypatch, tmp_path):
    left = left_by_a_kill(client, "left", monkeypatch)
    left.directory.rename(tmp_path / "moved away")
    with start(client, "next", warn=[].append):
        pass
    assert status(client, left) == "RUNNING"  # it may be alive, for all that can be seen
    client.set_tag(left.run_id, "run.heartbeat", str(time.time() - 7200))
    with start(client, "another", warn=[].append):
        pass
    assert status(client, left) == "KILLED"


def test_a_run_of_another_host_or_of_a_live_process_is_left_alone(client, monkeypatch):
    remote = left_by_a_kill(client, "remote", monkeypatch, elsewhere=True)
    with start(client, "alive") as alive, start(client, "next"):
        pass
    assert status(client, remote) == "RUNNING"
    assert status(client, alive) == "FINISHED"
    assert "run.repaired" not in client.get_run(alive.run_id).data.tags
    client.set_terminated(remote.run_id, "KILLED")


def test_a_run_that_ends_while_it_is_looked_at_keeps_its_status(client, monkeypatch):
    left = left_by_a_kill(client, "left", monkeypatch)
    (left.directory / FACTS).unlink()
    search = client.search_runs

    def search_then_end(*args, **kwargs):
        found = search(*args, **kwargs)
        client.set_terminated(left.run_id, "FINISHED")
        return found

    monkeypatch.setattr(client, "search_runs", search_then_end)
    assert list(recovery.deliver(Path("elsewhere"), client)) == []
    assert status(client, left) == "FINISHED"


def test_all_that_was_left_running_is_found_however_much_it_is(client, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 2)
    experiment = store.experiment_id(client, "many")
    host = recovery.process_facts(Path())["host"]
    tags = {"run.host": host, "run.process": "1/another", "run.directory": "/nowhere"}
    for _ in range(5):
        client.create_run(experiment, start_time=1, tags=tags)
    assert len(list(recovery.deliver(Path("elsewhere"), client))) == 5
    assert {run.info.status for run in client.search_runs([experiment])} == {"KILLED"}


def test_a_process_that_died_before_it_began_the_run_leaves_nothing(client):
    Record(Path("runs/a")).close()
    assert recovery.run_directories(Path("runs")) == []
    with start(client, "a") as run:
        pass
    assert status(client, run) == "FINISHED"


def test_a_process_that_died_before_it_delivered_its_end_has_finished(client, monkeypatch):
    left = left_by_a_kill(client, "left", monkeypatch)
    with closing(Record(left.directory)) as record:
        record.end("FINISHED", 5)
    with start(client, "../other/a"):
        pass
    assert status(client, left) == "FINISHED"
    assert not recovery.is_left(left.directory)


def test_a_damaged_record_is_told_and_stops_nothing_else(client, monkeypatch):
    left = left_by_a_kill(client, "left", monkeypatch)
    (left.directory / FACTS).write_text("{}")
    damage, killed = recovery.deliver(Path("elsewhere"), client)
    assert f"{FACTS}: cannot be read" in damage
    assert "the run 'left' was left RUNNING" in killed
    assert status(client, left) == "KILLED"


# --- delivery later ----------------------------------------------------------------------------


def undelivered(monkeypatch, client, directory):
    said = []
    with monkeypatch.context() as patch:

        def down(uri):
            raise store.UnreachableError("no answer")

        patch.setattr(store, "open_store", down)
        with start(client.tracking_uri, directory, warn=said.append) as run:
            run.log({"m": 0.5}, 7)
        run.wait()
    assert len(said) == 1 and "python -m mlp_jax.sync runs/" in said[0]
    assert not run.is_delivered and run.run_id is None and run.url is None
    assert run.where()["deliver it"] == f"python -m mlp_jax.sync runs/{directory}"
    return run


def test_the_next_start_delivers_what_the_store_did_not_take(client, monkeypatch):
    earlier = undelivered(monkeypatch, client, "earlier")
    with start(client, "next"):
        pass
    assert status(client, earlier) == "FINISHED"
    assert steps(client, earlier) == {7: 1}
    assert [path.name for path in earlier.directory.iterdir()] == [FACTS]


def test_only_the_runs_of_the_same_store_are_delivered(client, monkeypatch, tmp_path, make_store):
    earlier = undelivered(monkeypatch, client, "earlier")
    with start(make_store(tmp_path), "next"):
        pass
    assert recovery.is_left(earlier.directory)
    assert sync.sync([earlier.directory])


def test_a_child_finds_its_parent_in_the_store(client, monkeypatch):
    parent = undelivered(monkeypatch, client, "parent")
    with start(client, "child", parent=parent, warn=[].append) as child:
        child.log({"m": 1.0}, 1)
    child.wait()
    assert sync.sync(recovery.run_directories(Path("runs")))
    tags = read(client, child).data.tags
    assert tags["mlflow.parentRunId"] == read(client, parent).info.run_id


def test_sync_says_what_it_does_and_its_status_whether_something_is_left(
    client, monkeypatch, capsys, dead_port
):
    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            sync.main([*arguments])
        return exit_.value.code, capsys.readouterr().out.splitlines()

    assert run() == (0, ["0 runs here, 0 with something to deliver"])
    undelivered(monkeypatch, client, "a")
    with start(dead_port, "b", warn=[].append) as failing:
        pass
    failing.wait()
    monkeypatch.setattr(recovery, "deliver", lambda *args: iter(()))  # `c` leaves `a` to sync
    with start(client, "c") as alive:
        alive.tag("a", "b")
        status, lines = run()
        assert status == 1
        assert lines[0] == "3 runs here, 3 with something to deliver"
        assert lines[1] == "runs/a: delivered, 'a'"
        assert lines[2].startswith(f"runs/b: left: tracking.uri={dead_port}: the store cannot be")
        assert lines[3].startswith("runs/c: left: runs/c: another process is writing")
    assert run("runs/a") == (0, ["1 runs here, 0 with something to deliver"])
    assert run("nowhere")[0] == 2


def test_sync_takes_the_password_from_the_environment(monkeypatch, capsys):
    with closing(Record(Path("runs/a"))) as record:
        record.note(form=FORM, id="x", name="a", uri="http://***@127.0.0.1:1", status="FINISHED")
    assert not sync.sync([Path("runs/a")])
    assert "set $MLFLOW_TRACKING_URI" in capsys.readouterr().out
    asked = []

    def open_store(uri):
        asked.append(uri)
        raise UserError("enough")

    monkeypatch.setattr(store, "open_store", open_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pa55word@127.0.0.1:1")
    assert not sync.sync([Path("runs/a")])
    assert asked == ["http://me:pa55word@127.0.0.1:1"]
    assert "pa55word" not in capsys.readouterr().out


def test_a_run_cannot_send_files_from_elsewhere(client, monkeypatch, tmp_path, capsys):
    (tmp_path / "private").write_text("secret")
    for number, name in enumerate(["../../../../private", "link", str(tmp_path / "private")]):
        run = undelivered(monkeypatch, client, f"a{number}")
        with closing(Record(run.directory)) as record:
            record.note(files={name: digest(tmp_path / "private")})
            if name == "link":
                record.add(name, lambda path: path.write_text("secret"))
                file = record.file(name)
                file.unlink()
                file.symlink_to(tmp_path / "private")
        assert not sync.sync([run.directory])
        assert f"{name} leads elsewhere" in capsys.readouterr().out
        assert client.list_artifacts(read(client, run).info.run_id) == []
        copies = [path for path in tmp_path.rglob("private") if path.is_file()]
        assert copies == [tmp_path / "private"]


# --- resume ------------------------------------------------------------------------------------


def test_a_run_goes_on_and_no_point_is_written_twice(client):
    with pytest.raises(KeyboardInterrupt), start(client, "a") as run:
        run.log({"m": 0.5}, 1)
        run.log({"m": 0.25}, 2)
        raise KeyboardInterrupt
    assert status(client, run) == "KILLED"
    with tracking.resume(client, run.directory) as resumed:
        assert (resumed.run_id, resumed.name, resumed.id) == (run.run_id, run.name, run.id)
        for step in (1, 2, 3):
            resumed.log({"m": 0.5, "other": 1.0}, step)
    assert status(client, run) == "FINISHED"
    assert steps(client, run) == {1: 1, 2: 1, 3: 1}
    assert client.get_run(run.run_id).info.end_time is not None


def test_a_run_that_goes_on_is_running(client):
    with pytest.raises(KeyboardInterrupt), start(client, "a") as run:
        raise KeyboardInterrupt
    resumed = tracking.resume(client, run.directory)
    resumed.tag("a", "b")
    with resumed._live._changed:
        assert resumed._live._changed.wait_for(lambda: status(client, run) == "RUNNING", 30)
    with resumed:
        pass


def test_what_the_store_did_not_take_is_delivered_when_the_run_goes_on(client, monkeypatch):
    earlier = undelivered(monkeypatch, client, "a")
    with tracking.resume(client, earlier.directory) as resumed:
        resumed.log({"m": 0.5}, 7)
        resumed.log({"m": 0.5}, 8)
    assert steps(client, resumed) == {7: 1, 8: 1}


def test_a_run_whose_process_is_alive_is_not_taken_from_it(client):
    with start(client, "a") as run, pytest.raises(BusyError, match="another process"):
        tracking.resume(client, run.directory)


def test_a_directory_without_a_run_cannot_go_on(client, tmp_path):
    with pytest.raises(UserError, match="is not the directory of a run"):
        tracking.resume(client, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_directory_with_a_run_cannot_begin_another(client):
    with start(client, "a"):
        pass
    with pytest.raises(UserError, match="holds the run 'a'"):
        start(client, "a")


@pytest.mark.faults
def test_a_kill_after_anything_that_was_delivered_loses_and_doubles_nothing(tmp_path, make_store):
    command = [sys.executable, "-m", "tests.faults.kills", make_store(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert len(problems) == 8 and not any(problems.values()), problems


# --- a mistake of the user's -------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri", ["mlruns", "sqlite:////proc/nope/mlflow.db", "mssql://me:pa55word@127.0.0.1:1/db"]
)
def test_a_mistake_is_refused_before_anything_is_written(uri):
    with pytest.raises(UserError) as raised:
        start(uri, "a")
    assert not isinstance(raised.value, store.UnreachableError)
    assert "pa55word" not in str(raised.value)
    assert not list(Path.cwd().iterdir())


def test_a_deleted_experiment_is_refused_before_anything_is_written(client):
    id_ = store.experiment_id(client, "gone")
    client.delete_experiment(id_)
    for target in (client, client.tracking_uri):
        with pytest.raises(UserError, match=f"mlflow experiments restore -x {id_}"):
            tracking.begin(target, "gone", RunRecord("a run"), Path("runs/a"))
    assert not list(Path.cwd().iterdir())


def test_a_place_where_nothing_can_be_written_is_refused(client):
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=r"^runs/a: .*; a run needs a directory here\."):
        start(client, "a")


def test_a_finished_run_without_a_directory_of_its_own_leaves_nothing(client):
    with tracking.begin(client, "recovery", RunRecord("a")) as run:
        run.add("a.txt", "text")
    assert status(client, run) == "FINISHED"
    assert not list(Path.cwd().iterdir())


def test_no_secret_is_kept_in_the_directory(dead_port):
    uri = dead_port.replace("//", "//me:pa55word@")
    said = []
    with start(uri, "a", params={"uri": uri}, note=uri, warn=said.append) as run:
        run.tag("t", uri)
        run.add("config.yaml", f"tracking:\n  uri: {uri}\n")
    run.wait()
    files = [path for path in Path("runs").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {FACTS, LOCK, "config.yaml"}
    assert not [path for path in files if b"pa55word" in path.read_bytes()]
    assert "pa55word" not in "".join(said) + str(run.where())
    assert read_facts(run.directory)["uri"] == dead_port.replace("//", "//***@")
