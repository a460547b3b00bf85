"""Datasets: shapes, splits, truth tables, and what every kind of bad file gets."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler

from mlp_jax import data
from mlp_jax.config.schema import Boolean, Mnist, ScikitLearn, Synthetic, Table
from mlp_jax.data import DATASETS, load
from mlp_jax.data.computed import BOOLEAN_FUNCTIONS, truth_table
from mlp_jax.data.mnist import read_idx
from mlp_jax.data.preprocessing import Preprocessing
from mlp_jax.errors import UserError


def config(schema, defaults, other):
    """An instance of a schema's dataclass, its sizes floats as Hydra makes them."""
    plain = {"seed": 0, "folds": None, "fold": None, "standardize": False, "scaling": "standard"}
    values = plain | defaults | other
    return schema(**{k: float(v) if k.endswith("_size") else v for k, v in values.items()})


def boolean(function="parity", num_inputs=2, name="boolean", **other):
    defaults = {"name": name, "function": function, "num_inputs": num_inputs}
    return config(Boolean, {"validation_size": 0, "test_size": 0} | defaults, other)


def synthetic(name, **other):
    defaults = {"name": name, "validation_size": 0.2, "test_size": 0.2}
    return config(Synthetic, {"num_examples": 100, "noise": 0.1} | defaults, other)


def scikit_learn(name, **other):
    defaults = {"name": name, "validation_size": 0.2, "test_size": 0.2, "standardize": True}
    return config(ScikitLearn, defaults, other)


def mnist(root, **other):
    return config(
        Mnist, {"name": "mnist", "root": str(root), "validation_size": 10, "shuffle": True}, other
    )


def table(path, **other):
    defaults = {"name": "table", "path": str(path), "target": "y", "task": "auto", "ignore": []}
    defaults |= {"dates": "refuse", "texts": "refuse", "target_transform": "none", "weights": None}
    defaults |= {"missing": "refuse", "numeric": [], "categorical": [], "missing_values": None}
    defaults |= dict.fromkeys(("separator", "decimal", "encoding", "header"), "auto")
    return config(Table, {"validation_size": 0, "test_size": 0, "shuffle": True} | defaults, other)


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_mnist(root, num_train=50, num_test=20):
    rng = np.random.default_rng(0)
    for prefix, n, pack, suffix in (
        ("train", num_train, gzip.compress, ".gz"),
        ("t10k", num_test, bytes, ""),
    ):
        images = rng.integers(0, 256, (n, 4, 3), np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        (root / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx_bytes(images)))
        (root / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx_bytes(labels)))
    return root


def write_table(path, num_rows=40):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({
        "size": rng.normal(50, 9, num_rows),
        "colour": np.array(["red", "green", "blue"])[np.arange(num_rows) % 3],
        "big": np.arange(num_rows) % 4 == 0,
        "y": np.where(np.arange(num_rows) % 2, "yes", "no"),
    })  # fmt: skip
    frame.to_csv(path, index=False)
    return frame


CONFIGS = {
    "xor": lambda root, **other: boolean("xor", name="xor", **other),
    "boolean": lambda root, **other: boolean("majority", 6, **other),
    **{
        name: lambda root, name=name, **other: synthetic(name, **other)
        for name in ("circles", "moons", "gauss", "spiral", "sine")
    },
    **{
        name: lambda root, name=name, **other: scikit_learn(name, **other)
        for name in ("iris", "wine", "breast_cancer", "digits", "diabetes")
    },
    "mnist": lambda root, **other: mnist(write_mnist(root), **other),
    "table": lambda root, **other: (
        write_table(root / "t.csv"),
        table(root / "t.csv", **({"test_size": 0.2, "validation_size": 0.2} | other)),
    )[1],
}


# name: examples in training, validation, test; n_0; classes (0: regression)
SIZES = {
    "xor": (4, 0, 0, 2, 2),
    "boolean": (64, 0, 0, 6, 2),
    **dict.fromkeys(("circles", "moons", "gauss", "spiral"), (60, 20, 20, 2, 2)),
    "sine": (60, 20, 20, 1, 0),
    "iris": (90, 30, 30, 4, 3),
    "wine": (106, 36, 36, 13, 3),
    "breast_cancer": (341, 114, 114, 30, 2),
    "digits": (1077, 360, 360, 64, 10),
    "diabetes": (264, 89, 89, 10, 0),
    "mnist": (40, 10, 20, 12, 10),
    "table": (24, 8, 8, 6, 2),
}


def parts_of(dataset):
    return [part for part in (dataset.train, dataset.validation, dataset.test) if part]


def test_every_dataset_is_tested():
    assert DATASETS.keys() == CONFIGS.keys() == SIZES.keys()


@pytest.mark.parametrize("name", DATASETS)
def test_shapes(name, tmp_path):
    dataset = load(CONFIGS[name](tmp_path))
    *sizes, n_0, num_classes = SIZES[name]
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [len(part.x) if part else 0 for part in parts] == sizes
    assert dataset.name == name
    assert len(dataset.class_names) == num_classes
    assert dataset.task == ("classification" if num_classes else "regression")
    assert len(dataset.feature_names) == n_0 == len(set(dataset.feature_names))
    for part in parts_of(dataset):
        assert part.x.shape == (len(part.y), n_0)
        assert part.x.dtype == (np.float32 if name == "mnist" else np.float64)
        assert np.isfinite(part.x).all()
        if num_classes:
            assert part.y.shape == (len(part.x),) and part.y.dtype == np.int64
            assert set(part.y) == set(range(num_classes))
        else:
            assert part.y.shape == (len(part.x), len(dataset.target_names))
            assert part.y.dtype == np.float64


@pytest.mark.parametrize("name", DATASETS)
def test_seeded(name, tmp_path):
    """The same seed gives the same dataset, another one another; what is computed stays."""
    first, again = (load(CONFIGS[name](tmp_path)) for _ in range(2))
    other = load(CONFIGS[name](tmp_path, seed=1))
    assert first.digest == again.digest
    for part, same in zip(parts_of(first), parts_of(again), strict=True):
        np.testing.assert_array_equal(part.x, same.x)
        np.testing.assert_array_equal(part.y, same.y)
    assert (first.digest == other.digest) == (name in ("xor", "boolean"))


@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("xor", "boolean", "mnist")])
def test_parts_are_disjoint_and_complete(name, tmp_path):
    """In raw units, all parts together are the dataset that is not split."""

    def rows(dataset):
        x = np.concatenate([part.x for part in parts_of(dataset)])
        y = np.concatenate([part.y.reshape(len(part.x), -1) for part in parts_of(dataset)])
        rows = np.column_stack([x, y])
        return rows[np.lexsort(rows.T)]

    split = load(CONFIGS[name](tmp_path, standardize=False))
    whole = load(CONFIGS[name](tmp_path, standardize=False, test_size=0, validation_size=0))
    assert whole.validation is None and whole.test is None
    np.testing.assert_array_equal(rows(split), rows(whole))


@pytest.mark.parametrize("name", DATASETS)
def test_standardised_on_the_training_part_alone(name, tmp_path):
    dataset = load(CONFIGS[name](tmp_path, standardize=True))
    raw = load(CONFIGS[name](tmp_path, standardize=False))
    tolerance = 1e-5 if name == "mnist" else 1e-12
    arrays = [dataset.train.x] if dataset.class_names else list(dataset.train)
    for values in arrays:
        varies = np.ptp(values, axis=0) > 0
        np.testing.assert_allclose(values.mean(0), 0, atol=tolerance)
        np.testing.assert_allclose(values.std(0)[varies], 1, atol=tolerance)
    if dataset.validation:  # its own mean is another one
        assert np.abs(dataset.validation.x.mean(0)).max() > 1e-3
    scale = raw.preprocessing.x_scale  # 16 for digits, 255 for MNIST
    for part, raw_part in zip(parts_of(dataset), parts_of(raw), strict=True):
        encoded = dataset.preprocessing.encode(raw_part.x * scale) if name != "table" else part.x
        np.testing.assert_allclose(part.x, encoded, atol=tolerance)
        if not dataset.class_names:
            decoded = dataset.preprocessing.decode_targets(part.y)
            np.testing.assert_allclose(decoded, raw_part.y, rtol=1e-12)


@pytest.mark.parametrize("name", DATASETS)
def test_preprocessing_is_stored_exactly(name, tmp_path):
    stored = load(CONFIGS[name](tmp_path, standardize=True)).preprocessing
    restored = Preprocessing.from_dict(json.loads(json.dumps(stored.to_dict())))
    assert restored.columns == stored.columns
    assert restored.clip == stored.clip and restored.quantiles is None
    for one, other in zip(restored[1:5], stored[1:5], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_digits_are_split_as_scikit_learn_does():
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x / 16, y, test_size=0.2, stratify=y, random_state=0
    )
    dataset = load(scikit_learn("digits", validation_size=0, standardize=False))
    np.testing.assert_array_equal(dataset.train.x, train_x)
    np.testing.assert_array_equal(dataset.train.y, train_y)
    np.testing.assert_array_equal(dataset.test.x, test_x)
    np.testing.assert_array_equal(dataset.test.y, test_y)
    assert dataset.preprocessing.x_scale.tolist() == [16.0] * 64
    np.testing.assert_array_equal(dataset.preprocessing.encode(16 * test_x), test_x)


def test_stratified():
    for part in parts_of(load(scikit_learn("iris"))):
        assert len(set(np.bincount(part.y))) == 1


def test_a_size_is_a_number_or_a_fraction_of_all_examples():
    numbers = load(scikit_learn("iris", validation_size=30.0, test_size=60.0))
    fractions = load(scikit_learn("iris", validation_size=0.2, test_size=0.4))
    assert [len(part.x) for part in parts_of(numbers)] == [60, 30, 60]
    assert numbers.digest == fractions.digest


@pytest.mark.parametrize("name", ["mnist", "table"])
def test_in_the_order_of_the_file(name, tmp_path):
    other = {} if name == "mnist" else {"test_size": 0}
    whole = load(CONFIGS[name](tmp_path, **(other | {"validation_size": 0})))
    split = load(CONFIGS[name](tmp_path, shuffle=False))
    for a, b in zip(whole.train, zip(*parts_of(split)[: 2 + len(other)], strict=True), strict=True):
        np.testing.assert_array_equal(a, np.concatenate(b))


def test_a_class_that_the_split_would_take_whole(tmp_path):
    pd.DataFrame({"x": range(20), "y": ["a"] * 15 + ["b"] * 5}).to_csv(tmp_path / "t.csv")
    load(table(tmp_path / "t.csv", test_size=4.0, shuffle=False))
    with pytest.raises(UserError, match=r"data\.test_size=5: the last 5 .* of class 'b'; where"):
        load(table(tmp_path / "t.csv", test_size=5.0, shuffle=False))
    with pytest.raises(UserError, match=r"data\.validation_size=2: the last 2 .* of class 'b'"):
        load(table(tmp_path / "t.csv", test_size=3.0, validation_size=2.0, shuffle=False))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"validation_size": 0.5, "test_size": 0.5}, "data.validation_size=0.5: takes 75 of 75"),
        ({"validation_size": 0, "test_size": 150.0}, "data.test_size=150: takes 150 of 150"),
        ({"validation_size": 1e9, "test_size": 0}, "leaves none to train on"),
        ({"validation_size": 2.0, "test_size": 0}, "too few for one of each of the 3 classes"),
        ({"validation_size": 148.0, "test_size": 0}, "too few for one of each of the 3 classes"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(UserError, match=message):
        load(scikit_learn("iris", **sizes))


@pytest.mark.parametrize(
    ("name", "num_inputs", "values"),
    [
        ("false", 2, "0000"), ("and", 2, "0001"), ("xor", 2, "0110"), ("or", 2, "0111"),
        ("nor", 2, "1000"), ("xnor", 2, "1001"), ("implies", 2, "1101"), ("nand", 2, "1110"),
        ("true", 2, "1111"), ("parity", 2, "0110"), ("majority", 2, "0001"),
        ("majority", 3, "00010111"), ("parity", 3, "01101001"), ("xnor", 3, "10010110"),
        ("implies", 3, "11111101"), ("and", 1, "01"), ("nor", 1, "10"), ("implies", 1, "01"),
        (6, 2, "0110"), (0, 2, "0000"), (15, 2, "1111"), (1, 2, "1000"), (8, 2, "0001"),
        (0b10001110, 3, "01110001"), (1, 1, "10"), (True, 2, "1111"),
    ],
)  # fmt: skip
def test_truth_tables(name, num_inputs, values):
    x, y = truth_table(name, num_inputs)
    assert "".join(str(int(v)) for v in y) == values
    assert ["".join(str(int(v)) for v in row) for row in x] == [
        f"{i:0{num_inputs}b}" for i in range(2**num_inputs)
    ]


def test_every_named_function_is_a_truth_table():
    for name in BOOLEAN_FUNCTIONS:
        for num_inputs in (1, 2, 5):
            _, y = truth_table(name, num_inputs)
            assert y.dtype == bool and y.shape == (2**num_inputs,)


@given(st.data())
def test_the_number_of_a_truth_table_is_its_bits(draw):
    num_inputs = draw.draw(st.integers(1, 8))
    number = draw.draw(st.integers(0, 2**2**num_inputs - 1))
    train = load(boolean(number, num_inputs)).train
    assert sum(int(y) << i for i, y in enumerate(train.y)) == number
    weights = 2 ** np.arange(num_inputs)[::-1]
    np.testing.assert_array_equal(train.x @ weights, np.arange(2**num_inputs))


def test_the_truth_table_of_16_inputs():
    assert load(boolean(2**2**16 - 2, 16)).train.y.tolist() == [0] + [1] * (2**16 - 1)


@pytest.mark.parametrize("function", [-1, 16, 2**40, "xr", "6", None, 1.5, [0, 1]])
def test_no_such_truth_table(function):
    with pytest.raises(UserError, match=r"data\.function=.*< 2\*\*4, the truth table of 2"):
        load(boolean(function))


def test_xor_is_xor():
    with pytest.raises(UserError, match="use data=boolean"):
        load(boolean("and", name="xor"))


def test_xor_needs_neither_pandas_nor_scikit_learn():
    """Their imports would double its start."""
    code = (
        "import sys; from mlp_jax.config.compose import compose; from mlp_jax.data import load; "
        "load(compose(['data=xor', 'data.standardize=true']).data); "
        "print({'pandas', 'sklearn'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_computed_datasets_without_noise():
    """Points lie on the curves that define them."""
    circles, gauss, spiral, sine = (
        load(synthetic(name, noise=0.0, validation_size=0, test_size=0)).train
        for name in ("circles", "gauss", "spiral", "sine")
    )
    np.testing.assert_allclose(np.linalg.norm(circles.x, axis=1), np.where(circles.y, 0.5, 1))
    np.testing.assert_array_equal(gauss.x, np.where(gauss.y, -2.0, 2.0)[:, None].repeat(2, 1))
    radius = np.linalg.norm(spiral.x, axis=1)
    np.testing.assert_allclose(radius, 5 * np.arange(100) / 100)
    angle = 3.5 * np.pi * radius / 5 + np.pi * spiral.y
    np.testing.assert_allclose(spiral.x, radius[:, None] * np.c_[np.sin(angle), np.cos(angle)])
    np.testing.assert_allclose(sine.y, np.sin(2 * np.pi * sine.x))
    assert np.abs(sine.x).max() <= 1


def test_noise_is_a_standard_deviation():
    gauss = load(synthetic("gauss", num_examples=20_000, noise=0.7)).train
    assert abs((gauss.x - np.where(gauss.y, -2, 2)[:, None]).std() - 0.7) < 0.01


# --- MNIST -------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3).flatmap(
        lambda shape: st.binary(min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
            lambda content: np.frombuffer(content, np.uint8).reshape(shape)
        )
    ),
    st.booleans(),
)
@settings(max_examples=50)
def test_idx_round_trip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.getbasetemp() / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path, array.ndim), array)


IMAGES = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
ZIPPED = gzip.compress(IMAGES, mtime=0)
HUGE = bytes((0, 0, 8, 3)) + b"\xff" * 12 + bytes(24)
CORRUPT_IDX = {
    "empty": b"",
    "only a magic number": IMAGES[:4],
    "header cut off": IMAGES[:13],
    "no entries": IMAGES[:16],
    "one entry less": IMAGES[:-1],
    "one entry more": IMAGES + b"\0",
    "first byte": b"\1" + IMAGES[1:],
    "floats": IMAGES[:2] + b"\x0d" + IMAGES[3:],
    "labels for images": idx_bytes(np.zeros(40, np.uint8)),
    "four dimensions": idx_bytes(np.zeros((2, 4, 3, 1), np.uint8)),
    "little endian": bytes((0, 0, 8, 3)) + np.array([2, 4, 3], "<u4").tobytes() + IMAGES[16:],
    "declares 2**96 entries": HUGE,
    "text": b"<html>404 Not Found</html>",
    "gzip without the suffix": ZIPPED,
    "plain with the suffix.gz": IMAGES,
    "empty.gz": b"",
    "cut off.gz": ZIPPED[:-9],
    "cut off in its header.gz": ZIPPED[:5],
    "wrong checksum.gz": ZIPPED[:-8] + bytes([ZIPPED[-8] ^ 1]) + ZIPPED[-7:],
    "flipped bits.gz": ZIPPED[:20] + bytes([ZIPPED[20] ^ 0xFF]) + ZIPPED[21:],
    "rubbish behind.gz": ZIPPED + b"rubbish",
    "one entry less.gz": gzip.compress(IMAGES[:-1]),
    "one entry more.gz": gzip.compress(IMAGES + b"\0"),
    "declares 2**96 entries.gz": gzip.compress(HUGE),
    "declares 1 GiB.gz": gzip.compress(
        bytes((0, 0, 8, 3)) + np.array([1024, 1024, 1024], ">u4").tobytes() + bytes(99)
    ),
}


@pytest.mark.parametrize("name", CORRUPT_IDX)
def test_corrupt_idx_files(name, tmp_path):
    (tmp_path / name).write_bytes(CORRUPT_IDX[name])
    with pytest.raises(UserError, match=r"^data\.root=") as error:
        read_idx(tmp_path / name, 3)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_every_cut_of_an_idx_file_is_refused(tmp_path):
    for content, name in ((IMAGES, "images"), (ZIPPED, "images.gz")):
        for length in range(len(content)):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(UserError, match=name):
                read_idx(tmp_path / name, 3)


def test_a_lying_idx_header_allocates_nothing(tmp_path, monkeypatch):
    """The declared size is held against the file's before it is read."""
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda file, size=-1: asked.append(size) or read(file, size)
    )
    (tmp_path / "images.gz").write_bytes(CORRUPT_IDX["declares 1 GiB.gz"])
    with pytest.raises(UserError, match="declares 1024 x 1024 x 1024 entries and holds fewer"):
        read_idx(tmp_path / "images.gz", 3)
    assert asked == [16]


def test_an_idx_file_that_memory_does_not_hold(tmp_path, monkeypatch):
    """It is refused by the count of its header, before its entries are unpacked."""
    monkeypatch.setattr("mlp_jax.data.files.half_of_memory", lambda: 400)
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((2, 51, 1), np.uint8))))
    with pytest.raises(UserError, match="2 x 51 x 1 entries, as float32 408 bytes; at most 400"):
        read_idx(tmp_path / "images.gz", 3)


def test_mnist_waits_for_no_pipe(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(UserError, match="a pipe, not a file"):
        load(mnist(tmp_path))


def test_mnist_takes_raw_pixels(tmp_path):
    dataset = load(mnist(write_mnist(tmp_path)))
    assert dataset.preprocessing.x_scale.tolist() == [255.0] * 12
    assert dataset.feature_names[:4] == ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0")
    images = read_idx(tmp_path / "t10k-images-idx3-ubyte", 3).reshape(20, 12)
    np.testing.assert_array_equal(dataset.test.x, images.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.preprocessing.encode(images), dataset.test.x)
    np.testing.assert_array_equal(dataset.test.y, np.arange(20) % 10)
    rows = np.concatenate([dataset.train.x, dataset.validation.x])
    images = read_idx(tmp_path / "train-images-idx3-ubyte.gz", 3).reshape(50, 12)
    assert {r.tobytes() for r in rows} == {
        r.tobytes() for r in images.astype(np.float32) / np.float32(255)
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(49, np.uint8)), "50 images.*49 labels"),
        ("t10k-labels-idx1-ubyte", idx_bytes(np.full(20, 10, np.uint8)), "label 10; must be 0 to"),
        ("t10k-images-idx3-ubyte", idx_bytes(np.zeros((20, 3, 4), np.uint8)), r"\(3, 4\)"),
        ("t10k-images-idx3-ubyte", idx_bytes(np.zeros((20, 0, 4), np.uint8)), "0 x 4 pixels"),
        ("t10k-images-idx3-ubyte", None, "neither t10k-images-idx3-ubyte nor .*gz is there"),
    ],
)
def test_mnist_files_that_do_not_fit(name, content, message, tmp_path):
    path = write_mnist(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^data\.root=.*{message}"):
        load(mnist(tmp_path))


# --- tables ------------------------------------------------------------------------------------


def written(path, **columns):
    """A table of these columns, in the format that the path's suffix names."""
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix in (".csv", ".tsv", ".txt"):
        separator = "\t" if path.suffix == ".tsv" else ","
        pd.DataFrame(columns).to_csv(path, index=False, sep=separator)
    else:
        pd.DataFrame(columns).to_parquet(path)
    return path


FORMATS = [".csv", ".tsv", ".txt", ".parquet", ".pq", ".npz"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_formats_agree(suffix, tmp_path):
    path = written(
        tmp_path / f"t{suffix}",
        a=np.array([0.1, 2.5, -3.0, 4.0]),
        c=np.array(["u", "v", "u", "w"]),
        y=np.array([1.5, 2.5, 3.5, 4.25]),
    )
    dataset = load(table(path))
    assert dataset.task == "regression" and dataset.target_names == ("y",)
    assert dataset.feature_names == ("a", "c=u", "c=v", "c=w")
    expected = [[0.1, 1, 0, 0], [2.5, 0, 1, 0], [-3, 1, 0, 0], [4, 0, 0, 1]]
    np.testing.assert_array_equal(dataset.train.x, expected)
    np.testing.assert_array_equal(dataset.train.y, [[1.5], [2.5], [3.5], [4.25]])


def test_npz_with_matrices(tmp_path):
    x, y = np.arange(8.0).reshape(4, 2) ** 2, np.arange(8.0).reshape(4, 2) / 3
    path = written(tmp_path / "t.npz", x=x, y=y, odd=np.zeros((2, 2, 2)))
    dataset = load(table(path, ignore=["odd"]))
    assert dataset.feature_names == ("x_0", "x_1") and dataset.target_names == ("y_0", "y_1")
    np.testing.assert_array_equal(dataset.train.x, x)
    np.testing.assert_array_equal(dataset.train.y, y)
    np.testing.assert_array_equal(dataset.preprocessing.encode(x), x)


@pytest.mark.parametrize(
    ("target", "task", "class_names"),
    [
        (["no", "yes"] * 20, "classification", ("no", "yes")),
        ([True, False] * 20, "classification", ("False", "True")),
        ([0, 1] * 20, "classification", ("0", "1")),
        ([10, 9] * 20, "classification", ("9", "10")),
        ([1.0, 2.0, 3.0, 3.0] * 10, "classification", ("1", "2", "3")),
        ([1, 2, 3, 4, 5] * 8, "regression", ()),
        ([0.5, 1.0] * 20, "regression", ()),
        (list(range(40)), "regression", ()),
    ],
)
def test_the_task_is_found_out(target, task, class_names, tmp_path):
    dataset = load(table(written(tmp_path / "t.csv", a=np.arange(40.0), y=target)))
    assert (dataset.task, dataset.class_names) == (task, class_names)
    assert any(f"data.task={task}" in note for note in dataset.notes)
    if class_names:
        assert [class_names[y] for y in dataset.train.y] == [
            str(int(v)) if isinstance(v, float) else str(v) for v in target
        ]


def test_two_whole_numbers_are_classes_in_a_small_table_too(tmp_path):
    path = written(tmp_path / "t.csv", a=[0, 0, 1, 1], b=[0, 1, 0, 1], y=[0, 1, 1, 0])
    assert load(table(path)).class_names == ("0", "1")


def test_a_given_task_is_taken(tmp_path):
    path = written(tmp_path / "t.csv", a=np.arange(10.0), y=np.arange(10) % 2)
    assert load(table(path, task="regression")).train.y.tolist() == [[0.0], [1.0]] * 5
    path = written(tmp_path / "t.csv", a=np.arange(10.0), y=np.arange(10))
    assert len(load(table(path, task="classification")).class_names) == 10


texts = st.text(st.characters(categories=["L"]), min_size=1, max_size=3).map("k{}".format)
numbers = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_raw_rows_encode_to_x(tmp_path_factory, draw):
    """A stored model that is given the user's own rows sees what training saw."""
    num_rows = draw.draw(st.integers(4, 12))

    def column(values):
        return draw.draw(st.lists(values, min_size=num_rows, max_size=num_rows))

    kinds = draw.draw(st.lists(st.sampled_from([numbers, texts, st.booleans()]), max_size=4))
    columns = {f"c{i}": column(kind) for i, kind in enumerate(kinds)}
    columns |= {"first": [float(i) for i in range(num_rows)], "y": column(numbers)}
    columns["y"][:2] = [0.5, 1.5]
    suffix = draw.draw(st.sampled_from([".csv", ".parquet"]))
    path = written(tmp_path_factory.getbasetemp() / f"t{suffix}", **columns)
    scaling = {
        "standardize": draw.draw(st.booleans()),
        "scaling": draw.draw(st.sampled_from(["standard", "robust", "quantile", "none"])),
    }
    dataset = load(table(path, **scaling, task="regression"))
    stored = json.loads(json.dumps(dataset.preprocessing.to_dict()))
    preprocessing = Preprocessing.from_dict(stored)
    frame = pd.DataFrame(columns)
    np.testing.assert_array_equal(preprocessing.encode(frame), dataset.train.x)
    in_order = frame[[column.name for column in preprocessing.columns]].to_numpy(object)
    np.testing.assert_array_equal(preprocessing.encode(in_order), dataset.train.x)
    y = preprocessing.decode_targets(dataset.train.y)
    np.testing.assert_allclose(y[:, 0], columns["y"], rtol=1e-9, atol=1e-6)


def test_categories_come_from_the_training_part(tmp_path):
    colours = np.array(["red", "green"] * 20)
    colours[7] = "gold"
    path = written(tmp_path / "t.csv", colour=colours, y=np.arange(40) / 3)
    in_training = set()
    for seed in range(8):
        dataset = load(table(path, test_size=0.5, seed=seed))
        gold = "colour=gold" in dataset.feature_names
        in_training.add(gold)
        assert (dataset.train.x.sum(1) == 1).all()
        assert (dataset.test.x.sum(1) == 0).sum() == (0 if gold else 1)  # unknown: all zeros
    assert in_training == {True, False}


def test_robust_scaling_is_that_of_scikit_learn_clipped(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(sigma=2, size=200), np.repeat([0.0, 4.0], [180, 20])
    path = written(tmp_path / "t.csv", a=a, b=b, y=a)
    dataset = load(table(path, standardize=True, scaling="robust"))
    u = np.column_stack([RobustScaler().fit_transform(a[:, None]), b / 2])
    expected = u / np.sqrt(1 + (u / 3) ** 2)
    np.testing.assert_allclose(dataset.train.x, expected, rtol=1e-12)
    assert np.abs(dataset.train.x).max() < 3 < np.abs(u).max()
    np.testing.assert_allclose(dataset.preprocessing.unscale(dataset.train.x)[:, 0], a, rtol=1e-6)
    assert dataset.train.y.std() == pytest.approx(1)  # the target as ever
    far = dataset.preprocessing.encode(np.array([[1e200, 0.0], [-1e200, 0.0]]))
    assert far[:, 0].tolist() == pytest.approx([3, -3])  # however far out


def test_quantile_scaling_is_that_of_scikit_learn(tmp_path):
    rng = np.random.default_rng(0)
    a, many_equal = rng.lognormal(sigma=2, size=1500), rng.integers(0, 5, 1500) ** 2.0
    colour = rng.choice(["red", "green"], 1500)
    path = written(tmp_path / "t.csv", a=a, b=many_equal, colour=colour, y=a)
    dataset = load(table(path, standardize=True, scaling="quantile"))
    stored = json.loads(json.dumps(dataset.preprocessing.to_dict()))
    preprocessing = Preprocessing.from_dict(stored)
    theirs = QuantileTransformer(output_distribution="normal", subsample=None)
    numbers = np.column_stack([a, many_equal])
    np.testing.assert_allclose(dataset.train.x[:, :2], theirs.fit_transform(numbers), atol=1e-6)
    new = np.column_stack([np.r_[-1e9, 1e9, rng.lognormal(sigma=2, size=500)], np.arange(502) / 20])
    x = preprocessing.encode(pd.DataFrame(new, columns=["a", "b"]).assign(colour="red"))
    np.testing.assert_allclose(x[:, :2], theirs.transform(new), atol=1e-6)
    np.testing.assert_allclose(dataset.train.x[:, 2:].std(axis=0), 1)  # categories as standard
    np.testing.assert_allclose(
        preprocessing.unscale(dataset.train.x)[:, :2], numbers, rtol=1e-5, atol=1e-6
    )
    assert dataset.train.y.std() == pytest.approx(1)


def test_without_scaling_the_targets_still_are(tmp_path):
    a = np.arange(8.0)
    path = written(tmp_path / "t.csv", a=a, y=a / 3)
    dataset = load(table(path, standardize=True, scaling="none"))
    assert dataset.train.x[:, 0].tolist() == a.tolist()
    assert dataset.train.y.std() == pytest.approx(1)
    pixels = load(scikit_learn("digits", scaling="none")).train.x
    assert pixels.max() == 1  # of 16


def test_a_missing_entry_may_be_a_value_of_its_own(tmp_path):
    a, b = np.array([1.0, 2.0, np.nan, 9.0]), np.arange(4.0)
    c = np.array(["u", None, "missing", "u"], object)
    path = written(tmp_path / "t.parquet", a=a, b=b, c=c, d=list("uvvv"), y=np.arange(4) / 3)
    dataset = load(table(path, missing="indicator", standardize=False))
    assert dataset.feature_names == (
        "a", "a is missing", "b", "c=missing", "c=u", "c=missing_", "d=u", "d=v"
    )  # fmt: skip
    assert dataset.train.x.tolist() == [
        [1, 0, 0, 0, 1, 0, 1, 0],
        [2, 0, 1, 0, 0, 1, 0, 1],
        [2, 1, 2, 1, 0, 0, 0, 1],
        [9, 0, 3, 0, 1, 0, 0, 1],
    ]
    assert "a (or missing), b" in " ".join(dataset.notes)
    stored = json.loads(json.dumps(dataset.preprocessing.to_dict()))
    raw = pd.DataFrame({"a": [np.nan], "b": [np.nan], "c": [None], "d": [None]})
    x = Preprocessing.from_dict(stored).encode(raw)
    assert x.tolist() == [[2, 1, 1.5, 0, 0, 1, 0, 1]]
    rows = data.raw_inputs(dataset, 4)
    pd.testing.assert_frame_equal(rows, pd.read_parquet(path)[list("abcd")], check_dtype=False)


@pytest.mark.parametrize("missing", ["mean", "indicator"])
def test_a_gap_that_training_did_not_have_is_told(missing, tmp_path):
    a, c = np.arange(8.0), np.array(["u", "v", "v", "v"] * 2)
    gap = np.where(np.arange(8) == 3, np.nan, a)
    path = written(tmp_path / "t.csv", a=a, b=gap, c=c, y=a / 3)
    told = []
    stored = load(table(path, missing=missing)).preprocessing.to_dict()
    preprocessing = Preprocessing.from_dict(json.loads(json.dumps(stored)))
    raw = pd.DataFrame({"a": [np.nan, 1, np.nan], "b": np.nan, "c": [None, "u", "v"]})
    preprocessing.encode(raw, told.append)
    assert told == [
        "column 'a': 2 of 3 entries are missing, and in the training data none was; they count "
        "as '3.5'.",
        "column 'c': 1 of 3 entries are missing, and in the training data none was; they count "
        "as 'v'.",
    ]


def test_a_gap_in_an_array_is_told_too(tmp_path):
    path = written(tmp_path / "t.csv", a=np.arange(8.0), b=np.arange(8.0) ** 2, y=np.arange(8) / 3)
    told = []
    load(table(path, missing="mean")).preprocessing.encode(np.array([[1, np.nan]]), told.append)
    assert len(told) == 1 and "'b': 1 of 1 entries are missing" in told[0]


def test_a_gap_in_the_test_part_alone_is_told(tmp_path):
    a = np.where(np.arange(20) == 19, np.nan, np.arange(20.0))
    path = written(tmp_path / "t.csv", a=a, y=np.arange(20) / 3)
    dataset = load(table(path, missing="mean", test_size=5.0, shuffle=False))
    assert "'a': 1 of 5 entries are missing" in dataset.notes[-1]


def test_missing_entries(tmp_path):
    a = np.arange(10.0)
    a[3] = np.nan
    c = np.array(["u", "v", "v", None, "u", "v", "v", "w", "u", "v"], object)
    path = written(tmp_path / "t.csv", a=a, c=c, y=np.arange(10) / 3)
    with pytest.raises(UserError, match=r"missing in 'a' \(1\), 'c' \(1\).*drop, mean or ind"):
        load(table(path))
    dropped = load(table(path, missing="drop"))
    assert len(dropped.train.x) == 9
    assert "dropped 1 of 10 rows, which lack an entry" in dropped.notes
    filled = load(table(path, missing="mean"))
    assert filled.train.x[3].tolist() == [42 / 9, 0, 1, 0]
    raw = pd.DataFrame({"a": [np.nan, 1.0], "c": [None, "w"]})
    assert filled.preprocessing.encode(raw).tolist() == [[42 / 9, 0, 1, 0], [1, 0, 0, 1]]
    with pytest.raises(UserError, match=r"'a': missing entries \(1 of 2\)"):
        dropped.preprocessing.encode(raw)
    with pytest.raises(UserError, match=r"'c': missing entries \(1 of 2\)"):
        dropped.preprocessing.encode(raw.fillna({"a": 0}))


def test_the_mean_is_of_the_training_part(tmp_path):
    a = np.arange(40.0) ** 2
    a[::5] = np.nan
    path = written(tmp_path / "t.csv", a=a, b=np.arange(40.0), y=np.arange(40) / 3)
    dataset = load(table(path, missing="mean", test_size=0.5))
    in_training = np.isin(np.arange(40), dataset.train.x[:, 1])
    mean = np.nanmean(a[in_training])
    assert mean != np.nanmean(a)
    assert dataset.preprocessing.columns[0].fill == pytest.approx(mean)
    missing_in_test = dataset.test.x[np.isin(dataset.test.x[:, 1], np.arange(0, 40, 5)), 0]
    np.testing.assert_allclose(missing_in_test, mean)


def test_constant_columns_are_left_out(tmp_path):
    path = written(tmp_path / "t.csv", one=[1] * 6, a=range(6), same=["s"] * 6, y=["u", "v"] * 3)
    dataset = load(table(path))
    assert dataset.feature_names == ("a",)
    assert "left out, because constant: one, same" in dataset.notes


def test_the_logarithm_of_the_target_is_learned(tmp_path):
    a, y = np.arange(40.0), np.exp(np.linspace(0, 9, 40) ** 1.2)
    path = written(tmp_path / "t.csv", a=a, y=y)
    dataset = load(table(path, standardize=True, target_transform="log", test_size=10.0))
    assert "data.target_transform=log: the logarithm of 'y' is learned" in dataset.notes
    log_y = np.log(y[dataset.preprocessing.unscale(dataset.train.x)[:, 0].round().astype(int)])
    expected = (log_y - log_y.mean()) / log_y.std()
    np.testing.assert_allclose(dataset.train.y[:, 0], expected, atol=1e-9)
    stored = json.loads(json.dumps(dataset.preprocessing.to_dict()))
    decoded = Preprocessing.from_dict(stored).decode_targets(dataset.train.y)[:, 0]
    np.testing.assert_allclose(np.log(decoded), log_y, rtol=1e-9)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_several_targets(suffix, tmp_path):
    b, z, y = np.arange(40.0), np.arange(40) / 3 + 1, np.arange(40.0) % 7
    path = written(tmp_path / f"t{suffix}", y=y, b=b, z=z)
    dataset = load(table(path, target=["z", "y"], standardize=True))
    assert (dataset.task, dataset.target_names) == ("regression", ("z", "y"))
    assert dataset.feature_names == ("b",)
    expected = StandardScaler().fit_transform(np.column_stack([z, y]))
    np.testing.assert_allclose(dataset.train.y, expected, atol=1e-12)
    decoded = dataset.preprocessing.decode_targets(dataset.train.y)
    np.testing.assert_allclose(decoded, np.column_stack([z, y]), atol=1e-12)
    assert "data.task=regression: 'z', 'y' hold numbers" in dataset.notes
    one = load(table(path, target=["z"], ignore=["y"]))
    assert one.digest == load(table(path, target="z", ignore=["y"])).digest


def test_texts_that_are_no_categories_are_left_out(tmp_path):
    a = np.arange(60.0)
    names, few = [f"n{i % 45}" for i in range(60)], [f"t{i % 3}" for i in range(60)]
    said = [f"the {i} of them said {i % 7}" for i in range(60)]
    path = written(tmp_path / "t.csv", a=a, name=names, said=said, few=few, y=a / 7)
    with pytest.raises(UserError, match=r"'name': 45 diff.*'said': 60 diff.*texts=leave_out; or"):
        load(table(path))
    dataset = load(table(path, texts="leave_out"))
    assert dataset.feature_names == ("a", "few=t0", "few=t1", "few=t2")
    (note,) = (note for note in dataset.notes if "no categories" in note)
    assert "'name' (45 different texts in 60 rows, such as 'n0'); 'said' (60" in note
    kept = load(table(path, texts="leave_out", categorical=["name"]))
    assert len(kept.feature_names) == 1 + 45 + 3
    path = written(tmp_path / "u.csv", name=names, y=a / 7)
    with pytest.raises(UserError, match="but 'y' is constant in the training part or has texts"):
        load(table(path, texts="leave_out"))


BIG = np.arange(40.0)
BAD_TABLES = {
    "target absent": ({"a": BIG, "price": BIG}, {"target": "prize"}, "Did you mean .price"),
    "ignore absent": ({"colour": BIG, "y": BIG}, {"ignore": ["color"]}, "ignore=color.*colour"),
    "one target of two absent": (
        {"a": BIG, "price": BIG}, {"target": ["a", "prize"]}, "target=prize.*Did you mean .price"
    ),
    "a class among targets": (
        {"a": BIG, "y": BIG, "z": ["u", "v"] * 20}, {"target": ["y", "z"]}, "'z' holds texts.*'u'"
    ),
    "classes of several targets": (
        {"a": BIG, "y": BIG, "z": BIG}, {"target": ["y", "z"], "task": "classification"},
        "the target 'y', 'z' must be one column",
    ),
    "a constant target": (
        {"a": BIG, "y": BIG, "z": [3] * 40}, {"target": ["y", "z"]}, "target=z: every row has 3"
    ),
    "only targets": ({"y": BIG, "z": BIG}, {"target": ["y", "z"]}, "no columns besides the target"),
    "ignored target": ({"a": BIG, "y": BIG}, {"ignore": ["y"]}, "this column is data.target"),
    "only a target": ({"y": BIG}, {}, "no columns besides the target"),
    "no rows": ({"a": [], "y": []}, {}, "no rows"),
    "all constant": ({"a": [1] * 40, "y": BIG}, {}, "nothing .* every column but 'y' is constant"),
    "one class": ({"a": BIG, "y": ["u"] * 40}, {}, "every row has 'u'"),
    "one number": ({"a": BIG, "y": [0.5] * 40}, {}, "every row has 0.5"),
    "texts for regression": (
        {"a": BIG, "y": ["u", "v"] * 20}, {"task": "regression"}, "task=regression.*texts.*'u'"
    ),
    "numbers for classification": (
        {"a": BIG, "y": BIG / 3}, {"task": "classification"}, "task=classification.*whole numbers"
    ),
    "small class": (
        {"a": BIG, "y": ["u"] * 39 + ["rare"]}, {"test_size": 0.2}, "class 'rare' has one example"
    ),
    "too few rows": ({"a": [1, 2], "y": [0.5, 1]}, {"validation_size": 2}, "validation_size=2"),
    "infinite": ({"b": [np.inf] + [1.0] * 39, "y": BIG}, {}, r"'b': infinite entries \(1 of 40\)"),
    "infinite target": ({"a": BIG, "y": [-np.inf] + [1.5] * 39}, {}, r"'y': infinite.*1 of 40"),
    "missing target": (
        {"a": BIG, "y": [np.nan] + [1.5] * 39}, {}, r"missing in 'y' \(1\).*drop, mean or indicator"
    ),
    "no logarithm": (
        {"a": BIG, "y": BIG / 3 - 1}, {"target_transform": "log"},
        "target_transform=log: 'y' must be > 0 in every row, and is not in 4 of 40, such as -1",
    ),
    "logarithm of classes": (
        {"a": BIG, "y": ["u", "v"] * 20}, {"target_transform": "log"}, "log: 'y' is a class; set"
    ),
    "all missing": (
        {"a": [np.nan] * 40, "y": BIG}, {"missing": "drop"}, "no columns besides.*any entry: 'a'"
    ),
    "names as numbers": ({"a": [f"n{i}" for i in range(40)], "y": BIG}, {}, "'a': 40 different"),
    "too large": ({"a": BIG * 1e200, "y": BIG}, {"standardize": True}, "'a'.*too large"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_bad_tables(name, suffix, tmp_path):
    columns, other, message = BAD_TABLES[name]
    path = written(tmp_path / f"t{suffix}", **columns)
    with pytest.raises(UserError, match=message) as error:
        load(table(path, **other))
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize(
    "values",
    [
        pd.timedelta_range("1h", periods=40),
        [b"bytes"] * 40,
        [[1, 2]] * 40,
    ],
)
def test_columns_that_are_neither_numbers_nor_texts(values, tmp_path):
    path = written(tmp_path / "t.parquet", when=values, y=BIG)
    with pytest.raises(UserError, match=r"'when'.*neither numbers, texts.*data.ignore=\[when\]"):
        load(table(path))
    with pytest.raises(UserError, match=r"'when'.*neither numbers"):
        load(table(path, target="when"))
    with pytest.raises(UserError, match="no columns besides"):
        load(table(path, ignore=["when"]))


def test_parquet_types(tmp_path):
    """Nullable integers, categories of numbers and decimals are read for what they are."""
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({
        "n": pd.array([1, None, 3, 4], "Int64"),
        "k": pd.Categorical(["7", "8", "7", None]),
        "y": [0.5, 1.5, 2.5, 4.0],
    }, index=[3, 1, 2, 0])  # fmt: skip
    frame.to_parquet(path)
    dataset = load(table(path, missing="mean"))
    assert dataset.feature_names == ("n", "k=7", "k=8")
    expected = [[1, 1, 0], [8 / 3, 0, 1], [3, 1, 0], [4, 1, 0]]
    np.testing.assert_allclose(dataset.train.x, expected)
    np.testing.assert_array_equal(dataset.preprocessing.encode(frame), dataset.train.x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 2, 2)), "y": np.arange(4) / 3}, r"'x' has shape \(4, 2, 2\)"),
        ({"x": np.zeros((3, 2)), "y": np.arange(4) / 3}, r"'x' has shape \(3, 2\)"),
        ({"x": np.arange(4), "y": np.zeros((4, 0))}, r"'y' has shape \(4, 0\)"),
        ({"x": np.float64(1), "y": np.arange(4) / 3}, r"'x' has shape \(\)"),
        ({"x": np.arange(4), "y": np.float64(1)}, r"'y' has shape \(\)"),
        ({"x": np.eye(2), "x_0": np.arange(2), "y": [0.5, 1]}, "more than one column.*'x_0'"),
        ({"x": np.arange(4), "y": np.array([["u", "v"]] * 4)}, "one column of them"),
        (
            {"x": np.array([{}] * 4), "y": np.arange(4)},
            "cannot be read: x.npy holds pickled objects",
        ),
        ({"x": np.arange(4) * 1j, "y": np.arange(4)}, "'x'.*complex"),
    ],
)
def test_bad_npz(arrays, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(table(written(tmp_path / "t.npz", **arrays)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "cannot be read: it is empty"),
        ("t.csv", b"a,y\n", "no rows"),
        ("t.csv", b"a,a,y\n1,2,3\n4,5,6.5\n", "more than one column is called 'a'"),
        ("t.csv", b"a,y\n1,2\n1,2,3\n", "cannot be read: line 3 has 3 entries, the header 2"),
        (
            "t.csv",
            b"a,y\n1,2,3\n4,5,6\n",
            "line 1 .*has 2 entries where the lines below have 3.*data.header=",
        ),
        ("t.csv", b'a,y\n1,"2\n3,4\n', "cannot be read"),
        ("t.csv", b"a,y\n1,2\n3\n", r"missing in 'y' \(1\)"),
        ("t.csv", b"a,y\n\xff\xfe,2\n", "line 2 is not utf-8.*data.encoding=cp1252"),
        ("t.csv", b"a;z\n1;2\n", "which has 'a', 'z'"),
        ("t.parquet", b"", "cannot be read"),
        ("t.parquet", b"PAR1PAR1", "cannot be read"),
        ("t.parquet", b"not a table", "cannot be read"),
        ("t.npz", b"", "cannot be read"),
        ("t.npz", b"not a table", "cannot be read"),
        ("t.npz", b"PK\x03\x04", "cannot be read"),
        ("t.xlsx", b"", "must end in .csv, .*workbook"),
        ("t", b"", "must end in"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{message}|{message}.*{name}") as error:
        load(table(tmp_path / name))
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_cut_and_flipped_files(suffix, tmp_path):
    """A corrupt file is refused, or still holds the same table; it never gives another error."""
    path = written(tmp_path / f"t{suffix}", a=np.arange(9.0), y=np.arange(9) / 3)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        position = int(rng.integers(len(content)))
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        for corrupt in (content[:position], bytes(flipped)):
            path.write_bytes(corrupt)
            try:
                load(table(path))
            except UserError as error:
                assert str(error).count("\n") <= 1


@pytest.mark.parametrize(
    "path", ["absent.csv", "absent/t.csv", "~nobody-of-this-name/t.csv", "x" * 300 + ".csv"]
)
def test_absent_files(path):
    with pytest.raises(UserError, match=r"^data\.path=[^\n]*csv: "):
        load(table(path))


@pytest.mark.parametrize("root", ["absent", "~nobody-of-this-name", "x" * 300, "t\0"])
def test_absent_mnist(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data\.root="):
        load(mnist(root))


def test_an_empty_text_is_a_category(tmp_path):
    path = written(tmp_path / "t.parquet", c=["", "u", ""], y=[0.5, 1.5, 2.5])
    dataset = load(table(path))
    assert dataset.feature_names == ("c=", "c=u")
    assert dataset.train.x.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(UserError, match=r"^data\.path=.*t\.csv: is a directory, not a file\.$"):
        load(table(tmp_path / "t.csv"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^data\.path=.*u\.csv: Permission denied\.$"):
        load(table(tmp_path / "u.csv"))


def test_paths_start_from_here_or_home(tmp_path, monkeypatch):
    write_table(tmp_path / "t.csv")
    write_mnist(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here, home = load(table("t.csv")), load(table("~/t.csv"))
    assert here.digest == home.digest
    assert here.source == home.source == str(tmp_path / "t.csv")
    assert load(mnist(".")).digest == load(mnist("~")).digest


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pd.DataFrame({"size": [1.0], "color": ["red"], "big": [True]}), "'colour' is not there"),
        (pd.DataFrame({"size": ["x"], "colour": ["red"], "big": [True]}), "'size': must be numb"),
        (
            pd.DataFrame({"size": [np.inf], "colour": ["red"], "big": [True]}),
            r"'size': infinite.*1 of 1",
        ),
        (np.array([[1.0, "red"]], object), r"shape \(1, 2\): must be \(examples, 3\).*size, colo"),
        (np.array([1.0, 2.0, 3.0]), r"shape \(3,\)"),
    ],
)
def test_raw_inputs_that_do_not_fit(raw, message, tmp_path):
    write_table(tmp_path / "t.csv")
    with pytest.raises(UserError, match=message):
        load(table(tmp_path / "t.csv")).preprocessing.encode(raw)


def test_numbers_are_needed_for_numeric_columns():
    preprocessing = load(scikit_learn("iris")).preprocessing
    with pytest.raises(UserError, match="'sepal length"):
        preprocessing.encode(np.array([["a", "b", "c", "d"]]))
    assert set(FORMATS) == data.table.TABLE_READERS.keys()
