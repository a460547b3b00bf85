"""What is wrong with a config, said with the key, the value, what is allowed and what was meant."""

import itertools
import math
import textwrap
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from mlp_jax.config.schema import (
    ANY,
    OUTPUT_LOSS_NAMES,
    Allowed,
    Experiment,
    Table,
    all_fields,
    describe,
    is_optional,
    is_whole,
    with_values,
)  # fmt: skip
from mlp_jax.errors import UserError, nearest

OTHER_NAMES = {
    "lr": "optimizer.learning_rate", "eta": "optimizer.learning_rate", "dataset": "data",
    "hidden": "model.hidden_sizes", "layers": "model.hidden_sizes", "exp": "+exp",
    "experiment": "+exp", "sgd": "gradient_descent", "gd": "gradient_descent",
}  # fmt: skip
"""What keys, groups and choices are called elsewhere."""
MAX_HIDDEN_WEIGHTS = 10**9
"""Between two hidden layers: 4 GB in float32."""


def to_experiment(composed: DictConfig) -> Experiment:
    """The composed config as dataclasses, every value checked; raises `UserError`."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise _not_set(missing[0])
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Experiment)
    if isinstance(config.batch_size, str) and config.batch_size.isdecimal():
        config.batch_size = int(config.batch_size)  # as OmegaConf reads the keys that are numbers
    if isinstance(config.data, Table):
        config.data.target = _as_names(config.data.target)
    validate(config)
    _validate_together(config)
    return config


def _as_names(target: Any) -> Any:
    """One column's name or several, of which some may look like a number."""
    if isinstance(target, list):
        return [_as_names(name) for name in target]
    return str(target) if isinstance(target, int | float) else target


def with_numbers(config: Experiment, numbers: Mapping[str, int | float]) -> Experiment:
    """A config with other values for some traced keys, checked; raises `UserError`."""
    values: dict[str, int | float] = {}
    for path, value in numbers.items():
        section, _, name = path.rpartition(".")
        node = getattr(config, section) if section else config
        item = next(item for item in fields(node) if item.name == name)
        values[path] = value if is_whole(item) else _as_float(value)
        _validate_value(item, values[path], path)
    config = with_values(config, values)
    _validate_together(config)
    return config


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


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
    if not (value is None and is_optional(item)) and not allowed.test(value):
        hint = nearest(value, allowed.names) if isinstance(value, str) else ""
        raise UserError(f"{path}={_show(value)}: must be {describe(item)}.{hint}")


def _show(value: Any) -> str:
    """As one writes it in an override, and not too long."""
    return "null" if value is None else textwrap.shorten(str(value), 80) or "''"


def _not_set(path: str) -> UserError:
    return UserError(f"{path} is not set: give it as {path}=VALUE.")


def unknown_key(where: str, path: str, schema: Any, value: str = "") -> UserError:
    """The error for a key that `schema`, a dataclass, does not have; `where` it stood, or ''.

    `value` is what it was to be, as =VALUE, where that is known.
    """
    if path == "exp":  # where Hydra puts a file of exp/ that doesn't say otherwise
        return UserError(
            f"{where}exp: is a group, +exp=NAME; the first line of exp/NAME.yaml must be "
            "'# @package _global_'."
        )
    parent, _, name = path.rpartition(".")
    names = [item.name for item in fields(schema)] if is_dataclass(schema) else []
    own = {other: p for other, p in OTHER_NAMES.items() if p.startswith(f"{parent}.")}
    own |= {each: f"{parent}.{each}".removeprefix(".") for each in names}
    hint = _meant(own, name, value) or ("" if parent else meant_key(name, value))
    has = f" {parent or 'An experiment'} has {', '.join(names)}." if names else ""
    return UserError(f"{where}{path}: no such key.{hint}{has}")


def meant_key(name: str, value: str = "") -> str:
    """' Did you mean KEY=VALUE?': a key or a group of an experiment, or nothing."""
    own = {item.name: item.name for item in fields(Experiment)}
    every = {path.rpartition(".")[2]: path for path, _ in all_fields()} | OTHER_NAMES
    return _meant(own, name, value) or _meant(every, name, value)


def _meant(paths: Mapping[str, str], name: str, value: str) -> str:
    return nearest(name, paths, {each: f"{path}{value}" for each, path in paths.items()})


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
    if config.data.scaling not in ("standard", "none") and not config.data.standardize:
        raise UserError(
            f"data.standardize=false data.scaling={config.data.scaling}: the first scales "
            "nothing; use data.standardize=true, or data.scaling=standard."
        )
    fold, folds = config.data.fold, config.data.folds
    if fold is not None and (folds is None or fold >= folds):
        allowed = "there are none without data.folds" if folds is None else f"from 0 to {folds - 1}"
        raise UserError(f"data.fold={fold} data.folds={_show(folds)}: the folds: {allowed}.")
    if config.optimizer.name == "lbfgs" and config.batch_size not in (None, "auto"):
        raise UserError(
            f"batch_size={config.batch_size}: lbfgs needs the full batch; set batch_size=null."
        )
