"""What a run has to say about itself: its facts, its metrics, its pictures and its model."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import numpy as np

from mlp_jax import data
from mlp_jax.config.schema import MAX_NAME_LENGTH, Experiment, Table, num_folds
from mlp_jax.core.fit import Fitted, evaluate_parts
from mlp_jax.core.gradcheck import GradientCheck
from mlp_jax.core.history import lower_is_better
from mlp_jax.core.network import Params, embedding_of, layers_of, num_params
from mlp_jax.data import Dataset
from mlp_jax.experiment import figures
from mlp_jax.experiment.console import Console, duration, number
from mlp_jax.experiment.machine import PACKAGES, version
from mlp_jax.experiment.prediction import Embedding, Model, classify
from mlp_jax.experiment.repeats import interval, interval_of, over_seeds
from mlp_jax.experiment.setup import Problem, objective
from mlp_jax.tracking import facts
from mlp_jax.tracking.links import code, spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

OUT_OF_TIME = "out_of_time_at"
"""A tag: the step at which its budget ended a run; empty of one that has gone on to its end."""


class Result(NamedTuple):
    """What came out of a training; `metrics` are each part's, for the parameters that it kept.

    `seconds` is the time from the first step to the last, without compilation; in a population it
    is that of all networks.
    """

    problem: Problem
    gradient: GradientCheck
    fitted: Fitted
    metrics: dict[str, dict[str, float]]
    seconds: float = 0.0
    diverged_at: int | None = None
    """There are no metrics then."""
    halved_at: int | None = None
    """The step at which successive halving ended it."""
    out_of_time_at: int | None = None
    """The step at which its budget ended it."""
    members: "list[Result] | None" = None
    """Of an ensemble, whose params have a leading axis of them and whose output is their mean."""
    held_out: tuple[np.ndarray, np.ndarray] | None = None
    """Of folds: ŷ of what each holds out, from networks that have not seen it, and the targets."""
    temperature: float | None = None
    """By which the logits of a calibrated classifier are divided."""
    repeats: "list[Result] | None" = None
    """Of a job with several seeds, the networks, whose means its metrics and its history are; its
    params are those of the best one."""


def of_member(member: Result) -> str:
    """The overrides by which a member of an ensemble is trained alone."""
    config = member.problem.config
    fold = [] if config.data.fold is None else [f"data.fold={config.data.fold}"]
    return " ".join(["ensemble.size=1", *fold, f"seed={config.seed}"])


def header(problem: Problem, device: jax.Device) -> dict[str, object]:
    config = problem.config
    parts = {"training": problem.train, "validation": problem.validation, "test": problem.test}
    sizes = [f"{len(part.x):,} for {name}" for name, part in parts.items() if part]
    num_examples = sum(len(part.x) for part in parts.values() if part)
    regularized = [
        f"{key} {value:g}" for key in _REGULARIZERS if (value := vars(config.model)[key])
    ]
    return {
        "data": f"{problem.dataset.name}: {_count(num_examples, 'example')}, {', '.join(sizes)}",
        "network": f"{_sizes(problem)}: {_sizes_in_words(problem)}, "
        f"{num_params(problem.params):,} parameters, {_activation(problem)}, "
        f"{config.model.output} + {config.model.loss}",
        **_many(problem),
        "training": f"{problem.num_steps:,} steps of {problem.training.batch_size:,} examples, "
        f"{config.optimizer.name} η={config.optimizer.learning_rate:g}, {config.schedule.name}",
        **({"regularised": ", ".join(regularized)} if regularized else {}),
        "device": f"{device.device_kind} ({device.platform}), {config.dtype}, "
        f"matmul precision {config.matmul_precision}",
    }


def _many(problem: Problem) -> dict[str, str]:
    """The networks of an ensemble, of folds or of the seeds of a job."""
    config, validation = problem.config, problem.validation
    size, folds, seeds = config.ensemble.size, num_folds(config), config.sweep.seeds
    each = _count(size * seeds, "network")
    from_seed = f"seeds from {config.seed} on"
    if folds > 1 and validation is not None:
        held_out = _count(len(validation.x), "example")
        return {"folds": f"{folds} of {held_out}, {each} without each; {from_seed}"}
    name = "ensemble" if size > 1 else "seeds"
    return {name: f"{each}, {from_seed}"} if size * seeds > 1 else {}


_REGULARIZERS = (
    "l2", "l1", "label_smoothing", "dropout", "input_dropout", "input_noise", "max_norm",
    "ema_decay",
)  # fmt: skip


def gradient_line(gradient: GradientCheck) -> str:
    """The gradient check in one line."""
    by_layer = ", ".join(f"{layer.autodiff_error:.1e}" for layer in gradient.layers)
    return (
        f"{'proved' if gradient.passed else 'WRONG'}: backprop − jax.grad by layer {by_layer}; "
        f"central differences {gradient.difference_error:.1e}"
    )


def _sizes(problem: Problem) -> str:
    return "-".join(map(str, problem.sizes))


def _sizes_in_words(problem: Problem) -> str:
    n_0, *hidden, n_last = problem.sizes
    units = f"{' + '.join(map(str, hidden))} hidden units" if hidden else "no hidden layer"
    inputs, embedded = _count(n_0, "input"), problem.embedded
    if embedded is not None:
        inputs += f" (embedded as {embedded.num_outputs(n_0):,})"
    return f"{inputs}, {units}, {_count(n_last, 'output')}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _activation(problem: Problem) -> str:
    names = problem.config.model.activation
    return names if isinstance(names, str) else "+".join(names)


def experiment_name(config: Experiment) -> str:
    """The config's, else the data's; a table's is that of its file."""
    if config.name is None and isinstance(config.data, Table):
        return Path(config.data.path).stem
    return config.name or config.data.name


def run_name(problem: Problem) -> str:
    """What tells a run from others; what differs most often comes first, since lists cut names."""
    config, optimizer = problem.config, problem.config.optimizer
    size, folds, count = config.ensemble.size, num_folds(config), config.sweep.seeds
    seeds = f"seed {config.seed}" if count == 1 else f"{count} seeds from {config.seed}"
    names = [
        *([f"{folds} folds"] if folds > 1 else []),
        *([] if config.data.fold is None else [f"fold {config.data.fold}"]),
        *([f"ensemble of {size}"] if size > 1 else []),
        f"{seeds}, η={optimizer.learning_rate:g} {optimizer.name}",
        f"{_sizes(problem)} {_activation(problem)}",
    ]
    return ", ".join(names)[:MAX_NAME_LENGTH]


def note(problem: Problem, device: jax.Device, command: str, result: Result | None = None) -> str:
    """Markdown for the top of a run's page: what came out, what it was, how to repeat it."""
    facts = header(problem, device)
    lines = "\n".join(f"- **{name}**: {value}" for name, value in facts.items())
    parts = [lines, code(command) if command else ""]
    if result is not None and result.metrics:
        parts.insert(0, _result_in_markdown(result))
    return "\n\n".join(part for part in parts if part)


def _result_in_markdown(result: Result) -> str:
    """The metrics of the parts, of the parameters that are kept."""
    names = list(result.metrics["train"])
    rows = [["", *names], ["---", *["--:"] * len(names)]]
    rows += [
        [part, *(f"{measured[name]:.4g}" for name in names)]
        for part, measured in result.metrics.items()
    ]
    return spaced("\n".join(f"| {' | '.join(row)} |" for row in rows))


def tags(problem: Problem, device: jax.Device, command: str) -> dict[str, str]:
    return {
        "command": command,
        "device": f"{device.device_kind} ({device.platform})",
        "objective": objective(problem.config, problem.dataset),
        "num_params": str(num_params(problem.params)),
        **({} if problem.config.sweep.seeds == 1 else {"seeds": str(problem.config.sweep.seeds)}),
        "sizes": _sizes(problem),
        **{f"version.{name}": version(name) for name in (*PACKAGES, "mlflow")},
    }


def parameters(problem: Problem) -> dict[str, Any]:
    """Every key of the config but those of the sweep that the run may be part of."""
    values = asdict(problem.config)
    values["log_every"] = problem.log_every
    return {name: value for name, value in values.items() if name not in ("sweep", "population")}


def data_facts(dataset: Dataset) -> facts.Data:
    """What is kept of the data itself: its name, where it is from, its columns and parts."""
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    sizes = {name: len(part.x) for name, part in parts.items() if part is not None}
    columns = [
        {
            "name": c.name,
            "type": "string" if c.categories else "datetime" if c.parts else "double",
            "required": True,
        }
        for c in dataset.preprocessing.columns
    ]
    return facts.Data(
        dataset.name,
        dataset.digest,
        source=json.dumps({"uri": dataset.source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    )


def final_metrics(result: Result) -> dict[str, float]:
    """What is known at the end only, without the `/` of what has a curve.

    Of the parameters that are kept every part's metrics; the best value of each curve. Of a job
    with several seeds their means and deviations, and the interval of what it is ranked by.
    """
    if result.repeats is not None:
        name, _ = standing(result)
        finals = [final_metrics(network) for network in result.repeats]
        return over_seeds(finals) | {interval_of(name): half_interval(result)}
    final = {
        f"{part}/{name}": value
        for part, measured in result.metrics.items()
        for name, value in measured.items()
    }
    stopping = result.problem.config.early_stopping
    if stopping.patience is not None:
        name, value = standing(result)
        final |= best_metrics(result.fitted, f"validation/{stopping.monitor}")
        final[f"best/{name}"] = value
    else:
        final |= best_metrics(result.fitted)
    final["kept_step"] = float(result.fitted.step)
    for part, values in member_statistics(result.members or []).items():
        for name, (mean, std) in values.items():
            final |= {f"members/{part}_{name}_mean": mean, f"members/{part}_{name}_std": std}
    final = {name.replace("/", "_"): value for name, value in final.items()}
    # The members have its curve: by this number an ensemble stands among single networks.
    return final if result.members is None else final | dict([standing(result)])


def final_tags(result: Result) -> dict[str, str]:
    """Of the parameters that are kept, and of the gradient before the first step."""
    return {
        "params_sha256": params_sha256(result.fitted.params),
        "gradcheck": gradient_line(result.gradient),
        **({} if result.temperature is None else {"temperature": f"{result.temperature:.6g}"}),
        **({} if result.repeats is None else {"best_seed": str(best_seed(result))}),
    }


def best_metrics(fitted: Fitted, monitored: str | None = None) -> dict[str, float]:
    """The best value of each metric that was logged.

    What early stopping monitors is that of the parameters it kept, which `min_delta` may prefer.
    """
    best = {}
    for name, values in fitted.history.metrics.items():
        if "/" in name:
            kept = values[fitted.history.steps == fitted.step]
            values = kept if name == monitored and len(kept) else values
            best[f"best/{name}"] = float(min(values) if lower_is_better(name) else max(values))
    return best


def in_order(metrics: Mapping[str, T], first: str) -> dict[str, T]:
    """As MLflow's pages show them: what runs are compared by, and the learning rate last."""
    return dict(sorted(metrics.items(), key=lambda m: (m[0] != first, m[0] == "learning_rate")))


def print_result(result: Result, console: Console) -> None:
    """The metrics of each part beside the baselines, and for a truth table each of its rows."""
    parts, others = result.metrics, _baselines(result.problem)
    names = list(parts["train"])[: None if others else 2]  # of all examples, two say enough
    columns = {**parts, **others}
    console.table(
        ["", *columns],
        [[name, *(values.get(name, "") for values in columns.values())] for name in names],
    )
    if others:
        console.line(f"baseline  {' and '.join(others)}, on the {list(parts)[-1]} part")
    if result.problem.config.data.name in ("xor", "boolean") and len(result.problem.train.x) <= 16:
        x, y = (np.asarray(array) for array in result.problem.train)
        y_hat = outputs(result, x)
        raw = np.asarray(data.raw_inputs(result.problem.dataset, len(x))).round()
        console.table(
            [*result.problem.dataset.feature_names, "target", "prediction"],
            [
                [*map(int, row), *map(float, t), *map(float, p)]
                for row, t, p in zip(raw, y, y_hat, strict=True)
            ],
        )
    if result.temperature is not None:
        console.line(f"calibrated by the temperature {result.temperature:.3g}")
    if result.members is not None:
        _print_members(result.members, console)
    last = last_step(result)
    stopped = f"stopped at step {last:,}; " if last < result.problem.num_steps else ""
    if result.members is None and (stopped or result.fitted.step != last):
        console.line(f"{stopped}the parameters of step {result.fitted.step:,} are kept")
    if warning := _warning(result):
        console.line(f"warning: {warning}")
    console.line(f"time      {duration(result.seconds)} of training, {console.age()} in all")


def _print_members(members: list[Result], console: Console) -> None:
    """What the networks of an ensemble reach alone: averaging them gives the table above."""
    found = member_statistics(members)
    rows = [
        [
            name,
            *(f"{number(mean)} ± {number(std)}" for mean, std in (found[p][name] for p in found)),
        ]
        for name in found["train"]
    ]
    console.line(f"members   mean ± standard deviation over {len(members):,} networks")
    console.table(["", *found], rows)
    kept = [member.fitted.step for member in members]
    if min(kept) < members[0].problem.num_steps:
        first, last = min(kept), max(kept)
        steps = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        console.line(f"the parameters of {steps} are kept")


def member_statistics(members: list[Result]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation of a sample over the members, of every part's metrics."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for part, names in (members[0].metrics if members else {}).items():
        values = {name: [member.metrics[part][name] for member in members] for name in names}
        found[part] = {n: (float(np.mean(v)), float(np.std(v, ddof=1))) for n, v in values.items()}
    return found


def _baselines(problem: Problem) -> dict[str, dict[str, float]]:
    """Of what is held out; without it there is nothing to compare."""
    if problem.validation is None and problem.test is None:
        return {}
    from mlp_jax.experiment.baseline import baselines  # only where there is something to compare

    return baselines(problem)


def _warning(result: Result) -> str:
    """That the training made it worse, or that the network tells no classes apart."""
    problem = result.problem
    part, held_out = list(result.metrics.items())[-1]
    num_classes = len(problem.dataset.class_names)
    if num_classes and part != "train" and held_out["balanced_accuracy"] * num_classes <= 1:
        return (
            f"on the {part} part it tells no classes apart (balanced_accuracy "
            f"{held_out['balanced_accuracy']:.4g}, accuracy {held_out['accuracy']:.4g}); try "
            "model.class_weights=balanced and early_stopping.monitor=balanced_accuracy."
        )
    start = evaluate_parts(problem, problem.params)["train"]["loss"]
    if (loss := result.metrics["train"]["loss"]) <= start:
        return ""
    return (
        f"the loss of the training part is {loss:.4g} at the end and was {start:.4g} before the "
        "first step; try a smaller optimizer.learning_rate."
    )


def params_sha256(params: Params) -> str:
    """Of every array's dtype, shape and bytes."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(params)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()


def last_step(result: Result) -> int:
    """The step at which a training ended, which is a log point but where its time was up."""
    return result.out_of_time_at or int(result.fitted.history.steps[-1])


def ending(result: Result) -> dict[str, object]:
    """How a run ended, in a few numbers."""
    last, out_of_time = last_step(result), result.out_of_time_at is not None
    return {
        "last_step": last,
        "kept_step": result.fitted.step,
        "stopped_early": last < result.problem.num_steps and not out_of_time,
        "out_of_time": out_of_time,
        "params_sha256": params_sha256(result.fitted.params),
    }


def standing(result: Result) -> tuple[str, float]:
    """The metric by which a sweep ranks its runs, and its value for the kept parameters.

    As it was logged, where it was: what is read back from the store is the same number. Of a job
    with several seeds it is their mean.
    """
    if result.repeats is not None:
        name, values = _standings(result.repeats)
        return name, float(np.mean(values))
    name, history = objective(result.problem.config, result.problem.dataset), result.fitted.history
    part, _, metric = name.partition("/")
    is_kept = history.steps == result.fitted.step
    logged = history.metrics[name][is_kept].tolist() if name in history.metrics else []
    return name, logged[0] if logged else result.metrics[part][metric]


def _standings(networks: list[Result]) -> tuple[str, list[float]]:
    standings = [standing(network) for network in networks]
    return standings[0][0], [value for _, value in standings]


def half_interval(result: Result) -> float:
    """Half of the 95 % interval of what a job with several seeds is ranked by; NaN of one."""
    return math.nan if result.repeats is None else interval(_standings(result.repeats)[1])


def best_of(networks: list[Result]) -> Result:
    """The one that a search would take."""
    return min(networks, key=lambda network: search_loss(*standing(network)))


def best_seed(result: Result) -> int | None:
    """The seed of the network whose parameters a job with several seeds has, if it has any.

    None of folds: who trains such a job alone has all of its networks.
    """
    is_of_folds = num_folds(result.problem.config) > 1
    if result.repeats is None or result.diverged_at is not None or is_of_folds:
        return None
    return best_of(result.repeats).problem.config.seed


def search_loss(name: str, value: float) -> float:
    """What a search minimises: a loss or an error, or the negative of what is to be high."""
    return value if lower_is_better(name) else -value


def to_model(result: Result) -> Model:
    """The trained network with all that a prediction from raw inputs takes."""
    return _model_of(result.problem, result.fitted.params)


def _model_of(problem: Problem, params: Params) -> Model:
    model = problem.config.model
    names = model.activation
    if isinstance(names, str):
        names = [names] * len(model.hidden_sizes)
    assert model.output is not None
    embedding = embedding_of(params)
    return Model(
        params=layers_of(params),
        activation=tuple(names),
        output=model.output,
        class_names=problem.dataset.class_names,
        class_values=problem.dataset.class_values,
        target_names=problem.dataset.target_names,
        preprocessing=problem.dataset.preprocessing,
        embedding=None if embedding is None else Embedding(**jax.device_get(vars(embedding))),
    )


def outputs(result: Result, x: np.ndarray) -> np.ndarray:
    """ŷ of preprocessed inputs."""
    return to_model(result).outputs(x)


def pictures(result: Result, warn: Callable[[str], None]) -> Iterator[tuple[str, bytes]]:
    """The files of the figures and their contents; one that cannot be drawn is only warned of."""
    for name, draw in draw_figures(result):
        if (picture := figures.to_png(name, draw, warn)) is not None:
            yield f"{name}.png", picture


def draw_figures(result: Result) -> Iterator[tuple[str, Callable[[], "Figure"]]]:
    """The loss curves, and what the data lends itself to, of what is least trained on."""
    dataset = result.problem.dataset
    part, held_out = dataset.test or dataset.validation or dataset.train, result.held_out
    y = part.y if dataset.test or held_out is None else held_out[1]

    def y_hat() -> np.ndarray:
        return outputs(result, part.x) if dataset.test or held_out is None else held_out[0]

    yield "loss_curves", lambda: _loss_curves(result)
    if not dataset.class_names:
        for index, name in enumerate(dataset.target_names):
            suffix = f"_{index + 1}" if len(dataset.target_names) > 1 else ""
            yield f"predicted{suffix}", partial(_predicted, dataset, y, y_hat, index, name)
        if part.x.shape[1] == 1 and y.shape[1] == 1:
            yield "fit", lambda: _fit(result)
        return
    output = str(result.problem.config.model.output)

    def scores(x: np.ndarray) -> np.ndarray:
        return classify(outputs(result, x), output)[1]

    def confusion() -> "Figure":
        return figures.confusion_matrix(y, classify(y_hat(), output)[0], dataset.class_names)

    def reliability() -> "Figure":
        labels, found, _ = classify(y_hat(), output)
        return figures.reliability(found.max(axis=1), labels == y)

    yield "confusion_matrix", confusion
    if output in ("sigmoid", "softmax") and len(y) >= 50:  # ten groups of five, at least
        yield "reliability", reliability
    if dataset.train.x.shape[1] == 2:
        names = dataset.class_names, dataset.feature_names
        yield (
            "decision_boundary",
            partial(figures.decision_boundary, scores, *dataset.train, *names),
        )


def _loss_curves(result: Result) -> "Figure":
    history, step = result.fitted.history, result.fitted.step
    return figures.loss_curves(
        history.steps,
        {
            name.removeprefix("members/"): values
            for name, values in history.metrics.items()
            if "/" in name
        },
        loss_label=f"{result.problem.config.model.loss}".replace("_", " "),
        best_step=None if step >= history.steps[-1] else float(step),
    )


def _fit(result: Result) -> "Figure":
    """In the units of the input and of the target."""
    dataset = result.problem.dataset
    units, train = dataset.preprocessing, dataset.train

    def predict(raw: np.ndarray) -> np.ndarray:
        return units.decode_targets(outputs(result, units.scale(raw)))[:, 0]

    return figures.regression_fit(
        predict,
        units.unscale(train.x),
        units.decode_targets(train.y)[:, 0],
        dataset.feature_names[0],
        dataset.target_names[0],
    )


def _predicted(
    dataset: Dataset, y: np.ndarray, y_hat: Callable[[], np.ndarray], index: int, name: str
) -> "Figure":
    """In the target's own unit."""
    decode = dataset.preprocessing.decode_targets
    true, predicted = decode(y), decode(y_hat())
    return figures.predicted_against_target(true[:, index], predicted[:, index], name)
