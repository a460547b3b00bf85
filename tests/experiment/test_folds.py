"""Cross-validation: each fold's networks are those alone, and no example is judged by its own."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console as RichConsole
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.errors import UserError
from mlp_jax.experiment import describe, setup
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.baseline import baselines
from mlp_jax.experiment.console import Console
from mlp_jax.sweep import groups, seeds
from mlp_jax.sweep.candidates import Candidate, ensemble_of
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.sweep import Sweep

SHORT = ["num_epochs=10", "log_every=4", "dtype=float64", "tracking=none"]
MOONS = ["+exp=moons", "data.num_examples=100", "data.folds=3", *SHORT]


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*overrides):
    output = io.StringIO()
    result = experiment.run(compose(list(overrides)), Console(RichConsole(file=output, width=200)))
    return result, output.getvalue()


def load(*overrides):
    return data.load(compose(list(overrides)).data)


@pytest.mark.parametrize("name", ["moons", "diabetes"])
def test_the_folds_are_scikit_learns_and_of_equal_sizes(name):
    whole = load(f"data={name}", "data.validation_size=0")
    dataset = load(f"data={name}", "data.folds=7")
    train, (x, y) = whole.train, dataset.folds.known.train
    np.testing.assert_array_equal(x, train.x)
    kind = StratifiedKFold if dataset.class_names else KFold
    splits = list(kind(7, shuffle=True, random_state=0).split(train.y, train.y))
    size = min(len(rows) for _, rows in splits)
    for fold, (_, rows) in zip(dataset.folds.datasets, splits, strict=True):
        np.testing.assert_array_equal(fold.validation.x, x[rows[:size]])
        others = np.setdiff1d(np.arange(len(y)), rows[:size])
        np.testing.assert_array_equal(fold.train.x, x[others])
        np.testing.assert_array_equal(fold.train.y, y[others])
        assert fold.preprocessing is dataset.preprocessing
        np.testing.assert_array_equal(fold.test.x, whole.test.x)
    digests = {fold.digest for fold in dataset.folds.datasets}
    assert len(digests) == 7
    assert load(f"data={name}", "data.folds=7", "data.fold=3").digest in digests
    np.testing.assert_array_equal(
        load(f"data={name}", "data.folds=7", "data.fold=3").train.x,
        dataset.folds.datasets[3].train.x,
    )


def test_rows_in_order_are_held_out_in_order(tmp_path):
    numbers = np.arange(20.0)
    np.savez(tmp_path / "t.npz", x=numbers[:, None] ** 2, y=numbers)
    table = load("data=table", f"data.path='{tmp_path}/t.npz'", "data.target=y", "data.folds=4",
                 "data.shuffle=false", "data.standardize=false", "data.test_size=0",
                 "data.task=regression")  # fmt: skip
    held_out = [fold.validation.y[:, 0].tolist() for fold in table.folds.datasets]
    assert held_out == numbers.reshape(4, 5).tolist()


def test_the_weights_of_rows_go_with_them(tmp_path):
    numbers = np.arange(1, 31.0)
    np.savez(tmp_path / "t.npz", x=numbers, y=numbers * 2, w=numbers)
    dataset = load("data=table", f"data.path='{tmp_path}/t.npz'", "data.target=y", "data.folds=3",
                   "data.weights=w", "data.standardize=false", "data.task=regression")  # fmt: skip
    for fold in dataset.folds.datasets:
        ratio = fold.weights / fold.train.x[:, 0]
        np.testing.assert_allclose(ratio, ratio[0])


@pytest.fixture(scope="module")
def two_of_each():
    """Three folds, two networks without each, and what was printed."""
    return run(*MOONS, "ensemble.size=2")


def test_each_network_is_the_one_alone(two_of_each):
    result, output = two_of_each
    fold_size = len(result.problem.validation.x)
    assert f"3 of {fold_size} examples, 2 networks without each" in output
    commands = [describe.of_member(member) for member in result.members]
    assert commands == [
        f"ensemble.size=1 data.fold={fold} seed={2 * fold + n}" for fold in range(3) for n in (0, 1)
    ]
    for member in (result.members[3], result.members[4]):
        alone, _ = run(*MOONS, *describe.of_member(member).split())
        for part, metrics in alone.metrics.items():
            assert member.metrics[part] == pytest.approx(metrics, rel=1e-9)


def test_validation_is_by_those_that_have_not_seen_it(two_of_each):
    result, _ = two_of_each
    outputs, targets = [], []
    for fold in range(3):
        of_fold = result.members[2 * fold : 2 * fold + 2]
        x, y = of_fold[0].problem.dataset.validation
        outputs.append(np.mean([describe.outputs(m, x)[:, 0] for m in of_fold], axis=0))
        targets.append(y)
    y, y_hat = np.concatenate(targets), np.concatenate(outputs)
    found = result.metrics["validation"]
    assert found["log_loss"] == pytest.approx(log_loss(y, y_hat), rel=1e-9)
    assert found["accuracy"] == accuracy_score(y, y_hat >= 0.5)
    np.testing.assert_allclose(result.held_out[0][:, 0], y_hat, rtol=1e-9)
    np.testing.assert_array_equal(result.held_out[1], y)


def test_training_and_test_are_by_all(two_of_each):
    result, _ = two_of_each
    dataset = result.problem.dataset
    for name, (x, y) in {"train": dataset.folds.known.train, "test": dataset.test}.items():
        y_hat = np.mean([describe.outputs(m, x)[:, 0] for m in result.members], axis=0)
        assert result.metrics[name]["log_loss"] == pytest.approx(log_loss(y, y_hat), rel=1e-9)


def test_numbers_are_judged_in_their_own_unit():
    result, _ = run("+exp=diabetes", *SHORT, "data.folds=4", "model.hidden_sizes=[4]")
    decode = result.problem.dataset.preprocessing.decode_targets
    y_hat, y = map(decode, result.held_out)
    assert result.metrics["validation"]["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat))


def test_the_temperature_is_that_of_what_is_held_out(two_of_each):
    hot, _ = two_of_each
    result, _ = run(*MOONS, "calibration=temperature", "ensemble.size=2")
    _, y = hot.held_out
    n = len(y)
    smooth = (n * y + 0.5) / (n + 1)

    def loss(temperature):
        p = []
        for fold in range(3):
            of_fold = hot.members[2 * fold : 2 * fold + 2]
            x = of_fold[0].problem.dataset.validation.x
            y_hat = np.array([describe.outputs(member, x)[:, 0] for member in of_fold])
            logits = np.log(y_hat) - np.log1p(-y_hat)
            p.append((1 / (1 + np.exp(-logits / temperature))).mean(axis=0))
        p = np.concatenate(p)
        return -np.mean(smooth * np.log(p) + (1 - smooth) * np.log1p(-p))

    around = result.temperature * np.array([0.98, 1, 1.02])
    values = [loss(temperature) for temperature in around]
    assert values[1] == min(values)
    assert result.metrics["validation"]["log_loss"] == pytest.approx(
        log_loss(y, result.held_out[0]), rel=1e-9
    )
    ratios = jax.tree.map(jnp.divide, hot.fitted.params[-1], result.fitted.params[-1])
    np.testing.assert_allclose(ratios.W, result.temperature, rtol=1e-9)


def test_figures_without_a_test_part_show_all_that_was_held_out():
    result, _ = run(*MOONS, "data.test_size=0")
    drawn = dict(describe.draw_figures(result))
    [matrix] = [image.get_array() for image in drawn["confusion_matrix"]().axes[0].images]
    assert len(result.held_out[1]) == 3 * len(result.problem.validation.x)
    recall = np.diag(matrix).mean()  # each row is of one class
    assert recall == pytest.approx(result.metrics["validation"]["balanced_accuracy"])
    assert "reliability" in drawn


def test_a_job_of_a_sweep_has_the_mean_over_its_folds():
    rates = ["0.5", "0.05"]
    texts = [[*MOONS, f"optimizer.learning_rate={rate}"] for rate in rates]
    jobs = [Job(index, tuple(of_job), compose(of_job)) for index, of_job in enumerate(texts)]
    output = io.StringIO()
    console = Console(RichConsole(file=output, width=200, soft_wrap=True))
    with Sweep("the command", console=console) as opened:
        opened.check(jobs)
        outcomes = opened.train(jobs)
    alone = [describe.standing(member)[1] for member in run(*texts[1])[0].members]
    assert outcomes[1].value == pytest.approx(np.mean(alone), rel=1e-9)
    assert outcomes[1].best_seed is None
    assert "2 × 3 folds × 2-" in output.getvalue()
    best = min(outcomes, key=lambda outcome: outcome.loss).job.overrides[-1]
    [line] = [line for line in output.getvalue().splitlines() if line.startswith("best")]
    assert "data.folds=3" in line
    assert line.endswith(best)


@pytest.mark.parametrize(("overrides", "message"), [
    (["+exp=moons", "data.fold=1"], r"data\.fold=1 data\.folds=null: .* without data\.folds"),
    (["+exp=moons", "data.folds=3", "data.fold=3"], r"data\.fold=3 data\.folds=3: .*from 0 to 2"),
    (["+exp=iris", "data.folds=41"], r"data\.folds=41: class 'setosa' has 40 examples outside"),
    (["+exp=diabetes", "data.folds=400"], r"data\.folds=400: there are 353 examples outside"),
    ([*MOONS, "optimizer=lbfgs", "batch_size=null"], r"ensemble.size=1 data\.folds=3: the line"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run("tracking=none", *overrides)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_cannot_balance_the_classes_of_each_fold():
    config = compose(["+exp=moons", "data.folds=3", "model.class_weights=balanced"])
    with pytest.raises(UserError, match=r"data\.folds=3 model\.class_weights=balanced: .* numbers"):
        groups.check(config)


def test_an_ensemble_of_a_sweep_is_selected_on_all_folds():
    jobs = [
        Job(index, (), compose([*MOONS, f"optimizer.learning_rate={rate}"]))
        for index, rate in enumerate((0.05, 0.02))
    ]
    configs = [job.config for job in jobs]
    networks = groups.train([n for c in configs for n in seeds.configs_of(c)], repeats=3)
    results = seeds.gathered(configs, networks)
    candidates = [
        Candidate(job, None, *describe.standing(result), result)
        for job, result in zip(jobs, results, strict=True)
    ]
    ensemble = ensemble_of(candidates, 4)
    counts = [0, 0]
    for candidate, count in zip(ensemble.members, ensemble.model.counts, strict=True):
        counts[candidate.job.index] = count
    folds = [one.problem.dataset for one in results[0].repeats]

    def y_hat(job, x, networks):
        of_each = [describe.outputs(results[job].repeats[fold], x)[:, 0] for fold in networks]
        return np.mean(of_each, axis=0)

    def wanted(part, counts):
        whole = [(folds[0].test, range(3))]
        held_out = [(dataset.validation, [fold]) for fold, dataset in enumerate(folds)]
        parts = whole if part == "test" else held_out
        mean = [
            sum(count * y_hat(job, x, networks) for job, count in enumerate(counts)) / sum(counts)
            for (x, _), networks in parts
        ]
        return log_loss(np.concatenate([y for (_, y), _ in parts]), np.concatenate(mean))

    for part in ("validation", "test"):
        found = [measured[part]["log_loss"] for measured in (ensemble.metrics, ensemble.best_alone)]
        assert found == pytest.approx([wanted(part, counts), wanted(part, [1, 0])], rel=1e-9)
    assert min(counts) > 0  # else it were no test of an ensemble


@pytest.mark.parametrize("test_size", [0, 0.2])
def test_the_baselines_are_judged_as_the_networks_are(test_size):
    config = compose([*MOONS, f"data.test_size={test_size}"])
    dataset = data.load(config.data)
    found = baselines(setup.prepare(config, dataset))["linear"]["log_loss"]
    if test_size:
        splits = [(dataset.folds.known.train, dataset.test)]
    else:
        splits = [(fold.train, fold.validation) for fold in dataset.folds.datasets]
    y_hat = [LogisticRegression(max_iter=1000).fit(*train).predict_proba(held_out.x)
             for train, held_out in splits]  # fmt: skip
    y = np.concatenate([held_out.y for _, held_out in splits])
    assert found == pytest.approx(log_loss(y, np.concatenate(y_hat)))
