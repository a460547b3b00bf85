"""float64 is available, 8 CPU devices stand ready, and an accidental broadcast is an error."""

import os
from tempfile import mkdtemp

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import atexit
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import jax
import jaxtyping
import matplotlib
import pytest

from mlp_jax.experiment import machine

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("Agg")

# The processes that tests start share what they compile, those of all workers: JAX locks a cache
# that has a limit. This process, which may have imported JAX before, has a cache without limit or
# lock, and so keeps what it compiles for itself. All lies in the directory of the process that
# starts the workers, since a worker may be killed before it could clean up.
_is_worker = "PYTEST_XDIST_WORKER" in os.environ
if _is_worker:
    _shared = Path(os.environ[machine.CACHE])
else:
    _shared = Path(mkdtemp(prefix="mlp_jax-programs-")) / "shared"
    atexit.register(shutil.rmtree, _shared.parent, ignore_errors=True)
_own = Path(mkdtemp(dir=_shared.parent))
os.environ.update({machine.CACHE: str(_shared), **machine.CACHE_SETTINGS})
jax.config.update("jax_compilation_cache_dir", str(_own))
jax.config.update("jax_compilation_cache_max_size", -1)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


LOOPS = ["divergence", "functions", "mutants", "population", "training"]
"""Of tests/core and tests/library, those that compile whole trainings, again and again."""


def pytest_configure(config: pytest.Config) -> None:
    """A run with workers that SIGTERM ends removes its programs first."""

    def end(number: int, _: object) -> None:
        shutil.rmtree(_shared.parent, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    if not _is_worker and config.getoption("tx", None):  # this process runs no test itself
        signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m core` is what a change to the mathematics must pass: a minute on two cores."""
    loops = {f"test_{name}.py" for name in LOOPS}
    for item in items:
        is_core = item.path.parent.name in ("core", "library") and item.path.name not in loops
        if is_core or item.path.name == "test_imports.py":
            item.add_marker(pytest.mark.core)
        if item.path.parent.name in ("core", "library"):
            item.fixturenames.insert(0, "compiled_quickly")


@pytest.fixture(scope="module")
def compiled_quickly():
    """For tests of many shapes and few steps: XLA does without its dear optimizations.

    JAX would take its programs for those of the tests that follow.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def compiled_fully():
    """For tests of bits and of rounding among those that are compiled quickly."""
    was_quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", was_quick)
    jax.clear_caches()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An SQLite store as MLflow creates it, which takes seconds; to be copied."""
    from mlp_jax.tracking import store

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    store.open_store(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def make_store(empty_database: Path) -> Callable[[Path], str]:
    """Puts an empty store into a directory and returns its URI."""

    def make(directory: Path) -> str:
        shutil.copyfile(empty_database, directory / "mlflow.db")
        return f"sqlite:///{directory}/mlflow.db"

    return make


@pytest.fixture(scope="module")
def client(tmp_path_factory, empty_database):
    """A client of a store that the tests of a module share."""
    from mlp_jax.tracking import store

    folder = tmp_path_factory.mktemp("a store #1")  # a URI must quote this
    shutil.copy(empty_database, folder)
    return store.open_store(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="session")
def find_port():
    """A function that finds a port nobody listens on."""

    def find():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in use, where nothing checks the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
