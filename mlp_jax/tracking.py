"""A run in MLflow: what it is given at its start, its metrics as they come, its model.

A run is written through `MlflowClient`, so there is no active run and no other global state.
Points of metrics wait on the host and leave in batches.
"""

import getpass
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from mlp_jax import rundir
from mlp_jax.data import Dataset, Inputs
from mlp_jax.store import base_url, experiment_id, redacted, run_url, store_errors

if TYPE_CHECKING:  # these take seconds to import
    import matplotlib.figure
    import mlflow.entities
    import pandas

MAX_PARAMS = 100  # in one batch
_MAX_METRICS = 1000  # in one batch
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 5000
_FLUSH_SECONDS = 5.0


class Run:
    """A run that is being recorded.

    A context manager: leaving it sends what is waiting and ends the run as FINISHED, FAILED after
    an exception, KILLED after Ctrl-C.
    """

    def __init__(self, client: "mlflow.MlflowClient", run: "mlflow.entities.Run") -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.experiment_id: str = run.info.experiment_id
        self._points: list[mlflow.entities.Metric] = []
        self._flushed_at = time.monotonic()
        self._not_finite: set[str] = set()
        self._recorded: set[tuple[str, int]] = set()

    @property
    def url(self) -> str:
        """The run's page, in the UI that `ui_command` starts or on the tracking server."""
        return run_url(base_url(self.client.tracking_uri), self.experiment_id, self.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keeps the points of one step until `flush`, which it calls every few seconds.

        A number that is not finite would break the charts; a tag says which came first.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if (name, step) in self._recorded:
                continue
            if math.isfinite(value):
                self._points.append(Metric(name, float(value), now, step))
            elif name not in self._not_finite:
                self._not_finite.add(name)
                self.set_tag(*not_finite_tag(name, value, step))
        overdue = time.monotonic() - self._flushed_at > _FLUSH_SECONDS
        if overdue or len(self._points) >= _MAX_METRICS:
            self.flush()

    def flush(self) -> None:
        """Sends the points that are waiting."""
        while self._points:
            self.client.log_batch(self.run_id, metrics=self._points[:_MAX_METRICS])
            del self._points[:_MAX_METRICS]
        self._flushed_at = time.monotonic()

    def set_tag(self, name: str, value: str) -> None:
        self.client.set_tag(self.run_id, name, redacted(value)[:_MAX_TAG_LENGTH])

    def log_text(self, text: str, file: str) -> None:
        self.client.log_text(self.run_id, text, file)

    def log_dict(self, values: dict[str, Any], file: str) -> None:
        """As YAML or JSON, by the file's suffix."""
        self.client.log_dict(self.run_id, values, file)

    def log_figure(self, figure: "matplotlib.figure.Figure", file: str) -> None:
        self.client.log_figure(self.run_id, figure, file)

    def log_model(
        self,
        loader: str,
        save: Callable[[Path], None],
        example: Inputs,
        prediction: "pandas.DataFrame",
    ) -> str:
        """Logs a model without pickle and returns its URI, for `mlflow.pyfunc.load_model`.

        The module named `loader` loads it from the directory that `save` fills. The signature comes
        from an example of the inputs and its prediction. This package's source travels with it.
        """
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        model = self.client.create_logged_model(
            self.experiment_id, "model", source_run_id=self.run_id, model_type="mlp"
        )
        # The versions are those installed here; MLflow's search for others takes 0.3 s.
        no_search = patch("mlflow.utils.environment.warn_dependency_requirement_mismatches")
        with TemporaryDirectory() as directory, no_search:
            path, data = str(Path(directory, "model")), Path(directory, "network")
            data.mkdir()
            save(data)
            mlflow.pyfunc.save_model(
                path,
                loader_module=loader,
                data_path=str(data),
                code_paths=[str(Path(__file__).parent)],
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    run_id=self.run_id,
                    model_uuid=model.model_id,
                    model_id=model.model_id,
                ),
                signature=_signature(example, prediction),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in _MODEL_REQUIREMENTS],
            )
            self.client.log_model_artifacts(model.model_id, path)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        return f"models:/{model.model_id}"

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.flush()
            self.client.set_terminated(self.run_id, "FINISHED")
            return
        try:
            self.flush()
            if not isinstance(error, KeyboardInterrupt):
                self.set_tag("error", f"{type(error).__name__}: {error}")
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            self.client.set_terminated(self.run_id, status)
        except Exception as tracking_error:  # the first error is the one to see
            error.add_note(f"The run was left open: {redacted(str(tracking_error))}")


def start(
    client: "mlflow.MlflowClient",
    experiment: str,
    run_name: str,
    *,
    params: Mapping[str, Any],
    dataset: Dataset | None = None,
    note: str = "",
    tags: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Run:
    """Begins a run. `params` may be nested; `note` is Markdown for the top of the run's page."""
    from mlflow.entities import Param

    with store_errors(client.tracking_uri):
        run = client.create_run(
            experiment_id(client, experiment),
            tags=run_tags(context_tags(), note, tags or {}),
            run_name=run_name,
        )
        run_id = run.info.run_id
        try:
            entries = [Param(name, value) for name, value in flat_params(params).items()]
            for i in range(0, len(entries), MAX_PARAMS):
                client.log_batch(run_id, params=entries[i : i + MAX_PARAMS])
            if dataset is not None:
                client.log_inputs(run_id, [dataset_input(dataset)])
        except BaseException:
            client.set_terminated(run_id, "FAILED")  # it must not stay RUNNING
            raise
    if directory is not None:
        place = {"run_id": run_id, "experiment_id": run.info.experiment_id,
                 "store": redacted(client.tracking_uri)}  # fmt: skip
        rundir.write(directory, rundir.RUN, place)
    return Run(client, run)


def resume(client: "mlflow.MlflowClient", directory: Path) -> Run:
    """Goes on with the run of a directory. What it has recorded already is not recorded again."""
    with store_errors(client.tracking_uri):
        place = rundir.read(directory, rundir.RUN) or {}
        run = client.get_run(place["run_id"])
        client.update_run(run.info.run_id, status="RUNNING")
        resumed = Run(client, run)
        for name in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, name)
            resumed._recorded |= {(name, point.step) for point in points}
    return resumed


def not_finite_tag(metric: str, value: float, step: int) -> tuple[str, str]:
    """What stands for the points of a metric that are no numbers a chart could show."""
    return f"not_finite.{metric}", f"{value} at step {step}"


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as `{"optimizer.learning_rate": "0.1", …}`, written as in JSON.

    >>> flat_params({"model": {"hidden_sizes": [8], "loss": None}})
    {'model.hidden_sizes': '[8]', 'model.loss': 'null'}
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[prefix + name] = redacted(text)[:_MAX_PARAM_LENGTH]
    return flat


def run_tags(context: Mapping[str, str], note: str, tags: Mapping[str, str]) -> dict[str, str]:
    """All tags of a run at its start, without secrets and cut to what a store takes."""
    all_tags = {**context, "mlflow.note.content": note, **tags}
    return {name: redacted(value)[:_MAX_TAG_LENGTH] for name, value in all_tags.items()}


def context_tags() -> dict[str, str]:
    """The tags that MLflow's fluent client sets, and `git.dirty`."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
        **_git_tags(Path(__file__).parent),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "unknown"


def _git_tags(directory: Path) -> dict[str, str]:
    """The commit of the checkout around `directory`, and whether a tracked file differs from it."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(
            command,
            cwd=directory,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = re.search("^# branch.oid ([0-9a-f]+)$", status, re.MULTILINE)
    if commit is None:
        return {}
    dirty = re.search("^[^#]", status, re.MULTILINE) is not None
    return {"mlflow.source.git.commit": commit[1], "git.dirty": str(dirty).lower()}


def dataset_input(dataset: Dataset) -> "mlflow.entities.DatasetInput":
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import DatasetInput, InputTag

    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    sizes = {name: len(part.x) for name, part in parts.items() if part is not None}
    columns = [{"name": c.name, "type": "string" if c.categories else "double", "required": True}
               for c in dataset.preprocessing.columns]  # fmt: skip
    entity = DatasetEntity(
        name=dataset.name,
        digest=dataset.digest,
        source_type="local",
        source=json.dumps({"uri": dataset.source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])


# What a served model imports.
_MODEL_REQUIREMENTS = ("jax", "jaxtyping", "mlflow", "numpy", "omegaconf", "pandas")


def _signature(example: Inputs, prediction: "pandas.DataFrame") -> Any:
    """Arrays have a shape; the columns of a table have names, and the model checks their entries.

    MLflow's own column types would refuse whole numbers in a column of decimals.
    """
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema, TensorSpec

    if isinstance(example, np.ndarray):
        inputs = Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    else:
        inputs = Schema([ColSpec(AnyType(), name) for name in example.columns])
    return ModelSignature(inputs, infer_signature(prediction).inputs)
