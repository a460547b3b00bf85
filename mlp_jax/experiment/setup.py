"""From a config and its data to a pure problem: arrays, initial parameters and functions."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PRNGKeyArray

from mlp_jax import data
from mlp_jax.config.schema import Experiment, batch_size_of
from mlp_jax.core import training
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective, Penalty
from mlp_jax.core.embedding import Embedded, init_embedding
from mlp_jax.core.fit import Task
from mlp_jax.core.history import lower_is_better
from mlp_jax.core.losses import (
    LOSSES,
    MATCHED_LOSS,
    Loss,
    class_weighted,
    example_weighted,
    smoothed,
)
from mlp_jax.core.metrics import Units, names_of
from mlp_jax.core.network import Activations, Layer, Network, Params, behind
from mlp_jax.core.optimizers import LearningRate, make_learning_rate, make_optimizer
from mlp_jax.core.regularization import Noise
from mlp_jax.core.training import Part, Parts, Training, keys_of
from mlp_jax.data import Dataset
from mlp_jax.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Task):
    """A task with the config and the data set that it comes from."""

    config: Experiment
    dataset: Dataset
    sizes: tuple[int, ...]
    embedded: Embedded | None
    steps_per_epoch: int


@contextmanager
def numeric_settings(config: Experiment) -> Iterator[jax.Device]:
    """The device, dtype and matmul precision of a run."""
    try:
        device = jax.devices(None if config.device == "auto" else config.device)[0]
    except (RuntimeError, AssertionError) as error:  # the latter where no platform starts
        raise UserError(_no_device(config.device)) from error
    with ExitStack() as settings:
        settings.enter_context(jax.enable_x64(config.dtype == "float64"))
        settings.enter_context(jax.default_device(device))
        settings.enter_context(jax.default_matmul_precision(config.matmul_precision))
        yield device


def _no_device(name: str) -> str:
    """What is said where JAX cannot compute on a device, by any name or by $JAX_PLATFORMS."""
    install = "install JAX for it: pip install 'mlp_jax[cuda13]' (or cuda12, tpu)."
    try:
        present = ", ".join(sorted({device.platform for device in jax.devices()}))
    except (RuntimeError, AssertionError):
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={platforms}: JAX finds no such device here. Unset it, or {install}"
    return f"device={name}: JAX finds none here, only {present}. Use device=auto, or {install}"


def choose_output_and_loss(config: Experiment, dataset: Dataset) -> tuple[str, str]:
    """The pair that the config names; where it leaves one open, the matched one for the data."""
    output, loss = config.model.output, config.model.loss
    num_classes = len(dataset.class_names)
    if output is None:
        fits_data = {0: "identity", 2: "sigmoid"}.get(num_classes, "softmax")
        pairs = [o for o, name in LOSSES if loss in (None, name)]
        output = fits_data if fits_data in pairs else pairs[0]
    if loss is None:
        loss = MATCHED_LOSS[output] if num_classes else "squared_error"
    if num_classes == 0 and (output == "softmax" or loss == "binary_cross_entropy"):
        raise UserError(
            f"model.output={output} model.loss={loss}: the target of {dataset.name} is a number, "
            "not a class; use model.output=identity model.loss=squared_error."
        )
    return output, loss


def encode_targets(y: np.ndarray, dataset: Dataset, output: str) -> np.ndarray:
    """Targets as the output produces them.

    Numbers stay; k classes become one-hot rows. Two classes before a sigmoid, tanh or identity
    become one column, in {0, 1} or for tanh in {−1, 1}.
    """
    num_classes = len(dataset.class_names)
    if num_classes == 0:
        limits = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(output, (-np.inf, np.inf))
        if y.min() < limits[0] or y.max() > limits[1]:
            raise UserError(
                f"model.output={output}: its values lie in [{limits[0]:g}, {limits[1]:g}], but the "
                f"targets of {dataset.name} reach from {y.min():.4g} to {y.max():.4g}; "
                "use model.output=identity."
            )
        return y
    if num_classes == 2 and output != "softmax":
        return (2 * y - 1 if output == "tanh" else y)[:, None]
    return np.eye(num_classes)[y] * (2 if output == "tanh" else 1) - (output == "tanh")


def encode_parts(config: Experiment, dataset: Dataset) -> Parts:
    """The parts of the data on the device, their targets as the chosen output produces them."""
    assert config.model.output is not None
    output = config.model.output

    def encode(part: data.Part, weights: np.ndarray | None = None) -> Part:
        y = encode_targets(part.y, dataset, output)
        target = dataset.target_names if y.shape[1] == len(dataset.target_names) else ()
        names = target or dataset.class_names
        if dataset.weights is not None:  # behind the targets, as `example_weighted` takes it
            weights = np.ones(len(y)) if weights is None else weights
            y, names = np.column_stack([y, weights]), (*names, "weight")
        return Part(
            _as_dtype(part.x, dataset.feature_names, config.dtype),
            _as_dtype(y, names, config.dtype),
        )

    return Parts(
        encode(dataset.train, dataset.weights),
        None if dataset.validation is None else encode(dataset.validation),
        None if dataset.test is None else encode(dataset.test),
    )


def _as_dtype(values: np.ndarray, names: tuple[str, ...], dtype: str) -> Array:
    """On the device; raises `UserError` where a number is too large for the dtype."""
    with np.errstate(over="ignore"):
        array = values.astype(dtype)
    if not np.isfinite(array).all():
        column = int(np.argmax(~np.isfinite(array).all(axis=0)))
        largest = np.abs(values[:, column]).max()
        raise UserError(
            f"column {names[column]!r}: {largest:.4g} is too large for dtype={dtype}; use "
            "data.standardize=true, another unit, or dtype=float64."
        )
    return jnp.asarray(array)


def _class_weights(config: Experiment, dataset: Dataset) -> Array | None:
    """The given weights, or `balanced`: n / (k n_c) for class c of n_c training examples."""
    given, num_classes = config.model.class_weights, len(dataset.class_names)
    if given is None:
        return None
    if num_classes == 0:
        raise UserError(f"model.class_weights={given}: {dataset.name} has no classes; use null.")
    if given == "balanced":
        counts = np.bincount(dataset.train.y, minlength=num_classes)
        return jnp.asarray(len(dataset.train.y) / (num_classes * np.maximum(counts, 1)))
    if len(given) != num_classes:
        raise UserError(
            f"model.class_weights={given}: {len(given)} weights for {num_classes} classes "
            f"({', '.join(dataset.class_names)}); give one for each, or balanced."
        )
    return jnp.asarray(given, float)


def _is_positive(value: float | Array) -> bool:
    """Whether a number that may be 0 is in use; one that is traced is."""
    return isinstance(value, Array) or value > 0


def check_smoothing(config: Experiment, dataset: Dataset) -> None:
    """Raises `UserError` where the targets cannot be smoothed, of numbers that are not traced."""
    smoothing = config.model.label_smoothing
    if smoothing and not dataset.class_names:
        raise UserError(f"model.label_smoothing={smoothing}: {dataset.name} has no classes; use 0.")
    if smoothing and config.model.output == "tanh":
        raise UserError(
            f"model.label_smoothing={smoothing}: targets of a tanh output are −1 and 1, not "
            "probabilities; use model.output=sigmoid or softmax."
        )


def check_calibration(config: Experiment, dataset: Dataset) -> None:
    """Raises `UserError` for a classifier that cannot be calibrated; numbers need none."""
    if config.calibration == "none" or not dataset.class_names:
        return
    if config.model.output not in ("sigmoid", "softmax"):
        raise UserError(
            f"calibration={config.calibration}: model.output={config.model.output} gives no "
            "probabilities; use model.output=sigmoid or softmax, or calibration=none."
        )
    if dataset.validation is None:
        raise UserError(
            f"calibration={config.calibration}: {dataset.name} has no validation part to fit it "
            "on; set data.validation_size, or calibration=none."
        )


def _make_loss(config: Experiment, dataset: Dataset, pair: tuple[str, str]) -> Loss:
    loss = LOSSES[pair]
    if _is_positive(config.model.label_smoothing):
        loss = smoothed(loss, config.model.label_smoothing)
    weights = _class_weights(config, dataset)
    if weights is not None:
        if pair[0] == "tanh":
            raise UserError(
                f"model.class_weights={config.model.class_weights}: targets of a tanh output are "
                "−1 and 1, not probabilities; use model.output=sigmoid or softmax."
            )
        loss = class_weighted(loss, weights)
    return loss if dataset.weights is None else example_weighted(loss)


def _explicit_params(config: Experiment, sizes: tuple[int, ...]) -> Params:
    """`model.params` as layers, held against the sizes."""
    given = config.model.params or []
    try:
        layers = [
            Layer(jnp.array(layer["W"], config.dtype), jnp.array(layer["b"], config.dtype))
            for layer in given
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"model.params: not a list of {{W: [[numbers]], b: [numbers]}}, one a layer ({error})."
        ) from None
    shapes = [(layer.W.shape, layer.b.shape) for layer in layers]
    wanted = [((n, m), (n,)) for m, n in itertools.pairwise(sizes)]
    if shapes != wanted:
        raise UserError(
            f"model.params: shapes of W and b are {shapes}; sizes {'-'.join(map(str, sizes))} "
            f"need {wanted}. Set model.hidden_sizes to fit."
        )
    return tuple(layers)


def embedded_inputs(config: Experiment, dataset: Dataset) -> Embedded | None:
    """What `model.embedding` and `model.max_one_hot` ask for, of the columns of the data."""
    model, columns = config.model, dataset.preprocessing.columns
    ends = np.cumsum([column.num_inputs for column in columns]).tolist()
    blocks = [
        (end - column.num_inputs, end)
        for column, end in zip(columns, ends, strict=True)
        if column.categories and len(column.categories) > (model.max_one_hot or np.inf)
    ]
    numbers: list[int] = []
    if model.embedding != "none":
        numbers = np.flatnonzero(dataset.preprocessing.are_numbers).tolist()
    if not blocks and not numbers:
        return None
    if model.params is not None:
        raise UserError(
            f"model.embedding={model.embedding}: model.params has only layers; use "
            "model.embedding=none model.max_one_hot=null, or model.params=null."
        )
    return Embedded(
        tuple(numbers),
        tuple(blocks),
        model.embedding_size,
        model.embedding_frequencies,
        "piecewise" if model.embedding == "piecewise" else "periodic",
    )


def initial_params(
    config: Experiment,
    sizes: tuple[int, ...],
    init_key: PRNGKeyArray,
    embedded: Embedded | None,
) -> Params:
    model = config.model
    if model.params is not None:
        return _explicit_params(config, sizes)
    first, *others = sizes
    layers = Network((first if embedded is None else embedded.num_outputs(first), *others)).init(
        init_key,
        model.initializer,
        scale=model.initializer_scale,
        bias_initializer=model.bias_initializer,
        dtype=config.dtype,
    )
    if embedded is None:
        return layers
    key = jax.random.fold_in(init_key, 0)
    return behind(init_embedding(key, embedded, model.embedding_scale, config.dtype), layers)


def _activations(config: Experiment) -> Activations:
    names = config.model.activation
    if isinstance(names, str):
        return ACTIVATIONS[names]
    return tuple(ACTIVATIONS[name] for name in names)


def _lengths(config: Experiment, num_examples: int) -> tuple[int, int, int, int]:
    """batch_size, steps_per_epoch, num_steps and log_every, all in examples or steps."""
    batch_size = batch_size_of(config, num_examples)
    if batch_size > num_examples:
        raise UserError(
            f"batch_size={batch_size}: there are {num_examples} training examples; "
            f"use a number from 1 to {num_examples}, or null for the full batch."
        )
    steps_per_epoch = num_examples // batch_size
    if config.num_steps is not None:
        num_steps = config.num_steps
        log_every = -(-num_steps // 100)
    else:
        assert config.num_epochs is not None
        num_steps = config.num_epochs * steps_per_epoch
        log_every = steps_per_epoch * -(-config.num_epochs // 100)
    if num_steps >= 2**31:
        raise UserError(
            f"num_epochs={config.num_epochs}: {num_steps:,} steps of {batch_size:,} examples; "
            "a training has fewer than 2,147,483,648 steps."
        )
    return batch_size, steps_per_epoch, num_steps, min(config.log_every or log_every, num_steps)


def _monitor(config: Experiment, dataset: Dataset) -> Callable[[training.Metrics], Array] | None:
    stopping = config.early_stopping
    if stopping.patience is None:
        return None
    if dataset.validation is None:
        raise UserError(
            f"early_stopping.patience={stopping.patience}: {dataset.name} has no validation part; "
            "set data.validation_size, or early_stopping.patience=null."
        )
    if stopping.monitor not in _measured(dataset):
        raise UserError(
            f"early_stopping.monitor={stopping.monitor}: {dataset.name} measures "
            f"{', '.join(_measured(dataset))}."
        )
    if stopping.monitor == "r2" and np.ptp(dataset.validation.y, axis=0).min() == 0:
        raise UserError(
            "early_stopping.monitor=r2: the targets of the validation part are all equal, and R² "
            "compares with their variance; use early_stopping.monitor=rmse."
        )
    sign = -1 if lower_is_better(stopping.monitor) else 1
    return lambda logged: sign * logged[f"validation/{stopping.monitor}"]


def _measured(dataset: Dataset) -> tuple[str, ...]:
    return names_of(0.5 if dataset.class_names else None)


def units_of(dataset: Dataset) -> Units | None:
    """From y to each target's own unit; `None` of classes."""
    if dataset.class_names:
        return None
    preprocessing = dataset.preprocessing
    shift = tuple(preprocessing.y_shift.tolist()) if preprocessing.is_log else None
    return Units(tuple(preprocessing.y_scale.tolist()), shift)


def objective(config: Experiment, dataset: Dataset) -> str:
    """The metric by which trainings are compared, such as `validation/accuracy`.

    What early stopping monitors, if it is one of the validation part that no hyperparameter scales;
    else the log loss of classes, or the root mean squared error of numbers.
    """
    if dataset.validation is None:
        part, metric = "train", "loss"
    else:
        part, metric = "validation", config.early_stopping.monitor
    if metric == "loss" or metric not in _measured(dataset):
        metric = "log_loss" if dataset.class_names else "rmse"
    return f"{part}/{metric}"


def make_training(
    config: Experiment, dataset: Dataset, batch_size: int, num_steps: int
) -> Training:
    """The fixed part of a training, for a config whose output and loss are chosen.

    The config's numbers may be traced arrays.
    """
    assert config.model.output is not None and config.model.loss is not None
    pair = (config.model.output, config.model.loss)
    learning_rate = make_learning_rate(
        learning_rate=config.optimizer.learning_rate, num_steps=num_steps, **vars(config.schedule)
    )
    has_penalty = _is_positive(config.model.l2) or _is_positive(config.model.l1)
    return Training(
        objective=Objective(
            _activations(config),
            _make_loss(config, dataset, pair),
            Penalty(config.model.l2, config.model.l1) if has_penalty else None,
        ),
        optimizer=_optimizer(config, learning_rate, num_steps),
        learning_rate=learning_rate,
        batch_size=batch_size,
        autodiff=config.gradient == "autodiff",
        threshold=(0.0 if pair[0] == "tanh" else 0.5) if dataset.class_names else None,
        units=units_of(dataset),
        also=(objective(config, dataset).partition("/")[2],),
        monitor=_monitor(config, dataset),
        patience=config.early_stopping.patience,
        min_delta=config.early_stopping.min_delta,
        noise=_noise(config, num_steps),
        max_norm=config.model.max_norm,
        ema_decay=config.model.ema_decay,
    )


def _noise(config: Experiment, num_steps: int) -> Noise | None:
    model = config.model
    if not any(map(_is_positive, (model.dropout, model.input_dropout, model.input_noise))):
        return None
    factor = make_learning_rate(model.dropout_schedule, 1.0, num_steps)
    return Noise(model.dropout, model.input_dropout, model.input_noise, factor)


def _optimizer(config: Experiment, learning_rate: LearningRate, num_steps: int) -> Any:
    numbers: dict[str, Any] = dict(vars(config.optimizer))
    schedule = numbers.pop("weight_decay_schedule", "constant")
    if schedule != "constant":
        numbers["weight_decay"] = make_learning_rate(schedule, numbers["weight_decay"], num_steps)
    return make_optimizer(**numbers | {"learning_rate": learning_rate})


def check(config: Experiment, dataset: Dataset) -> int:
    """Raises `UserError` where config and data don't fit; the number of log points where they do.

    All that `prepare` would raise of their sizes and classes, without computing anything.
    """
    pair = choose_output_and_loss(config, dataset)
    config = replace(config, model=replace(config.model, output=pair[0], loss=pair[1]))
    check_smoothing(config, dataset)
    check_calibration(config, dataset)
    _make_loss(config, dataset, pair)
    _monitor(config, dataset)
    _, _, num_steps, log_every = _lengths(config, len(dataset.train.x))
    return -(-num_steps // log_every)


def prepare(config: Experiment, dataset: Dataset) -> Problem:
    """The pure problem behind a config. Raises `UserError` where config and data don't fit."""
    if (count := config.sweep.seeds) > 1:
        raise UserError(
            f"sweep.seeds={count}: a run alone trains one network; add -m, or leave it out."
        )
    pair = choose_output_and_loss(config, dataset)
    config = replace(config, model=replace(config.model, output=pair[0], loss=pair[1]))
    check_smoothing(config, dataset)
    check_calibration(config, dataset)

    parts = encode_parts(config, dataset)
    n_last = parts.train.y.shape[1] - (dataset.weights is not None)
    sizes = (parts.train.x.shape[1], *config.model.hidden_sizes, n_last)
    batch_size, steps_per_epoch, num_steps, log_every = _lengths(config, len(parts.train.x))
    init_key, shuffle_key = keys_of(config.seed)
    embedded = embedded_inputs(config, dataset)
    return Problem(
        config=config,
        dataset=dataset,
        sizes=sizes,
        embedded=embedded,
        **parts._asdict(),
        params=initial_params(config, sizes, init_key, embedded),
        order=shuffle_key,
        training=make_training(config, dataset, batch_size, num_steps),
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        log_every=log_every,
        advice=(
            f"Try a smaller optimizer.learning_rate (now {config.optimizer.learning_rate:g}), "
            "optimizer.clip_norm=1 or data.standardize=true."
        ),
    )
