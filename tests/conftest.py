"""float64 is available, 8 CPU devices stand ready, and an accidental broadcast is an error."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import matplotlib
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts an empty store into a directory, which takes MLflow seconds; returns its URI."""
    from mlp_jax import store

    made = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.open_store(f"sqlite:///{made}")

    def make(directory: Path) -> str:
        shutil.copyfile(made, directory / "mlflow.db")
        return f"sqlite:///{directory}/mlflow.db"

    return make
