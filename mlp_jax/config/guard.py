"""What a config may have Hydra do, and what Hydra finds wrong, in words for the user.

A config may start Hydra's plugins and log plainly, nothing else.

The experiment itself names only entries of our tables. But Hydra makes objects of what stands in
`hydra.launcher`, `hydra.sweeper`, `hydra.callbacks` and the configs of logging, and looks for
configs in whatever package `hydra.searchpath` names. Any of them may take its value from another
key, from an environment variable, or from a text that is read as a config. So nothing is called
`_target_` anywhere, as written or resolved, and what Hydra makes objects of takes values from
elsewhere only where these are texts.

Nor may a file say that Hydra writes its own files outside the current directory, or in place of
another program's.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlp_jax.config.checks import OTHER_NAMES, unknown_key
from mlp_jax.config.schema import describe, find_field
from mlp_jax.errors import UserError, nearest

_PLUGINS = {  # and whose they may be; another sweeper may have keys that name a function
    "launcher": ("hydra_plugins.", "hydra._internal."),
    "sweeper": ("hydra_plugins.mlp_jax.", "hydra._internal."),
}
_OBJECTS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}
_SHELL = {"setup", "python", "srun_args"}  # of submitit's launchers: words of a shell script
_TEXT = r"\$\{hydra[.:](?:sweep\.dir|sweep\.subdir|job\.name|job\.num|job\.id|runtime\.cwd)\}"
_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # Hydra's own
_LOG_FORMATS = {  # those of Hydra and of its colorlog plugin: no other text goes to a file
    "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s",
    "[%(cyan)s%(asctime)s%(reset)s][%(blue)s%(name)s%(reset)s][%(log_color)s%(levelname)s"
    "%(reset)s] - %(message)s",
}
_LOG_KEYS = {
    "version", "disable_existing_loggers", "root", "formatters", "handlers", "loggers", "level",
    "format", "datefmt", "class", "()", "formatter", "stream", "filename", "propagate",
    "log_colors",
}  # fmt: skip
_LOG_OBJECTS = {
    "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
    "colorlog.ColoredFormatter", "ext://sys.stdout", "ext://sys.stderr",
}  # fmt: skip


def check_search_path(overrides: list[str], primary: Any) -> None:
    """Before the composition, which would import the packages of a search path.

    `primary` is the file that the composition begins with: no other may set the search path.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if "searchpath" in key and not re.fullmatch(r"[^:]*(file:[^:]*)*", value):
            raise _refusal(override, "configs are found in directories, file://DIRECTORY")
    raw: Any = OmegaConf.to_container(primary) if OmegaConf.is_dict(primary) else {}
    hydra = raw.get("hydra")
    paths = hydra.get("searchpath") if isinstance(hydra, dict) else hydra
    for path in paths if isinstance(paths, list) else [] if paths is None else [paths]:
        _check_directory(path)


def check_hydra(composed: DictConfig, given: Collection[str]) -> None:
    """Raises `UserError` where a composed config would have something imported, run or written.

    `given` are the overrides of the command line, whose user may name any directory.
    """
    try:
        for path, _ in [*_leaves(OmegaConf.to_container(composed)), *_leaves(composed)]:
            is_plugin = path[:1] + path[2:] == ("hydra", "_target_") and path[1] in _PLUGINS
            if not is_plugin and not _OBJECTS.isdisjoint(path):
                raise _refusal(".".join(path), "an experiment has plain values only")
    except RecursionError:
        raise UserError("${…}: a key has itself as its value.") from None
    config: Any = OmegaConf.to_container(composed.hydra)
    _check_job(config)
    _check_given(config["overrides"], given)
    for name in _PLUGINS:
        _check_plugin(name, config[name], given)
    for name in ("job_logging", "hydra_logging"):
        _check_logging(name, config[name])


def _check_job(hydra: Mapping[str, Any]) -> None:
    """What Hydra does by itself for each job."""
    from hydra.conf import HydraConf

    if odd := hydra.keys() - {"env", *(item.name for item in fields(HydraConf))}:
        raise UserError(f"hydra.{min(odd)}: no such key.")
    if elsewhere := [f"{k}={v}" for k, v in hydra.items() if isinstance(v, str) and "${" in v]:
        raise _refusal(f"hydra.{elsewhere[0]}", "the keys of hydra have values of their own")
    if names := hydra["job"]["env_set"]:
        raise UserError(
            f"hydra.job.env_set: a config cannot set {', '.join(names)} in the environment, where "
            "it could make other programs run anything; set it in the shell."
        )
    if hydra["callbacks"]:
        raise _refusal(f"hydra.callbacks={hydra['callbacks']}", "there are none")
    for path in hydra["searchpath"]:
        _check_directory(path)
    name = hydra["job"]["name"]
    if name is not None and (not re.fullmatch(r"[\w .+-]+", name) or not name.strip(" .")):
        raise UserError(f"hydra.job.name={name}: must be a plain name, without a directory.")
    _check_subdir("hydra.output_subdir", hydra["output_subdir"])


def _check_subdir(key: str, value: Any) -> None:
    """Of the configs of a job, which would take the place of another program's."""
    if value not in (None, ".hydra"):
        raise UserError(f"{key}={value}: must be .hydra or null.")


def _check_given(overrides: Mapping[str, Any], given: Collection[str]) -> None:
    """Hydra composes the jobs of a sweep with the overrides that it finds in the config."""
    for name in ("hydra", "task"):
        for text in overrides[name] if isinstance(overrides[name], list) else [overrides[name]]:
            if text not in given:
                raise UserError(
                    f"hydra.overrides.{name}={text}: a config has no overrides; give them on the "
                    "command line."
                )


def _is_given(key: str, given: Collection[str]) -> bool:
    return any(text.partition("=")[0].lstrip("+") == key for text in given)


def check_directories(composed: DictConfig, given: Collection[str]) -> None:
    """Where Hydra writes: below the current directory, if it is a file that says where.

    What the values of `composed` leave open cannot be told yet.
    """
    for section, name in (("run", "dir"), ("sweep", "dir"), ("sweep", "subdir")):
        key, value = f"hydra.{section}.{name}", _value(composed.hydra[section], name)
        path = Path(str(value or ""))
        if name == "subdir" and (path.is_absolute() or ".." in path.parts):
            raise UserError(f"{key}={value}: must be a directory below that of the sweep.")
        is_below = ".." not in path.parts and (Path.cwd() / path).is_relative_to(Path.cwd())
        if not is_below and not _is_given(key, given):
            raise UserError(
                f"{key}={value}: must be below the current directory where a file says it; give "
                "another directory on the command line."
            )


def _check_directory(path: Any) -> None:
    if not str(path).startswith("file://"):
        raise _refusal(
            f"hydra.searchpath={path}", "configs are found in directories, file://DIRECTORY"
        )


def _check_plugin(name: str, config: Any, given: Collection[str]) -> None:
    """A launcher or a sweeper: one that is installed, and plain values.

    A launcher writes to directories of its own, which no file may put elsewhere.
    """
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher
    from hydra.plugins.sweeper import Sweeper

    kinds: dict[str, Any] = {"launcher": Launcher, "sweeper": Sweeper}
    found = Plugins.instance().discover(kinds[name])
    installed = {f"{plugin.__module__}.{plugin.__qualname__}" for plugin in found}
    for path, value in _leaves(config, ("hydra", name)):
        shown = f"{'.'.join(path)}={value}"
        if path[2:] == ("_target_",):
            if value not in installed or not value.startswith(_PLUGINS[name]):
                raise _refusal(shown, f"hydra/{name} takes a plugin")
        elif "${" in re.sub(_TEXT, "", str(value)):
            raise _refusal(shown, f"the keys of hydra/{name} have values of their own")
        elif path[2:3] == ("params",) and path[-1].lstrip("+~").startswith("hydra"):
            raise _refusal(shown, "a sweep is over the keys of an experiment")
        elif (value and not _SHELL.isdisjoint(path[2:3])) or not str(value).isprintable():
            raise UserError(f"{shown}: would be run in a shell; set it there.")
        if path[1:] == ("launcher", "output_subdir"):
            _check_subdir(".".join(path), value)
        leads_elsewhere = name == "launcher" and re.match(r"[/~]|.*\.\.", str(value))
        if leads_elsewhere and not _is_given(".".join(path), given):
            raise UserError(f"{shown}: a path elsewhere; give it on the command line.")


def _check_logging(name: str, config: Any) -> None:
    """The terminal, or Hydra's own file in Hydra's own words."""
    leaves = list(_leaves(config, ("hydra", name)))
    to_file = any(path[-1] == "filename" for path, _ in leaves)
    for path, value in leaves:
        text, key = str(value), path[-1]
        names = set(path[2:3] + path[4:])  # that between them is the user's own
        is_plain = "${" not in text and "://" not in text and names <= _LOG_KEYS
        if key in ("class", "()", "stream"):
            is_plain = text in _LOG_OBJECTS
        elif key == "filename":
            is_plain = text == _LOG_FILE and name == "job_logging"
        elif key in ("format", "datefmt") and to_file:
            is_plain = text in _LOG_FORMATS
        if not is_plain:
            raise _refusal(
                f"{'.'.join(path)}={value}",
                "logging takes StreamHandler and formats, and Hydra's own file without them",
            )


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a config with their paths; those of a list have the path of the list.

    Of a `DictConfig` they are resolved, but for those that cannot be yet.
    """
    if isinstance(node, dict | DictConfig) and node:
        for name in node:
            yield from _leaves(_value(node, name), (*path, str(name)))
    elif isinstance(node, list | ListConfig) and node:
        for index in range(len(node)):
            yield from _leaves(_value(node, index), path)
    else:
        yield path, node


def _value(node: Any, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:  # nothing that exists, or exists yet
        return None


def _refusal(what: str, allowed: str) -> UserError:
    return UserError(f"{what}: a config cannot name what is to be imported; {allowed}.")


def check_overrides(overrides: list[str]) -> None:
    """Refuses what Hydra has no clear words for: no key, and keys below a value."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if not key:
            raise UserError(f"{override}: lacks a key; write KEY=VALUE or GROUP=CHOICE.")
        for dot in re.finditer(r"\.", key):
            item = find_field(above := key[: dot.start()])
            if item is not None and not is_dataclass(item.type):
                raise UserError(f"{override}: {above} has no keys; it must be {describe(item)}.")


def explain(error: Exception, overrides: list[str]) -> UserError:
    """What Hydra or OmegaConf found wrong, as the key, the value and what is allowed."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return UserError(
            f"{error.override}: not an override; write KEY=VALUE or GROUP=CHOICE, and put a value "
            "with special characters in quotes."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [name for name in error.options or [] if "/" not in name]
        allowed = f" {group} is one of {', '.join(options)}." if options else ""
        return UserError(
            f"{group or '--config-name'}={choice}: no such choice."
            f"{nearest(OTHER_NAMES.get(choice, choice), options)}{allowed}"
        )
    message = " ".join(re.sub(r"\n +full_key: .*", "", str(error), flags=re.DOTALL).split())
    where = match[0] if (match := re.match(r"In '[^']+': ", message)) else ""
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            path, reason = cause.full_key.partition("[")[0], str(cause.msg).splitlines()[0]
            given = [text for text in overrides if text.partition("=")[0].lstrip("+~") == path]
            if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
                value = "".join(given[-1].partition("=")[1:]) if given else ""
                return unknown_key(where, path, cause.object_type, value)
            if not given:  # it stands in a file
                found = re.search(r"alue:? '?(.*?)'?( of type.*| is not .*)?$", reason)
                given = [f"{path}={found[1]}" if found else path]
            item = find_field(path)
            why = f"must be {describe(item)}" if item else reason.rstrip(".")
            return UserError(f"{where}{given[-1]}: {why}.")
    if append := re.search(r"To append to your default list use \+([^@\s]+)$", message):
        return UserError(f"{append[1]}: is not in the defaults; write +{append[1]}.")
    if re.search(
        "^Config group override must|^Multiple values for|appears more than once", message
    ):
        message = (
            "a group takes one of its choices: GROUP=CHOICE, with + only where it has none yet."
        )
    if re.search("^Unexpected type for root: NoneType|^'NoneType' object has no", message):
        message = "a key stands below one that is null; give that one whole, +KEY={NAME: VALUE}."
    return UserError(f"{' '.join(overrides)}: {message}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
