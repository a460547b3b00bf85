"""The config that a run has recorded: how it is written, read again, and what may change in it."""

import hashlib
import json
import os
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlp_jax.config import schema
from mlp_jax.config.checks import to_experiment, validate
from mlp_jax.config.guard import explain
from mlp_jax.config.schema import Experiment, Role, flat_values
from mlp_jax.errors import RunError, UserError, redacted

_WITHOUT = (
    ("calibration", "none"),
    ("ensemble.size", 1),
    ("sweep.seeds", 1),
    ("data.scaling", "standard"),
    ("data.folds", None),
    ("data.fold", None),
    ("data.dates", "refuse"),
    ("data.texts", "refuse"),
    ("data.target_transform", "none"),
    ("data.weights", None),
    ("model.embedding", "none"),
    ("model.embedding_size", 3),
    ("model.embedding_frequencies", 16),
    ("model.embedding_scale", 0.1),
    ("model.max_one_hot", None),
    ("model.dropout", 0.0),
    ("model.input_dropout", 0.0),
    ("model.dropout_schedule", "constant"),
    ("model.input_noise", 0.0),
    ("model.max_norm", None),
    ("model.ema_decay", None),
    ("optimizer.weight_decay_schedule", "constant"),
)
"""What later keys have to be for a training that could do without them: it keeps its name."""


def config_hash(config: Experiment) -> str:
    """The name of a training: equal for equal ones, whatever is tracked and where."""
    values = {
        key: value
        for key, value in flat_values(config).items()
        if key not in schema.RECORD_KEYS and (key, value) not in _WITHOUT
    }
    values["halvings"] = values.pop("sweep.halvings")  # as the names that were given have it
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def to_record(config: Experiment, log_every: int, uri: str | None) -> dict[str, Any]:
    """The config as plain data that holds in any directory; secrets of the store are hidden.

    `uri` is the absolute address of the store; None where the run is not tracked.
    """
    paths = {
        path: str(Path(value).absolute())
        for path, value in flat_values(config).items()
        if (item := schema.find_field(path)) and item.metadata["allowed"] is schema.PATH
    }
    address = {} if uri is None else {"tracking.uri": redacted(uri)}
    return asdict(schema.with_values(config, {**paths, **address, "log_every": log_every}))


def from_record(record: dict[str, Any], source: Path | str) -> Experiment:
    """The config that `source` has recorded, every value checked. Raises `RunError`.

    A key that there was not in the version that recorded it has its default.
    """
    try:
        composed = OmegaConf.structured(Experiment)
        for group, choices in schema.CHOICES.items():
            composed[group] = next(c for c in choices if _is_choice(c, record[group]))
        composed.merge_with(_defaults(record), record)
        config = to_experiment(composed)
    except (UserError, OmegaConfBaseException, LookupError, TypeError, StopIteration) as error:
        why = explain(error, []) if isinstance(error, OmegaConfBaseException) else error
        raise RunError(f"{source}: is not the config of a run of this version: {why}") from None
    return _with_secret(config)


def _defaults(record: dict[str, Any]) -> DictConfig:
    """What `conf/` has for the keys of the recorded choices."""
    files = {group: record[group].get("name", "mlp") for group in schema.CHOICES}
    sections = {group: _values(schema.CONF / group / f"{name}.yaml")
                for group, name in files.items()}  # fmt: skip
    return OmegaConf.create(_values(schema.CONF / "config.yaml") | sections)


def _values(file: Path) -> dict[Any, Any]:
    values: Any = OmegaConf.to_container(OmegaConf.load(file))
    return {name: value for name, value in values.items() if name not in ("defaults", "hydra")}


def _is_choice(choice: type, values: dict[str, Any]) -> bool:
    """Whether the dataclass is the one of these values: the one that may have their name."""
    names = [item for item in fields(choice) if item.name == "name"]
    return all(item.metadata["allowed"].test(values["name"]) for item in names)


def _with_secret(config: Experiment) -> Experiment:
    """With the address that the environment gives where the recorded one hides a password."""
    recorded, given = config.tracking.uri or "", os.environ.get("MLFLOW_TRACKING_URI", "")
    if "***" not in recorded:
        return config
    if redacted(given) != recorded:
        raise UserError(
            f"tracking.uri={recorded}: the password is not recorded; give the whole address in "
            "$MLFLOW_TRACKING_URI."
        )
    return replace(config, tracking=replace(config.tracking, uri=given))


def prolonged(config: Experiment, overrides: list[str]) -> Experiment:
    """The config with `num_epochs` or `num_steps` raised; `UserError` for any other change.

    The budget, which does not touch the training, may be another one.
    """
    changed = _overridden(config, overrides)
    before, after = flat_values(config), flat_values(changed)
    changes = {k: v for k, v in after.items() if v != before[k] and k != "budget"}
    if others := [key for key in changes if key not in schema.keys(Role.LENGTH)]:
        shown = ", ".join(f"{key}={after[key]} (the run has {before[key]})" for key in others)
        raise UserError(
            f"{shown}: a run that is resumed keeps its config; only num_epochs or num_steps may be "
            "raised. Start a new run for anything else."
        )
    for key, new in changes.items():
        old = before[key]
        if old is None or new is None or new < old:
            raise UserError(f"{key}={new}: the run has {old}, which may only be raised.")
        if config.schedule.name != "constant":
            raise UserError(
                f"{key}={new}: the learning rate of schedule={config.schedule.name} depends on "
                f"the length, {old}; only a run with schedule=constant can be prolonged."
            )
    return changed


def _overridden(config: Experiment, overrides: list[str]) -> Experiment:
    """The config with other values, each of its key's type."""
    typed = OmegaConf.structured(config)
    for override in overrides:
        key = override.partition("=")[0]
        item = schema.find_field(key)
        if item is None or key not in flat_values(config):
            raise UserError(
                f"{override}: not a key of the run's config, which is taken as it was recorded; "
                "only num_epochs or num_steps may be raised."
            )
        try:
            typed.merge_with_dotlist([override])
        except OmegaConfBaseException:
            raise UserError(f"{override}: must be {schema.describe(item)}.") from None
    changed = OmegaConf.to_object(typed)
    assert isinstance(changed, Experiment)
    validate(changed)
    return changed


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The C library's where PyYAML has it: ten times as fast as `OmegaConf.to_yaml`."""


def _quoted_if_number(dumper: Any, text: str) -> Any:
    """OmegaConf reads `1e3` as a number, YAML as a text."""
    style = "'" if re.match(r"[-+.\d]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted_if_number)


def to_yaml(values: Any) -> str:
    """Of plain values, as OmegaConf reads it."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
