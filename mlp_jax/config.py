"""The schema of an experiment: its keys, their types, what each may be, and what is said if not.

A choice of a group (`optimizer=adam`) has a dataclass of its own, so a key that the choice does
not have is an error. Values come from `conf/`; the dataclasses hold no defaults of their own.
"""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, Optional

from omegaconf import MISSING, DictConfig, OmegaConf

from mlp_jax.errors import UserError

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


class Allowed(NamedTuple):
    """What a value may be: in words, as a test, and as names where it is one of a few."""

    text: str
    test: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def one_of(*names: str) -> Allowed:
    return Allowed("one of " + ", ".join(names), lambda value: value in names, names)


def each(allowed: Allowed) -> Allowed:
    """Every element of a list."""
    return Allowed(
        f"a list, each element {allowed.text}",
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
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


ANY = Allowed("anything", lambda value: True)
POSITIVE = Allowed("> 0", lambda value: _is_number(value) and value > 0)
NON_NEGATIVE = Allowed(">= 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Allowed(">= 0 and < 1", lambda value: _is_number(value) and 0 <= value < 1)
SEED = Allowed(">= 0 and < 2**32", lambda value: _is_number(value) and 0 <= value < 2**32)
PART_SIZE = Allowed(
    "a fraction >= 0 and < 1, or a whole number of examples",
    lambda value: _is_number(value) and (0 <= value < 1 or (value >= 1 and value == int(value))),
)
INCREASING_FRACTIONS = Allowed(
    "an increasing list of fractions of the training, each > 0 and < 1",
    lambda values: all(0 < v < 1 for v in values) and values == sorted(set(values)),
)


def key(allowed: Allowed = ANY) -> Any:
    """A config key without a default, and what it may be (`None` passes where the type has it)."""
    return field(default=MISSING, metadata={"allowed": allowed})


def chosen(name: str) -> Any:
    """The name of a group's choice, which only choosing another one changes."""
    return field(default=name, metadata={"allowed": one_of(name)})


# --- model -------------------------------------------------------------------------------------


@dataclass
class Model:
    hidden_sizes: list[int] = key(each(POSITIVE))
    activation: Any = key(one_or_each_of(*ACTIVATION_NAMES))
    output: Optional[str] = key(one_of(*dict.fromkeys(o for o, _ in OUTPUT_LOSS_NAMES)))
    loss: Optional[str] = key(one_of(*dict.fromkeys(loss for _, loss in OUTPUT_LOSS_NAMES)))
    label_smoothing: float = key(FRACTION)
    class_weights: Any = key(
        Allowed(
            "balanced, or a list with one number > 0 for each class",
            lambda value: value == "balanced" or each(POSITIVE).test(value),
        )
    )
    l2: float = key(NON_NEGATIVE)
    l1: float = key(NON_NEGATIVE)
    initializer: str = key(one_of(*INITIALIZER_NAMES))
    initializer_scale: float = key(POSITIVE)
    bias_initializer: str = key(one_of(*INITIALIZER_NAMES))
    params: Optional[list[Any]] = key()


# --- data --------------------------------------------------------------------------------------


@dataclass
class Data:
    name: str = MISSING
    seed: int = key(SEED)
    validation_size: float = key(PART_SIZE)
    standardize: bool = key()


@dataclass
class SplitData(Data):
    test_size: float = key(PART_SIZE)


@dataclass
class Boolean(SplitData):
    name: str = key(one_of("boolean", "xor"))
    num_inputs: int = key(Allowed(">= 1 and <= 16", lambda n: 1 <= n <= 16))
    function: Any = key()


@dataclass
class Synthetic(SplitData):
    name: str = key(one_of("circles", "moons", "gauss", "spiral", "sine"))
    num_examples: int = key(POSITIVE)
    noise: float = key(NON_NEGATIVE)


@dataclass
class ScikitLearn(SplitData):
    name: str = key(one_of("iris", "wine", "breast_cancer", "digits", "diabetes"))


@dataclass
class Mnist(Data):
    name: str = chosen("mnist")
    root: str = key()


@dataclass
class Table(SplitData):
    name: str = chosen("table")
    path: str = key()
    target: str = key()
    task: str = key(one_of("auto", "classification", "regression"))
    missing: str = key(one_of("refuse", "drop", "mean"))
    ignore: list[str] = key()


# --- optimizer and schedule --------------------------------------------------------------------


@dataclass
class Optimizer:
    name: str = MISSING
    learning_rate: float = key(POSITIVE)


@dataclass
class FirstOrder(Optimizer):
    clip_norm: Optional[float] = key(POSITIVE)


@dataclass
class GradientDescent(FirstOrder):
    name: str = chosen("gradient_descent")


@dataclass
class Momentum(FirstOrder):
    name: str = key(one_of("momentum", "nesterov"))
    momentum: float = key(FRACTION)


@dataclass
class Adagrad(FirstOrder):
    name: str = chosen("adagrad")
    initial_accumulator_value: float = key(NON_NEGATIVE)
    eps: float = key(POSITIVE)


@dataclass
class RMSProp(FirstOrder):
    name: str = chosen("rmsprop")
    decay: float = key(FRACTION)
    eps: float = key(POSITIVE)


@dataclass
class Adam(FirstOrder):
    name: str = chosen("adam")
    b1: float = key(FRACTION)
    b2: float = key(FRACTION)
    eps: float = key(POSITIVE)


@dataclass
class AdamW(Adam):
    name: str = chosen("adamw")
    weight_decay: float = key(NON_NEGATIVE)


@dataclass
class Lion(FirstOrder):
    name: str = chosen("lion")
    b1: float = key(FRACTION)
    b2: float = key(FRACTION)
    weight_decay: float = key(NON_NEGATIVE)


@dataclass
class LBFGS(Optimizer):
    name: str = chosen("lbfgs")
    memory_size: int = key(POSITIVE)
    max_linesearch_steps: int = key(POSITIVE)


@dataclass
class Schedule:
    name: str = MISSING


@dataclass
class Constant(Schedule):
    name: str = chosen("constant")


@dataclass
class Exponential(Schedule):
    name: str = chosen("exponential")
    final_factor: float = key(POSITIVE)


@dataclass
class Cosine(Schedule):
    name: str = chosen("cosine")
    final_factor: float = key(NON_NEGATIVE)


@dataclass
class WarmupCosine(Cosine):
    name: str = chosen("warmup_cosine")
    warmup: float = key(FRACTION)


@dataclass
class Piecewise(Schedule):
    name: str = chosen("piecewise")
    boundaries: list[float] = key(INCREASING_FRACTIONS)
    factor: float = key(POSITIVE)


# --- the rest ----------------------------------------------------------------------------------


@dataclass
class EarlyStopping:
    patience: Optional[int] = key(POSITIVE)
    monitor: str = key(one_of("loss", "accuracy", "r2"))
    min_delta: float = key(NON_NEGATIVE)


@dataclass
class Tracking:
    name: str = key(one_of("mlflow", "none"))
    uri: Optional[str] = key()
    run_name: Optional[str] = key()
    model: bool = key()
    figures: bool = key()


@dataclass
class Experiment:
    """One training, complete: what `conf/config.yaml` composes."""

    name: Optional[str] = key()
    seed: int = key(SEED)
    num_epochs: Optional[int] = key(POSITIVE)
    num_steps: Optional[int] = key(POSITIVE)
    batch_size: Optional[int] = key(POSITIVE)
    log_every: Optional[int] = key(POSITIVE)
    gradient: str = key(one_of("backprop", "autodiff"))
    device: str = key(one_of("auto", "cpu", "gpu", "tpu"))
    dtype: str = key(one_of("float32", "float64"))
    matmul_precision: str = key(one_of("default", "high", "highest"))
    model: Model = MISSING
    data: Data = MISSING
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
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


def register_schema() -> None:
    """Hands the dataclasses to Hydra, as the groups `schema/…`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="Experiment", node=Experiment)
    for group, choices in CHOICES.items():
        for choice in choices:
            store.store(group=f"schema/{group}", name=choice.__name__, node=choice)


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean …?', or nothing where no name is close."""
    matches = difflib.get_close_matches(str(name), list(names), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def unknown_key(where: str, path: str, schema: Any) -> UserError:
    """The error for a key that `schema`, a dataclass, does not have; `where` it stood, or ''."""
    parent, _, name = path.rpartition(".")
    names = [item.name for item in fields(schema)]
    return UserError(
        f"{where}{path}: no such key.{nearest(name, names)} "
        f"{parent or 'An experiment'} has {', '.join(names)}."
    )


def allowed_text(schema: Any, path: str) -> str:
    """What the last key of a dotted path may be, or '' where nothing is said."""
    for item in fields(schema) if is_dataclass(schema) else ():
        allowed = item.metadata.get("allowed", ANY)
        if item.name == path.rpartition(".")[2] and allowed is not ANY:
            return str(allowed.text)
    return ""


def validate(node: Any, prefix: str = "") -> None:
    """Raises `UserError` for the first key that is unknown or whose value is not allowed."""
    for name in vars(node):
        if name not in {item.name for item in fields(node)}:
            raise unknown_key("", prefix + name, node)
    for item in fields(node):
        value, path = getattr(node, item.name), prefix + item.name
        if is_dataclass(value):
            validate(value, path + ".")
            continue
        allowed: Allowed = item.metadata.get("allowed", ANY)
        if value is None and (item.type is Any or type(None) in getattr(item.type, "__args__", ())):
            continue
        if not allowed.test(value):
            hint = nearest(value, allowed.names) if isinstance(value, str) else ""
            raise UserError(f"{path}={value}: must be {allowed.text}.{hint}")


def _validate_together(config: Experiment) -> None:
    """The rules that take more than one key."""
    if (config.num_epochs is None) == (config.num_steps is None):
        raise UserError(
            f"num_epochs={config.num_epochs} num_steps={config.num_steps}: "
            "give exactly one of them and set the other to null."
        )
    model = config.model
    if isinstance(model.activation, list) and len(model.activation) != len(model.hidden_sizes):
        raise UserError(
            f"model.activation={model.activation}: {len(model.activation)} activations for "
            f"{len(model.hidden_sizes)} hidden layers; give one name, or one for each layer."
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
    if isinstance(config.optimizer, LBFGS) and config.batch_size is not None:
        raise UserError(
            f"batch_size={config.batch_size}: lbfgs needs the full batch; set batch_size=null."
        )


def to_experiment(composed: DictConfig) -> Experiment:
    """The composed config as dataclasses, every value checked; raises `UserError`."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} is not set: give it as {missing[0]}=VALUE.")
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Experiment)
    validate(config)
    _validate_together(config)
    return config
