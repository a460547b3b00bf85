"""A job with several seeds: what a search sees and what is recorded is the mean of runs alone."""

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console as RichConsole
from scipy import stats

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.config.saved import config_hash
from mlp_jax.config.schema import with_values
from mlp_jax.errors import NoResultError, UserError
from mlp_jax.experiment import describe, machine, rerun
from mlp_jax.experiment import run as experiment
from mlp_jax.experiment.console import Console
from mlp_jax.experiment.describe import Result
from mlp_jax.sweep import groups
from mlp_jax.sweep.jobs import Job
from mlp_jax.sweep.sweep import Outcome, Sweep

COMMON = ["+exp=moons", "num_epochs=12", "log_every=2", "data.num_examples=60", "name=seeds",
          "early_stopping.patience=1", "early_stopping.min_delta=0.02",
          "tracking.figures=false", "checkpoint.root=runs"]  # fmt: skip
SEEDS, RATES = [4, 5, 6], [0.5, 0.05]


class Swept(NamedTuple):
    outcomes: list[Outcome]
    printed: str
    uri: str


def make_jobs(*overrides: str, rates: list[float] = RATES) -> list[Job]:
    given = [[*COMMON, "sweep.seeds=3", "seed=4", *overrides, f"optimizer.learning_rate={rate}"]
             for rate in rates]  # fmt: skip
    return [Job(index, tuple(texts), compose(texts)) for index, texts in enumerate(given)]


def sweep(jobs: list[Job], uri: str = "") -> Swept:
    output = io.StringIO()
    console = Console(RichConsole(file=output, width=200, soft_wrap=True))
    with Sweep("the command", console=console) as opened:
        opened.check(jobs)
        outcomes = opened.train(jobs)
    return Swept(outcomes, output.getvalue(), uri)


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], str]
) -> Iterator[Swept]:
    """Two jobs of three seeds each, of which some stop before the others."""
    folder, before = tmp_path_factory.mktemp("seeds"), Path.cwd()
    os.chdir(folder)
    uri = make_store(folder)
    yield sweep(make_jobs(f"tracking.uri={uri}"), uri)
    os.chdir(before)


@pytest.fixture(scope="module")
def alone(swept: Swept) -> dict[float, list[Result]]:
    """Each network in a run of its own."""
    return {
        rate: [
            experiment.run(
                compose([*COMMON, "tracking=none", f"seed={s}", f"optimizer.learning_rate={rate}"]),
                Console(RichConsole(quiet=True)),
            )
            for s in SEEDS
        ]
        for rate in RATES
    }


def kept(result: Result) -> float:
    """The objective of the parameters that a run alone keeps."""
    return result.metrics["validation"]["log_loss"]


def test_a_search_sees_the_mean_of_the_runs_alone(
    swept: Swept, alone: dict[float, list[Result]]
) -> None:
    assert len({result.fitted.history[-1].step for result in alone[0.05]}) > 1
    for outcome, rate in zip(swept.outcomes, RATES, strict=True):
        values = [kept(result) for result in alone[rate]]
        assert outcome.objective == "validation/log_loss"
        assert outcome.loss == pytest.approx(np.mean(values), rel=1e-5)
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        assert outcome.interval == pytest.approx(half, rel=1e-4)
        assert outcome.best_seed == SEEDS[int(np.argmin(values))]


def test_a_job_is_one_run_of_means(swept: Swept, alone: dict[float, list[Result]]) -> None:
    client = mlflow.MlflowClient(swept.uri)
    for outcome, rate in zip(swept.outcomes, RATES, strict=True):
        run = client.get_run(str(outcome.run_id))
        metrics, tags = run.data.metrics, run.data.tags
        assert tags["seeds"] == "3"
        assert tags["best_seed"] == str(outcome.best_seed)
        assert tags["command"].endswith(f" seed={outcome.best_seed}")
        assert "sweep.seeds" not in tags["command"]
        assert metrics["best_validation_log_loss"] == outcome.value
        assert metrics["validation_log_loss_interval"] == outcome.interval
        for part, names in alone[rate][0].metrics.items():
            for name in names:
                values = [result.metrics[part][name] for result in alone[rate]]
                recorded = metrics[f"{part}_{name}"], metrics[f"{part}_{name}_std"]
                wanted = np.mean(values), np.std(values, ddof=1)
                assert recorded == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        history = client.get_metric_history(run.info.run_id, "train/loss")
        for point in history:
            at = [[p.metrics["train/loss"] for p in r.fitted.history if p.step <= point.step][-1]
                  for r in alone[rate]]  # fmt: skip
            assert point.value == pytest.approx(np.mean(at), rel=1e-5)
    assert len(client.search_runs([run.info.experiment_id])) == 3  # two jobs and their parent


def test_the_tables_have_the_interval_beside_the_mean(swept: Swept) -> None:
    best, other = sorted(swept.outcomes, key=lambda outcome: outcome.value)
    assert "± 95 %" in swept.printed
    assert f"{best.value:.4g}" in swept.printed and f"{best.interval:.4g}" in swept.printed
    assert "2 × 3 seeds × 2-16-1" in swept.printed
    client = mlflow.MlflowClient(swept.uri)
    parent = client.get_parent_run(str(best.run_id))
    table = Path(client.download_artifacts(parent.info.run_id, "runs.csv")).read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["run_id"] for row in rows] == [best.run_id, other.run_id]
    assert float(rows[0]["validation_log_loss_interval"]) == best.interval
    assert "_std" not in Path(client.download_artifacts(parent.info.run_id, "runs.md")).read_text()


def test_the_model_is_the_best_seeds_network(
    swept: Swept, alone: dict[float, list[Result]]
) -> None:
    best = min(swept.outcomes, key=lambda outcome: outcome.value)
    client = mlflow.MlflowClient(swept.uri)
    [made] = client.get_run(str(best.run_id)).outputs.model_outputs
    mlflow.set_tracking_uri(swept.uri)
    model = mlflow.pyfunc.load_model(f"models:/{made.model_id}")
    result = min(alone[RATES[best.job.index]], key=kept)
    raw = data.raw_inputs(result.problem.dataset, 20)
    theirs = describe.to_model(result).predict(raw)
    pd.testing.assert_frame_equal(model.predict(raw), theirs, rtol=1e-4)


def test_jobs_that_have_finished_are_known_with_their_seeds(swept: Swept) -> None:
    again = sweep(make_jobs(f"tracking.uri={swept.uri}", "sweep.resume=true")).outcomes
    assert [o[1:] for o in again] == [
        o._replace(log="", is_earlier=True)[1:] for o in swept.outcomes
    ]
    [job] = make_jobs(rates=[0.5])
    assert config_hash(job.config) != config_hash(with_values(job.config, {"sweep.seeds": 1}))


def test_a_seed_that_diverges_leaves_no_mean(swept: Swept) -> None:
    lost = ["tracking=none", "optimizer=gradient_descent", "model.l2=1", "num_epochs=40"]
    [outcome] = sweep(make_jobs(*lost, rates=[1e38])).outcomes
    assert isinstance(outcome.error, NoResultError)
    assert str(outcome.error).startswith("3 of 3 seeds; seed 4: ")


def test_halving_goes_by_the_means(swept: Swept) -> None:
    """Of the worse job no seed goes on, though its best is better than the other's worst."""
    given = ["tracking=none", "sweep.halvings=1", "early_stopping.patience=null"]
    outcomes = sweep(make_jobs(*given)).outcomes
    assert [outcome.is_halved for outcome in outcomes] == [True, False]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["population.exact=true"], r"^sweep\.seeds=3: takes networks that are trained together"),
        (
            ["optimizer=lbfgs", "batch_size=null"],
            r"sweep\.seeds=3: .*another optimizer than lbfgs",
        ),
    ],
)
def test_seeds_that_cannot_be_trained(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        groups.check(make_jobs(*overrides, rates=[0.5])[0].config)


def test_a_job_of_several_networks_has_no_bits_to_be_repeated(swept: Swept) -> None:
    with pytest.raises(UserError, match=r"a job of several networks in a sweep has no bits"):
        rerun.from_store(str(swept.outcomes[0].run_id), swept.uri)


def test_seeds_beyond_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_jobs(rates=[0.5])[0].config
    # 2-16-2 in float32, of which two are kept, and six log points of six metrics.
    bytes_of_seed = 2 * 82 * 4 + 6 * 6 * 4
    monkeypatch.setattr(machine, "memory", lambda: 2 * 10 * bytes_of_seed)
    groups.check(with_values(config, {"sweep.seeds": 9}), num_jobs=2)
    with pytest.raises(UserError, match=r"seeds=99: 198 networks, .* at most 10 seeds"):
        groups.check(with_values(config, {"sweep.seeds": 99}), num_jobs=2)


def test_a_run_alone_has_one_seed() -> None:
    with pytest.raises(UserError, match=r"^sweep\.seeds=3: a run alone trains one network"):
        experiment.run(make_jobs("tracking=none", rates=[0.5])[0].config)
