"""A run from beginning to end: the only place where all rooms are wired together."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread

import jax
import numpy as np

from mlp_jax import data, pyfunc, store, summary, tracking
from mlp_jax.config import Experiment
from mlp_jax.console import Console
from mlp_jax.fitting import Interval, LogPoint, compile_intervals, evaluate_parts, fit
from mlp_jax.jobs import config_hash
from mlp_jax.network import num_params
from mlp_jax.problem import Problem, numeric_settings, prepare
from mlp_jax.proof import GradientCheck, check_gradient, insist_on
from mlp_jax.summary import Result


def run(config: Experiment, console: Console | None = None, command: str = "") -> Result:
    """Trains what `config` describes, proves its gradient first and records it in MLflow.

    `command` is the command line, for the record. Raises `UserError` for a config that cannot be
    run, before anything is written, and `RunError` for a run that fails.
    """
    console = console or Console()
    with numeric_settings(config) as device:
        is_tracked = config.tracking.name != "none"
        if is_tracked:
            store.check(config.tracking.uri)
        dataset = data.load(config.data)
        # A daemon, so that an error in what follows need not wait for it.
        preloading = Thread(target=store.preload, daemon=True)
        if is_tracked:
            preloading.start()
        problem = prepare(config, dataset)
        with ThreadPoolExecutor() as background:
            compiling = background.submit(_compile, problem)
            gradient = check(problem, console, device)
            insist_on(gradient)
            intervals = compiling.result()
        if not is_tracked:
            return _train(problem, gradient, intervals, console, None)
        preloading.join()
        client = store.open_store(config.tracking.uri)
        with (
            store.recording_errors(),
            tracking.start(
                client,
                summary.experiment_name(config),
                config.tracking.run_name or summary.run_name(problem),
                params=summary.parameters(problem),
                dataset=problem.dataset,
                note=summary.note(problem, device, command),
                tags={
                    **summary.tags(problem, device, command),
                    "config_hash": config_hash(config),
                },
            ) as recorded,
        ):
            result = _train(problem, gradient, intervals, console, recorded)
            model_uri = _record(result, recorded)
        console.facts(_links(recorded, model_uri))
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
    insist_on(gradient)
    return gradient


def check(problem: Problem, console: Console, device: jax.Device) -> GradientCheck:
    """Prints the header and holds backprop against jax.grad and differences on real examples."""
    console.facts(summary.header(problem, device))
    for note in problem.dataset.notes:
        console.line(note)
    fixed = problem.training
    x, y = problem.train.x[:32], problem.train.y[:32]
    gradient = check_gradient(
        problem.params,
        x,
        y,
        fixed.activation,
        fixed.loss,
        fixed.penalty,
        # Each is four forward passes in float64.
        num_coordinates=4 if num_params(problem.params) < 100_000 else 1,
    )
    console.line(summary.gradient_line(gradient))
    return gradient


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
            {
                **summary.final_metrics(result),
                "steps_per_second": fitted.history[-1].step / seconds,
            },
            fitted.history[-1].step,
        )
    return result


def _report(result: Result, console: Console) -> None:
    """The metrics of each part, and for a truth table each of its rows."""
    metrics = result.metrics
    names = list(next(iter(metrics.values())))
    rows = [[part, *(measured[name] for name in names)] for part, measured in metrics.items()]
    console.table(["", *names], rows)
    if result.problem.config.data.name in ("xor", "boolean") and len(result.problem.train.x) <= 16:
        x, y = (np.asarray(array) for array in result.problem.train)
        y_hat = summary.outputs(result, x)
        raw = np.asarray(pyfunc.raw_inputs(result.problem.dataset, len(x))).round()
        console.table(
            [*result.problem.dataset.feature_names, "target", "prediction"],
            [
                [*map(int, row), *map(float, t), *map(float, p)]
                for row, t, p in zip(raw, y, y_hat, strict=True)
            ],
        )
    last = result.fitted.history[-1].step
    if result.fitted.step != last or last < result.problem.num_steps:
        console.line(
            f"stopped at step {last:,}; the parameters of step {result.fitted.step:,} are kept"
        )


def _record(result: Result, recorded: tracking.Run) -> str | None:
    """The resolved config and, as the config wants them, figures and the model, whose URI it is."""
    config = result.problem.config
    recorded.log_dict(summary.recorded_config(result.problem), "config.yaml")
    if config.tracking.figures:
        for name, figure in summary.draw_figures(result):
            recorded.log_figure(figure, f"{name}.png")
    if not config.tracking.model:
        return None
    model = summary.to_model(result)
    example = pyfunc.raw_inputs(result.problem.dataset, 5)
    save = partial(pyfunc.save, model=model)
    return recorded.log_model(pyfunc.__name__, save, example, model.predict(example))


def _links(recorded: tracking.Run, model_uri: str | None) -> dict[str, object]:
    facts: dict[str, object] = {"run": recorded.name, "page": recorded.url}
    if model_uri is not None:
        facts["model"] = model_uri
    command = store.ui_command(recorded.client.tracking_uri)
    return facts | ({"open it with": command} if command else {})
