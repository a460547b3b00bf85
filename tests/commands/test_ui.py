import json
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from signal import SIGINT
from urllib.request import urlopen

import pytest

from mlp_jax.commands import ui
from mlp_jax.errors import UserError
from mlp_jax.tracking import bulk
from mlp_jax.tracking.facts import RunRecord

# What MLflow 3.17 does itself.


def child(name, start_time):
    return RunRecord(name, {}, {}, "", {}, "FINISHED", start_time, start_time + 1)


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


def test_serves_the_last_run_or_sweep_until_ctrl_c(client, find_port):
    uri, port = client.tracking_uri, find_port()
    bulk.write(client, "test", [child("first", 1000), child("last", 2000)])
    command = [sys.executable, "-m", "mlp_jax.ui", uri, "--port", str(port)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        ExitStack() as at_the_end,
    ):
        at_the_end.callback(server.send_signal, SIGINT)  # where this test fails, too
        assert server.stdout is not None
        first, what, link = (server.stdout.readline().strip() for _ in range(3))
        assert uri in first
        assert what == "the last run, last:"
        base = f"http://127.0.0.1:{port}"
        assert re.fullmatch(f"{base}/#/experiments/1/runs/[0-9a-f]{{32}}\\?.*", link)
        with urlopen(link) as page:
            assert b"MLflow" in page.read()
        with pytest.raises(UserError, match=f"--port {port}: .*running already"):
            ui.serve(uri, port)
        (parent_id,) = bulk.write(client, "test", [child("a sweep", 3000)])
        bulk.write(client, "test", [child("one of them", 4000)], parent_id)
        assert ui._last_run(base).startswith("the last sweep, a sweep:\n")
        assert parent_id in ui._last_run(base)
        listed = ui._last_run(base).splitlines()[-1]
        assert listed.startswith(f"{base}/#/experiments/1/runs?")
        assert listed.endswith("&viewStateShareKey=best_first")
        view = json.loads(client.get_experiment("1").tags["mlflow.sharedViewState.best_first"])
        assert view["orderByKey"] == view["selectedColumns"][0] == "metrics.`train/loss`"
        bulk.write(client, "test", [child("an orphan", 5000)], "0" * 32)
        assert ui._last_run(base) == base
        server.send_signal(SIGINT)
        assert "Stopped." in server.stdout.read()
    assert server.returncode == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # the server has let go of it
