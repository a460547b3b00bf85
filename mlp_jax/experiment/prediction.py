"""A trained network in NumPy: raw inputs in, predictions out.

This file travels with each model, behind `errors` and `data.preprocessing`, so it imports nothing
else of ours. A model then needs neither this package nor JAX where it is used.
"""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlp_jax.data.preprocessing import Inputs, Preprocessing

if TYPE_CHECKING:  # takes half a second to import
    import pandas

_erf = np.vectorize(math.erf, otypes=[float])
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))  # does not overflow
    return np.where(z >= 0, 1, e) / (1 + e)


def _elu(z: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "step": lambda z: np.heaviside(z, z.dtype.type(1)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z >= 0, z, 0.01 * z),
    "elu": _elu,
    "selu": lambda z: _SELU_SCALE * _elu(z, _SELU_ALPHA),
    "softplus": lambda z: np.logaddexp(z, 0),
    "silu": lambda z: z * _sigmoid(z),
    "gelu": lambda z: z * (0.5 * (1 + _erf(z / math.sqrt(2)))).astype(z.dtype),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "softmax": _softmax,
}
"""The activations and the outputs by their names, as `core` has them for JAX."""


class Embedding(NamedTuple):
    """Of numbers x_j V_j g(ω f_j x_j + c_j) + b_j, of categories E_q x_q; `core` says more.

    Arrays of an ensemble have a leading axis of members.
    """

    f: np.ndarray
    c: np.ndarray
    V: np.ndarray
    b: np.ndarray
    E: tuple[np.ndarray, ...]
    numbers: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...]
    shape: str = "periodic"

    def apply(self, x: np.ndarray) -> np.ndarray:
        """The inputs of the first layer: (batch, …), or (members, batch, …)."""
        x_j = x[:, np.array(self.numbers, int), None]
        omega = 2 * np.pi if self.shape == "periodic" else 1
        z = (omega * self.f)[..., None, :, :] * x_j + self.c[..., None, :, :]
        v = np.cos(z) if self.shape == "periodic" else np.maximum(z, 0)
        e_j = np.einsum("...jdk,...bjk->...bjd", self.V, v) + self.b[..., None, :, :]
        e_q = [
            x[:, start:end] @ np.swapaxes(E, -1, -2)
            for E, (start, end) in zip(self.E, self.blocks, strict=True)
        ]
        blocks = [np.arange(start, end) for start, end in self.blocks]
        plain = np.delete(x, np.concatenate([np.zeros(0, int), *blocks]), axis=1)
        lead = e_j.shape[:-2]
        parts = [np.broadcast_to(plain, (*lead, plain.shape[1])), e_j.reshape(*lead, -1), *e_q]
        return np.concatenate(parts, axis=-1)


class Model(NamedTuple):
    """A network by the names of its parts, with what its inputs and outputs mean."""

    params: tuple[tuple[Any, Any], ...]
    """W and b of each layer; those of an ensemble have a leading axis of members."""
    activation: tuple[str, ...]
    """One for each hidden layer."""
    output: str
    class_names: tuple[str, ...]
    """Empty for regression."""
    class_values: tuple[Any, ...]
    """The labels that are predicted: texts, whole numbers, or true and false."""
    target_names: tuple[str, ...]
    preprocessing: Preprocessing
    embedding: Embedding | None = None
    """Of the inputs, before the first layer."""

    def predict(self, raw: Inputs, params: Mapping[str, Any] | None = None) -> "pandas.DataFrame":
        """Predictions for raw inputs: a table with the columns of the training data, or an array.

        Numbers are in their own units. A class is the label that it had in the training data,
        beside a column for each class: `probability_NAME` where the output is a probability, else
        `score_NAME`. Warns of categories that the training data did not have.

        With `params={"spread": True}` an ensemble gives one column `spread_…` more for each number
        or class: the standard deviation over its members, in the unit of the column.
        """
        x = self.preprocessing.encode(raw, on_unknown=warnings.warn)
        return self.predicted(self.outputs_of_each(x), params)

    def predicted(
        self, y_hats: np.ndarray, params: Mapping[str, Any] | None = None
    ) -> "pandas.DataFrame":
        """What `predict` says of outputs, which have a leading axis of networks if of several."""
        import pandas as pd

        is_ensemble = y_hats.ndim == 3
        frame = self._table(y_hats.mean(axis=0) if is_ensemble else y_hats)
        if not (is_ensemble and params and params.get("spread")):
            return frame
        each = [self._table(y_hat).drop(columns=list(self.class_names and ["prediction"]))
                for y_hat in y_hats]  # fmt: skip
        spread = np.std([table.to_numpy() for table in each], axis=0)
        names = [f"spread_{name}" for name in each[0].columns]
        return frame.join(pd.DataFrame(spread, columns=names))

    def _table(self, y_hat: np.ndarray) -> "pandas.DataFrame":
        """What `predict` says of these outputs."""
        import pandas as pd

        if not self.class_names:
            targets = self.preprocessing.decode_targets(y_hat)
            one = targets.shape[1] == 1
            names = ["prediction"] if one else [f"prediction_{n}" for n in self.target_names]
            return pd.DataFrame(targets, columns=names)
        labels, scores, kind = classify(y_hat, self.output)
        frame = pd.DataFrame(scores, columns=[f"{kind}_{name}" for name in self.class_names])
        frame.insert(0, "prediction", np.array(self.class_values)[labels])
        return frame

    @property
    def is_ensemble(self) -> bool:
        return np.ndim(self.params[-1][0]) == 3

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """ŷ of preprocessed inputs, a row for each example; an ensemble's is the members' mean."""
        y_hat = self.outputs_of_each(x)
        return y_hat.mean(axis=0) if y_hat.ndim == 3 else y_hat

    def outputs_of_each(self, x: np.ndarray) -> np.ndarray:
        """As `outputs`, with a leading axis of members where there are any.

        a^l = g_l(W^l a^{l-1} + b^l), and O in the last layer.
        """
        if self.embedding is not None and len(x) > _EMBEDDED_ROWS:  # they take much memory
            some = [x[at : at + _EMBEDDED_ROWS] for at in range(0, len(x), _EMBEDDED_ROWS)]
            return np.concatenate([self.outputs_of_each(rows) for rows in some], axis=-2)
        layers = [(np.asarray(W), np.asarray(b)) for W, b in self.params]
        a = x.astype(layers[0][0].dtype)
        with np.errstate(all="ignore"):  # a number may overflow, as it may in JAX
            if self.embedding is not None:
                a = self.embedding.apply(a)
            for (W, b), name in zip(layers, (*self.activation, self.output), strict=True):
                a = FUNCTIONS[name](a @ np.swapaxes(W, -1, -2) + b[..., None, :])
        return a

    def save(self, directory: Path) -> None:
        """Writes params.npz (W1, b1, W2, …) and network.json; nothing is pickled."""
        arrays = {
            f"{name}{number}": np.asarray(array)
            for number, layer in enumerate(self.params, start=1)
            for name, array in zip("Wb", layer, strict=True)
        }
        names = self._asdict() | {"preprocessing": self.preprocessing.to_dict()}
        del names["params"], names["embedding"]
        if self.embedding is not None:
            *learned, of_categories = self.embedding[:5]
            arrays |= {f"embedding_{n}": a for n, a in zip("fcVb", learned, strict=True)}
            arrays |= {f"embedding_E{n}": a for n, a in enumerate(of_categories, start=1)}
            names |= {key: getattr(self.embedding, key) for key in ("numbers", "blocks", "shape")}
        np.savez(directory / "params.npz", allow_pickle=False, **arrays)
        (directory / "network.json").write_text(json.dumps(names, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Model":
        names = json.loads((directory / "network.json").read_text(encoding="utf-8"))
        with np.load(directory / "params.npz", allow_pickle=False) as arrays:
            params = tuple(
                (arrays[f"W{number}"], arrays[f"b{number}"])
                for number in range(1, len(names["activation"]) + 2)
            )
            embedding = _load_embedding(arrays, names) if "numbers" in names else None
        return cls(
            params,
            activation=tuple(names["activation"]),
            output=names["output"],
            class_names=tuple(names["class_names"]),
            class_values=tuple(names["class_values"]),
            target_names=tuple(names["target_names"]),
            preprocessing=Preprocessing.from_dict(names["preprocessing"]),
            embedding=embedding,
        )


class Committee(NamedTuple):
    """Networks of any sizes and activations for the same data, whose outputs are averaged.

    ŷ = Σ_m c_m ŷ_m / Σ_m c_m,  with c_m how often network m counts
    """

    members: tuple[Model, ...]
    counts: tuple[int, ...]

    @property
    def is_ensemble(self) -> bool:
        return True

    def predict(self, raw: Inputs, params: Mapping[str, Any] | None = None) -> "pandas.DataFrame":
        """As a `Model` that is an ensemble."""
        first = self.members[0]
        x = first.preprocessing.encode(raw, on_unknown=warnings.warn)
        return first.predicted(self.outputs_of_each(x), params)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """ŷ of preprocessed inputs, a row for each example."""
        y_hat: np.ndarray = self.outputs_of_each(x).mean(axis=0)
        return y_hat

    def outputs_of_each(self, x: np.ndarray) -> np.ndarray:
        """Each network's, as often as it counts: (networks, examples, outputs)."""
        each = np.stack([member.outputs(x) for member in self.members])
        return np.repeat(each, self.counts, axis=0)

    def save(self, directory: Path) -> None:
        """Writes counts.json, and what each member writes to a directory of its own."""
        for number, member in enumerate(self.members, start=1):
            folder = directory / str(number)
            folder.mkdir()
            member.save(folder)
        (directory / _COUNTS).write_text(json.dumps(self.counts), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "Committee":
        counts = json.loads((directory / _COUNTS).read_text(encoding="utf-8"))
        folders = [directory / str(number) for number in range(1, len(counts) + 1)]
        return cls(tuple(map(Model.load, folders)), tuple(counts))


_COUNTS = "counts.json"
_EMBEDDED_ROWS = 2048


def _load_embedding(arrays: Mapping[str, np.ndarray], names: dict[str, Any]) -> Embedding:
    blocks = tuple((start, end) for start, end in names["blocks"])
    return Embedding(
        **{name: arrays[f"embedding_{name}"] for name in "fcVb"},
        E=tuple(arrays[f"embedding_E{n}"] for n in range(1, len(blocks) + 1)),
        numbers=tuple(names["numbers"]),
        blocks=blocks,
        shape=names.get("shape", "periodic"),  # which models had no word for
    )


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


def _load_pyfunc(path: str) -> Model | Committee:
    """What MLflow calls."""
    directory = Path(path)
    return (Committee if (directory / _COUNTS).exists() else Model).load(directory)
