"""What Hydra and OmegaConf find wrong in overrides and files, in words for the user."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass

from mlp_jax.config import schema as config
from mlp_jax.errors import UserError, nearest


def check_overrides(overrides: list[str]) -> None:
    """Refuses what Hydra has no clear words for: no key, and keys below a value."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if not key:
            raise UserError(f"{override}: lacks a key; write KEY=VALUE or GROUP=CHOICE.")
        for dot in re.finditer(r"\.", key):
            item = config.find_field(above := key[: dot.start()])
            if item is not None and not is_dataclass(item.type):
                raise UserError(
                    f"{override}: {above} has no keys; it must be {config.describe(item)}."
                )


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
            f"{nearest(choice, options)}{allowed}"
        )
    message = " ".join(re.sub(r"\n +full_key: .*", "", str(error), flags=re.DOTALL).split())
    where = match[0] if (match := re.match(r"In '[^']+': ", message)) else ""
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            path, reason = cause.full_key.partition("[")[0], str(cause.msg).splitlines()[0]
            if isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
                return config.unknown_key(where, path, cause.object_type)
            given = [text for text in overrides if text.partition("=")[0].lstrip("+~") == path]
            if not given:  # it stands in a file
                value = re.search(r"alue:? '?(.*?)'?( of type.*| is not .*)?$", reason)
                given = [f"{path}={value[1]}" if value else path]
            item = config.find_field(path)
            why = f"must be {config.describe(item)}" if item else reason.rstrip(".")
            return UserError(f"{where}{given[-1]}: {why}.")
    if append := re.search(r"To append to your default list use \+([^@\s]+)$", message):
        return UserError(f"{append[1]}: is not in the defaults; write +{append[1]}.")
    if re.search(
        "^Config group override must|^Multiple values for|appears more than once", message
    ):
        message = (
            "a group takes one of its choices: GROUP=CHOICE, with + only where it has none yet."
        )
    return UserError(f"{' '.join(overrides)}: {message}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
