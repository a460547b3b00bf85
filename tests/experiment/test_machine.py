"""Programs that are kept between processes: found again, the same bits, and no harm if damaged."""

import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from mlp_jax.experiment import machine


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A user's environment that says nothing about the cache, and whose cache is empty."""
    for name in (machine.CACHE, *machine.CACHE_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = jax.config.jax_compilation_cache_dir
    yield tmp_path / "cache" / "mlp_jax"
    jax.config.update("jax_compilation_cache_dir", directory)


def train(directory: Path, **environment: str) -> str:
    """XOR in a process of its own; the hash of its parameters."""
    line = [sys.executable, "-m", "mlp_jax.train", "+exp=xor", "num_epochs=50", "tracking=none",
            f"checkpoint.root={directory}"]  # fmt: skip
    done = subprocess.run(
        line, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
    (result,) = directory.glob("*/result.json")
    return str(json.loads(result.read_text())["params_sha256"])


def programs(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.glob("*/*-cache")}


def test_a_second_process_compiles_nothing_and_damage_changes_no_bit(alone, tmp_path):
    first = train(tmp_path / "first")
    kept = programs(alone)
    assert any("train_steps" in name for name in kept)
    assert train(tmp_path / "second") == first
    assert programs(alone) == kept

    draw = random.Random(0)
    for file in alone.glob("*/*-cache"):
        damaged = bytearray(file.read_bytes())
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
    assert train(tmp_path / "third") == first


def test_every_flipped_bit_of_a_program_is_noticed():
    """By zlib, which JAX reads it with."""
    whole = zlib.compress(random.Random(0).randbytes(500))
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert zlib.decompress(bytes(damaged)) == zlib.decompress(whole)
        except zlib.error:
            continue


def test_a_program_half_written_is_removed(alone):
    machine.keep_programs()
    directory = Path(os.environ[machine.CACHE])
    for name in ("half-cache", "whole-cache", "whole-atime"):
        (directory / name).touch()
    machine.keep_programs()
    assert not (directory / "half-cache").exists()
    assert (directory / "whole-cache").exists()


def test_each_number_of_cores_has_its_own_programs(alone, monkeypatch):
    machine.keep_programs()
    for_all = os.environ[machine.CACHE]
    monkeypatch.setenv("NPROC", "77")
    machine.keep_programs()
    assert os.environ[machine.CACHE] != for_all
    assert jax.config.jax_compilation_cache_dir == os.environ[machine.CACHE]
    assert Path(os.environ[machine.CACHE]).stat().st_mode & 0o077 == 0


def test_the_users_own_directory_stays(alone, monkeypatch, tmp_path):
    monkeypatch.setenv(machine.CACHE, str(tmp_path / "mine"))
    machine.keep_programs()
    assert os.environ[machine.CACHE] == str(tmp_path / "mine")
    assert not alone.exists()
    set_now = {name: os.environ[name] for name in machine.CACHE_SETTINGS if name in os.environ}
    assert set_now == {  # all programs are kept, and none of another project is removed
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def test_nothing_is_kept_where_nothing_can_be_written(alone, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    machine.keep_programs()
    assert machine.CACHE not in os.environ


@pytest.mark.parametrize("place", ["mlp_jax-mine", "mlp_jax/mine", "mlp_jax", "mlp_jax/{}-mine"])
def test_a_users_own_directory_may_have_a_name_like_ours(alone, monkeypatch, place):
    mine = str(alone.parent / place.format(machine._processor()))
    monkeypatch.setenv(machine.CACHE, mine)
    machine.keep_programs()
    assert os.environ[machine.CACHE] == mine


def test_a_package_that_is_not_installed_has_no_version():
    """As when ours runs from its source."""
    assert machine.version("jax") == jax.__version__
    assert machine.version("no-such-package") == "not installed"


@pytest.mark.parametrize("which", ["root", "leaf"])
@pytest.mark.parametrize("how", ["another's", "anyone's"])
def test_a_directory_that_others_can_write_to_is_not_used(alone, monkeypatch, capsys, which, how):
    """A program from it would be run. It is said once."""
    machine._tell_unsafe.cache_clear()
    machine.keep_programs()
    leaf = Path(os.environ[machine.CACHE])
    directory = {"root": alone, "leaf": leaf}[which]
    if how == "anyone's":
        directory.chmod(0o777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    for _ in range(2):
        machine.keep_programs()
    assert machine.CACHE not in os.environ
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err.count(f"note: {leaf} or the directory above") == 1


def test_an_impossible_number_of_threads_is_refused_before_anything_begins(tmp_path):
    """XLA would start them all, deaf to signals."""
    line = [sys.executable, "-m", "mlp_jax.train", "+exp=xor", "tracking=none"]
    done = subprocess.run(
        line, env=os.environ | {"NPROC": "1000000"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: NPROC=1000000: at most 1024 threads; leave it out for all.\n"
    assert not list(tmp_path.iterdir())


def test_settings_for_other_programs_end_no_run(tmp_path):
    settings = {
        "MPLBACKEND": "bogus",
        "PYTHONWARNINGS": "error",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    line = [sys.executable, "-m", "mlp_jax.train", "+exp=xor", "num_epochs=2"]
    done = subprocess.run(
        line, env=os.environ | settings, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert next(tmp_path.rglob("loss_curves.png")).stat().st_size > 10_000


def test_a_platform_that_is_not_here_is_one_clear_line(tmp_path):
    line = [sys.executable, "-m", "mlp_jax.train", "+exp=xor", "tracking=none"]
    done = subprocess.run(
        line, env=os.environ | {"JAX_PLATFORMS": "cuda"}, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_PLATFORMS=cuda: JAX finds no such device here.")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
