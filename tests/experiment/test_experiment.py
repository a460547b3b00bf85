"""Whole runs, from a config to what MLflow holds, read back through its public client."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console as RichConsole

from mlp_jax.config.compose import compose
from mlp_jax.config.schema import CONF
from mlp_jax.core import backprop
from mlp_jax.core import fit as fitting
from mlp_jax.errors import RunError
from mlp_jax.experiment import describe as summary
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console

EXPERIMENTS = sorted(file.stem for file in (CONF / "exp").glob("*.yaml"))


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(*overrides):
    """A run with its output as text."""
    output = io.StringIO()
    console = Console(RichConsole(file=output, width=200))
    result = experiment.run(compose(list(overrides)), console, command="the command")
    return result, output.getvalue()


@pytest.fixture(scope="module")
def mnist_root(tmp_path_factory):
    """Files of MNIST's format with few examples."""
    root = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 60)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (root / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return root


def overrides_of(name, mnist_root):
    """An experiment, short, with files that stand in for those it reads."""
    overrides = [f"+exp={name}", "num_epochs=2", "tracking=none"]
    text = (CONF / "exp" / f"{name}.yaml").read_text()
    if "/data: mnist" in text:
        overrides += [f"data.root={mnist_root}", "data.validation_size=100"]
        overrides += ["model.hidden_sizes=[5]"]
    if "/data: table" in text or "- tabular" in text:
        Path("table.csv").write_text("x,y\n" + "".join(f"{i},{i * i}\n" for i in range(100)))
        overrides += ["data.path=table.csv", "data.target=y"]
    return overrides


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_prepared_and_its_gradient_right(name, mnist_root):
    assert experiment.prove(compose(overrides_of(name, mnist_root))).passed


@pytest.mark.parametrize("name", ["xor", "moons", "sine", "digits", "mnist_800", "tabular"])
def test_an_experiment_of_every_kind_trains_for_two_epochs(name, mnist_root):
    result, _ = run(*overrides_of(name, mnist_root))
    assert [point.step for point in result.fitted.history][-1] == result.problem.num_steps
    assert np.isfinite(result.metrics["train"]["loss"])


@pytest.fixture(scope="module")
def xor(tmp_path_factory):
    """One tracked run of XOR and the client of its store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("xor"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result, output = run("+exp=xor")
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
        (recorded,) = client.search_runs([client.get_experiment_by_name("xor").experiment_id])
        return result, output, client, recorded


def test_xor_is_solved_and_says_so(xor):
    result, output, _, recorded = xor
    assert result.metrics["train"]["accuracy"] == 1
    assert "xor: 4 examples" in output
    assert "2-8-1" in output and "33 parameters" in output
    assert "gradient  proved" in output
    assert recorded.info.run_id in output
    rows = [line.split() for line in output.splitlines() if line.startswith(("0 ", "1 "))]
    assert [row[:3] for row in rows] == [list("000"), list("011"), list("101"), list("110")]
    for *_, target, prediction in rows:
        assert abs(float(target) - float(prediction)) < 0.1


def test_the_run_holds_what_it_measured(xor):
    result, _, client, recorded = xor
    assert recorded.info.status == "FINISHED"
    points = client.get_metric_history(recorded.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in points] == [
        (point.step, point.metrics["train/loss"]) for point in result.fitted.history
    ]
    metrics = recorded.data.metrics
    losses = [point.metrics["train/loss"] for point in result.fitted.history]
    assert metrics["best_train_loss"] == min(losses)
    assert metrics["best_train_accuracy"] == 1
    assert recorded.data.tags["gradcheck"].startswith("proved: backprop − jax.grad by layer ")
    assert not [
        name for name in metrics if "/" in name and name not in result.fitted.history[0].metrics
    ]
    assert metrics["learning_rate"] == 1
    assert metrics["steps_per_second"] > 0


def test_the_run_holds_what_is_needed_to_know_it_again(xor):
    _, _, client, recorded = xor
    params, tags = recorded.data.params, recorded.data.tags
    assert params["optimizer.learning_rate"] == "1.0"
    assert params["model.hidden_sizes"] == "[8]"
    assert params["model.output"] == "sigmoid"  # as resolved from null
    assert tags["command"] == "the command"
    assert tags["version.jax"] and tags["device"] == "cpu (cpu)"
    assert "the command" in tags["mlflow.note.content"]
    assert recorded.info.run_name == "seed 0, η=1 gradient_descent, 2-8-1 sigmoid"
    (dataset,) = recorded.inputs.dataset_inputs
    assert dataset.dataset.name == "xor" and len(dataset.dataset.digest) == 16
    files = {file.path for file in client.list_artifacts(recorded.info.run_id)}
    assert files == {
        "config.yaml", "environment.yaml",
        "loss_curves.png", "confusion_matrix.png", "decision_boundary.png",
    }  # fmt: skip
    config = yaml.safe_load(
        Path(client.download_artifacts(recorded.info.run_id, "config.yaml")).read_text()
    )
    assert config["model"]["hidden_sizes"] == [8]


def test_the_recorded_model_predicts_what_the_run_did(xor):
    import mlflow

    result, _, client, recorded = xor
    (output,) = recorded.outputs.model_outputs
    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    prediction = model.predict(x)
    assert prediction["prediction"].tolist() == [0, 1, 1, 0]
    y_hat = summary.outputs(result, x)[:, 0]
    np.testing.assert_allclose(prediction["probability_1"], y_hat, rtol=1e-6)


def test_a_regression_records_its_fit_in_its_own_units():
    result, _ = run("+exp=sine", "num_epochs=3", "tracking.model=false", "dtype=float64")
    assert set(result.metrics["test"]) == {"loss", "r2", "rmse", "mae"}
    assert list(Path("mlartifacts").rglob("fit.png"))


def test_a_figure_that_fails_costs_neither_the_run_nor_its_model(monkeypatch):
    from mlflow import MlflowClient

    def fail(*args):
        raise MemoryError("too many pixels")

    monkeypatch.setattr(summary.figures, "confusion_matrix", fail)
    _, output = run("+exp=xor", "num_epochs=20")
    assert "the figure confusion_matrix could not be drawn: MemoryError: too many pixels" in output
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    (recorded,) = client.search_runs([client.get_experiment_by_name("xor").experiment_id])
    assert recorded.info.status == "FINISHED"
    assert recorded.outputs.model_outputs
    files = {file.path for file in client.list_artifacts(recorded.info.run_id)}
    assert {"loss_curves.png", "decision_boundary.png"} <= files
    assert "confusion_matrix.png" not in files


@pytest.mark.parametrize("min_delta", [0, 0.1])
def test_early_stopping_keeps_the_best_and_says_so(min_delta):
    result, output = run(
        "+exp=iris", "optimizer.learning_rate=0.1", "tracking=none",
        f"early_stopping.min_delta={min_delta}",
    )  # fmt: skip
    fitted = result.fitted
    losses = {point.step: point.metrics["validation/loss"] for point in fitted.history}
    assert (fitted.step == min(losses, key=losses.__getitem__)) == (min_delta == 0)
    assert summary.final_metrics(result)["best_validation_loss"] == losses[fitted.step]
    assert max(losses) < result.problem.num_steps
    np.testing.assert_allclose(result.metrics["validation"]["loss"], losses[fitted.step], rtol=1e-5)
    last = fitted.history.steps[-1]
    assert f"stopped at step {last:,}; the parameters of step {fitted.step:,} are kept" in output


def test_the_end_says_how_long_it_took_and_whether_it_got_worse():
    _, output = run("+exp=moons", "optimizer.learning_rate=1e9", "num_epochs=2", "tracking=none")
    assert re.search(
        r"^warning: the loss of the training part is \d.* was 0\.8\d* before", output, re.M
    )
    assert re.search(r"^time +\S+ s of training, \S+ s in all$", output, re.M)
    _, output = run("+exp=xor", "num_epochs=200", "tracking=none")
    assert "warning" not in output
    assert "stopped at" not in output


def test_a_run_that_diverges_fails_at_its_step_and_keeps_what_was_finite():
    from mlflow import MlflowClient

    diverging = ["data=sine", "model.activation=relu", "num_epochs=200"]
    message = r"at step 4: the loss was the first that is not finite\. Try .*learning_rate"
    with pytest.raises(fitting.DivergedError, match=message):
        run(*diverging, "optimizer.learning_rate=1e3")
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    (recorded,) = client.search_runs([client.get_experiment_by_name("sine").experiment_id])
    assert recorded.info.status == "FAILED"
    assert "diverged" in recorded.data.tags["error"]
    assert recorded.data.tags["diverged_at"] == "4"
    assert [path.name for path in Path("runs").glob("*/checkpoints/*")] == ["0000000003.npz"]


def test_a_wrong_gradient_stops_the_run_before_it_begins(monkeypatch):
    from mlp_jax.core import gradcheck as proof

    def wrong(*args):
        value, grads = backprop.backprop(*args)
        return value, (grads[0]._replace(b=grads[0].b * 1.001), *grads[1:])

    monkeypatch.setattr(proof, "backprop", wrong)
    with pytest.raises(RunError, match="the gradient is wrong in layer 1"):
        run("+exp=xor")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("hidden_sizes", "is_said"), [("[2]", False), ("[2,2]", True)])
def test_that_many_layers_take_long_to_compile_is_said_first(hidden_sizes, is_said, monkeypatch):
    monkeypatch.setattr(experiment, "MANY_LAYERS", 3)
    output = io.StringIO()
    config = compose(["+exp=xor", f"model.hidden_sizes={hidden_sizes}", "tracking=none"])
    experiment.prove(config, Console(RichConsole(file=output, width=200)))
    before, _, _ = output.getvalue().partition("gradient  ")
    assert ("compiling 3 layers" in before) == is_said


@pytest.mark.parametrize("change", ["log_every=7", "log_every=33", "tracking=none"])
def test_the_result_depends_neither_on_the_log_interval_nor_on_tracking(change):
    common = ["+exp=circles", "num_epochs=3", "tracking.model=false", "tracking.figures=false"]
    a, b = run(*common)[0], run(*common, change)[0]
    np.testing.assert_array_equal(a.fitted.params[0].W, b.fitted.params[0].W)


def test_every_seed_solves_xor():
    """In one program: 256 seeds under `vmap`."""
    import jax
    import jax.numpy as jnp

    from mlp_jax import data
    from mlp_jax.core import training
    from mlp_jax.core.fit import train_steps
    from mlp_jax.experiment import setup as problem

    config = compose(["+exp=xor", "tracking=none"])
    with problem.numeric_settings(config):
        prepared = problem.prepare(config, data.load(config.data))
        fixed, steps = prepared.training, (jnp.int32(0), jnp.int32(prepared.num_steps))

        def solves(seed):
            init_key, _ = problem.keys_of(seed)
            params = problem.initial_params(config, prepared.sizes, init_key, prepared.embedded)
            carry = training.init_carry(fixed, params, prepared.log_every)
            carry, _, _ = train_steps(fixed, carry, None, prepared.order, prepared.train, *steps)
            return training.evaluate(fixed, carry.state.params, prepared.train)["accuracy"] == 1

        assert jax.jit(jax.vmap(solves))(jnp.arange(256)).sum() == 256
