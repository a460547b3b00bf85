"""What a config may have Hydra import: its plugins and plain logging, nothing else.

The experiment itself names only entries of our tables. But Hydra makes objects of what stands in
`hydra.launcher`, `hydra.sweeper`, `hydra.callbacks` and the configs of logging, and looks for
configs in whatever package `hydra.searchpath` names. The variables of `hydra.job.env_set` would
choose what other programs do, as `PATH`, `LD_PRELOAD` and git's own.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mlp_jax.errors import UserError

_PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
_LOGGING = ("job_logging", "hydra_logging")
_LOGGING_KEYS = {
    "version", "disable_existing_loggers", "root", "formatters", "handlers", "loggers", "level",
    "format", "datefmt", "class", "()", "formatter", "stream", "filename", "propagate",
}  # fmt: skip
_LOGGING_OBJECTS = {
    "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
    "colorlog.ColoredFormatter", "ext://sys.stdout", "ext://sys.stderr",
}  # fmt: skip
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # Hydra's own


def check_search_path(overrides: list[str]) -> None:
    """Before the composition, which would import the packages."""
    for override in overrides:
        key, _, value = override.partition("=")
        if "searchpath" in key and not re.fullmatch(r"[^:]*(file:[^:]*)*", value):
            raise _refusal(override, "configs are found in directories, file://DIRECTORY")


def check_hydra(hydra: DictConfig) -> None:
    """Raises `UserError` where the composed node `hydra` would import or set something else."""
    config: Any = OmegaConf.to_container(hydra)
    if names := ", ".join(config["job"]["env_set"]):
        raise UserError(
            f"hydra.job.env_set: a config cannot set {names} in the environment, where it could "
            "make other programs run anything; set it in the shell."
        )
    if config.get("callbacks"):
        raise _refusal(f"hydra.callbacks={config['callbacks']}", "there are none")
    for path, value in _leaves(config):
        shown = f"hydra.{'.'.join(path)}={value}"
        is_plugin = path[1:] == ("_target_",) and path[0] in ("launcher", "sweeper")
        if path[-1] == "_target_" and not (is_plugin and str(value).startswith(_PLUGINS)):
            raise _refusal(shown, "hydra/launcher and hydra/sweeper take a plugin")
        if path[0] in _LOGGING and not _is_plain_logging(path[1:], str(value)):
            raise _refusal(shown, "logging takes StreamHandler, FileHandler and formats")
        if path[0] == "searchpath" and not str(value).startswith("file://"):
            raise _refusal(shown, "configs are found in directories, file://DIRECTORY")


def _is_plain_logging(path: tuple[str, ...], value: str) -> bool:
    names = [name for place, name in enumerate(path) if place != 1]  # the second is the user's own
    if value == _LOG_FILE or value in _LOGGING_OBJECTS:
        return True
    is_free = "${" not in value and "://" not in value and path[-1] not in ("class", "()", "stream")
    return is_free and set(names) <= _LOGGING_KEYS


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a config with their paths; those of a list have the path of the list."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, (*path, str(name)))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node


def _refusal(what: str, allowed: str) -> UserError:
    return UserError(f"{what}: a config cannot name what is to be imported; {allowed}.")
