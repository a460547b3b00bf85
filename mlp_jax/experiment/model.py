"""A trained network as a model that `mlflow.pyfunc` loads: raw inputs in, predictions out.

Its directory holds params.npz (W1, b1, W2, …) and network.json; nothing is pickled.
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layer, Params
from mlp_jax.data import Dataset, Inputs, Preprocessing

if TYPE_CHECKING:
    import pandas


class Model(NamedTuple):
    """A network by the names of its parts, with what its inputs and outputs mean."""

    params: Params
    activation: tuple[str, ...]
    """One for each hidden layer."""
    output: str
    loss: str
    class_names: tuple[str, ...]
    """Empty for regression."""
    target_names: tuple[str, ...]
    preprocessing: Preprocessing

    def predict(self, raw: Inputs) -> "pandas.DataFrame":
        """Predictions for raw inputs: a table with the columns of the training data, or an array.

        Numbers are in their own units. A class is named, beside a column for each class:
        `probability_NAME` where the output is a probability, else `score_NAME`.
        """
        import pandas as pd

        y_hat = self._outputs(self.preprocessing.encode(raw))
        if not self.class_names:
            targets = self.preprocessing.decode_targets(y_hat)
            one = targets.shape[1] == 1
            names = ["prediction"] if one else [f"prediction_{n}" for n in self.target_names]
            return pd.DataFrame(targets, columns=names)
        labels, scores, kind = classify(y_hat, self.output)
        frame = pd.DataFrame(scores, columns=[f"{kind}_{name}" for name in self.class_names])
        frame.insert(0, "prediction", np.array(self.class_names)[labels])
        return frame

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        dtype = self.params[0].W.dtype
        with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
            x_on_device = jnp.asarray(x, dtype)
            return np.asarray(
                predict_batch(self.params, x_on_device, self.activation, self.output, self.loss)
            )


@partial(jax.jit, static_argnames=("activation", "output", "loss"))
def predict_batch(
    params: Params,
    x: Float[Array, "batch n_0"],
    activation: tuple[str, ...],
    output: str,
    loss: str,
) -> Float[Array, "batch n_L"]:
    """ŷ of each example, with the network's parts by name."""
    parts = tuple(ACTIVATIONS[name] for name in activation), LOSSES[output, loss]
    return jax.vmap(lambda x: network.predict(params, x, *parts))(x)


def classify(y_hat: np.ndarray, output: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Predicted labels, a score for each class, and what a score is: `probability` or `score`.

    A single output is that of the second of two classes, the first has 1 − ŷ; for tanh, with
    targets −1 and 1, it is (1 + ŷ)/2. Several sigmoids are scores: they need not sum to 1.
    """
    if y_hat.shape[1] > 1:
        kind = "probability" if output == "softmax" else "score"
        return y_hat.argmax(axis=1), y_hat, kind
    second = (1 + y_hat) / 2 if output == "tanh" else y_hat
    kind = "score" if output == "identity" else "probability"
    return (second[:, 0] >= 0.5).astype(int), np.hstack([1 - second, second]), kind


def save(directory: Path, model: Model) -> None:
    arrays = {
        f"{name}{number}": np.asarray(array)
        for number, layer in enumerate(model.params, start=1)
        for name, array in layer._asdict().items()
    }
    np.savez(directory / "params.npz", allow_pickle=False, **arrays)
    names = model._asdict() | {"preprocessing": model.preprocessing.to_dict()}
    del names["params"]
    (directory / "network.json").write_text(json.dumps(names, indent=1), encoding="utf-8")


def load(directory: Path) -> Model:
    # float64 parameters stay float64 where JAX would otherwise shorten them.
    with np.load(directory / "params.npz", allow_pickle=False) as arrays, jax.enable_x64(True):
        params = tuple(
            Layer(jnp.asarray(arrays[f"W{number}"]), jnp.asarray(arrays[f"b{number}"]))
            for number in range(1, len(arrays.files) // 2 + 1)
        )
    names = json.loads((directory / "network.json").read_text(encoding="utf-8"))
    return Model(
        params,
        activation=tuple(names["activation"]),
        output=names["output"],
        loss=names["loss"],
        class_names=tuple(names["class_names"]),
        target_names=tuple(names["target_names"]),
        preprocessing=Preprocessing.from_dict(names["preprocessing"]),
    )


def _load_pyfunc(path: str) -> Model:
    """What MLflow calls."""
    return load(Path(path))


def raw_inputs(dataset: Dataset, num_examples: int) -> Inputs:
    """The first training examples as a user has them: rows of the table, or of an array."""
    columns = dataset.preprocessing.columns
    encoded = dataset.train.x[:num_examples].astype(np.float64)
    encoded = encoded * dataset.preprocessing.x_scale + dataset.preprocessing.x_shift
    if dataset.name != "table":
        return encoded
    import pandas as pd

    ends = np.cumsum([max(1, len(column.categories)) for column in columns])
    parts = np.split(encoded, ends[:-1], axis=1)
    return pd.DataFrame({
        column.name: np.array(column.categories)[part.argmax(axis=1)]
        if column.categories
        else part[:, 0]
        for column, part in zip(columns, parts, strict=True)
    })  # fmt: skip
