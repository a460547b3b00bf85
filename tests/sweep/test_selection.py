"""An ensemble that is selected from a sweep: the greedy picks, what they reach, where it is."""

import csv
import doctest
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
from rich.console import Console as RichConsole
from sklearn.metrics import accuracy_score, log_loss

from mlp_jax import data
from mlp_jax.commands import train
from mlp_jax.config.compose import compose
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import with_values
from mlp_jax.errors import UserError
from mlp_jax.experiment import describe
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.describe import Result
from mlp_jax.sweep import groups, selection
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.selection import select
from mlp_jax.sweep.sweep import Outcome, Sweep

# --- the greedy picks --------------------------------------------------------------------------


def test_a_selection_worked_by_hand() -> None:
    """Squared errors of the target (1, 1): the third network alone is worst and helps most."""
    y_hats = np.array([[[1.0], [0.0]], [[0.9], [0.0]], [[0.0], [3.0]]])
    picks, losses = select(y_hats, lambda y_hat: float(((y_hat - 1) ** 2).sum()), most=4)
    # (1, 0): 1. With itself 1, with the second 1.0006, with the third (.5, 1.5): .5. Then
    # (2, 3)/3: .111; and (3, 3)/4: .125 is worse, (2, 6)/4 and (2.9, 3)/4 too.
    assert picks == (0, 2, 0)
    assert losses == pytest.approx((1, 0.5, 1 / 9))


def test_one_that_is_best_alone_is_taken_once() -> None:
    """Its mean with itself is the same number, whatever rounding makes of it."""
    losses = iter([0.3, 0.9, 0.3 - 1e-9, 0.9, 0.3 - 2e-9, 0.9])
    picks, _ = select(np.zeros((2, 1, 1)), lambda y_hat: next(losses), most=3)
    assert picks == (0,)


def test_examples() -> None:
    assert doctest.testmod(selection).failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_each_pick_is_the_best_of_all(seed: int) -> None:
    """By scikit-learn's log loss of the mean of the list of picks so far and one more."""
    rng = np.random.default_rng(seed)
    y_hats, y = rng.dirichlet([1, 1, 1], size=(5, 12)), rng.integers(0, 3, 12)

    def loss(y_hat: np.ndarray) -> float:
        return float(log_loss(y, y_hat, labels=[0, 1, 2]))

    taken: list[int] = []
    path: list[float] = []
    for _ in range(8):
        tries = {m: loss(np.mean(y_hats[[*taken, m]], axis=0)) for m in range(5)}
        taken.append(min(tries, key=lambda m: tries[m]))
        path.append(tries[taken[-1]])
    found = select(y_hats, loss, most=8)
    count = path.index(min(path)) + 1
    assert found.picks == tuple(taken[:count])
    assert found.losses == pytest.approx(path[:count])
    assert found.losses[-1] <= min(loss(y_hat) for y_hat in y_hats)


# --- in a sweep --------------------------------------------------------------------------------

COMMON = ["+exp=moons", "num_epochs=12", "log_every=6", "data.num_examples=80", "name=selected",
          "data.noise=0.3", "early_stopping.patience=null", "optimizer.learning_rate=0.05",
          "sweep.ensemble=6", "tracking.figures=false", "checkpoint.root=runs"]  # fmt: skip
SIZES = ["model.hidden_sizes=[4]", "model.hidden_sizes=[4,3]"]
GIVEN = [[size, f"seed={seed}"] for size in SIZES for seed in (0, 1, 2)]
LEFT_OUT = [[SIZES[0], "optimizer.learning_rate=1e38", "model.l2=1"], [SIZES[0], "data.seed=1"]]


class Swept(NamedTuple):
    outcomes: list[Outcome]
    printed: str
    uri: str


def make_jobs(*all_overrides: list[str]) -> list[Job]:
    given = [[*COMMON, *own] for own in all_overrides]
    return [Job(index, tuple(texts), compose(texts)) for index, texts in enumerate(given)]


def sweep(jobs: list[Job], uri: str = "") -> Swept:
    output = io.StringIO()
    console = Console(RichConsole(file=output, width=300, soft_wrap=True))
    with Sweep("the command", console=console) as opened:
        opened.check(jobs)
        outcomes = opened.train(jobs)
    return Swept(outcomes, output.getvalue(), uri)


class Trainer:
    """`groups.train`, which remembers what it trained."""

    def __init__(self) -> None:
        self.train, self.results = groups.train, dict[str, Result]()
        self.num_asked: list[int] = []

    def __call__(self, configs, **options):
        self.num_asked.append(len(configs))
        if any(config_hash(config) not in self.results for config in configs):
            trained = self.train(configs, **options)
            self.results |= zip(map(config_hash, configs), trained, strict=True)
        return [self.results[config_hash(config)] for config in configs]


@pytest.fixture(scope="module", autouse=True)
def trainer() -> Iterator[Trainer]:
    with pytest.MonkeyPatch.context() as patch:
        trainer = Trainer()
        patch.setattr(groups, "train", trainer)
        yield trainer


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], str]
) -> Iterator[Swept]:
    """Networks of two shapes; one diverges, and one has other data."""
    folder, before = tmp_path_factory.mktemp("selection"), Path.cwd()
    os.chdir(folder)
    uri = make_store(folder)
    jobs = make_jobs(*([*own, f"tracking.uri={uri}"] for own in [*GIVEN, *LEFT_OUT]))
    yield sweep(jobs, uri)
    os.chdir(before)


@pytest.fixture(scope="module")
def parent(swept: Swept) -> mlflow.entities.Run:
    client = mlflow.MlflowClient(swept.uri)
    return client.get_parent_run(str(swept.outcomes[0].run_id))


def probabilities(result: Result, x: np.ndarray) -> np.ndarray:
    return describe.outputs(result, x)[:, 0]


def test_the_model_of_the_parent_is_the_mean_of_the_picks(
    swept: Swept, parent: mlflow.entities.Run, trainer: Trainer
) -> None:
    results = [trainer.results[config_hash(job.config)] for job in make_jobs(*GIVEN)]
    dataset = results[0].problem.dataset
    each = np.array([[1 - p, p] for p in (probabilities(r, dataset.validation.x) for r in results)])
    each = each.swapaxes(1, 2)
    picks, losses = select(each, lambda p: log_loss(dataset.validation.y, p), most=6)
    assert len(set(picks)) > 1 and {len(results[m].problem.sizes) for m in picks} == {3, 4}

    metrics = parent.data.metrics
    assert metrics["ensemble_validation_log_loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert metrics["best_run_validation_log_loss"] == pytest.approx(losses[0], rel=1e-5)
    test = np.array([probabilities(results[m], dataset.test.x) for m in picks]).mean(axis=0)
    assert metrics["ensemble_test_log_loss"] == pytest.approx(log_loss(dataset.test.y, test), 1e-5)
    accuracy = accuracy_score(dataset.test.y, test >= 0.5)
    assert metrics["ensemble_test_accuracy"] == pytest.approx(accuracy)

    mlflow.set_tracking_uri(swept.uri)
    [made] = parent.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{made.model_id}")
    raw = data.raw_inputs(dataset, 30)
    alone = [describe.to_model(results[m]).predict(raw)["probability_1"] for m in picks]
    frame = model.predict(raw, params={"spread": True})
    np.testing.assert_allclose(frame["probability_1"], np.mean(alone, axis=0), rtol=1e-5)
    np.testing.assert_allclose(frame["spread_probability_1"], np.std(alone, axis=0), atol=1e-6)


def test_it_says_what_the_ensemble_reaches(swept: Swept, parent: mlflow.entities.Run) -> None:
    metrics, [line] = parent.data.metrics, [
        line for line in swept.printed.splitlines() if line.startswith("ensemble  ")
    ]  # fmt: skip
    assert "selected from 6 (2 left out): validation/log_loss" in line
    for whose in ("ensemble", "best_run"):
        for part in ("validation", "test"):
            assert f"{metrics[f'{whose}_{part}_log_loss']:.4g}" in line
    note = parent.data.tags["mlflow.note.content"]
    assert "selected on the validation part from 6 runs: " in note
    table = mlflow.MlflowClient(swept.uri).download_artifacts(parent.info.run_id, "ensemble.csv")
    rows = csv.DictReader(Path(table).read_text().splitlines())
    picks = {row["run_id"]: int(row["picks"]) for row in rows}
    assert f"{sum(picks.values())} picks of {len(picks)} runs, " in line
    for run_id, count in list(picks.items())[:5]:
        assert re.search(rf"{count} × \[[^]]*\]\([^)]*/runs/{run_id}\?", note)


def test_a_resumed_sweep_trains_again_what_the_ensemble_needs(
    swept: Swept, parent: mlflow.entities.Run, trainer: Trainer
) -> None:
    """Those beside the best one, whose group was trained again for its model."""
    given = [[*own, f"tracking.uri={swept.uri}", "sweep.resume=true"] for own in GIVEN]
    trainer.num_asked.clear()
    again = sweep(make_jobs(*given))
    assert trainer.num_asked == [3, 3]
    assert "trains 3 runs again, whose parameters the ensemble needs" in again.printed
    before = {o.job.index: o.run_id for o in swept.outcomes}
    assert all(o.run_id == before[o.job.index] for o in again.outcomes)
    [line] = [line for line in again.printed.splitlines() if line.startswith("ensemble  ")]
    assert line.replace("from 6:", "from 6 (2 left out):") in swept.printed


def test_one_run_is_no_ensemble() -> None:
    alone = sweep(make_jobs(*([*own, "tracking=none"] for own in (GIVEN[0], LEFT_OUT[1]))))
    assert "ensemble  none, which takes two runs of the same data" in alone.printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.validation_size=0"], r"^sweep\.ensemble=6: moons has no validation part"),
        (["sweep.seeds=3"], r"^sweep\.ensemble=6 sweep\.seeds=3: .*'seed=range\(3\)'"),
    ],
)
def test_what_no_ensemble_is_selected_from(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups.check(compose([*COMMON, *overrides]))


def test_a_single_run_has_nothing_to_select_from() -> None:
    with pytest.raises(UserError, match=r"^sweep\.ensemble=6: .*add -m"):
        train.run(*COMMON, "tracking=none")


def test_an_ensemble_does_not_change_the_name_of_a_training() -> None:
    [job] = make_jobs(GIVEN[0])
    assert config_hash(job.config) == config_hash(with_values(job.config, {"sweep.ensemble": 0}))
