"""Where runs are kept: an MLflow store, opened or created, and the addresses to look at it."""

import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from mlp_jax.errors import RunError, UserError, reached, redacted

if TYPE_CHECKING:  # takes seconds to import
    import mlflow
    import mlflow.entities

_DATABASES = ("postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_LOCKED_SECONDS = 2.0  # a database that is locked for longer is not used
_PAGE = 1000  # runs that a store gives at once
_KNOWN_SCHEMA = "dc11669786a5"  # MLflow 3.17


class UnreachableError(UserError):
    """A store that does not answer, is locked or fails: it may well work at another time."""


def store_uri(uri: str | None) -> str:
    """The absolute URI of a store; `None` is $MLFLOW_TRACKING_URI, else ./mlflow.db.

    ./mlflow.db is where a plain `mlflow ui` looks, too.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme in _DATABASES + _SERVERS:
        _check_address(uri)
        return uri
    prefix, _, file = uri.partition("sqlite:///")
    if prefix or not file or file.startswith(":memory:"):
        raise UserError(
            f"tracking.uri={redacted(uri)}: not a store. Use sqlite:///FILE.db, an MLflow server "
            "http://HOST:PORT, or a database postgresql://… or mysql://…"
        )
    return f"sqlite:///{Path(file).absolute()}"


def _check_address(uri: str) -> None:
    """Whether this can be the address of a server or of a database on one."""
    try:
        parts = urlsplit(uri)
        wrong = ""
        if is_server(uri) and not (parts.hostname and parts.port != 0):
            wrong = "it has no host"
        elif not (is_server(uri) or len(parts.path) > 1 or parts.query):
            wrong = "it names no database"
    except ValueError as error:  # of the port, or a bracket
        wrong = str(error)
    if wrong:
        raise UserError(
            f"tracking.uri={redacted(uri)}: no such address, {wrong}. Use http://HOST:PORT, or "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."
        )


def is_server(uri: str) -> bool:
    """Whether an MLflow server answers at this address, rather than a database."""
    return uri.startswith(_SERVERS)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None


def known_database(uri: str) -> Path | None:
    """An SQLite store with the tables as `bulk` and `search` know them.

    MLflow refuses one whose version differs from its own, so its tables agree, too.
    """
    file = sqlite_file(uri)
    if file is None:
        return None
    with closing(sqlite3.connect(file)) as database:
        versions = database.execute("SELECT version_num FROM alembic_version").fetchall()
    return file if versions == [(_KNOWN_SCHEMA,)] else None


def is_ready(file: Path, seconds: float = _LOCKED_SECONDS) -> bool:
    """Whether MLflow has finished creating this database.

    Raises `UnreachableError` where it is locked for longer than `seconds`, which it also is for
    moments of its creation.
    """
    try:
        address = f"{file.as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, timeout=seconds, uri=True)) as database:
            query = "SELECT 1 FROM alembic_version, experiments"  # the last things it creates
            return database.execute(query).fetchone() is not None
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise UnreachableError(f"tracking.uri=sqlite:///{file}: {error}.") from None
        return False  # no file, or no such table
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"tracking.uri=sqlite:///{file}: {error}. Move the file away, or name another one."
        ) from None


def check(uri: str | None) -> str:
    """The absolute URI, as far as it can be checked without importing MLflow."""
    uri = store_uri(uri)
    file = sqlite_file(uri)
    if file is not None:
        if "?" in uri or unquote(uri) != uri:
            raise UserError(
                f"tracking.uri={uri}: MLflow would take ? and % in its path for something else. "
                "Name another place, tracking.uri=sqlite:////DIRECTORY/mlflow.db."
            )
        _check_writable(file)
        with suppress(UnreachableError):
            is_ready(file, 0.0)  # fails at once if it is no database; MLflow would try for 100 s
    elif uri.startswith(_DATABASES):
        with suppress(UnreachableError), store_errors(uri):
            _connect(uri)
    return uri


def _connect(uri: str) -> None:
    """Fails at once where a database refuses; MLflow would try for 100 s."""
    import sqlalchemy

    seconds = {} if uri.startswith("mssql") else {"connect_timeout": 2}
    engine = sqlalchemy.create_engine(uri, connect_args=seconds)
    engine.connect().close()
    engine.dispose()


def preload() -> None:
    """Imports what a tracked run needs, two seconds' worth, while a compiler runs elsewhere."""
    _set_environment()
    import matplotlib.figure  # noqa: F401
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401


def open_store(uri: str | None) -> "mlflow.MlflowClient":
    """A client of the store at `uri`, which is created where it is a new SQLite file.

    Raises `UserError` within seconds where the store can't be used, `UnreachableError` where it
    can't be used now.
    """
    uri = check(uri)
    file = sqlite_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    _set_environment()
    from mlflow import MlflowClient

    with store_errors(uri):
        if file is not None:
            _create(file, uri)
            _check_unlocked(file)
        elif uri.startswith(_DATABASES):
            _connect(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _set_environment() -> None:
    """Before MLflow is imported; what the user's own environment says stays.

    MLflow's defaults send telemetry, unpickle models, wait 246 s for a server that is down, send a
    request again by themselves, which may create two runs, log tracebacks of errors that they
    raise, and print the address of a run.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)


_MAX_PATH_BYTES = 504
"""SQLite's 512, which the journal beside the file has to keep to as well."""


def _check_writable(file: Path) -> None:
    """Whether the database and the artifacts beside it could be written; leaves nothing behind."""
    artifacts = file.parent / "mlartifacts"
    folder = next(parent for parent in file.parents if parent.exists())
    try:
        if len(os.fsencode(file)) > _MAX_PATH_BYTES:
            raise OSError(0, f"SQLite opens no path of over {_MAX_PATH_BYTES} bytes", str(file))
        if file.is_dir():
            raise IsADirectoryError(0, "is a directory", str(file))
        if file.exists() and not file.is_file():
            raise OSError(0, "is not a file", str(file))
        if artifacts.exists() and not artifacts.is_dir():
            raise NotADirectoryError(0, "is not a directory", str(artifacts))
        for path in (folder, file, artifacts):
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(0, "no permission to write", str(path))
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"tracking.uri=sqlite:///{file}: {error.filename}: {error.strerror}.\n"
            "Name another place, tracking.uri=sqlite:////DIRECTORY/mlflow.db, or set tracking=none."
        ) from None


def _create(file: Path, uri: str) -> None:
    """Lets MLflow create its tables; one process at a time, since two at once both fail."""
    reached("opening the store")
    with suppress(UnreachableError):  # it may be locked because another process creates it
        if is_ready(file, 0.0):
            return
    try:
        with FileLock(f"{file}.lock", timeout=120):
            if not is_ready(file):
                _create_tables(file, uri)
    except Timeout:
        raise UserError(
            f"tracking.uri={uri}: another process has been creating this store for two minutes; "
            f"end it, or remove {file}.lock."
        ) from None


def _create_tables(file: Path, uri: str) -> None:
    """Under another name first: half of MLflow's tables is a store that can never be opened."""
    from mlflow import MlflowClient

    if file.exists():  # another program has begun it; MLflow goes on, where that can be
        MlflowClient(tracking_uri=uri)
        return
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{unfinished}")
    unfinished.rename(file)


def _check_unlocked(file: Path) -> None:
    """Whether the database can be written now; MLflow would wait 20 s for each statement."""
    try:
        with closing(sqlite3.connect(file, timeout=_LOCKED_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        raise UnreachableError(f"tracking.uri=sqlite:///{file}: {error}.") from None


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """MLflow's and the database's errors as a `UserError` that says nothing secret.

    It is an `UnreachableError` where the same may work at another time.
    """
    try:
        yield
    except _store_errors() as error:
        kind = UnreachableError if _may_pass(error, uri) else UserError
        raise kind(failure(error, uri)) from None


def _store_errors() -> tuple[type[Exception], ...]:
    """MLflow's error where that was imported, the databases', and that of a driver that is not."""
    from sqlalchemy.exc import SQLAlchemyError

    mlflows = getattr(sys.modules.get("mlflow.exceptions"), "MlflowException", SQLAlchemyError)
    return mlflows, SQLAlchemyError, sqlite3.Error, ImportError


_REFUSED = re.compile(
    "authentication failed|does not exist|no password supplied|no pg_hba.conf entry|"
    "Access denied|Unknown database|Login failed|Name or service not known"
)
"""What databases say to a wrong user, password or name, and the system of an unknown host."""


def _may_pass(error: Exception, uri: str) -> bool:
    from sqlalchemy.exc import OperationalError

    if _REFUSED.search(str(error)):
        return False
    if hasattr(error, "get_http_status_code"):
        status = error.get_http_status_code()
        # A database's own 500 is a schema of another version.
        return status in (408, 409, 429, 503) or (status >= 500 and uri.startswith(_SERVERS))
    return isinstance(error, OperationalError)


def failure(error: Exception, uri: str) -> str:
    """What went wrong with the store in two lines, without anything of `uri` that is secret."""
    cause = redacted(str(error).partition("\n")[0])
    if isinstance(error, ImportError) and uri.startswith("postgresql"):
        cause += "; pip install 'mlp_jax[postgresql]', and write postgresql+psycopg://…"
    if not isinstance(error, _store_errors()):
        cause = f"{type(error).__name__}: {cause}"
    if "HTTPConnection" in cause:  # the last of several errors, each around the next
        cause = cause.rpartition("): ")[2].rstrip("\"')")
    user_info = re.search(r"://(.*)@", uri)
    for secret in user_info[1].split(":", 1) if user_info else ():
        if secret:
            cause = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", cause)
    return f"tracking.uri={redacted(uri)}: the store cannot be used.\n{cause[:300]}"


@contextmanager
def recording_errors() -> Iterator[None]:
    """What goes wrong while a run is being recorded, as a `RunError`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (*_store_errors(), OSError)):
            raise
        reason = redacted(str(error).partition("\n")[0])[:300]
        raise RunError(f"the run could not be recorded: {reason}") from error


def experiment_id(client: "mlflow.MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(
                name,
                artifact_location=_artifact_location(client.tracking_uri),
                tags={"mlflow.experimentKind": "custom_model_development"},  # how the UI shows it
            )
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"name={name}: this MLflow experiment was deleted. Take another name, or bring it back "
            f"with: mlflow experiments restore -x {experiment.experiment_id}"
        )
    return experiment.experiment_id


def pages(
    client: "mlflow.MlflowClient", experiment_ids: list[str], where: str = ""
) -> Iterator["mlflow.entities.Run"]:
    """All runs of experiments, which a store gives in pages."""
    token = None
    while True:
        page = client.search_runs(experiment_ids, where, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _artifact_location(uri: str) -> str | None:
    """Beside the database, absolute; a server decides itself."""
    if uri.startswith(_SERVERS):
        return None
    file = sqlite_file(uri)
    return ((file.parent if file else Path.cwd()) / "mlartifacts").as_uri()
