"""A network in a population is the network alone: to 1e-5 side by side, to the bit one by one."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from mlp_jax import data
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import CONF, with_values
from mlp_jax.core import fit as fitting
from mlp_jax.core import gradcheck as proof
from mlp_jax.core import population
from mlp_jax.core.backprop import backprop
from mlp_jax.core.history import Histories, History, mean_history
from mlp_jax.errors import UserError
from mlp_jax.experiment.setup import numeric_settings, prepare
from mlp_jax.sweep import groups

# Each optimizer with a schedule and two values of what it has besides the learning rate.
CASES = [
    ("gradient_descent", "constant", {"optimizer.clip_norm": (0.1, 0.2)}),
    ("momentum", "exponential", {"schedule.final_factor": (0.5, 0.1)}),
    ("nesterov", "constant", {"optimizer.momentum": (0.8, 0.9)}),
    ("adagrad", "piecewise", {"schedule.factor": (0.5, 0.1)}),
    ("rmsprop", "constant", {"optimizer.decay": (0.8, 0.9)}),
    ("adam", "cosine", {"optimizer.b2": (0.99, 0.999), "model.label_smoothing": (0.0, 0.1)}),
    ("adamw", "constant", {"optimizer.weight_decay": (0.01, 0.1), "model.l2": (0.0, 0.01)}),
    ("lion", "warmup_cosine", {"model.initializer_scale": (0.5, 2.0)}),
    ("lbfgs", "constant", {}),
]


def configs_of(overrides, num_networks=2, **values):
    """Experiments on moons with the seeds 0, 1, … and other values of some keys."""
    base = composed("data=moons", "data.num_examples=96", "tracking=none", *overrides)
    return [
        with_values(base, {"seed": i, **{key: value[i] for key, value in values.items()}})
        for i in range(num_networks)
    ]


@cache
def composed(*overrides):
    return compose(list(overrides))


def alone(config, programs=None):
    with numeric_settings(config):
        problem = prepare(config, data.load(config.data))
        return problem, fitting.fit(problem, programs or fitting.compile_programs(problem))


def each_alone(configs):
    """`alone` of configs that differ in seed and data, by one compilation."""
    with numeric_settings(configs[0]):
        programs = fitting.compile_programs(prepare(configs[0], data.load(configs[0].data)))
    return [alone(config, programs) for config in configs]


def same_bits(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def deviation(params, others):
    """The largest difference, relative to the largest parameter."""
    pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True))
    return max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(a).max() for a, _ in pairs)


def test_every_optimizer_and_schedule_has_a_case():
    for index, group in enumerate(("optimizer", "schedule")):
        choices = {file.stem for file in (CONF / group).glob("*.yaml")}
        assert {case[index] for case in CASES} == choices


@pytest.mark.parametrize(("optimizer", "schedule", "values"), CASES)
def test_a_network_in_a_population_is_the_network_alone(optimizer, schedule, values, request):
    if optimizer in ("gradient_descent", "lbfgs"):  # of many steps, and equal to the bit
        request.getfixturevalue("compiled_fully")
    num_steps = 1000 if optimizer == "gradient_descent" else 200
    configs = configs_of(
        [f"optimizer={optimizer}", f"schedule={schedule}", "model.initializer=scaled_normal",
         "num_epochs=null", f"num_steps={num_steps}", *["batch_size=32"] * (optimizer != "lbfgs")],
        **{"optimizer.learning_rate": (0.01, 0.02), **values},
    )  # fmt: skip
    compared = [*zip(configs, groups.train(configs), strict=True)]
    for config, member in compared if optimizer == "gradient_descent" else compared[1:]:
        problem, fitted = alone(config)
        assert same_bits(problem.params, member.problem.params)
        assert deviation(fitted.params, member.fitted.params) < 1e-5
        for point, ours in zip(fitted.history, member.fitted.history, strict=True):
            assert point.step == ours.step
            assert point.metrics == pytest.approx(ours.metrics, rel=1e-4, abs=1e-6)
        measured = fitting.evaluate_parts(problem, fitted.params)
        assert member.metrics["train"] == pytest.approx(measured["train"], rel=1e-4)
        assert member.gradient.passed
        assert member.problem.config == problem.config
        if optimizer == "lbfgs":
            assert same_bits(fitted.params, member.fitted.params)


@pytest.mark.usefixtures("compiled_fully")
def test_the_size_of_the_population_changes_no_bit_of_an_exact_one():
    overrides = ["num_epochs=null", "num_steps=25", "log_every=10", "batch_size=32"]
    seeds = {"seed": (2**32 - 1, 1, 2, 3, 4)}
    five = groups.train(configs_of(overrides, 5, **seeds), exact=True)
    one = groups.train(configs_of(overrides, 1, **seeds), exact=True)
    assert same_bits(one[0].fitted.params, five[0].fitted.params)
    problem, fitted = alone(five[0].problem.config)
    assert same_bits(problem.params, five[0].problem.params)
    assert same_bits(fitted.params, five[0].fitted.params)
    assert [point.step for point in five[0].fitted.history] == [10, 20, 25]
    assert not same_bits(five[1].fitted.params, five[2].fitted.params)


def test_chunks_of_networks_give_what_all_of_them_together_give(monkeypatch):
    configs = configs_of(["num_epochs=20", "batch_size=32"], 12)
    together = groups.train(configs)
    monkeypatch.setattr(population, "CHUNK_BYTES", 1)
    seen = []
    in_chunks = groups.train(configs, on_progress=seen.append)
    for a, b in zip(together, in_chunks, strict=True):
        assert deviation(a.fitted.params, b.fitted.params) < 1e-5
    assert [p.num_done for p in seen] == sorted(p.num_done for p in seen)
    assert (seen[-1].num_done, seen[-1].num_networks) == (12, 12)
    assert seen[-1].network_steps == 12 * together[0].problem.num_steps


@pytest.mark.usefixtures("compiled_fully")
def test_data_of_their_own():
    overrides = ["num_epochs=30", "data.validation_size=24", "batch_size=24"]
    configs = configs_of(
        overrides, 3, **{"data.seed": (5, 6, 6), "data.noise": (0.1, 0.2, 0.2), "seed": (0, 0, 1)}
    )
    members = groups.train(configs, exact=True)
    for (problem, fitted), member in zip(each_alone(configs), members, strict=True):
        assert same_bits(problem.validation, member.problem.validation)
        assert same_bits(fitted.params, member.fitted.params)
        assert member.metrics == fitting.evaluate_parts(problem, fitted.params)
    for exact, member in zip(members, groups.train(configs), strict=True):
        assert deviation(exact.fitted.params, member.fitted.params) < 1e-5


def test_each_network_stops_early_where_it_would_alone():
    overrides = [
        "num_epochs=60", "batch_size=24", "data.validation_size=24", "data.noise=0.4",
        "early_stopping.patience=3", "optimizer=adam", "optimizer.learning_rate=0.1",
    ]  # fmt: skip
    configs = configs_of(overrides, 6)
    ends = set()
    members = groups.train(configs)
    for (_, fitted), member in zip(each_alone(configs), members, strict=True):
        assert member.fitted.step == fitted.step
        assert [p.step for p in member.fitted.history] == [p.step for p in fitted.history]
        assert deviation(fitted.params, member.fitted.params) < 1e-5
        ends.add(fitted.history[-1].step)
    assert len(ends) > 2


def test_a_network_that_diverges_does_not_touch_the_others():
    overrides = ["num_epochs=40", "batch_size=24", "model.output=identity", "log_every=4"]
    rates = {"optimizer.learning_rate": (0.01, 1e6, 0.02, 1e30)}
    members = groups.train(configs_of(overrides, 4, **rates))
    for member in members[::2]:
        assert member.diverged_at is None
        assert deviation(alone(member.problem.config)[1].params, member.fitted.params) < 1e-5
    for member in members[1::2]:
        with pytest.raises(fitting.DivergedError) as error:
            alone(member.problem.config)
        assert member.diverged_at == error.value.step
        assert member.metrics == {}
        assert all(np.isfinite(list(p.metrics.values())).all() for p in member.fitted.history)


def test_successive_halving_lets_the_better_half_go_on():
    overrides = ["num_epochs=null", "num_steps=80", "log_every=2", "batch_size=32"]
    rates = np.geomspace(1e-4, 1, 8).tolist()
    configs = [replace(c, seed=0) for c in configs_of(overrides, 8)]
    configs = [
        with_values(config, {"optimizer.learning_rate": rate})
        for config, rate in zip(configs, rates, strict=True)
    ]
    members = groups.train(configs, halvings=2)
    assert [member.halved_at for member in members] == [20, 20, 20, 20, 40, 40, None, None]
    assert [member.fitted.history[-1].step for member in members][-3:] == [40, 80, 80]
    whole = groups.train(configs)
    for member, full in zip(members, whole, strict=True):
        length = len(member.fitted.history)
        losses, full_losses = (
            [point.metrics["train/loss"] for point in history[:length]]
            for history in (member.fitted.history, full.fitted.history)
        )
        assert losses == pytest.approx(full_losses, rel=1e-4)
    assert members[0].metrics["train"]["loss"] > whole[0].metrics["train"]["loss"]


def test_a_network_that_is_halved_keeps_what_it_was_then():
    overrides = ["num_epochs=null", "num_steps=40", "log_every=10", "batch_size=32"]
    members = groups.train(configs_of(overrides, 5), halvings=1)
    halved = [member for member in members if member.halved_at is not None]
    assert [member.halved_at for member in halved] == [20, 20]
    short = groups.train([
        with_values(member.problem.config, {"num_steps": 20}) for member in halved
    ])  # fmt: skip
    for member, then in zip(halved, short, strict=True):
        assert member.fitted.step == 20
        assert deviation(then.fitted.params, member.fitted.params) < 1e-5
        assert member.metrics["train"] == pytest.approx(then.metrics["train"], rel=1e-4)


def test_more_halvings_than_log_points_are_refused():
    configs = configs_of(["num_epochs=null", "num_steps=4", "log_every=1"])
    with pytest.raises(UserError, match="3 halvings need 8 log points, there are 4"):
        groups.train(configs, halvings=3)


def test_a_number_that_does_not_fit_the_output_is_named_though_it_is_traced():
    configs = configs_of(["model.output=tanh"], **{"model.label_smoothing": (0.0, 0.1)})
    with pytest.raises(UserError, match=r"^model\.label_smoothing=0\.1: targets of a tanh output"):
        groups.train(configs)


def test_configs_that_differ_in_structure_are_no_population():
    configs = configs_of(["num_epochs=2"])
    configs[1] = with_values(configs[1], {"model.hidden_sizes": [3]})
    with pytest.raises(ValueError, match=r"model\.hidden_sizes differs"):
        groups.train(configs)


def test_a_wrong_gradient_is_found_in_every_network(monkeypatch):
    def wrong(*arguments):
        value, grads = backprop(*arguments)
        return value, (grads[0]._replace(b=0 * grads[0].b), *grads[1:])

    monkeypatch.setattr(proof, "backprop", wrong)
    members = groups.train(configs_of(["num_epochs=2"], 3))
    assert [member.gradient.passed for member in members] == [False] * 3
    assert [member.gradient.worst_layer for member in members] == [1] * 3


def test_the_histories_of_networks_that_end_in_different_ways():
    histories = Histories(4, np.array([5, 10, 12]), "validation/accuracy", patience=2)
    everyone = np.arange(4)
    histories.record(
        everyone,
        0,
        {
            "num_finite": np.array([[5, 5], [5, 3], [5, 5], [5, 5]]),
            "num_worse": np.array([[0, 0], [0, 1], [1, 2], [0, 1]]),
            "validation/accuracy": np.array([[0.5, 0.6], [0.5, 0.9], [0.7, 0.8], [0.1, 0.2]]),
        },
    )
    assert histories.is_done.tolist() == [False, True, True, False]
    assert histories.diverged_at.tolist() == [0, 9, 0, 0]
    assert histories.num_points.tolist() == [2, 1, 2, 2]
    assert histories.scores(everyone).tolist() == [0.6, -np.inf, 0.8, 0.2]
    assert histories.halve(everyone).tolist() == [3]
    assert histories.halved_at.tolist() == [0, 0, 0, 10]
    histories.record(
        everyone,
        2,
        {
            "num_finite": np.full((4, 1), 2),
            "num_worse": np.zeros((4, 1), int),
            "validation/accuracy": np.full((4, 1), 1.0),
        },
    )
    assert histories.num_points.tolist() == [3, 1, 2, 2]
    assert [point.step for point in histories[0]] == [5, 10, 12]
    assert [p.metrics for p in histories[3]] == [
        {"validation/accuracy": 0.1},
        {"validation/accuracy": 0.2},
    ]
    assert histories.progress()[:5] == (1.0, 4, 4, 12 + 5 + 10 + 10, 1.0)


def test_networks_train_on_the_platform_that_is_asked_for(monkeypatch):
    """Though JAX's default is another one."""

    class Accelerator:
        platform = "tpu"

    devices, trained_on = jax.devices, []
    monkeypatch.setattr(
        jax, "devices", lambda name=None: devices(name) if name else [Accelerator()]
    )
    train = population.train
    monkeypatch.setattr(
        population, "train", lambda p, mesh, **o: trained_on.append(mesh) or train(p, mesh, **o)
    )
    groups.train(configs_of(["num_epochs=1", "device=cpu"], 3))
    (mesh,) = trained_on
    assert [device.platform for device in mesh.devices] == ["cpu"] * 3


def test_networks_of_a_trial_are_judged_by_their_mean():
    histories = Histories(6, np.array([1, 2]), "validation/loss", None, repeats=2)
    losses = np.array([0.1, 0.9, 0.4, 0.5, 0.3, np.nan])
    num_finite = np.array([[1], [1], [1], [1], [1], [0]])
    logged = {"num_finite": num_finite, "validation/loss": losses[:, None]}
    histories.record(np.arange(6), 0, logged)
    assert histories.progress().best == pytest.approx(0.45)  # not 0.1, that of one network
    assert histories.halve(np.arange(6)).tolist() == [4]  # of the trial one of whose is lost
    assert histories.halve(np.arange(6)).tolist() == [0, 1]
    assert histories.is_done.tolist() == [True, True, False, False, True, True]
    assert histories.halved_at.tolist() == [1, 1, 0, 0, 1, 0]


def test_in_the_mean_of_histories_one_that_has_ended_keeps_its_last_values():
    none = History(np.array([], int), {"train/loss": np.array([])})
    short = History(np.array([1]), {"train/loss": np.array([1.0])})
    long = History(np.array([1, 2]), {"train/loss": np.array([3.0, 5.0])})
    mean = mean_history([none, short, long])
    assert [(point.step, point.metrics["train/loss"]) for point in mean] == [(1, 2.0), (2, 3.0)]
    assert len(mean_history([none, none])) == 0
