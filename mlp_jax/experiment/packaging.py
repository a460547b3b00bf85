"""The directory of a model as MLflow reads it, without any pickle."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from mlp_jax.data import Inputs

if TYPE_CHECKING:  # takes a second to import
    import pandas

# What a served model imports.
_REQUIREMENTS = ("jax", "jaxtyping", "mlflow", "numpy", "omegaconf", "pandas")


def save_model(
    path: Path,
    loader: str,
    save: Callable[[Path], None],
    example: Inputs,
    prediction: "pandas.DataFrame",
) -> None:
    """Makes the directory `path`.

    The module named `loader` loads the model from the directory that `save` fills. The signature
    comes from an example of the inputs and its prediction. This package's source travels with it.
    """
    import mlflow.pyfunc

    # The versions are those installed here; MLflow's search for others takes 0.3 s.
    no_search = patch("mlflow.utils.environment.warn_dependency_requirement_mismatches")
    with TemporaryDirectory() as directory, no_search:
        data = Path(directory, "network")
        data.mkdir()
        save(data)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=loader,
            data_path=str(data),
            code_paths=[str(Path(__file__).parents[1])],
            signature=_signature(example, prediction),
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in _REQUIREMENTS],
        )


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
