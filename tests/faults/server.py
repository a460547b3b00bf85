"""MLflow's own tracking server on a free port of this machine, made to fail at will."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_jax.tracking import store

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

Respond = Callable[..., Any]


class FaultyServer:
    """Keeps its runs in `folder`; `mode` says what becomes of each request:

    well: it is answered. slow: a tenth of a second later. error: it is answered with 500 and
    nothing is done. lost: it is done and answered with 500, the first time that its like comes.
    hang: it gets no answer until the mode changes, and nothing is done. late: it is done then.
    """

    def __init__(self, folder: Path) -> None:
        self.store_uri = f"sqlite:///{folder}/mlflow.db"
        store.open_store(self.store_uri)  # creates it
        os.environ |= {
            "_MLFLOW_SERVER_FILE_STORE": self.store_uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": (folder / "artifacts").as_uri(),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        from mlflow.server import app  # reads the environment

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = app
        self._mode = "well"
        self._lost: set[tuple[str, str]] = set()
        self._changed = threading.Condition()
        self.num_requests = 0
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self.open()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Listens and is well, after `close` on the same port again."""
        from werkzeug.serving import make_server

        self.set_mode("well")
        if self._server is not None:
            return
        self._server = make_server("127.0.0.1", self._port, self._handle, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """The port is dead; what hangs gets no answer."""
        self.set_mode("error")
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def set_mode(self, mode: str) -> None:
        with self._changed:
            self._mode = mode
            self._lost.clear()
            self._changed.notify_all()

    def wait_for(self, num_requests: int, seconds: float = 30.0) -> None:
        """Waits until that many requests have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.num_requests >= num_requests, seconds):
                raise TimeoutError(f"{self.num_requests} requests in {seconds} s")

    def _handle(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        like = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._changed:
            self.num_requests += 1
            self._changed.notify_all()
            mode = self._mode
            if mode in ("hang", "late"):
                self._changed.wait_for(lambda: self._mode != mode, 60)
            if mode == "slow":
                self._changed.wait_for(lambda: self._mode != mode, 0.1)
            if mode == "lost":
                mode = "well" if like in self._lost else mode
                self._lost.add(like)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        if mode in ("well", "slow"):
            return self._app(environ, respond)
        if mode in ("lost", "late"):
            list(self._app(environ, lambda *_: lambda _: None))
        respond("500 INTERNAL SERVER ERROR", [("Content-Type", "text/plain")])
        return [b"out of order"]
