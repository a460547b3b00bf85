"""A trained network as a model that `mlflow.pyfunc` loads, without pickle and without JAX.

Its code is one file, whose name is that of its content: it can meet neither this package nor the
code of another model.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from mlp_jax import errors
from mlp_jax.data import Inputs, dates, preprocessing
from mlp_jax.experiment import prediction
from mlp_jax.experiment.prediction import Committee, Model

if TYPE_CHECKING:  # takes half a second to import
    import pandas

_REQUIREMENTS = ("mlflow", "numpy", "pandas")


def save_model(path: Path, model: Model | Committee, example: Inputs) -> None:
    """Makes the directory `path`, with a signature from an example of the inputs."""
    import mlflow.pyfunc

    code = source()
    name = f"mlp_model_{hashlib.sha256(code.encode()).hexdigest()[:12]}"
    # The versions are those installed here; MLflow's search for others takes 0.3 s.
    no_search = patch("mlflow.utils.environment.warn_dependency_requirement_mismatches")
    with TemporaryDirectory() as directory, no_search:
        network, file = Path(directory, "network"), Path(directory, f"{name}.py")
        network.mkdir()
        model.save(network)
        file.write_text(code, encoding="utf-8")
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=name,
            data_path=str(network),
            code_paths=[str(file)],
            signature=_signature(example, model.predict(example), model.is_ensemble),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
        )


def source() -> str:
    """The code of a model: four modules as one, which so need not import each other."""
    modules = (errors, dates, preprocessing, prediction)
    files = [Path(str(module.__file__)) for module in modules]
    lines = "\n\n".join(file.read_text(encoding="utf-8") for file in files).splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("from mlp_jax."))


def _signature(example: Inputs, predicted: "pandas.DataFrame", has_spread: bool) -> Any:
    """Arrays have a shape; the columns of a table have names, and the model checks their entries.

    MLflow's own column types would refuse whole numbers in a column of decimals.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        AnyType,
        ColSpec,
        ParamSchema,
        ParamSpec,
        Schema,
        TensorSpec,
    )

    if isinstance(example, np.ndarray):
        inputs = Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    else:
        inputs = Schema([ColSpec(AnyType(), name) for name in example.columns])
    kinds = {"i": "long", "b": "boolean", "f": "double"}
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(kinds.get(v.dtype.kind, "string"), str(n)) for n, v in predicted.items()
    ]
    if not has_spread:
        return ModelSignature(inputs, Schema(outputs))
    params = ParamSchema([ParamSpec("spread", "boolean", False)])
    return ModelSignature(inputs, Schema(outputs), params)
