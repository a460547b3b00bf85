"""A store that fails costs a training seconds, one warning, and nothing of its record."""

from pathlib import Path

import pytest

from mlp_jax.tracking import live
from mlp_jax.tracking import run as tracking
from tests.faults import tracking_faults as faults
from tests.faults.__main__ import measure
from tests.faults.server import FaultyServer

# Of MLflow's server.
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")


def test_a_measurement_that_crashes_is_no_success(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(RuntimeError, match="nope 1 0: crashed, exit status 1"):
        measure("nope", trials=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The waits are the same, but shorter."""
    monkeypatch.setattr(live, "_BEGIN_SECONDS", 0.3)
    monkeypatch.setattr(tracking, "_SERVER_PATIENCE", live.Patience(total=4.0, idle=0.5))
    monkeypatch.setattr(tracking, "_FILE_PATIENCE", live.Patience(total=60.0, idle=0.5))


@pytest.fixture(scope="module")
def server(tmp_path_factory, make_store):
    folder = tmp_path_factory.mktemp("server")
    make_store(folder)
    server = FaultyServer(folder)
    yield server
    server.close()


@pytest.mark.parametrize("fault", faults.SERVER_FAULTS)
def test_a_server_that_fails(server, tmp_path, fault):
    trial = faults.try_server(server, fault, tmp_path / "runs" / "a")
    assert not trial.problems
    # One warning, none where a slow server is fast enough after all.
    assert len(trial.warnings) == 1 or (fault == "is slow" and not trial.warnings)
    assert all("python -m mlp_jax.sync" in warning for warning in trial.warnings)


@pytest.mark.parametrize("step", [None, 30])
@pytest.mark.parametrize("fault", faults.FILE_FAULTS)
def test_a_file_that_fails(server, tmp_path, fault, step):
    trial = faults.try_file(server.store_uri, fault, step, tmp_path / "runs" / "a")
    assert not trial.problems
    assert len(trial.warnings) == 1
