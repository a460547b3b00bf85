import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlp_jax.config.compose import compose
from mlp_jax.data import load
from mlp_jax.errors import UserError, redacted
from mlp_jax.experiment.describe import data_facts
from mlp_jax.tracking import facts, links, live, store
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord
from tests.faults.tracking_faults import eight_processes, many_processes_row

# What MLflow 3.17 does itself.
XOR = compose(["data=xor"]).data


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a store #1")  # a URI must quote this
    return store.open_store(f"sqlite:///{folder}/mlflow.db")


def start(client, **kwargs):
    return tracking.begin(client, "test", RunRecord("a run", **kwargs))


# --- the store ---------------------------------------------------------------------------------


def test_default_store_is_mlflow_db_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.store_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.store_uri("sqlite:///runs/a.db") == f"sqlite:///{tmp_path}/runs/a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert store.store_uri(None) == "http://host:5000"


@pytest.mark.parametrize(
    "uri", ["postgresql+psycopg://u@h/db", "mysql://h/db", "http://h:1", "https://h"]
)
def test_servers_and_databases_keep_their_uri(uri):
    assert store.store_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    ["mlruns", "file:///runs", "ftp://h", "sqlite://", "sqlite:///:memory:", "x/sqlite:///y"],
)
def test_what_is_no_store_is_refused(uri):
    with pytest.raises(UserError, match=r"tracking\.uri=.*Use sqlite:///"):
        store.store_uri(uri)


@pytest.mark.parametrize(
    "uri",
    ["http://", "http://me:secret@host:99999", "https://[::1", "http://host:port", "postgresql://",
     "postgresql+psycopg://me:secret@host", "mysql://host/"],
)  # fmt: skip
def test_a_malformed_address_is_refused_before_anything_is_asked(uri):
    with pytest.raises(UserError, match=r"^tracking\.uri=.*no such address") as raised:
        store.check(uri)
    assert "secret" not in str(raised.value)


def test_a_place_that_is_no_file_is_refused():
    with pytest.raises(UserError, match=r"/dev/null: is not a file"):
        store.check("sqlite:////dev/null")


@pytest.mark.parametrize(
    ("words", "is_refused"),
    [
        ('FATAL:  password authentication failed for user "me"', True),
        ('FATAL:  database "nope" does not exist', True),
        ("(1045, \"Access denied for user 'me'@'host'\")", True),
        ("connection refused", False),
        ("FATAL:  the database system is starting up", False),
    ],
)
def test_a_database_that_refuses_is_told_and_one_that_is_away_is_waited_for(
    monkeypatch, words, is_refused
):
    import sqlalchemy
    from sqlalchemy.exc import OperationalError

    def connect(uri, connect_args):
        raise OperationalError(None, None, Exception(words))

    monkeypatch.setattr(sqlalchemy, "create_engine", connect)
    uri = "postgresql+psycopg://me:secret@host/db"
    with pytest.raises(UserError) as raised:
        store.open_store(uri)
    assert isinstance(raised.value, store.UnreachableError) is not is_refused
    assert "secret" not in str(raised.value)
    if is_refused:
        with pytest.raises(UserError):
            store.check(uri)
    else:
        assert store.check(uri) == uri


@pytest.mark.parametrize("name", ["what?", "a%20b", "%41"])
def test_a_directory_whose_name_mlflow_would_read_otherwise(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"^tracking\.uri=.*Name another place"):
        store.check(None)
    assert links.ui_command("sqlite:////elsewhere.db").endswith(" sqlite:////elsewhere.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://***@host/db"),
        *((f"postgresql://me:se{c}cret@host/db", "postgresql://***@host/db") for c in "(@:'? &="),
        (
            "http://h:80 me@host, http://h:80/x me@host",
            "http://h:80 me@host, http://h:80/x me@host",
        ),
        ("mysql+pymysql://host/db?password=secret", "mysql+pymysql://host/db?***"),
        ("went to https://secret@host and failed", "went to https://***@host and failed"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("no URI, me@host?", "no URI, me@host?"),
    ],
)
def test_redacted(text, expected):
    assert redacted(text) == expected


def test_file_that_is_no_database(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"not a database, only " * 100)
    with pytest.raises(UserError, match=r"tracking.uri=.*mlflow.db: file is not a database"):
        store.open_store(f"sqlite:///{file}")


def test_damaged_database(client, tmp_path):
    content = Path(client.tracking_uri.removeprefix("sqlite:///")).read_bytes()
    file = tmp_path / "mlflow.db"
    file.write_bytes(content[:5000] + b"\xff" * 20_000)
    with pytest.raises(UserError, match=r"tracking.uri=.*mlflow.db: database disk image"):
        store.open_store(f"sqlite:///{file}")


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", f"sqlite:///{tmp_path}"):
        with pytest.raises(UserError, match=r"tracking.uri=.*\nName another place"):
            store.open_store(uri)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission to write"):
        store.open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_path_that_sqlite_does_not_open_is_refused(tmp_path):
    file = tmp_path.joinpath(*["x" * 100] * 5, "mlflow.db")
    with pytest.raises(UserError, match="SQLite opens no path of over 504 bytes"):
        store.check(f"sqlite:///{file}")


@pytest.mark.parametrize(
    "uri", ["http://me:secret@127.0.0.1:1", "mssql://me:secret@127.0.0.1:1/db?password=secret"]
)
def test_unreachable_store_says_so_and_keeps_the_secret(uri):
    with pytest.raises(UserError, match=r"tracking.uri=.*cannot be used\.\n.+") as raised:
        store.open_store(uri)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2


def test_a_cause_is_told_in_short_and_only_the_secret_hidden():
    with pytest.raises(store.UnreachableError) as raised:
        store.open_store("http://e:secret@127.0.0.1:1")
    assert str(raised.value) == (
        "tracking.uri=http://***@127.0.0.1:1: the store cannot be used.\n"
        "Failed to establish a new connection: [Errno 111] Connection refused"
    )


def test_users_own_mlflow_settings_win(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
    store.open_store(client.tracking_uri)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.faults
def test_eight_processes_at_once_on_no_database(tmp_path):
    assert not eight_processes(tmp_path, runs_each=1)


def test_eight_threads_at_once_create_a_store_once(tmp_path, monkeypatch):
    """Although a process that was killed had begun it."""
    file, created, create = tmp_path / "mlflow.db", [], store._create_tables

    def count(*args):
        created.append(args)
        create(*args)

    monkeypatch.setattr(store, "_create_tables", count)
    file.with_name(".mlflow.db.unfinished").write_bytes(b"cut off")
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(store.open_store, [f"sqlite:///{file}"] * 8))
    assert len(created) == 1
    assert [len(client.search_experiments()) for client in clients] == [1] * 8
    assert {path.name for path in tmp_path.iterdir()} <= {file.name, f"{file.name}.lock"}


@pytest.mark.faults
def test_eight_processes_at_once_twenty_times(tmp_path):
    assert not many_processes_row(tmp_path, rounds=20).problems


def test_ready_store_is_opened_while_another_process_holds_the_lock(client, monkeypatch):
    def no_lock(*args, **kwargs):
        raise AssertionError("took the lock")

    monkeypatch.setattr(store, "FileLock", no_lock)
    store.open_store(client.tracking_uri)


# --- a run -------------------------------------------------------------------------------------


def test_run_is_read_back_complete(client):
    params = {"seed": 3, "model": {"hidden_sizes": [8, 4], "loss": None, "name": "mlp"}}
    many = {f"key{i}": i for i in range(250)}
    with start(client, params=params | {"many": many}, note="**hello**", tags={"a": "b"}) as run:
        run.add("notes/a.txt", "text")
        run.add("config.yaml", "x: [1, 2]")
    read = client.get_run(run.run_id)
    assert read.info.status == "FINISHED"
    assert read.info.run_name == run.name == "a run"
    assert read.data.params == {
        "seed": "3",
        "model.hidden_sizes": "[8, 4]",
        "model.loss": "null",
        "model.name": "mlp",
        **{f"many.key{i}": str(i) for i in range(250)},
    }
    tags = read.data.tags
    assert tags["mlflow.note.content"] == "**hello**"
    assert tags["a"] == "b"
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.user"] and tags["mlflow.source.name"]
    files = {file.path for file in client.list_artifacts(run.run_id)}
    assert files == {"notes", "config.yaml"}
    database = Path(client.tracking_uri.removeprefix("sqlite:///"))
    assert (database.parent / "mlartifacts" / run.run_id / "artifacts/notes/a.txt").exists()


def test_every_point_arrives_once(client):
    steps = range(700)
    with start(client) as run:
        for step in steps:
            run.log({f"train/m{k}": step + k / 4 for k in range(4)}, step)
    for k in range(4):
        history = client.get_metric_history(run.run_id, f"train/m{k}")
        assert [(p.step, p.value) for p in history] == [(step, step + k / 4) for step in steps]


def test_points_leave_in_batches(client, monkeypatch):
    monkeypatch.setattr(live, "_FLUSH_SECONDS", math.inf)
    sizes, full = [], threading.Event()
    log_batch = client.log_batch

    def counted(run_id, metrics=(), **kwargs):
        sizes.extend([len(metrics)] * bool(metrics))
        log_batch(run_id, metrics=metrics, **kwargs)
        if len(sizes) == 2:
            full.set()

    begun, update = threading.Event(), live.Mirror.update

    def noted(mirror):
        update(mirror)
        begun.set()

    monkeypatch.setattr(live.Mirror, "update", noted)
    monkeypatch.setattr(client, "log_batch", counted)
    with start(client) as run:
        assert begun.wait(60)  # what begins the run is urgent
        monkeypatch.setattr(live.Mirror, "update", update)
        for step in range(999):
            run.log({"m": 0.5}, step)
        run.log({f"m{k}": 0.5 for k in range(1500)}, 999)
        assert full.wait(60)
        run.log({"m": 0.5}, 1000)
    assert sizes[:2] == [1000, 1000] and max(sizes) == 1000 and sum(sizes) == 2500


def test_points_leave_after_a_while(client, monkeypatch):
    monkeypatch.setattr(live, "_FLUSH_SECONDS", 0.0)
    sent = threading.Event()
    log_batch = client.log_batch

    def seen(run_id, metrics=(), **kwargs):
        log_batch(run_id, metrics=metrics, **kwargs)
        if metrics:
            sent.set()

    monkeypatch.setattr(client, "log_batch", seen)
    with start(client) as run:
        run.log({"m": 0.5}, 1)
        assert sent.wait(60)


def test_a_key_has_one_point_at_a_step(client):
    with start(client) as run:
        for value in (1.0, 2.0, 1.0):
            run.log({"m": value}, 7)
    assert [p.value for p in client.get_metric_history(run.run_id, "m")] == [1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_a_tag(client, value):
    with start(client) as run:
        run.log({"train/loss": 1.0}, 1)
        run.log({"train/loss": value}, 2)
        run.log({"train/loss": value}, 3)
    assert [p.step for p in client.get_metric_history(run.run_id, "train/loss")] == [1]
    tags = client.get_run(run.run_id).data.tags
    assert tags["not_finite.train/loss"] == f"{value} at step 2"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no good"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_interrupted_run_keeps_its_points_and_its_status(client, error, status):
    with pytest.raises(type(error)), start(client) as run:
        run.log({"m": 1.0}, 7)
        raise error
    read = client.get_run(run.run_id)
    assert read.info.status == status
    assert [p.step for p in client.get_metric_history(run.run_id, "m")] == [7]
    assert read.data.tags.get("error") == ("ValueError: no good" if status == "FAILED" else None)


def test_no_secret_is_recorded(client):
    uri = "http://me:pa55word@host"
    with (
        pytest.raises(ValueError),
        start(client, params={"tracking": {"uri": uri, "all": [uri]}}, note=uri, tags={"t": uri}),
    ):
        raise ValueError(uri)
    run = client.search_runs([client.get_experiment_by_name("test").experiment_id])[0]
    assert "pa55word" not in str(run.to_dictionary())
    assert run.data.params["tracking.uri"] == "http://***@host"


def test_long_values_are_cut(client):
    with start(client, params={"long": "x" * 9000}, note="y" * 9000) as run:
        pass
    data = client.get_run(run.run_id).data
    assert data.params["long"] == "x" * 6000
    assert data.tags["mlflow.note.content"] == "y" * 5000


def test_dataset_with_its_digest(client):
    dataset = load(XOR)
    with start(client, data=data_facts(dataset)) as run:
        pass
    (read,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("xor", dataset.digest)
    assert dataset.source in read.dataset.source
    assert read.dataset.profile == '{"num_rows": 4, "train": 4}'
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "training")]


def test_deleted_experiment_is_refused(client):
    with tracking.begin(client, "gone", RunRecord("r")) as run:
        pass
    client.delete_experiment(run.experiment_id)
    with pytest.raises(UserError, match=f"mlflow experiments restore -x {run.experiment_id}"):
        tracking.begin(client, "gone", RunRecord("r"))


def test_git_commit_and_dirty_flag(tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b")

    def git(*arguments):
        command = ["git", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    git("init")
    assert facts._git_tags(tmp_path) == {}  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").stdout.strip()
    (tmp_path / "untracked").touch()
    expected = {"mlflow.source.git.commit": commit, "git.dirty": "false"}
    assert facts._git_tags(tmp_path) == expected
    (tmp_path / "a").write_text("2")
    hook = {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": f"touch {tmp_path}/ran; false"}
    for name, value in hook.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert facts._git_tags(tmp_path) == expected | {"git.dirty": "true"}
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PATH", "")
    assert facts._git_tags(tmp_path) == {}


# --- looking at it -----------------------------------------------------------------------------


def test_links(client):
    with start(client) as run:
        pass
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    assert run.url == f"http://127.0.0.1:5000/{page}"
    assert links.base_url("https://me:secret@host/mlflow/?token=abc") == "https://host/mlflow"
    assert links.base_url("postgresql://me@host/db", 5001) == "http://127.0.0.1:5001"
    assert links.experiment_url("B", "3") == "B/#/experiments/3/runs?workflowType=machine_learning"


def test_ui_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setattr(links.shutil, "which", lambda name: "/venv/bin/python")
    assert links.ui_command(store.store_uri(None)) == "python -m mlp_jax.ui"
    monkeypatch.setattr(links.shutil, "which", lambda name: "/usr/bin/python")
    assert links.ui_command("sqlite:////a b/x.db") == (
        "/venv/bin/python -m mlp_jax.ui 'sqlite:////a b/x.db'"
    )
    assert links.ui_command("http://host") is None
