"""The schema of an experiment: its keys, their types, what each may be, and what is said if not.

A choice of a group (`optimizer=adam`) has a dataclass of its own, so a key that the choice does
not have is an error. Values come from `conf/`; the dataclasses hold no defaults of their own.
"""

import codecs
import itertools
import math
import sys
import textwrap
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, Optional, get_args

from omegaconf import MISSING, DictConfig, OmegaConf

from mlp_jax.errors import UserError, nearest

# The names of the tables' members, here so that a wrong one is refused before JAX is imported.
ACTIVATION_NAMES = (
    "step", "sigmoid", "tanh", "identity", "relu", "leaky_relu", "elu", "selu", "softplus", "silu",
    "gelu", "softsign",
)  # fmt: skip
OUTPUT_LOSS_NAMES = (
    ("identity", "squared_error"),
    ("identity", "half_squared_error"),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "cross_entropy"),
    ("sigmoid", "squared_error"),
    ("sigmoid", "half_squared_error"),
    ("tanh", "squared_error"),
    ("tanh", "half_squared_error"),
    ("softmax", "squared_error"),
    ("softmax", "half_squared_error"),
)
INITIALIZER_NAMES = (
    "lecun_normal", "lecun_uniform", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform",
    "standard_normal", "scaled_normal", "zeros",
)  # fmt: skip


AUTO_BATCH_SIZE = 32
MAX_HIDDEN_SIZE = 10**6
MAX_HIDDEN_WEIGHTS = 10**9
"""Between two hidden layers: 4 GB in float32."""
MAX_NAME_LENGTH = 250
"""What every store of MLflow takes as the name of a run; of an experiment it takes six more."""


class Allowed(NamedTuple):
    """What a value may be: in words, as a test, and as names where it is one of a few.

    `{type}` in the words stands for the type of the key.
    """

    text: str
    test: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def one_of(*names: str) -> Allowed:
    return Allowed("one of " + ", ".join(names), lambda value: value in names, names)


def each(allowed: Allowed) -> Allowed:
    """Every element of a list."""
    return Allowed(
        allowed.text.replace("{type}", "{type}, each"),
        lambda values: isinstance(values, list) and all(map(allowed.test, values)),
        allowed.names,
    )


def one_or_each_of(*names: str) -> Allowed:
    one = one_of(*names)
    return Allowed(
        f"{one.text}, or a list of them",
        lambda value: one.test(value) or each(one).test(value),
        names,
    )


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def between(lowest: int, highest: int) -> Allowed:
    return Allowed(
        f"{{type}} from {lowest:,} to {highest:,}",
        lambda value: _is_number(value) and lowest <= value <= highest,
    )


ANY = Allowed("{type}", lambda value: True)
TEXT = Allowed(
    "{type} of one line or less, not empty",
    lambda value: value is not None and bool(value.strip()) and value.isprintable(),
)
NAME = Allowed(
    f"{TEXT.text}, of at most {MAX_NAME_LENGTH} characters",
    lambda value: TEXT.test(value) and len(value) <= MAX_NAME_LENGTH,
)
POSITIVE = Allowed("{type} > 0", lambda value: _is_number(value) and value > 0)
NON_NEGATIVE = Allowed("{type} >= 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Allowed("{type} >= 0 and < 1", lambda value: _is_number(value) and 0 <= value < 1)
_SEPARATORS = ("auto", "comma", "semicolon", "tab", "pipe", "space")


def _is_encoding(value: str) -> bool:
    try:
        return value == "auto" or bool(codecs.lookup(value)._is_text_encoding)
    except (LookupError, ValueError):
        return False


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


def key(allowed: Allowed = ANY, traced: bool = False) -> Any:
    """A config key without a default, and what it may be (`None` passes where the type has it).

    A `traced` key is a number in which the networks of one population may differ: it changes no
    shape and no program.
    """
    return field(default=MISSING, metadata={"allowed": allowed, "traced": traced})


def chosen(name: str) -> Any:
    """The name of a group's choice, which only choosing another one changes."""
    words = f"{name}, which only another choice of the group changes"
    return field(default=name, metadata={"allowed": Allowed(words, lambda value: value == name)})


# --- model -------------------------------------------------------------------------------------


@dataclass
class Model:
    hidden_sizes: list[int] = key(each(between(1, MAX_HIDDEN_SIZE)))
    activation: Any = key(one_or_each_of(*ACTIVATION_NAMES))
    output: Optional[str] = key(one_of(*dict.fromkeys(o for o, _ in OUTPUT_LOSS_NAMES)))
    loss: Optional[str] = key(one_of(*dict.fromkeys(loss for _, loss in OUTPUT_LOSS_NAMES)))
    label_smoothing: float = key(FRACTION, traced=True)
    class_weights: Optional[Any] = key(
        Allowed(
            "balanced, or a list with one number > 0 for each class",
            lambda value: value == "balanced" or each(POSITIVE).test(value),
        )
    )
    l2: float = key(NON_NEGATIVE, traced=True)
    l1: float = key(NON_NEGATIVE, traced=True)
    initializer: str = key(one_of(*INITIALIZER_NAMES))
    initializer_scale: float = key(POSITIVE, traced=True)
    bias_initializer: str = key(one_of(*INITIALIZER_NAMES))
    params: Optional[list[Any]] = key()


# --- data --------------------------------------------------------------------------------------


@dataclass
class Data:
    name: str = MISSING
    seed: int = key(SEED, traced=True)
    validation_size: float = key(PART_SIZE)
    standardize: bool = key()


@dataclass
class SplitData(Data):
    test_size: float = key(PART_SIZE)


@dataclass
class Boolean(SplitData):
    name: str = key(one_of("boolean", "xor"))
    num_inputs: int = key(between(1, 16))
    function: Any = key()


@dataclass
class Synthetic(SplitData):
    name: str = key(one_of("circles", "moons", "gauss", "spiral", "sine"))
    num_examples: int = key(between(1, 10**7))
    noise: float = key(NON_NEGATIVE, traced=True)


@dataclass
class ScikitLearn(SplitData):
    name: str = key(one_of("iris", "wine", "breast_cancer", "digits", "diabetes"))


@dataclass
class Mnist(Data):
    name: str = chosen("mnist")
    root: str = key(TEXT)
    shuffle: bool = key()


@dataclass
class Table(SplitData):
    name: str = chosen("table")
    path: str = key(TEXT)
    target: str = key(TEXT)
    task: str = key(one_of("auto", "classification", "regression"))
    missing: str = key(one_of("refuse", "drop", "mean"))
    ignore: list[str] = key()
    numeric: list[str] = key()
    categorical: list[str] = key()
    missing_values: Optional[list[str]] = key()
    separator: str = key(
        Allowed(
            "auto, comma, semicolon, tab, pipe, space, or one character",
            lambda value: value in _SEPARATORS or len(value) == 1,
            _SEPARATORS,
        )
    )
    decimal: str = key(one_of("auto", "point", "comma"))
    encoding: str = key(
        Allowed("auto, or an encoding that Python knows, such as utf-8 or cp1252", _is_encoding)
    )
    header: Any = key(
        Allowed(
            "auto, none, or the number of a line, from 1",
            lambda value: value in ("auto", "none") or (type(value) is int and value >= 1),
            ("auto", "none"),
        )
    )
    shuffle: bool = key()


# --- optimizer and schedule --------------------------------------------------------------------


@dataclass
class Optimizer:
    name: str = MISSING
    learning_rate: float = key(POSITIVE, traced=True)


@dataclass
class FirstOrder(Optimizer):
    clip_norm: Optional[float] = key(POSITIVE, traced=True)


@dataclass
class GradientDescent(FirstOrder):
    name: str = chosen("gradient_descent")


@dataclass
class Momentum(FirstOrder):
    name: str = key(one_of("momentum", "nesterov"))
    momentum: float = key(FRACTION, traced=True)


@dataclass
class Adagrad(FirstOrder):
    name: str = chosen("adagrad")
    initial_accumulator_value: float = key(NON_NEGATIVE, traced=True)
    eps: float = key(POSITIVE, traced=True)


@dataclass
class RMSProp(FirstOrder):
    name: str = chosen("rmsprop")
    decay: float = key(FRACTION, traced=True)
    eps: float = key(POSITIVE, traced=True)
    eps_inside_sqrt: bool = key()


@dataclass
class Adam(FirstOrder):
    name: str = chosen("adam")
    b1: float = key(FRACTION, traced=True)
    b2: float = key(FRACTION, traced=True)
    eps: float = key(POSITIVE, traced=True)
    eps_inside_sqrt: bool = key()


@dataclass
class AdamW(Adam):
    name: str = chosen("adamw")
    weight_decay: float = key(NON_NEGATIVE, traced=True)


@dataclass
class Lion(FirstOrder):
    name: str = chosen("lion")
    b1: float = key(FRACTION, traced=True)
    b2: float = key(FRACTION, traced=True)
    weight_decay: float = key(NON_NEGATIVE, traced=True)


@dataclass
class LBFGS(Optimizer):
    name: str = chosen("lbfgs")
    memory_size: int = key(between(1, 1_000))
    max_linesearch_steps: int = key(COUNT)


@dataclass
class Schedule:
    name: str = MISSING


@dataclass
class Constant(Schedule):
    name: str = chosen("constant")


@dataclass
class Exponential(Schedule):
    name: str = chosen("exponential")
    final_factor: float = key(POSITIVE, traced=True)


@dataclass
class Cosine(Schedule):
    name: str = chosen("cosine")
    final_factor: float = key(NON_NEGATIVE, traced=True)


@dataclass
class WarmupCosine(Cosine):
    name: str = chosen("warmup_cosine")
    warmup: float = key(FRACTION)


@dataclass
class Piecewise(Schedule):
    name: str = chosen("piecewise")
    boundaries: list[float] = key(INCREASING_FRACTIONS)
    factor: float = key(POSITIVE, traced=True)


# --- the rest ----------------------------------------------------------------------------------


@dataclass
class EarlyStopping:
    patience: Optional[int] = key(COUNT)
    monitor: str = key(one_of("loss", "accuracy", "r2"))
    min_delta: float = key(NON_NEGATIVE, traced=True)


@dataclass
class Population:
    exact: bool = key()


@dataclass
class Sweep:
    resume: bool = key()
    best: Any = key(
        Allowed(
            "a whole number from 0, or all",
            lambda value: value == "all" or (type(value) is int and value >= 0),
            ("all",),
        )
    )
    halvings: int = key(between(0, 20))


@dataclass
class Checkpoint:
    every_epochs: Optional[int] = key(COUNT)
    every_minutes: Optional[float] = key(POSITIVE)
    keep: int = key(between(1, 1_000_000))
    root: str = key(TEXT)


@dataclass
class Tracking:
    name: str = key(one_of("mlflow", "none"))
    uri: Optional[str] = key(TEXT)
    run_name: Optional[str] = key(NAME)
    model: bool = key()
    figures: bool = key()


@dataclass
class Experiment:
    """One training, complete: what `conf/config.yaml` composes."""

    name: Optional[str] = key(NAME)
    seed: int = key(SEED, traced=True)
    num_epochs: Optional[int] = key(COUNT)
    num_steps: Optional[int] = key(COUNT)
    batch_size: Optional[Any] = key(
        Allowed(
            "auto, or a whole number from 1",
            lambda value: value == "auto" or (type(value) is int and COUNT.test(value)),
            ("auto",),
        )
    )
    log_every: Optional[int] = key(COUNT)
    gradient: str = key(one_of("backprop", "autodiff"))
    device: str = key(one_of("auto", "cpu", "gpu", "tpu"))
    dtype: str = key(one_of("float32", "float64"))
    matmul_precision: str = key(one_of("default", "high", "highest"))
    deterministic: bool = key()
    model: Model = MISSING
    data: Data = MISSING
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    population: Population = field(default_factory=Population)
    sweep: Sweep = field(default_factory=Sweep)
    tracking: Tracking = MISSING


CHOICES: dict[str, tuple[type, ...]] = {
    "model": (Model,),
    "data": (Boolean, Synthetic, ScikitLearn, Mnist, Table),
    "optimizer": (
        GradientDescent, Momentum, Adagrad, RMSProp, Adam, AdamW, Lion, LBFGS,
    ),
    "schedule": (Constant, Exponential, Cosine, WarmupCosine, Piecewise),
    "tracking": (Tracking,),
}  # fmt: skip
"""The dataclasses of each group; `conf/GROUP/*.yaml` names one as `/schema/GROUP@_here_: CLASS`."""

SECTIONS: dict[str, tuple[type, ...]] = {
    "early_stopping": (EarlyStopping,),
    "checkpoint": (Checkpoint,),
    "population": (Population,),
    "sweep": (Sweep,),
}
"""Groups of keys without choices."""

_SCHEMAS = {"": (Experiment,), **CHOICES, **SECTIONS}

TRACED_KEYS = frozenset(
    f"{section}.{item.name}".removeprefix(".")
    for section, schemas in _SCHEMAS.items()
    for schema in schemas
    for item in fields(schema)
    if item.metadata.get("traced")
)
"""The numbers in which the networks of one population may differ."""


def register_schema() -> None:
    """Hands the dataclasses to Hydra, as the groups `schema/…`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="Experiment", node=Experiment)
    for group, choices in CHOICES.items():
        for choice in choices:
            store.store(group=f"schema/{group}", name=choice.__name__, node=choice)


def unknown_key(where: str, path: str, schema: Any) -> UserError:
    """The error for a key that `schema`, a dataclass, does not have; `where` it stood, or ''."""
    if path == "exp":  # where Hydra puts a file of exp/ that doesn't say otherwise
        return UserError(
            f"{where}exp: is a group, +exp=NAME; the first line of exp/NAME.yaml must be "
            "'# @package _global_'."
        )
    parent, _, name = path.rpartition(".")
    names = [item.name for item in fields(schema)] if is_dataclass(schema) else []
    elsewhere = {
        item.name: f"{section}.{item.name}"
        for section, schemas in _SCHEMAS.items()
        for schema in schemas
        for item in fields(schema)
        if section and parent == ""
    }
    hint = nearest(name, names) or nearest(name, elsewhere, elsewhere)
    has = f" {parent or 'An experiment'} has {', '.join(names)}." if names else ""
    return UserError(f"{where}{path}: no such key.{hint}{has}")


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


def _is_optional(item: "Field[Any]") -> bool:
    return type(None) in get_args(item.type)


def describe(item: "Field[Any]") -> str:
    """What the key of a field may be, in words."""
    if is_dataclass(item.type):
        return "a group of keys: " + ", ".join(inner.name for inner in fields(item.type))
    declared = get_args(item.type)[0] if type(None) in get_args(item.type) else item.type
    allowed: Allowed = item.metadata.get("allowed", ANY)
    words = allowed.text.format(type=_TYPES.get(declared, "any value"))
    return words + (", or null" if _is_optional(item) else "")


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


def find_field(path: str) -> "Field[Any] | None":
    """The field of a dotted path, in the first choice of its group that has one."""
    section, _, name = path.partition("[")[0].rpartition(".")
    for schema in _SCHEMAS.get(section, ()):
        for item in fields(schema):
            if item.name == name:
                return item
    return None


def validate(node: Any, prefix: str = "") -> None:
    """Raises `UserError` for the first key that is unknown or whose value is not allowed."""
    for name in vars(node):
        if name not in {item.name for item in fields(node)}:
            raise unknown_key("", prefix + name, node)
    for item in fields(node):
        value, path = getattr(node, item.name), prefix + item.name
        if is_dataclass(value):
            validate(value, path + ".")
        elif value == MISSING:
            raise _not_set(path)
        else:
            _validate_value(item, value, path)


def _validate_value(item: "Field[Any]", value: Any, path: str) -> None:
    allowed: Allowed = item.metadata.get("allowed", ANY)
    if not (value is None and _is_optional(item)) and not allowed.test(value):
        hint = nearest(value, allowed.names) if isinstance(value, str) else ""
        raise UserError(f"{path}={_show(value)}: must be {describe(item)}.{hint}")


def _show(value: Any) -> str:
    """As one writes it in an override, and not too long."""
    return "null" if value is None else textwrap.shorten(str(value), 80) or "''"


def _not_set(path: str) -> UserError:
    return UserError(f"{path} is not set: give it as {path}=VALUE.")


def _validate_together(config: Experiment) -> None:
    """The rules that take more than one key."""
    if (config.num_epochs is None) == (config.num_steps is None):
        raise UserError(
            f"num_epochs={_show(config.num_epochs)} num_steps={_show(config.num_steps)}: "
            "give exactly one of them, and set the other to null: num_epochs=null."
        )
    model = config.model
    if isinstance(model.activation, list) and len(model.activation) != len(model.hidden_sizes):
        raise UserError(
            f"model.activation={model.activation}: {len(model.activation)} activations for "
            f"{len(model.hidden_sizes)} hidden layers; give one name, or one for each layer."
        )
    for n_in, n_out in itertools.pairwise(model.hidden_sizes):
        if n_in * n_out > MAX_HIDDEN_WEIGHTS:
            raise UserError(
                f"model.hidden_sizes={model.hidden_sizes}: {n_in:,} x {n_out:,} weights between "
                f"two layers; must be at most {MAX_HIDDEN_WEIGHTS:,}."
            )
    pair = (model.output, model.loss)
    if None not in pair and pair not in OUTPUT_LOSS_NAMES:
        raise UserError(
            f"model.output={model.output} model.loss={model.loss}: no such pair; {model.loss} "
            f"follows {' or '.join(o for o, loss in OUTPUT_LOSS_NAMES if loss == model.loss)}, and "
            f"{model.output} goes with "
            f"{' or '.join(loss for o, loss in OUTPUT_LOSS_NAMES if o == model.output)}."
        )
    if model.initializer == "standard_normal" and model.initializer_scale != 1:
        raise UserError(
            f"model.initializer_scale={model.initializer_scale}: standard_normal has scale 1; "
            "use model.initializer=scaled_normal."
        )
    if isinstance(config.optimizer, LBFGS) and config.batch_size not in (None, "auto"):
        raise UserError(
            f"batch_size={config.batch_size}: lbfgs needs the full batch; set batch_size=null."
        )


def batch_size_of(config: Experiment, num_examples: int) -> int:
    """The examples of a step, of which there may be fewer than are asked for."""
    if config.batch_size == "auto" and config.optimizer.name != "lbfgs":
        return min(AUTO_BATCH_SIZE, num_examples)
    return num_examples if config.batch_size in (None, "auto") else config.batch_size


def with_numbers(config: Experiment, numbers: Mapping[str, int | float]) -> Experiment:
    """A config with other values for some traced keys, checked; raises `UserError`."""
    values: dict[str, int | float] = {}
    for path, value in numbers.items():
        section, _, name = path.rpartition(".")
        node = getattr(config, section) if section else config
        item = next(item for item in fields(node) if item.name == name)
        values[path] = value if item.type is int else _as_float(value)
        _validate_value(item, values[path], path)
    config = with_values(config, values)
    _validate_together(config)
    return config


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def to_experiment(composed: DictConfig) -> Experiment:
    """The composed config as dataclasses, every value checked; raises `UserError`."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise _not_set(missing[0])
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Experiment)
    validate(config)
    _validate_together(config)
    return config
