"""A run goes on where its output has nowhere to go, or no letter for what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = [sys.executable, "-m", "mlp_jax.train", "+exp=xor", "num_epochs=200", "tracking=none"]


def finished(folder: Path) -> bool:
    return len(list(folder.glob("runs/*/result.json"))) == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_the_output(stream, tmp_path):
    with Path("/dev/full").open("w") as full:
        other = {"stdout": "stderr", "stderr": "stdout"}[stream]
        ended = subprocess.run(
            TRAIN, cwd=tmp_path, env=os.environ, **{stream: full, other: subprocess.PIPE}
        )
    assert ended.returncode == 0 and finished(tmp_path)


def test_a_reader_that_goes_away(tmp_path):
    reading, writing = os.pipe()
    with subprocess.Popen(TRAIN, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        errors = process.communicate()[1]
    assert process.returncode == 0 and finished(tmp_path) and b"Traceback" not in errors


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_our_letters(encoding, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(TRAIN, cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0 and finished(tmp_path) and b"epoch 200/200" in ended.stdout


def test_a_closed_output(tmp_path):
    closed = f"import os, sys; os.close(1); os.execv(sys.executable, {TRAIN!r})"
    assert subprocess.run([sys.executable, "-c", closed], cwd=tmp_path).returncode == 0
    assert finished(tmp_path)
