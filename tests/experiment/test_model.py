import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jax
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlp_jax.config.compose import compose
from mlp_jax.config.schema import Table
from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.data import load, raw_inputs
from mlp_jax.experiment import prediction
from mlp_jax.experiment.model import save_model, source
from mlp_jax.experiment.prediction import FUNCTIONS, Model, classify
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking import store
from mlp_jax.tracking.facts import RunRecord

# What MLflow 3.17 does itself.
WHOLE = ["data.validation_size=0", "data.test_size=0", "data.standardize=true"]
MOONS = compose(["data=moons", *WHOLE, "data.num_examples=50", "data.noise=0.1"]).data


def make_model(dataset, output, n_out, dtype="float32", activation=("tanh", "relu")):
    sizes = (dataset.train.x.shape[1], *[5, 3][: len(activation)], n_out)
    initializer = INITIALIZERS["glorot_normal"]
    params = network.init_params(jax.random.key(0), sizes, initializer, dtype=dtype)
    names = dataset.class_names, dataset.class_values, dataset.target_names
    return Model(params, activation, output, *names, dataset.preprocessing)


def write_table(folder: Path) -> Table:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "size": rng.integers(20, 200, 60),
        "town": rng.choice(["Bonn", "Ulm", "Kiel"], 60),
        "age": rng.uniform(0, 90, 60),
    })  # fmt: skip
    frame["price"] = 1e5 + 900.0 * frame["size"] + rng.normal(0, 1e4, 60)
    frame.to_csv(folder / "houses.csv", index=False)
    return table(folder / "houses.csv", "price")


def table(path: Path, target: str | list[str]) -> Table:
    parts = ["data.validation_size=0", "data.test_size=0"]
    config = compose(["+exp=table", f"data.path={path}", f"data.target={target}", *parts]).data
    assert isinstance(config, Table)
    return config


# --- the functions of JAX, in NumPy -------------------------------------------------------------

EXTREME = [-np.inf, -3e38, -1e4, -90, -20, 0.0, -0.0, 1e-30, 20, 90, 1e4, 3e38, np.inf, np.nan]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_jax(name, dtype):
    z = np.concatenate([EXTREME, np.linspace(-12, 12, 2001)]).astype(dtype)
    with np.errstate(all="ignore"):
        ours = FUNCTIONS[name](z)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, ACTIVATIONS[name].g(jax.numpy.array(z)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", LOSSES, ids="-".join)
def test_outputs_are_those_of_jax(pair, dtype):
    z = np.random.default_rng(0).normal(0, 10, (200, 3))
    z = np.concatenate([z, np.array(EXTREME[:12]).reshape(-1, 3), np.zeros((1, 3))]).astype(dtype)
    with np.errstate(all="ignore"):
        ours = FUNCTIONS[pair[0]](z)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, jax.vmap(LOSSES[pair].output)(z), rtol=1e-6, atol=1e-6)


def test_numbers_that_overflow_are_the_networks():
    dataset = load(MOONS)
    model = make_model(dataset, "sigmoid", 1, activation=("relu",))
    x = np.array([[3e38, 3e38], [-3e38, 3e38], [np.inf, 0]], "float32")
    loss = LOSSES["sigmoid", "squared_error"]
    y_hat = jax.vmap(lambda x: network.predict(model.params, x, ACTIVATIONS["relu"], loss))(x)
    np.testing.assert_allclose(model.outputs(x), y_hat, rtol=1e-6)


# --- what the outputs mean ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "y_hat", "labels", "scores", "kind"),
    [
        ("sigmoid", [[0.2], [0.5]], [0, 1], [[0.8, 0.2], [0.5, 0.5]], "probability"),
        ("tanh", [[-0.5], [0.0]], [0, 1], [[0.75, 0.25], [0.5, 0.5]], "probability"),
        ("identity", [[-1.0], [2.0]], [0, 1], [[2.0, -1.0], [-1.0, 2.0]], "score"),
        ("softmax", [[0.2, 0.5, 0.3]], [1], [[0.2, 0.5, 0.3]], "probability"),
        ("sigmoid", [[0.9, 0.2, 0.95]], [2], [[0.9, 0.2, 0.95]], "score"),
    ],
)
def test_classify(output, y_hat, labels, scores, kind):
    got_labels, got_scores, got_kind = classify(np.array(y_hat), output)
    np.testing.assert_array_equal(got_labels, labels)
    np.testing.assert_allclose(got_scores, scores)
    assert got_kind == kind


def test_classes_are_named_with_a_column_for_each():
    dataset = load(compose(["data=iris", *WHOLE]).data)
    model = make_model(dataset, "softmax", 3)
    frame = model.predict(raw_inputs(dataset, 20))
    columns = [f"probability_{name}" for name in ("setosa", "versicolor", "virginica")]
    assert list(frame.columns) == ["prediction", *columns]
    np.testing.assert_allclose(frame[columns].sum(axis=1), 1, rtol=1e-6)
    assert [f"probability_{name}" for name in frame["prediction"]] == list(
        frame[columns].idxmax(axis=1)
    )


@pytest.mark.parametrize(
    "labels", [[0, 1], [7, 9], [True, False], ["no", "yes"]], ids=["0-1", "7-9", "bool", "text"]
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_come_back_as_they_were(labels, suffix, tmp_path):
    frame = pd.DataFrame({"a": [-1.0, 1.0] * 20, "b": np.linspace(0, 1, 40), "y": labels * 20})
    path = tmp_path / f"t{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path, index=False)
    dataset = load(table(path, "y"))
    sign = 1 if sorted(labels) == labels else -1
    params = ((np.array([[10.0 * sign, 0.0]]), np.zeros(1)),)
    names = dataset.class_names, dataset.class_values, dataset.target_names
    model = Model(params, (), "sigmoid", *names, dataset.preprocessing)
    model.save(tmp_path)
    assert (Model.load(tmp_path).predict(frame).prediction == frame.y).mean() == 1.0


def test_an_example_may_lack_entries_and_have_dates(tmp_path):
    config = write_table(tmp_path)
    sold = pd.date_range("2024-01-30 10:00", periods=60, freq="7D5h").strftime("%d.%m.%Y %H:%M:%S")
    frame = pd.read_csv(config.path).assign(sold=sold)
    frame.loc[:2, ["age", "town", "sold"]] = np.nan
    frame.to_csv(config.path, index=False)
    dataset = load(dataclasses.replace(config, missing="indicator", dates="parts"))
    model = make_model(dataset, "identity", 1)
    example = raw_inputs(dataset, 5)
    rows = frame[:5].drop(columns="price")
    same, expected = (f.astype(object).where(f.notna(), None) for f in (example, rows))
    pd.testing.assert_frame_equal(same, expected, check_column_type=False)
    save_model(tmp_path / "model", model, example)
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    expected = model.predict(frame)[:5]
    pd.testing.assert_frame_equal(loaded.predict(loaded.input_example), expected)


def test_unknown_categories_are_told(tmp_path):
    dataset = load(write_table(tmp_path))
    model = make_model(dataset, "identity", 1)
    frame = pd.DataFrame({"size": [20, 30, 40], "town": ["Ulm", "Rom", "Oslo"], "age": 1.0})
    with pytest.warns(UserWarning, match="'town': 2 of 3 entries .* not have, such as 'Rom'"):
        model.predict(frame)
    none = r"'town': none of the 3 entries .* had \('Bonn', 'Kiel', 'Ulm'\), such as 'Rom'; they"
    with pytest.warns(UserWarning, match=none):
        model.predict(frame.assign(town="Rom"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_are_the_networks_in_units_of_the_target(dtype):
    dataset = load(compose(["data=diabetes", *WHOLE]).data)
    model = make_model(dataset, "identity", 1, dtype)
    activation, loss = (
        (ACTIVATIONS["tanh"], ACTIVATIONS["relu"]),
        LOSSES["identity", "squared_error"],
    )
    x = dataset.train.x.astype(dtype)
    y_hat = jax.vmap(lambda x: network.predict(model.params, x, activation, loss))(x)
    frame = model.predict(raw_inputs(dataset, len(x)))
    expected = np.asarray(y_hat) * dataset.preprocessing.y_scale + dataset.preprocessing.y_shift
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(frame[["prediction"]], expected, rtol=tolerance)


def test_several_targets_are_columns_in_their_own_units(tmp_path):
    frame = pd.read_csv(write_table(tmp_path).path).assign(age=lambda f: f.age + 1)
    frame.to_csv(tmp_path / "houses.csv", index=False)
    config = table(tmp_path / "houses.csv", ["price", "age"])
    dataset = load(dataclasses.replace(config, target_transform="log"))
    model = make_model(dataset, "identity", 2, "float64")
    model.save(tmp_path)
    predicted = Model.load(tmp_path).predict(frame)
    assert list(predicted.columns) == ["prediction_price", "prediction_age"]
    mean, std = np.log(frame[["price", "age"]]).mean(), np.log(frame[["price", "age"]]).std(ddof=0)
    expected = np.exp(model.outputs(dataset.train.x) * std.to_numpy() + mean.to_numpy())
    np.testing.assert_allclose(predicted, expected, rtol=1e-9)


def test_raw_inputs_are_the_users_rows(tmp_path):
    config = write_table(tmp_path)
    dataset = load(config)
    raw = raw_inputs(dataset, 7)
    expected = pd.read_csv(config.path)[["size", "town", "age"]][:7]
    pd.testing.assert_frame_equal(raw, expected, check_dtype=False)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [(), ("tanh",), ("tanh", "relu")])
def test_saved_and_loaded_is_the_same(tmp_path, dtype, activation):
    dataset = load(MOONS)
    model = make_model(dataset, "sigmoid", 1, dtype, activation)
    model.save(tmp_path)
    with jax.enable_x64(False):  # as in a process that serves it
        loaded = Model.load(tmp_path)
    assert jax.tree.map(lambda a: a.dtype, loaded.params) == jax.tree.map(
        lambda a: a.dtype, model.params
    )
    assert loaded[1:-2] == model[1:-2]
    assert loaded.embedding is None
    raw = raw_inputs(dataset, 50)
    with jax.enable_x64(False):
        frame = loaded.predict(raw)
    pd.testing.assert_frame_equal(frame, model.predict(raw), check_exact=True)


def test_pickled_parameters_are_refused(tmp_path):
    model = make_model(load(MOONS), "sigmoid", 1)
    model.save(tmp_path)
    np.savez(tmp_path / "params.npz", W1=np.array([{}], object), b1=np.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Model.load(tmp_path)


# --- through MLflow ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return store.open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


def log(client, dataset, model):
    example = raw_inputs(dataset, 3)
    with tracking.begin(client, "models", RunRecord("r")) as run:
        run.add(tracking.MODEL, lambda path: save_model(path, model, example))
    assert run.is_delivered
    return run, run.model_uri


@pytest.fixture(scope="module")
def moons(client):
    dataset = load(MOONS)
    model = make_model(dataset, "sigmoid", 1)
    mlflow.set_tracking_uri(client.tracking_uri)
    run, uri = log(client, dataset, model)
    return model, run, mlflow.pyfunc.load_model(uri)


def test_loaded_by_mlflow_it_predicts_the_same(moons):
    model, run, loaded = moons
    raw = np.array([[0.5, -0.25], [1.0, 1.0]])
    expected = model.predict(raw)
    pd.testing.assert_frame_equal(loaded.predict(raw), expected)
    pd.testing.assert_frame_equal(loaded.predict(pd.DataFrame(raw)), expected)
    by_run = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    pd.testing.assert_frame_equal(by_run.predict(raw), expected)


def test_a_model_that_was_moved_loads_by_its_path(moons, tmp_path):
    model, _, loaded = moons
    stored = mlflow.artifacts.download_artifacts(f"models:/{loaded.model_id}")
    shutil.copytree(stored, tmp_path / "elsewhere")
    raw = np.array([[0.5, -0.25], [1.0, 1.0]])
    moved = mlflow.pyfunc.load_model(str(tmp_path / "elsewhere"))
    pd.testing.assert_frame_equal(moved.predict(raw), model.predict(raw))


def test_model_is_ready_and_belongs_to_its_run(client, moons):
    _, run, loaded = moons
    assert client.get_logged_model(loaded.model_id).status.name == "READY"
    (output,) = client.get_run(run.run_id).outputs.model_outputs
    assert output.model_id == loaded.model_id


def test_model_has_signature_example_requirements_and_no_pickle(moons):
    _, _, loaded = moons
    signature = loaded.metadata.signature
    assert signature.inputs.numpy_types() == [np.dtype("float64")]
    assert signature.inputs.inputs[0].shape == (-1, 2)
    assert signature.outputs.input_names() == ["prediction", "probability_0", "probability_1"]
    assert loaded.input_example.shape == (3, 2)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{loaded.model_id}"))
    requirements = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in requirements] == ["mlflow", "numpy", "pandas"]
    assert f"numpy=={np.__version__}" in requirements
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"data/network/params.npz", "data/network/network.json"} <= names
    (code,) = (name for name in names if name.startswith("code/"))
    assert Path(folder, code).read_text(encoding="utf-8") == source()
    assert not [name for name in names if "pycache" in name or name.endswith((".pkl", ".pickle"))]


@pytest.mark.parametrize("raw", [np.zeros((2, 3)), np.zeros(2), pd.DataFrame(np.zeros((2, 5)))])
def test_wrong_shape_is_refused(moons, raw):
    _, _, loaded = moons
    with pytest.raises(MlflowException, match="shape"):
        loaded.predict(raw)


def test_table_goes_by_column_names(client, tmp_path):
    config = write_table(tmp_path)
    dataset = load(config)
    model = make_model(dataset, "identity", 1)
    mlflow.set_tracking_uri(client.tracking_uri)
    _, uri = log(client, dataset, model)
    loaded = mlflow.pyfunc.load_model(uri)
    frame = pd.read_csv(config.path)  # whole numbers in `size`, in the order of the file
    expected = model.predict(frame)
    pd.testing.assert_frame_equal(loaded.predict(frame[["town", "age", "size"]]), expected)
    with pytest.raises(MlflowException, match=r"missing inputs \['town'\]"):
        loaded.predict(frame.drop(columns="town"))
    with pytest.raises(Exception, match=r"'age'.*must be numbers") as refused:
        loaded.predict(frame.assign(age="old"))
    assert refused.type.__name__ == "UserError"  # of the model's own code


WITHOUT_THE_PACKAGE = """
import sys, mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
found = {"jax", "mlp_jax", "omegaconf", "optax"} & set(sys.modules)
assert not found, found
print(float(model.predict(np.zeros((1, 2)))["probability_1"][0]))
"""


def test_loads_where_the_package_is_not_installed(client, moons, tmp_path):
    model, run, _ = moons
    paths = {"PYTHONPATH": sysconfig.get_paths()["purelib"]}
    done = subprocess.run(
        # -S leaves out what an editable install adds to the path.
        [sys.executable, "-S", "-c", WITHOUT_THE_PACKAGE, f"runs:/{run.run_id}/model"],
        cwd=tmp_path,
        env=os.environ | paths | {"MLFLOW_TRACKING_URI": client.tracking_uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = model.predict(np.zeros((1, 2)))["probability_1"][0]
    assert float(done.stdout) == pytest.approx(expected, rel=1e-6)


BESIDE_THE_PACKAGE = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.load_model(sys.argv[2])
from mlp_jax.config.compose import compose
print(compose(["+exp=xor"]).data.name)
"""


def test_a_loaded_model_leaves_the_package_alone(client, moons, tmp_path):
    uri = f"models:/{moons[2].model_id}"
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_THE_PACKAGE, client.tracking_uri, uri],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(prediction.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "xor\n", done.stderr
