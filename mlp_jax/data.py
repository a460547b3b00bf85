"""Datasets: arrays on the host, split, preprocessed, beside what maps raw inputs to them.

    raw (own units) -> split -> Preprocessing, fitted on the training part -> x = (encoded − μ) / σ

`load` is the only entry. A new dataset is one function from its config to a `Raw` and one line in
`DATASETS`.
"""

import gzip
import hashlib
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from mlp_jax.config import Boolean, Data, Mnist, ScikitLearn, Synthetic, Table, nearest
from mlp_jax.types import UserError

if TYPE_CHECKING:  # imported only where needed: pandas takes half a second, scikit-learn more
    import pandas

Inputs = Union[np.ndarray, "pandas.DataFrame"]


class Part(NamedTuple):
    """The examples of one part: y holds integer labels, or one row of targets for each example."""

    x: np.ndarray
    y: np.ndarray


class Column(NamedTuple):
    """One raw input: a number, or one of `categories`, which becomes as many inputs (one-hot).

    `fill` stands in for a missing entry; where it is None, a missing entry is refused.
    """

    name: str
    categories: tuple[str, ...] = ()
    fill: float | str | None = None


class Preprocessing(NamedTuple):
    """From raw inputs to x and from y back to units; stored with the model.

    x = (encoded − x_shift) / x_scale, in their dtype, and target = y · y_scale + y_shift.
    """

    columns: tuple[Column, ...]
    x_shift: np.ndarray
    x_scale: np.ndarray
    y_shift: np.ndarray
    y_scale: np.ndarray

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name for each component of x; `column=category` for a category."""
        return tuple(
            name
            for column in self.columns
            for name in [f"{column.name}={c}" for c in column.categories] or [column.name]
        )

    def encode(self, raw: Inputs) -> np.ndarray:
        """The x of raw inputs: a data frame with these columns, or an array of them in this order.

        A category that the training part did not have becomes all zeros. Raises `UserError` for
        columns that are not there, entries that are missing, infinite or no numbers.
        """
        names = [column.name for column in self.columns]
        if not isinstance(raw, np.ndarray):
            absent = [name for name in names if name not in raw.columns]
            if absent:
                raise UserError(
                    f"column {absent[0]!r} is not there.{nearest(absent[0], map(str, raw.columns))}"
                )
        elif raw.ndim != 2 or raw.shape[1] != len(names):
            raise UserError(
                f"inputs of shape {raw.shape}: must be (examples, {len(names)}), one column each "
                f"for {', '.join(names[:5])}{', …' * (len(names) > 5)}."
            )
        dtype = self.x_scale.dtype
        if isinstance(raw, np.ndarray) and not any(column.categories for column in self.columns):
            x = _numbers(raw, self.columns, dtype)
        else:
            import pandas as pd

            frame = pd.DataFrame(raw, columns=names)
            x = np.column_stack([_encode_column(frame[c.name], c, dtype) for c in self.columns])
        x -= self.x_shift
        x /= self.x_scale
        return x

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """The y of targets in their own units."""
        return (targets - self.y_shift) / self.y_scale

    def decode_targets(self, y: np.ndarray) -> np.ndarray:
        """Targets, or predictions of them, in their own units."""
        return y * self.y_scale + self.y_shift

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, exactly."""
        arrays = {name: getattr(self, name).tolist() for name in self._fields[1:]}
        columns = [column._asdict() for column in self.columns]
        return {"columns": columns, "x_dtype": self.x_scale.dtype.name, **arrays}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Preprocessing":
        columns = tuple(
            Column(column["name"], tuple(column["categories"]), column["fill"])
            for column in stored["columns"]
        )
        x_shift, x_scale = (np.array(stored[k], stored["x_dtype"]) for k in ("x_shift", "x_scale"))
        y_shift, y_scale = (np.array(stored[k], np.float64) for k in ("y_shift", "y_scale"))
        return cls(columns, x_shift, x_scale, y_shift, y_scale)


class Dataset(NamedTuple):
    """What `load` returns. `class_names` is empty for regression; `notes` are for the user."""

    name: str
    task: str
    train: Part
    validation: Part | None
    test: Part | None
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    digest: str
    notes: tuple[str, ...]


class Raw(NamedTuple):
    """What a loader returns: all examples in their own units, and a test part if there is one."""

    x: Inputs
    y: np.ndarray
    source: str
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...] = ("class",)
    class_names: tuple[str, ...] = ()
    x_scale: float = 1.0  # divides x where it is not standardised
    x_dtype: type = np.float64
    test: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()


def load(config: Data) -> Dataset:
    """The dataset that `config` describes, split and preprocessed; raises `UserError`."""
    raw = DATASETS[config.name](config)
    train, validation, test = _split(raw, config)
    columns, notes = _fit_columns(train[0], raw.feature_names, config)
    preprocessing = _fit(columns, train, raw, config)

    def preprocess(part: tuple[Inputs, np.ndarray] | None) -> Part | None:
        if part is None:
            return None
        x, y = part
        return Part(
            preprocessing.encode(x), y if raw.class_names else preprocessing.encode_targets(y)
        )

    parts = [preprocess(part) for part in (train, validation, test)]
    assert parts[0] is not None
    return Dataset(
        name=config.name,
        task="classification" if raw.class_names else "regression",
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        class_names=raw.class_names,
        feature_names=preprocessing.feature_names,
        target_names=raw.target_names,
        preprocessing=preprocessing,
        source=raw.source,
        digest=_digest(parts),
        notes=raw.notes + notes,
    )


def _digest(parts: Sequence[Part | None]) -> str:
    content = hashlib.sha256()
    for part in parts:
        for array in part or ():
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()[:16]


# --- split -------------------------------------------------------------------------------------


def _split(raw: Raw, config: Data) -> tuple[Any, Any, Any]:
    """Pairs (x, y) for training, validation and test; None for a part of size 0.

    The test part is taken from all examples, then the validation part from the rest, each like
    scikit-learn's `train_test_split` with `random_state=config.seed`, stratified for classes. A
    fraction counts from all examples and is rounded up.
    """
    rest, parts = (raw.x, raw.y), {"test_size": raw.test, "validation_size": None}
    for key in parts:
        size = getattr(config, key, 0)
        count = math.ceil(size * len(raw.y)) if size < 1 else int(size)
        if count:
            _check_size(f"data.{key}={size:g}", count, rest[1], raw.class_names)
            from sklearn.model_selection import train_test_split

            x, part_x, y, part_y = train_test_split(
                *rest,
                test_size=count,
                random_state=config.seed,
                stratify=rest[1] if raw.class_names else None,
            )
            rest, parts[key] = (x, y), (part_x, part_y)
    return rest, parts["validation_size"], parts["test_size"]


def _check_size(size: str, count: int, y: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Raises `UserError` where `count` of the examples `y` cannot be taken away."""
    if count >= len(y):
        raise UserError(
            f"{size}: takes {count} of {len(y)} examples and leaves none to train on; make "
            "data.test_size or data.validation_size smaller."
        )
    if not class_names:
        return
    labels, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        raise UserError(
            f"{size}: class {class_names[labels[counts.argmin()]]!r} has one example left, which "
            "cannot be in two parts; give it more examples, or set data.test_size=0 "
            "data.validation_size=0."
        )
    if min(count, len(y) - count) < len(labels):
        raise UserError(
            f"{size}: splits {len(y)} examples into {len(y) - count} and {count}, too few for one "
            f"of each of the {len(labels)} classes; change the size, or set it to 0."
        )


# --- preprocessing -----------------------------------------------------------------------------


def _numbers(values: np.ndarray, columns: Sequence[Column], dtype: Any) -> np.ndarray:
    """A fresh array of finite numbers, with each missing one replaced by its column's `fill`."""
    try:
        x = np.array(values, dtype)
    except (TypeError, ValueError) as error:
        names = ", ".join(repr(column.name) for column in columns[:5])
        raise UserError(f"column {names}: must be numbers ({error}).") from error
    if np.isfinite(x).all():
        return x
    for column, column_values in zip(columns, x.T, strict=True):  # views: they write to x
        if np.isinf(column_values).any():
            raise UserError(
                f"column {column.name!r}: infinite entries ({np.isinf(column_values).sum()} of "
                f"{len(x)}); correct or remove those rows."
            )
        missing = np.isnan(column_values)
        if missing.any() and column.fill is None:
            raise _missing(column, missing)
        column_values[missing] = column.fill
    return x


def _missing(column: Column, missing: Any) -> UserError:
    return UserError(
        f"column {column.name!r}: missing entries ({missing.sum()} of {len(missing)}); only a "
        "model trained with data.missing=mean fills them."
    )


def _encode_column(values: "pandas.Series[Any]", column: Column, dtype: Any) -> np.ndarray:
    if not column.categories:
        return _numbers(_as_floats(values)[:, None], [column], dtype)
    import pandas as pd

    missing = values.isna()
    if missing.any() and column.fill is None:
        raise _missing(column, missing)
    texts = _as_texts(values)
    texts[missing] = column.fill
    codes = pd.Index(column.categories, dtype=object).get_indexer(pd.Index(texts, dtype=object))
    # An unknown category has code −1.
    return (codes[:, None] == np.arange(len(column.categories))).astype(dtype)


def _as_floats(values: "pandas.Series[Any]") -> np.ndarray:
    try:
        return values.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {values.name!r}: must be numbers ({error}).") from error


def _as_texts(values: "pandas.Series[Any]") -> np.ndarray:
    return values.astype(str).astype(object).where(values.notna(), None).to_numpy(copy=True)


def _fit_columns(
    x: Inputs, names: tuple[str, ...], config: Data
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The columns of the training part `x` that are not constant, and a note on the others.

    An array's columns are all kept: a pixel may well be constant.
    """
    if isinstance(x, np.ndarray):
        return tuple(Column(name) for name in names), ()
    assert isinstance(config, Table)
    columns, constant = [], []
    for name, values in x.items():
        if values.nunique() < 2:
            constant.append(str(name))
            continue
        column = Column(str(name))
        if values.dtype != np.float64:
            counts = values.value_counts().sort_index()
            if len(counts) > max(20, len(values) / 2):
                raise UserError(
                    f"column {name!r}: {len(counts)} different texts in {len(values)} rows, such "
                    f"as {counts.index[0]!r}, are no categories; leave it out with "
                    f"'data.ignore=[{name}]'."
                )
            column = column._replace(categories=tuple(counts.index))
        if config.missing == "mean":
            column = column._replace(
                fill=str(counts.idxmax()) if column.categories else float(values.mean())
            )
        columns.append(column)
    if not columns:
        raise UserError(
            f"data.path={config.path}: every column but {config.target!r} is constant in the "
            "training part, so there is nothing to learn from."
        )
    notes = (f"left out, because constant: {', '.join(constant)}",) if constant else ()
    return tuple(columns), notes


def _fit(
    columns: tuple[Column, ...], train: tuple[Inputs, np.ndarray], raw: Raw, config: Data
) -> Preprocessing:
    x, y = train
    n_0 = sum(max(1, len(column.categories)) for column in columns)
    n_targets = 0 if raw.class_names else len(raw.target_names)
    preprocessing = Preprocessing(
        columns,
        x_shift=np.zeros(n_0, raw.x_dtype),
        x_scale=np.ones(n_0, raw.x_dtype),
        y_shift=np.zeros(n_targets),
        y_scale=np.ones(n_targets),
    )
    if not config.standardize:
        return preprocessing._replace(x_scale=np.full(n_0, raw.x_scale, raw.x_dtype))
    x_shift, x_scale = _mean_and_std(preprocessing.encode(x), preprocessing.feature_names)
    if raw.class_names:
        return preprocessing._replace(x_shift=x_shift, x_scale=x_scale)
    return Preprocessing(columns, x_shift, x_scale, *_mean_and_std(y, raw.target_names))


def _mean_and_std(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each column; a constant one has 1 for its standard deviation."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, dtype=np.float64)
    if not np.isfinite(std).all():
        name = names[int(np.argmin(np.isfinite(std)))]
        raise UserError(
            f"column {name!r}: its numbers are too large to standardise; give it in another unit."
        )
    # Rounding may leave a constant column a tiny deviation from its mean.
    std[(values.max(axis=0) == values.min(axis=0)) | (std == 0)] = 1
    return mean.astype(values.dtype), std.astype(values.dtype)


# --- datasets that are computed ----------------------------------------------------------------

BOOLEAN_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "false": lambda x: x.sum(axis=1) < 0,
    "true": lambda x: x.sum(axis=1) >= 0,
    "and": lambda x: x.sum(axis=1) == x.shape[1],
    "or": lambda x: x.sum(axis=1) > 0,
    "nand": lambda x: x.sum(axis=1) < x.shape[1],
    "nor": lambda x: x.sum(axis=1) == 0,
    "xor": lambda x: x.sum(axis=1) % 2 == 1,
    "xnor": lambda x: x.sum(axis=1) % 2 == 0,
    "parity": lambda x: x.sum(axis=1) % 2 == 1,
    "majority": lambda x: 2 * x.sum(axis=1) > x.shape[1],
    # x1 ∧ … ∧ x_{n−1} → x_n
    "implies": lambda x: (x[:, :-1].sum(axis=1) < x.shape[1] - 1) | x[:, -1],
}


def truth_table(function: Any, num_inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """All vertices in binary counting order, x1 the most significant bit, and f of each.

    `function` is a name, or the number whose bit i is f of the i-th vertex (6 is XOR).
    """
    num_vertices = 2**num_inputs
    x = (np.arange(num_vertices)[:, None] >> np.arange(num_inputs)[::-1] & 1).astype(bool)
    # YAML reads true and false as values; Python refuses to write very long numbers in decimal.
    name = hex(function) if type(function) is int else str(function).lower()
    if name in BOOLEAN_FUNCTIONS:
        return x, BOOLEAN_FUNCTIONS[name](x)
    if not isinstance(function, int) or not 0 <= function < 2**num_vertices:
        raise UserError(
            f"data.function={function}: must be one of {', '.join(BOOLEAN_FUNCTIONS)}, or a number "
            f">= 0 and < 2**{num_vertices}, the truth table of {num_inputs} inputs."
            f"{nearest(name, BOOLEAN_FUNCTIONS)}"
        )
    bits = np.frombuffer(function.to_bytes(num_vertices // 8 + 1, "little"), np.uint8)
    return x, np.unpackbits(bits, count=num_vertices, bitorder="little").astype(bool)


def _boolean(config: Boolean) -> Raw:
    if config.name == "xor" and config.function != "xor":
        raise UserError(f"data.function={config.function}: data=xor has xor; use data=boolean.")
    x, y = truth_table(config.function, config.num_inputs)
    function = hex(config.function) if type(config.function) is int else config.function
    return Raw(
        x.astype(np.float64),
        y.astype(np.int64),
        source=f"truth table of {function}, {config.num_inputs} inputs",
        feature_names=tuple(f"x{i + 1}" for i in range(config.num_inputs)),
        class_names=("0", "1"),
    )


def _circles(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_circles

    return make_circles(
        config.num_examples, noise=config.noise, factor=0.5, random_state=config.seed
    )


def _moons(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_moons

    return make_moons(config.num_examples, noise=config.noise, random_state=config.seed)


def _gauss(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds around (2, 2) and (−2, −2), as in the TensorFlow Playground."""
    rng = np.random.default_rng(config.seed)
    y = np.arange(config.num_examples) % 2
    x = rng.normal((2 - 4 * y)[:, None], config.noise, (config.num_examples, 2))
    return x, y


def _spiral(config: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    """Two arms of 1 ¾ turns and radius 5, as in the TensorFlow Playground."""
    rng = np.random.default_rng(config.seed)
    y = np.arange(config.num_examples) % 2
    along = np.arange(config.num_examples) / config.num_examples
    angle = 2 * np.pi * 1.75 * along + np.pi * y
    arm = 5 * along[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return arm + rng.normal(0, config.noise, arm.shape), y


def _synthetic(config: Synthetic) -> Raw:
    source = f"{config.name}, {config.num_examples} examples, noise {config.noise:g}"
    if config.name == "sine":
        rng = np.random.default_rng(config.seed)
        x = rng.uniform(-1, 1, (config.num_examples, 1))
        y = np.sin(2 * np.pi * x) + rng.normal(0, config.noise, x.shape)
        return Raw(x, y, source, feature_names=("x",), target_names=("y",))
    make = {"circles": _circles, "moons": _moons, "gauss": _gauss, "spiral": _spiral}
    x, y = make[config.name](config)
    return Raw(x, y.astype(np.int64), source, ("x1", "x2"), class_names=("0", "1"))


def _scikit_learn(config: ScikitLearn) -> Raw:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{config.name}")()
    raw = Raw(
        bunch.data,
        bunch.target.astype(np.int64),
        source=f"sklearn.datasets.load_{config.name}",
        feature_names=tuple(map(str, bunch.feature_names)),
    )
    if config.name == "diabetes":
        return raw._replace(y=bunch.target[:, None], target_names=("disease progression",))
    x_scale = 16.0 if config.name == "digits" else 1.0
    return raw._replace(class_names=tuple(map(str, bunch.target_names)), x_scale=x_scale)


# --- datasets that are read --------------------------------------------------------------------

_READ_ERRORS = (
    OSError, ValueError, RuntimeError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile
)  # fmt: skip
_MAX_GZIP_RATIO = 1032  # DEFLATE's limit


@contextmanager
def _reading(key: str, path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading `path` becomes a `UserError` that names it."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or f"cannot be read: {error}"
        raise UserError(f"{key}={path}: {' '.join(reason.split()).rstrip('.')}.") from error


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, plain or gzipped.

    The magic number 0x08 after two zero bytes, the number of dimensions, each dimension as four
    bytes (most significant first), then the entries. LeCun, Cortes & Burges, "The MNIST database".
    """
    with _reading("data.root", path), path.expanduser().open("rb") as file:
        file_size = os.fstat(file.fileno()).st_size
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        header = stream.read(4 + 4 * num_dims)
        if len(header) < 4 + 4 * num_dims or header[:4] != bytes((0, 0, 8, num_dims)):
            raise ValueError(
                f"its header {header[:4].hex(' ')} is not 00 00 08 {num_dims:02x}, "
                f"unsigned bytes in {num_dims} dimensions"
            )
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
        size = math.prod(shape)
        largest = file_size * (_MAX_GZIP_RATIO if stream is not file else 1)
        # Before anything that large is allocated; then one byte more, to see that the file ends.
        entries = stream.read(size + 1) if size <= largest else b""
        if len(entries) != size:
            there = "more" if len(entries) > size else "fewer"
            raise ValueError(f"it declares {' x '.join(map(str, shape))} entries and holds {there}")
    return np.frombuffer(entries, np.uint8).reshape(shape)


def _find(root: Path, name: str) -> Path:
    with _reading("data.root", root):
        for path in (root / name, root / f"{name}.gz"):
            if path.expanduser().exists():
                return path
    raise UserError(
        f"data.root={root}: neither {name} nor {name}.gz is there; MNIST is four files, "
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz."
    )


def _mnist_part(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(root, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(root, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels) or images.size == 0:
        raise UserError(
            f"data.root={images_path}: {len(images)} images of {images.shape[1]} x "
            f"{images.shape[2]} pixels for {len(labels)} labels in {labels_path.name}."
        )
    if labels.max() > 9:
        raise UserError(f"data.root={labels_path}: label {labels.max()}; must be 0 to 9.")
    return images, labels.astype(np.int64)


def _mnist(config: Mnist) -> Raw:
    images, labels = _mnist_part(Path(config.root), "train")
    test_images, test_labels = _mnist_part(Path(config.root), "t10k")
    if test_images.shape[1:] != images.shape[1:]:
        raise UserError(
            f"data.root={config.root}: images of {images.shape[1:]} pixels for training, of "
            f"{test_images.shape[1:]} for testing."
        )
    return Raw(
        images.reshape(len(images), -1),
        labels,
        source=str(Path(config.root).expanduser().resolve()),
        feature_names=tuple(f"pixel_{i}_{j}" for i, j in np.ndindex(images.shape[1:])),
        class_names=tuple("0123456789"),
        x_scale=255.0,
        x_dtype=np.float32,
        test=(test_images.reshape(len(test_images), -1), test_labels),
    )


# --- the user's own table ----------------------------------------------------------------------


def _read_csv(file: IO[bytes]) -> list[tuple[str, Any]]:
    import warnings

    import pandas as pd

    header = pd.read_csv(file, header=None, nrows=1, dtype=str).iloc[0]
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(file, index_col=False, low_memory=False)
        except pd.errors.ParserWarning as warning:  # its rows are longer than its header
            raise ValueError(warning) from warning
    names = header.where(header.notna(), frame.columns)  # pandas renames the second of two equals
    return list(zip(names, (frame[name] for name in frame), strict=True))


def _read_parquet(file: IO[bytes]) -> list[tuple[str, Any]]:
    import pandas as pd

    frame = pd.read_parquet(file).reset_index(drop=True)
    return [(str(name), values) for name, values in frame.items()]


def _read_npz(file: IO[bytes]) -> list[tuple[str, Any]]:
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array, not several with names as numpy.savez writes them")
    return list(arrays.items())


TABLE_READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}


def _table(config: Table) -> Raw:
    import pandas as pd

    frame, target_names = _as_frame(_read_table(config), config)
    numeric = {name: _is_numeric(values) for name, values in frame.items()}
    frame, notes = _without_missing(frame, target_names, config)
    if all(numeric[name] for name in target_names):
        y, class_names, reason = _numeric_target(frame[target_names], config)
    else:
        y, class_names, reason = _categorical_target(frame[target_names], config)
    if config.task == "auto":
        notes += (reason,)
    x = {
        name: _as_floats(values) if numeric[name] else _as_texts(values)
        for name, values in frame.drop(columns=target_names).items()
    }
    return Raw(
        pd.DataFrame(x),
        y,
        source=str(Path(config.path).expanduser().resolve()),
        feature_names=tuple(map(str, x)),
        target_names=tuple(target_names),
        class_names=class_names,
        notes=notes,
    )


def _read_table(config: Table) -> list[tuple[str, Any]]:
    """The table's columns or arrays with their names, without the ignored ones."""
    path = Path(config.path)
    if path.suffix.lower() not in TABLE_READERS:
        raise UserError(f"data.path={path}: must end in {', '.join(TABLE_READERS)}.")
    with _reading("data.path", path), path.expanduser().open("rb") as file:
        entries = TABLE_READERS[path.suffix.lower()](file)
    names = [name for name, _ in entries]
    for key, wanted in (("target", [config.target]), ("ignore", config.ignore)):
        absent = [name for name in wanted if name not in names]
        if absent:
            raise UserError(
                f"data.{key}={absent[0]}: no such column in {path}; it has "
                f"{', '.join(names[:20])}{', …' * (len(names) > 20)}.{nearest(absent[0], names)}"
            )
    if config.target in config.ignore:
        raise UserError(f"data.ignore={config.target}: this column is data.target.")
    return [(name, values) for name, values in entries if name not in config.ignore]


def _as_frame(
    entries: list[tuple[str, Any]], config: Table
) -> tuple["pandas.DataFrame", list[str]]:
    """One data frame, a 2-D array `x` becoming `x_0`, `x_1`, …; and the target's columns."""
    import pandas as pd

    rows = np.shape(dict(entries)[config.target])[:1]
    columns: list[tuple[str, Any]] = []
    target_names: list[str] = []
    for name, values in sorted(entries, key=lambda entry: entry[0] != config.target):
        if values.ndim not in (1, 2) or values.shape[:1] != rows or 0 in values.shape[1:]:
            raise UserError(
                f"data.path={config.path}: array {name!r} has shape {values.shape}; must have one "
                f"or two dimensions and as many rows as the target. Leave it out with "
                f"'data.ignore=[{name}]'."
            )
        parts = [(name, values)]
        if values.ndim == 2:
            parts = [(f"{name}_{j}", values[:, j]) for j in range(values.shape[1])]
        columns += parts
        if name == config.target:
            target_names = [part_name for part_name, _ in parts]
    repeated = [name for name, count in Counter(name for name, _ in columns).items() if count > 1]
    if repeated:
        raise UserError(f"data.path={config.path}: more than one column is called {repeated[0]!r}.")
    if rows == (0,) or len(columns) == len(target_names):
        lacks = "no rows" if rows == (0,) else "no columns besides the target"
        raise UserError(f"data.path={config.path}: there are {lacks}.")
    return pd.DataFrame(dict(columns)), target_names


def _is_numeric(values: "pandas.Series[Any]") -> bool:
    """Whether a column holds numbers; else it holds categories. Raises `UserError` for the rest."""
    from pandas.api.types import infer_dtype

    kind = infer_dtype(values, skipna=True)
    if kind in ("string", "boolean", "categorical"):
        return False
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        return True
    raise UserError(
        f"column {values.name!r}: its entries ({kind}) are neither numbers, texts nor true and "
        f"false; turn it into numbers, or leave it out with 'data.ignore=[{values.name}]'."
    )


def _without_missing(
    frame: "pandas.DataFrame", target_names: list[str], config: Table
) -> tuple["pandas.DataFrame", tuple[str, ...]]:
    """Drops rows with missing entries, or refuses them; `mean` is left to the preprocessing."""
    missing = frame.isna()
    if config.missing == "drop":
        incomplete = missing.any(axis=1)
        if incomplete.all():
            raise UserError(f"data.missing=drop: every row of {config.path} lacks an entry.")
        dropped = f"dropped {incomplete.sum()} of {len(frame)} rows, which lack an entry"
        return frame[~incomplete], (dropped,) * bool(incomplete.any())
    counts = missing[target_names].sum() if config.missing == "mean" else missing.sum()
    listed = [f"{name!r} ({count})" for name, count in counts.items() if count]
    if listed:
        fill = "" if set(counts[counts > 0].index) & set(target_names) else " or data.missing=mean"
        raise UserError(
            f"data.missing={config.missing}: entries are missing in {', '.join(listed)} of "
            f"{config.path}; set data.missing=drop{fill}."
        )
    return frame, ()


def _categorical_target(
    targets: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray, tuple[str, ...], str]:
    if config.task == "regression" or targets.shape[1] > 1:
        raise UserError(
            f"data.task={config.task}: the target {config.target!r} holds texts, such as "
            f"{str(targets.iloc[0, 0])!r}; one column of them goes with data.task=classification."
        )
    reason = f"data.task=classification: {config.target!r} holds categories"
    return *_labels(targets.iloc[:, 0].astype(str).to_numpy(object), config), reason


def _numeric_target(
    targets: "pandas.DataFrame", config: Table
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Labels or targets. Left to itself, a target is a class where it is one column of whole
    numbers, with two different ones, or with at most 20 that have ten rows each on average.
    """
    columns = [Column(str(name)) for name in targets]
    y = _numbers(np.column_stack([_as_floats(v) for _, v in targets.items()]), columns, np.float64)
    whole = y.shape[1] == 1 and bool((y == np.round(y)).all()) and np.abs(y).max() < 2**53
    num_values = len(np.unique(y))
    few = num_values == 2 or num_values <= min(20, len(y) / 10)
    if config.task == "classification" and not whole:
        raise UserError(
            f"data.task=classification: the target {config.target!r} must be one column of texts "
            "or whole numbers."
        )
    if config.task == "classification" or (config.task == "auto" and whole and few):
        reason = f"data.task=classification: {config.target!r} holds {num_values} whole numbers"
        return *_labels(y[:, 0].astype(np.int64), config), reason
    if num_values < 2:
        raise UserError(f"data.target={config.target}: every row has {y.flat[0]:g}.")
    return y, (), f"data.task=regression: {config.target!r} holds numbers"


def _labels(values: np.ndarray, config: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    classes, labels = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"data.target={config.target}: every row has {str(classes[0])!r}; "
            "a classification needs at least two classes."
        )
    return labels.astype(np.int64), tuple(map(str, classes))


DATASETS: dict[str, Callable[[Any], Raw]] = {
    "xor": _boolean,
    "boolean": _boolean,
    **dict.fromkeys(("circles", "moons", "gauss", "spiral", "sine"), _synthetic),
    **dict.fromkeys(("iris", "wine", "breast_cancer", "digits", "diabetes"), _scikit_learn),
    "mnist": _mnist,
    "table": _table,
}
