import socket
import subprocess
import sys
from signal import SIGINT
from urllib.request import urlopen

import pytest

from mlp_jax import store, tracking, ui
from mlp_jax.errors import UserError

# What MLflow 3.17 does itself.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def store_with_a_run(folder):
    client = store.open_store(f"sqlite:///{folder}/mlflow.db")
    for name in ("first", "last"):
        with tracking.start(client, name, "r", params={}) as run:
            pass
    return client.tracking_uri, run.experiment_id


def test_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        ui.main(["--help"])
    assert exit_.value.code == 0
    assert "Ctrl-C stops it" in capsys.readouterr().out


def test_no_runs_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SystemExit) as exit_:
        ui.main([])
    assert exit_.value.code == 2
    assert "there are no runs yet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_tracking_server_has_its_own_ui():
    with pytest.raises(UserError, match=r"https://host/x is a tracking server"):
        ui.serve("https://me:secret@host/x", 5000)


def test_serves_the_last_experiment_until_ctrl_c(tmp_path):
    uri, experiment_id = store_with_a_run(tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "mlp_jax.ui", uri, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        first, link = server.stdout.readline(), server.stdout.readline().strip()
        assert uri in first
        base = f"http://127.0.0.1:{port}"
        assert link == store.experiment_url(base, experiment_id)
        with urlopen(link) as page:
            assert b"MLflow" in page.read()
        with pytest.raises(UserError, match=f"--port {port}: .*running already"):
            ui.serve(uri, port)
        server.send_signal(SIGINT)
        assert "Stopped." in server.stdout.read()
    assert server.returncode == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # the server has let go of it
