"""Runs go to a PostgreSQL server as they go to a file; one that refuses is told at the start."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlp_jax.commands import sync
from mlp_jax.errors import UserError
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking import search, store
from mlp_jax.tracking.facts import RunRecord

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
INITDB = shutil.which("initdb", path=os.pathsep.join([*map(str, BINARIES), os.environ["PATH"]]))
pytestmark = pytest.mark.skipif(INITDB is None, reason="no PostgreSQL server is installed")
QUICK = ["+exp=xor", "num_epochs=20", "early_stopping.patience=null", "tracking.figures=false"]


class Server:
    """One on a port of its own, with a user and a database; root may not start it itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"postgresql+psycopg://mlp:pa55word@127.0.0.1:{self.port}/postgres"
        (folder / "password").write_text("pa55word")
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        self.call("initdb", "-U", "mlp", "-A", "scram-sha-256", f"--pwfile={folder}/password",
                  "--no-sync")  # fmt: skip

    def call(self, program: str, *arguments: str) -> None:
        as_other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [str(Path(INITDB or "").with_name(program)), "-D", f"{self.folder}/data"]
        subprocess.run([*as_other, *command, *arguments], check=True, cwd=self.folder,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self.call("pg_ctl", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-w", "-m", "fast", "stop")


@pytest.fixture(scope="module")
def server():
    with tempfile.TemporaryDirectory() as folder:  # which its own user can enter
        server = Server(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(command, *arguments, uri):
    return subprocess.run(
        [sys.executable, "-m", f"mlp_jax.{command}", *arguments],
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("pa55word", "pa55w0rd", "password authentication failed"),
        ("/postgres", "/nowhere", 'database "nowhere" does not exist'),
        ("127.0.0.1", "nowhere.invalid", "host"),
    ],
    ids=["password", "database", "host"],
)
def test_what_stays_wrong_is_refused_before_anything_is_trained(server, right, wrong, said):
    done = call("train", *QUICK, uri=server.uri.replace(right, wrong))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and len(done.stderr.splitlines()) <= 2
    assert "pa55w" not in done.stderr
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_missing_driver_names_what_to_install(monkeypatch, driver):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(UserError, match=r"pip install 'mlp_jax\[postgresql\]'"):
        store.check(f"postgresql+{driver}://mlp:pa55word@127.0.0.1/postgres")


def test_a_run_a_sweep_and_their_report(server):
    done = call("train", *QUICK, uri=server.uri)
    assert done.returncode == 0, done.stderr
    done = call("train", "-m", *QUICK, "seed=1,2", "sweep.best=1", uri=server.uri)
    assert done.returncode == 0, done.stderr
    done = call("report", "xor", "--format", "csv", uri=server.uri)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr
    runs = search.runs(server.uri, "xor")
    assert list(runs["status"]) == ["FINISHED"] * 4
    assert runs["metrics.train/loss"].notna().sum() == 3 and runs["model"].notna().sum() == 2


def test_a_server_that_is_away_gets_its_runs_later(server, monkeypatch, capsys):
    server.stop()
    try:
        run = tracking.begin(server.uri, "later", RunRecord("a run"), Path("runs/a"), warn=print)
        with run:
            run.log({"m": 0.5}, 1)
        run.wait()
    finally:
        server.start()
    assert "mlp_jax.sync" in capsys.readouterr().out and not run.is_delivered
    assert not sync.sync([Path("runs/a")])  # the password is not on the disk
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert sync.sync([Path("runs/a")])
    (row,) = search.runs(server.uri, "later").to_dict("records")
    assert (row["status"], row["metrics.m"]) == ("FINISHED", 0.5)
    assert "pa55word" not in capsys.readouterr().out
