"""The schema of an experiment: its keys, what each is for, what it may be, and its role.

A choice of a group (`optimizer=adam`) has a dataclass of its own, so a key that the choice does
not have is an error. Values come from `conf/`; the dataclasses hold no defaults of their own.
`checks` says what is wrong with a config.
"""

import codecs
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import Field, dataclass, field, fields, is_dataclass, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Optional, get_args

from omegaconf import MISSING

_HERE = Path(__file__).parents[1]
CONF = _HERE / "conf" if (_HERE / "conf").exists() else _HERE.parent / "conf"
"""In the package where it was installed from a wheel, beside it in a checkout."""

# The names of the tables' members, here so that a wrong one is refused before JAX is imported.
ACTIVATION_NAMES = (
    "step", "sigmoid", "tanh", "identity", "relu", "leaky_relu", "elu", "selu", "softplus", "silu",
    "gelu", "softsign",
)  # fmt: skip
OUTPUT_LOSS_NAMES = (
    ("identity", "squared_error"), ("identity", "half_squared_error"), ("identity", "huber"),
    ("identity", "absolute_error"),
    ("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy"),
    ("sigmoid", "squared_error"), ("sigmoid", "half_squared_error"),
    ("tanh", "squared_error"), ("tanh", "half_squared_error"),
    ("softmax", "squared_error"), ("softmax", "half_squared_error"),
)  # fmt: skip
METRIC_NAMES = (
    "loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc",
    "average_precision", "log_loss", "r2", "rmse", "mae",
)  # fmt: skip
INITIALIZER_NAMES = (
    "lecun_normal", "lecun_uniform", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform",
    "standard_normal", "scaled_normal", "zeros",
)  # fmt: skip

SCHEDULE_NAMES = ("constant", "exponential", "cosine", "warmup_cosine", "piecewise")

AUTO_BATCH_SIZE = 32
MAX_NAME_LENGTH = 250
"""What every store of MLflow takes as the name of a run; of an experiment it takes six more."""


class Role(Enum):
    """What a key is to a training. Who may differ in it, and what names a training, follows."""

    STRUCTURE = "shapes or the program: networks that differ in it are trained apart"
    LENGTH = "structure, which a run that is resumed may raise"
    NUMBER = "a number of the program: networks of one population may differ in it"
    START = "a number of what the program starts from: networks of one population may differ in it"
    RECORD = "what is kept, where and by what name; the training is the same"
    SECRET = "record that may hold a password"


# --- what a value may be -----------------------------------------------------------------------


class Allowed(NamedTuple):
    """What a value may be: in words, as a test, and as names where it is one of a few.

    `{type}` in the words stands for the type of the key.
    """

    text: str
    test: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def one_of(*names: str) -> Allowed:
    return Allowed("one of " + ", ".join(names), lambda value: value in names, names)


def either(names: Sequence[str], words: str, test: Callable[[Any], bool]) -> Allowed:
    """One of a few names, or what passes the test."""
    few = "one of " if len(names) > 1 else ""
    text = f"{few}{', '.join(names)}, or {words}"
    return Allowed(text, lambda value: value in names or test(value), tuple(names))


def each(allowed: Allowed) -> Allowed:
    """Every element of a list."""
    return Allowed(
        allowed.text.replace("{type}", "{type}, each"),
        lambda values: isinstance(values, list) and all(map(allowed.test, values)),
        allowed.names,
    )


def between(lowest: int, highest: int) -> Allowed:
    return Allowed(
        f"{{type}} from {lowest:,} to {highest:,}",
        lambda value: _is_number(value) and lowest <= value <= highest,
    )


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _is_whole(value: Any, lowest: int) -> bool:
    return type(value) is int and value >= lowest


def _is_encoding(value: str) -> bool:
    try:
        return bool(codecs.lookup(value)._is_text_encoding)
    except (LookupError, ValueError):
        return False


_SECONDS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(time: str) -> float:
    """A time with its unit in seconds; NaN where it is none.

    >>> seconds_of("30s"), seconds_of("1.5min"), seconds_of("2h"), seconds_of("5")
    (30.0, 90.0, 7200.0, nan)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", time, re.ASCII)
    return float(found[1]) * _SECONDS[found[2]] if found else math.nan


ANY = Allowed("{type}", lambda value: True)
TEXT = Allowed(
    "{type} of one line or less, not empty",
    lambda value: value is not None and bool(value.strip()) and value.isprintable(),
)
PATH = TEXT._replace(names=())
"""Of a file or a directory: a saved config has it absolute."""
NAME = Allowed(
    f"{TEXT.text}, of at most {MAX_NAME_LENGTH} characters",
    lambda value: TEXT.test(value) and len(value) <= MAX_NAME_LENGTH,
)
POSITIVE = Allowed("{type} > 0", lambda value: _is_number(value) and value > 0)
NON_NEGATIVE = Allowed("{type} >= 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Allowed("{type} >= 0 and < 1", lambda value: _is_number(value) and 0 <= value < 1)
TIME = Allowed("a time > 0 such as 30s, 5min or 2h", lambda value: seconds_of(value) > 0)
SEED = between(0, 2**32 - 1)
COUNT = between(1, 2**31 - 1)
PART_SIZE = Allowed(
    "a fraction >= 0 and < 1, or a whole number of examples",
    lambda value: _is_number(value) and (0 <= value < 1 or (value >= 1 and value == int(value))),
)
INCREASING_FRACTIONS = Allowed(
    "an increasing list of fractions of the training, each > 0 and < 1",
    lambda values: all(0 < v < 1 for v in values) and values == sorted(set(values)),
)
ACTIVATION = one_of(*ACTIVATION_NAMES)
OUTPUT = one_of(*dict.fromkeys(output for output, _ in OUTPUT_LOSS_NAMES))
LOSS = one_of(*dict.fromkeys(loss for _, loss in OUTPUT_LOSS_NAMES))
INITIALIZER = one_of(*INITIALIZER_NAMES)
SEPARATOR = either(
    ("auto", "comma", "semicolon", "tab", "pipe", "space"),
    "one character",
    lambda value: len(value) == 1,
)
TARGET = Allowed(
    "a text, or a list of different ones",
    lambda value: (
        TEXT.test(value)
        if isinstance(value, str)
        else isinstance(value, list)
        and 0 < len(value) == len(set(map(str, value)))
        and all(isinstance(name, str) and TEXT.test(name) for name in value)
    ),
)
ENCODING = either(("auto",), "an encoding that Python knows, such as utf-8 or cp1252", _is_encoding)


def key(help: str, allowed: Allowed = ANY, role: Role = Role.STRUCTURE) -> Any:
    """A config key without a default: what it is for, may be, and is to a training.

    `None` passes where the type has it.
    """
    return field(default=MISSING, metadata={"help": help, "allowed": allowed, "role": role})


def number(help: str, allowed: Allowed) -> Any:
    return key(help, allowed, Role.NUMBER)


def record(help: str, allowed: Allowed = ANY) -> Any:
    return key(help, allowed, Role.RECORD)


def name_of(*choices: str) -> Any:
    """The name of a group's choice, which only choosing another one changes."""
    allowed = one_of(*choices)
    if len(choices) == 1:
        words = f"{choices[0]}, which only another choice of the group changes"
        allowed = allowed._replace(text=words)
    return key("", allowed)


# --- model and data ----------------------------------------------------------------------------


@dataclass
class Model:
    hidden_sizes: list[int] = key(
        "units of each hidden layer; [] has none", each(between(1, 10**6))
    )
    activation: Any = key(
        "of the hidden layers: one, or one for each",
        either(ACTIVATION_NAMES, "a list of them", each(ACTIVATION).test),
    )
    output: Optional[str] = key("null: the matched pair for the data, as the loss", OUTPUT)
    loss: Optional[str] = key("null: squared_error for numbers, a cross-entropy for classes", LOSS)
    embedding: str = key(
        "of each number d learned ones beside it; periodic: V cos(2π f x + c) + b; piecewise "
        "linear: V max(0, f x + c) + b",
        one_of("none", "periodic", "piecewise"),
    )
    embedding_size: int = key("d, of each number", between(1, 100))
    embedding_frequencies: int = key("how many f and c each number has", between(1, 1000))
    embedding_scale: float = number(
        "standard deviation of the initial f of periodic ones", POSITIVE
    )
    max_one_hot: Optional[int] = key(
        "categories with more levels become up to 8 learned numbers; null: none", COUNT
    )
    label_smoothing: float = number("share of each target spread over all classes", FRACTION)
    class_weights: Optional[Any] = key(
        "factors of the classes' losses; balanced: inversely to how often a class occurs",
        either(("balanced",), "a list with one number > 0 for each class", each(POSITIVE).test),
    )
    l2: float = number("of l2/2 ΣW² in the loss; Nielsen's λ for n examples is λ/n", NON_NEGATIVE)
    l1: float = number("of l1 Σ|W| in the loss", NON_NEGATIVE)
    dropout: float = number("share of each hidden layer's neurons a step leaves out", FRACTION)
    input_dropout: float = number("share of the inputs a step leaves out", FRACTION)
    dropout_schedule: str = key("factor of both over the training", one_of(*SCHEDULE_NAMES))
    input_noise: float = number("standard deviation of noise on each input", NON_NEGATIVE)
    max_norm: Optional[float] = number(
        "the largest norm of a hidden neuron's weights; null: any", POSITIVE
    )
    ema_decay: Optional[float] = number(
        "β of the moving average of the parameters, which is measured and kept; null: the last",
        FRACTION,
    )
    initializer: str = key("of the weights", INITIALIZER)
    initializer_scale: float = number("factor of the initial weights", POSITIVE)
    bias_initializer: str = key("of the biases", INITIALIZER)
    params: Optional[list[Any]] = key("initial values instead: [{W: [[…]], b: […]}, …]")


@dataclass
class Data:
    name: str = MISSING
    seed: int = key("of the split, and of examples that are drawn", SEED, Role.START)
    validation_size: float = key("a fraction of all examples, or a number of them", PART_SIZE)
    folds: Optional[int] = key(
        "instead of validation_size: so many equal parts, a network without each; null: none",
        between(2, 1000),
    )
    fold: Optional[int] = key(
        "the one that is the validation part, from 0; null: each in its turn",
        between(0, 999),
        Role.START,
    )
    standardize: bool = key("scale the inputs, and the targets of a regression")
    scaling: str = key(
        "standard: to mean 0 and variance 1 over the training part; robust: by median and middle "
        "half, then smoothly within ±3; quantile: by rank, to a normal distribution; none: not at "
        "all (in each of them the targets as standard)",
        one_of("standard", "robust", "quantile", "none"),
    )


@dataclass
class SplitData(Data):
    test_size: float = key("a fraction of all examples, or a number of them", PART_SIZE)


@dataclass
class Boolean(SplitData):
    name: str = name_of("boolean", "xor")
    num_inputs: int = key("the truth table has 2^num_inputs rows", between(1, 16))
    function: Any = key("and, or, xor, parity, majority, implies, … or the number of a truth table")


@dataclass
class Synthetic(SplitData):
    name: str = name_of("circles", "moons", "gauss", "spiral", "sine")
    num_examples: int = key("in all parts together", between(1, 10**7))
    noise: float = key("standard deviation", NON_NEGATIVE, Role.START)


@dataclass
class ScikitLearn(SplitData):
    name: str = name_of("iris", "wine", "breast_cancer", "digits", "diabetes")


@dataclass
class Mnist(Data):
    name: str = name_of("mnist")
    root: str = key("the directory of the four IDX files, plain or .gz", PATH)
    shuffle: bool = key("before the split; false: the last are for validation")


@dataclass
class Table(SplitData):
    name: str = name_of("table")
    path: str = key(".csv, .tsv or .txt, also packed (.csv.gz); .parquet; .npz", PATH)
    target: Any = key("the column, or the array of an .npz; of a regression several", TARGET)
    task: str = key(
        "auto: found out from the target", one_of("auto", "classification", "regression")
    )
    weights: Optional[str] = key(
        "a column, no input, by which a row's loss counts in training; metrics count all alike",
        TEXT,
    )
    target_transform: str = key(
        "log: of a positive number the logarithm is learned; predictions and metrics are its own",
        one_of("none", "log"),
    )
    missing: str = key(
        "drop: the row; mean: of the training part, for a category the commonest; indicator: the "
        "median and a further input, for a category one of its own",
        one_of("refuse", "drop", "mean", "indicator"),
    )
    dates: str = key(
        "parts: year, month, weekday and hour become inputs, all but the year as sin and cos",
        one_of("refuse", "parts"),
    )
    texts: str = key(
        "columns of sentences, names or ids: leave_out: say so and do without",
        one_of("refuse", "leave_out"),
    )
    ignore: list[str] = key("columns to leave out")
    numeric: list[str] = key("columns read as numbers, without %, currency or thousands separators")
    categorical: list[str] = key("columns of numbers, or of many texts, that are categories")
    missing_values: Optional[list[str]] = key(
        "texts that count as missing; null: NA, null and such, None among numbers"
    )
    separator: str = key("of a text file", SEPARATOR)
    decimal: str = key("of the numbers in a text file", one_of("auto", "point", "comma"))
    encoding: str = key("auto: utf-8, or utf-16 by its mark", ENCODING)
    header: Any = key(
        "the line with the names; none: there is none",
        either(("auto", "none"), "the number of a line, from 1", lambda v: _is_whole(v, 1)),
    )
    shuffle: bool = key("before the split; false: the last are the test part, before it validation")

    @property
    def targets(self) -> list[str]:
        """One name or several."""
        return [self.target] if isinstance(self.target, str) else list(self.target)


# --- optimizer and schedule --------------------------------------------------------------------


@dataclass
class Optimizer:
    name: str = MISSING
    learning_rate: float = number("η, before the schedule", POSITIVE)


@dataclass
class Schedule:
    name: str = MISSING


def _choices(base: type, table: Mapping[str, Sequence[tuple[str, Any, Any]]]) -> tuple[type, ...]:
    """A dataclass for each line of a table, named as the choice; a key is name, type and field."""
    choices = tuple(
        make_dataclass(
            name, [("name", str, name_of(name)), *keys], bases=(base,), namespace={"__doc__": name}
        )
        for name, keys in table.items()
    )
    for choice in choices:  # as if it were written here: pickle looks for it by its name
        choice.__module__ = __name__
        globals()[choice.__name__] = choice
    return choices


_CLIP = ("clip_norm", Optional[float], number("the gradient's largest norm; null: any", POSITIVE))
_MOMENTUM = ("momentum", float, number("share of the last update that is kept", FRACTION))
_DECAY = ("decay", float, number("of the mean of squared gradients", FRACTION))
_B1 = ("b1", float, number("β₁, decay of the mean of gradients", FRACTION))
_B2 = ("b2", float, number("β₂, decay of the mean of squared gradients", FRACTION))
_EPS = ("eps", float, number("ε, against a division by 0", POSITIVE))
_EPS_IN = ("eps_inside_sqrt", bool, key("true: g/√(v + ε); false: g/(√v + ε)"))
_WEIGHT_DECAY = ("weight_decay", float, number("λ of the weights' own decay, η λ W", NON_NEGATIVE))
_DECAY_SCHEDULE = (
    "weight_decay_schedule",
    str,
    key("factor of λ, beside η's", one_of(*SCHEDULE_NAMES)),
)
_FINAL = "of the learning rate, reached at the last step"

OPTIMIZERS = _choices(Optimizer, {
    "gradient_descent": [_CLIP],
    "momentum": [_MOMENTUM, _CLIP],
    "nesterov": [_MOMENTUM, _CLIP],
    "adagrad": [("initial_accumulator_value", float, number("of v", NON_NEGATIVE)), _EPS, _CLIP],
    "rmsprop": [_DECAY, _EPS, _EPS_IN, _CLIP],
    "adam": [_B1, _B2, _EPS, _EPS_IN, _CLIP],
    "adamw": [_B1, _B2, _EPS, _EPS_IN, _WEIGHT_DECAY, _DECAY_SCHEDULE, _CLIP],
    "lion": [_B1, _B2, _WEIGHT_DECAY, _DECAY_SCHEDULE, _CLIP],
    "lbfgs": [("memory_size", int, key("steps that are remembered", between(1, 1_000))),
              ("max_linesearch_steps", int, key("tries of a step", COUNT))],
})  # fmt: skip
"""A new one is a line here, one in `core/optimizers.py` and a file in `conf/optimizer/`."""

SCHEDULES = _choices(Schedule, {
    "constant": [],
    "exponential": [("final_factor", float, number(_FINAL, POSITIVE))],
    "cosine": [("final_factor", float, number(_FINAL, NON_NEGATIVE))],
    "warmup_cosine": [("final_factor", float, number(_FINAL, NON_NEGATIVE)),
                      ("warmup", float, key("fraction of the steps in which η rises", FRACTION))],
    "piecewise": [("boundaries", list[float], key("fractions of the steps", INCREASING_FRACTIONS)),
                  ("factor", float, number("of the learning rate, at each boundary", POSITIVE))],
})  # fmt: skip
"""A new one is a line here, one in `core/optimizers.py` and a file in `conf/schedule/`."""


# --- the rest ----------------------------------------------------------------------------------


@dataclass
class EarlyStopping:
    patience: Optional[int] = key(
        "stops after so many log points without a better one; null: never", COUNT
    )
    monitor: str = key(
        "the metric of the validation part: of classes accuracy to log_loss, of numbers r2 to mae",
        one_of(*METRIC_NAMES),
    )
    min_delta: float = number("an improvement is larger than this", NON_NEGATIVE)


@dataclass
class Ensemble:
    size: int = key(
        "networks that are trained together and averaged; 1: no ensemble", between(1, 10_000)
    )


@dataclass
class Population:
    exact: bool = key("true: one network after the other, bit for bit as alone")


@dataclass
class Sweep:
    resume: bool = record("true: leave out what has FINISHED in this MLflow experiment")
    best: Any = record(
        "models and figures of this many best networks",
        either(("all",), "a whole number from 0", lambda v: _is_whole(v, 0)),
    )
    ensemble: int = record(
        "so many picks at most of an ensemble that is selected from the runs; 0: none",
        between(0, 1000),
    )
    halvings: int = key("so often, the better half goes on for twice the steps", between(0, 20))
    seeds: int = key("of each job, from its seed on, whose mean is its result", between(1, 10_000))


@dataclass
class Checkpoint:
    every_epochs: Optional[int] = record("between two saves; null: not by epochs", COUNT)
    every_minutes: Optional[float] = record("between two saves; null: the end only", POSITIVE)
    keep: int = record("the last so many, beside the best by the loss", between(1, 1_000_000))
    root: str = record("each run has a directory below it", PATH)


@dataclass
class Tracking:
    name: str = record("", one_of("mlflow", "none"))
    uri: Optional[str] = key("null: $MLFLOW_TRACKING_URI, else mlflow.db here", TEXT, Role.SECRET)
    run_name: Optional[str] = record("null: made of seed, optimizer and network", NAME)
    model: bool = record("log the trained model")
    figures: bool = record("log the figures")


@dataclass
class Experiment:
    """One training, complete: what `conf/config.yaml` composes."""

    name: Optional[str] = record("of the experiment in MLflow; null: the name of the data", NAME)
    seed: int = key("of the initial parameters and the order of the examples", SEED, Role.START)
    num_epochs: Optional[int] = key("passes through the training part", COUNT, Role.LENGTH)
    num_steps: Optional[int] = key("instead of num_epochs: so many updates", COUNT, Role.LENGTH)
    budget: Optional[str] = record(
        "how long it may take: then training ends, and a sweep begins no more; null: any time",
        TIME,
    )
    batch_size: Optional[Any] = key(
        "null: the full batch; auto: 32, or fewer; the remainder of an epoch is dropped",
        either(("auto",), "a whole number from 1", lambda v: _is_whole(v, 1) and COUNT.test(v)),
    )
    log_every: Optional[int] = key(
        "steps between log points; null: about 100 points, at most one an epoch", COUNT
    )
    calibration: str = key(
        "temperature: a classifier's logits are divided by what the validation part asks for",
        one_of("none", "temperature"),
    )
    gradient: str = key("autodiff: by JAX, for comparison", one_of("backprop", "autodiff"))
    device: str = key("what trains", one_of("auto", "cpu", "gpu", "tpu"))
    dtype: str = key("of parameters and arithmetic", one_of("float32", "float64"))
    matmul_precision: str = key(
        "default: TF32 or bfloat16 on a GPU or TPU", one_of("default", "high", "highest")
    )
    deterministic: bool = key(
        "the same bits on GPUs and any number of cores: one thread, or $NPROC"
    )
    model: Model = MISSING
    data: Data = MISSING
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    ensemble: Ensemble = field(default_factory=Ensemble)
    population: Population = field(default_factory=Population)
    sweep: Sweep = field(default_factory=Sweep)
    tracking: Tracking = MISSING


CHOICES: dict[str, tuple[type, ...]] = {
    "model": (Model,),
    "data": (Boolean, Synthetic, ScikitLearn, Mnist, Table),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "tracking": (Tracking,),
}
"""The dataclasses of each group; `conf/GROUP/*.yaml` names one as `/schema/GROUP@_here_: CLASS`."""

SECTIONS: dict[str, tuple[type, ...]] = {
    "early_stopping": (EarlyStopping,),
    "checkpoint": (Checkpoint,),
    "ensemble": (Ensemble,),
    "population": (Population,),
    "sweep": (Sweep,),
}
"""Groups of keys without choices."""


def register_schema() -> None:
    """Hands the dataclasses to Hydra, as the groups `schema/…`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="Experiment", node=Experiment)
    for group, choices in CHOICES.items():
        for choice in choices:
            store.store(group=f"schema/{group}", name=choice.__name__, node=choice)


# --- what follows from the keys ----------------------------------------------------------------


def all_fields() -> Iterator[tuple[str, "Field[Any]"]]:
    """The dotted path and the field of every key, of one dataclass after the other."""
    for section, schemas in {"": (Experiment,), **CHOICES, **SECTIONS}.items():
        for item in (item for schema in schemas for item in fields(schema)):
            if "role" in item.metadata:
                yield f"{section}.{item.name}".removeprefix("."), item


_FIELDS = {item.name: item for item in fields(Experiment)}
for _path, _field in all_fields():
    _FIELDS.setdefault(_path, _field)


def find_field(path: str) -> "Field[Any] | None":
    """The field of a dotted path, in the first choice of its group that has one."""
    return _FIELDS.get(path.partition("[")[0])


def keys(*roles: Role) -> frozenset[str]:
    """The dotted paths of the keys with one of these roles."""
    return frozenset(p for p, item in _FIELDS.items() if item.metadata.get("role") in roles)


TRACED_KEYS = keys(Role.NUMBER, Role.START)
"""The numbers in which the networks of one population may differ."""
RECORD_KEYS = keys(Role.RECORD, Role.SECRET)
"""The keys that do not touch the training."""


_TYPES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    list[str]: "a list of texts",
    list[Any]: "a list",
}


def is_optional(item: "Field[Any]") -> bool:
    return type(None) in get_args(item.type)


def is_whole(item: "Field[Any]") -> bool:
    """Whether its numbers are whole ones."""
    return int in (item.type, *get_args(item.type))


def describe(item: "Field[Any]") -> str:
    """What the key of a field may be, in words."""
    if is_dataclass(item.type):
        return "a group of keys: " + ", ".join(inner.name for inner in fields(item.type))
    declared = get_args(item.type)[0] if is_optional(item) else item.type
    allowed: Allowed = item.metadata.get("allowed", ANY)
    words = allowed.text.format(type=_TYPES.get(declared, "any value"))
    return words + (", or null" if is_optional(item) else "")


def flat_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value by its key: `{"seed": 0, "model.hidden_sizes": [8], …}`."""
    flat: dict[str, Any] = {}
    for name, value in vars(config).items():
        if is_dataclass(value):
            flat |= flat_values(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """A config with other values for some keys; unchecked, so they may be traced arrays."""
    config = copy(config)
    for path, value in values.items():
        section, _, name = path.partition(".")
        changed = with_values(getattr(config, section), {name: value}) if name else value
        setattr(config, section, changed)
    return config


def num_folds(config: Experiment) -> int:
    """The networks that take turns at what is held out; 1 where each has the same data."""
    data = config.data
    return data.folds if data.folds is not None and data.fold is None else 1


def batch_size_of(config: Experiment, num_examples: int) -> int:
    """The examples of a step, of which there may be fewer than are asked for."""
    if config.batch_size == "auto" and config.optimizer.name != "lbfgs":
        return min(AUTO_BATCH_SIZE, num_examples)
    return num_examples if config.batch_size in (None, "auto") else config.batch_size
