"""A run from beginning to end: the only place where all rooms are wired together."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlp_jax import data, figures, pyfunc, store, tracking
from mlp_jax.config import Experiment
from mlp_jax.console import Console
from mlp_jax.errors import RunError
from mlp_jax.fitting import Fitted, Interval, LogPoint, compile_intervals, evaluate_parts, fit
from mlp_jax.network import num_params
from mlp_jax.problem import Problem, numeric_settings, prepare
from mlp_jax.proof import GradientCheck, check_gradient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(NamedTuple):
    """What a run found out; `metrics` are each part's, for the parameters that it kept.

    `seconds` is the time from the first step to the last, without compilation.
    """

    problem: Problem
    gradient: GradientCheck
    fitted: Fitted
    metrics: dict[str, dict[str, float]]
    seconds: float


def run(config: Experiment, console: Console | None = None, command: str = "") -> Result:
    """Trains what `config` describes, proves its gradient first and records it in MLflow.

    `command` is the command line, for the record. Raises `UserError` for a config that cannot be
    run, before anything is written, and `RunError` for a run that fails.
    """
    console = console or Console()
    with numeric_settings(config) as device:
        is_tracked = config.tracking.name != "none"
        with ThreadPoolExecutor() as background:
            if is_tracked:
                background.submit(store.preload)
            problem = prepare(config, data.load(config.data))
            compiling = background.submit(_compile, problem)
            gradient = check(problem, console, device)
            _insist_on(gradient)
            intervals = compiling.result()
        if not is_tracked:
            return _train(problem, gradient, intervals, console, None)
        client = store.open_store(config.tracking.uri)
        with tracking.start(
            client,
            problem.config.name or problem.dataset.name,
            config.tracking.run_name or run_name(problem),
            params=asdict(problem.config),
            dataset=problem.dataset,
            note=_note(problem, device, command),
            tags=_tags(problem, device, command),
        ) as recorded:
            result = _train(problem, gradient, intervals, console, recorded)
            _record(result, recorded)
        console.facts(_links(recorded))
        return result


def prove(config: Experiment, console: Console | None = None) -> GradientCheck:
    """Proves the gradient of what `config` describes, layer by layer, and does nothing else."""
    console = console or Console()
    with numeric_settings(config) as device:
        problem = prepare(config, data.load(config.data))
        gradient = check(problem, console, device)
    console.table(
        ["layer", "shape of W", "− jax.grad", "− differences", "compared", "not smooth"],
        [
            [str(number), "×".join(map(str, params.W.shape)), *layer]
            for number, (params, layer) in enumerate(
                zip(problem.params, gradient.layers, strict=True), start=1
            )
        ],
    )
    _insist_on(gradient)
    return gradient


def check(problem: Problem, console: Console, device: jax.Device) -> GradientCheck:
    """Prints the header and holds backprop against jax.grad and differences on real examples."""
    console.facts(_header(problem, device))
    for note in problem.dataset.notes:
        console.line(note)
    fixed = problem.training
    x, y = problem.train.x[:32], problem.train.y[:32]
    gradient = check_gradient(problem.params, x, y, fixed.activation, fixed.loss, fixed.penalty)
    console.line(gradient_line(gradient))
    return gradient


def _insist_on(gradient: GradientCheck) -> None:
    if not gradient.passed:
        raise RunError(
            f"the gradient is wrong in layer {gradient.worst_layer}: backprop disagrees with "
            "jax.grad or with the differences. python -m mlp_jax.gradcheck shows every layer."
        )


def _compile(problem: Problem) -> dict[int, Interval]:
    with numeric_settings(problem.config):  # which every thread has of its own
        return compile_intervals(problem)


def _train(
    problem: Problem,
    gradient: GradientCheck,
    intervals: dict[int, Interval],
    console: Console,
    recorded: tracking.Run | None,
) -> Result:
    start = time.perf_counter()
    with console.progress(problem.num_steps, problem.steps_per_epoch) as show:

        def on_log(point: LogPoint) -> None:
            show(point.step, point.metrics)
            if recorded is not None:
                recorded.log_metrics(point.metrics, point.step)

        fitted = fit(problem, intervals, on_log)
    seconds = time.perf_counter() - start
    metrics = evaluate_parts(problem, fitted.params)
    result = Result(problem, gradient, fitted, metrics, seconds)
    _report(result, console)
    if recorded is not None:
        recorded.log_metrics(
            {**_summary(result), "steps_per_second": fitted.history[-1].step / seconds},
            fitted.history[-1].step,
        )
    return result


# --- what is said ------------------------------------------------------------------------------


def _header(problem: Problem, device: jax.Device) -> dict[str, object]:
    config = problem.config
    parts = {"train": problem.train, "validation": problem.validation, "test": problem.test}
    sizes = ", ".join(f"{len(part.x):,} {name}" for name, part in parts.items() if part)
    return {
        "data": f"{problem.dataset.name}: {sizes}",
        "network": f"{_sizes(problem)}, {num_params(problem.params):,} parameters, "
        f"{_activation(problem)}, {config.model.output} + {config.model.loss}",
        "training": f"{problem.num_steps:,} steps of {problem.training.batch_size:,} examples, "
        f"{config.optimizer.name} η={config.optimizer.learning_rate:g}, {config.schedule.name}",
        "device": f"{device.device_kind} ({device.platform}), {config.dtype}, "
        f"matmul precision {config.matmul_precision}",
    }


def gradient_line(gradient: GradientCheck) -> str:
    """The gradient check in one line."""
    by_layer = ", ".join(f"{layer.autodiff_error:.1e}" for layer in gradient.layers)
    return (
        f"gradient  {'proved' if gradient.passed else 'WRONG'}: backprop − jax.grad by layer "
        f"{by_layer}; central differences {gradient.difference_error:.1e}"
    )


def _sizes(problem: Problem) -> str:
    return "-".join(map(str, problem.sizes))


def _activation(problem: Problem) -> str:
    names = problem.config.model.activation
    return names if isinstance(names, str) else "+".join(names)


def run_name(problem: Problem) -> str:
    """What tells a run from others of its experiment."""
    config = problem.config
    rate = f"{config.optimizer.learning_rate:g}"
    return (
        f"{_sizes(problem)} {_activation(problem)}, {config.optimizer.name} {rate}, "
        f"seed {config.seed}"
    )


def _report(result: Result, console: Console) -> None:
    """The metrics of each part, and for a truth table each of its rows."""
    metrics = result.metrics
    names = list(next(iter(metrics.values())))
    rows = [[part, *(measured[name] for name in names)] for part, measured in metrics.items()]
    console.table(["", *names], rows)
    if result.problem.config.data.name in ("xor", "boolean") and len(result.problem.train.x) <= 16:
        x, y = (np.asarray(array) for array in result.problem.train)
        y_hat = _outputs(result, x)
        console.table(
            [*result.problem.dataset.feature_names, "target", "prediction"],
            [
                [*map(int, row), *map(float, t), *map(float, p)]
                for row, t, p in zip(x, y, y_hat, strict=True)
            ],
        )
    last = result.fitted.history[-1].step
    if result.fitted.step != last or last < result.problem.num_steps:
        console.line(
            f"stopped at step {last:,}; the parameters of step {result.fitted.step:,} are kept"
        )


def _links(recorded: tracking.Run) -> dict[str, object]:
    facts: dict[str, object] = {"run": recorded.name, "page": recorded.url}
    command = store.ui_command(recorded.client.tracking_uri)
    return facts | ({"open it with": command} if command else {})


# --- what is recorded --------------------------------------------------------------------------


def _record(result: Result, recorded: tracking.Run) -> None:
    """The resolved config and, as the config wants them, figures and the model."""
    config = result.problem.config
    tracked = replace(config.tracking, uri=store.redacted(config.tracking.uri or "") or None)
    recorded.log_dict(asdict(replace(config, tracking=tracked)), "config.yaml")
    if config.tracking.figures:
        for name, figure in _figures(result):
            recorded.log_figure(figure, f"{name}.png")
    if config.tracking.model:
        model = to_model(result)
        example = pyfunc.raw_inputs(result.problem.dataset, 5)
        save = partial(pyfunc.save, model=model)
        recorded.log_model(pyfunc.__name__, save, example, model.predict(example))


def to_model(result: Result) -> pyfunc.Model:
    """The trained network with all that a prediction from raw inputs takes."""
    problem, model = result.problem, result.problem.config.model
    names = model.activation
    if isinstance(names, str):
        names = [names] * len(model.hidden_sizes)
    assert model.output is not None and model.loss is not None
    return pyfunc.Model(
        params=result.fitted.params,
        activation=tuple(names),
        output=model.output,
        loss=model.loss,
        class_names=problem.dataset.class_names,
        target_names=problem.dataset.target_names,
        preprocessing=problem.dataset.preprocessing,
    )


def _outputs(result: Result, x: np.ndarray) -> np.ndarray:
    """ŷ of preprocessed inputs."""
    model = to_model(result)
    x_on_device = jnp.asarray(x, result.problem.config.dtype)
    names = (model.activation, model.output, model.loss)
    return np.asarray(pyfunc.predict_batch(model.params, x_on_device, *names))


def _figures(result: Result) -> Iterator[tuple[str, "Figure"]]:
    """The loss curves, and what the data lends itself to, of the part least trained on."""
    history, dataset = result.fitted.history, result.problem.dataset
    names = [name for name in history[-1].metrics if "/" in name]
    was_best_at_the_end = result.fitted.step == history[-1].step
    yield (
        "loss_curves",
        figures.loss_curves(
            np.array([point.step for point in history]),
            {name: np.array([point.metrics[name] for point in history]) for name in names},
            loss_label=f"{result.problem.config.model.loss}".replace("_", " "),
            best_step=None if was_best_at_the_end else float(result.fitted.step),
        ),
    )
    part = dataset.test or dataset.validation or dataset.train
    if dataset.class_names:
        yield from _class_figures(result, part)
    else:
        yield from _regression_figures(result, part)


def _class_figures(result: Result, part: data.Part) -> Iterator[tuple[str, "Figure"]]:
    dataset, output = result.problem.dataset, str(result.problem.config.model.output)

    def scores(x: np.ndarray) -> np.ndarray:
        return pyfunc.classify(_outputs(result, x), output)[1]

    labels, _, _ = pyfunc.classify(_outputs(result, part.x), output)
    yield "confusion_matrix", figures.confusion_matrix(part.y, labels, dataset.class_names)
    if dataset.train.x.shape[1] == 2:
        train, names = dataset.train, dataset.feature_names
        yield (
            "decision_boundary",
            figures.decision_boundary(scores, train.x, train.y, dataset.class_names, names),
        )


def _regression_figures(result: Result, part: data.Part) -> Iterator[tuple[str, "Figure"]]:
    """In the targets' own units, one figure for each target."""
    dataset = result.problem.dataset

    def targets(y: np.ndarray) -> np.ndarray:
        return dataset.preprocessing.decode_targets(y)

    if part.x.shape[1] == 1 and part.y.shape[1] == 1:
        train, shift, scale = dataset.train, *_x_units(dataset)
        yield (
            "fit",
            figures.regression_fit(
                lambda raw: targets(_outputs(result, (raw - shift) / scale))[:, 0],
                train.x * scale + shift,
                targets(train.y)[:, 0],
                dataset.feature_names[0],
                dataset.target_names[0],
            ),
        )
    true, predicted = targets(part.y), targets(_outputs(result, part.x))
    for index, name in enumerate(dataset.target_names):
        yield (
            f"predicted_{name}",
            figures.predicted_against_target(true[:, index], predicted[:, index], name),
        )


def _x_units(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return dataset.preprocessing.x_shift, dataset.preprocessing.x_scale


def _summary(result: Result) -> dict[str, float]:
    """The metrics that are known at the end: of the test part, the best ones, the gradient's."""
    logged = {name for point in result.fitted.history for name in point.metrics}
    summary = {
        f"{part}/{name}": value
        for part, measured in result.metrics.items()
        for name, value in measured.items()
        if f"{part}/{name}" not in logged
    }
    summary |= best_metrics(result.fitted)
    for number, layer in enumerate(result.gradient.layers, start=1):
        summary[f"gradcheck/layer_{number}"] = layer.autodiff_error
    return summary | {"gradcheck/differences": result.gradient.difference_error}


def best_metrics(fitted: Fitted) -> dict[str, float]:
    """The lowest loss and the highest accuracy or R² of each part, and the step that was kept."""
    best = {"best/step": float(fitted.step)}
    for name in fitted.history[-1].metrics:
        part, _, metric = name.partition("/")
        if metric in ("loss", "accuracy", "r2"):
            pick = min if metric == "loss" else max
            best[f"best/{part}_{metric}"] = pick(point.metrics[name] for point in fitted.history)
    return best


def _note(problem: Problem, device: jax.Device, command: str) -> str:
    facts = _header(problem, device)
    lines = "\n".join(f"- **{name}**: {value}" for name, value in facts.items())
    return f"{lines}\n\n```\n{command}\n```\n" if command else lines


def _tags(problem: Problem, device: jax.Device, command: str) -> dict[str, str]:
    packages = ("mlp_jax", "jax", "jaxlib", "optax", "numpy", "mlflow")
    return {
        "command": command,
        "device": f"{device.device_kind} ({device.platform})",
        "num_params": str(num_params(problem.params)),
        "sizes": _sizes(problem),
        **{f"version.{name}": version(name) for name in packages},
    }
