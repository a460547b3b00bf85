"""The frame of the commands: Hydra composes a config, and a mistake becomes a line or two."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from mlp_jax import config
from mlp_jax.config import Experiment
from mlp_jax.errors import RunError, UserError

_HERE = Path(__file__).parent
CONF = _HERE / "conf" if (_HERE / "conf").exists() else _HERE.parent / "conf"
"""In the package where it was installed from a wheel, beside it in a checkout."""

_HELP = """\
{summary}

    python -m {module} +exp=EXPERIMENT [KEY=VALUE …]

Examples:
{examples}

Groups and their choices (GROUP=CHOICE; defaults in conf/config.yaml):
{groups}

Options:
    --cfg job           print the composed config and stop; it lists every key
    --config-dir DIR    find experiments and choices of your own in DIR: DIR/exp/own.yaml, +exp=own
    -m, --multirun      run every combination of comma-separated values: -m seed=0,1,2
    --hydra-help        Hydra's own options
"""


def run_command(
    run: Callable[[Experiment], None], module: str, summary: str, examples: list[tuple[str, str]]
) -> None:
    """Composes the config that the command line asks for and runs it; the exit status says how.

    0: done. 1: the run failed. 2: a mistake in what was asked for; nothing was written.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        lines = "\n".join(f"    python -m {module} {line:44}# {what}" for line, what in examples)
        print(_HELP.format(summary=summary, module=module, examples=lines, groups=_choices()))
        return
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config.register_schema()
    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what is told here in its place

    has_started = False

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(composed: Any) -> None:
        nonlocal has_started
        has_started = True
        try:
            run(config.to_experiment(composed))
        except (UserError, RunError) as error:
            if wants_traceback or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            _exit(error)

    try:
        job()
    except Exception as error:
        if wants_traceback or (has_started and not isinstance(error, (UserError, RunError))):
            raise
        _exit(error if isinstance(error, (UserError, RunError)) else explain(error))


def compose(overrides: list[str]) -> Experiment:
    """The experiment that a command line would run: `compose(["+exp=xor", "seed=1"])`."""
    import hydra

    config.register_schema()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return config.to_experiment(hydra.compose("config", overrides))


def _exit(error: Exception) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 1)


def _choices() -> str:
    """The groups below `conf` and below the `--config-dir` of the command line."""
    roots = [CONF]
    for position, argument in enumerate(sys.argv):
        if argument in ("--config-dir", "-cd"):
            roots += [Path(folder) for folder in sys.argv[position + 1 : position + 2]]
        elif argument.startswith("--config-dir="):
            roots.append(Path(argument.partition("=")[2]))
    groups: dict[str, list[str]] = {}
    for root in roots:
        for file in sorted(root.glob("*/*.yaml")):
            groups.setdefault(file.parent.name, []).append(file.stem)
    width = max(map(len, groups))
    return "\n".join(
        f"    {('+' if group == 'exp' else '') + group:{width + 1}}  {', '.join(names)}"
        for group, names in groups.items()
    )


def explain(error: Exception) -> UserError:
    """What Hydra or OmegaConf found wrong, as the key, the value and what is allowed."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

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
            f"{group}={choice}: no such choice.{config.nearest(choice, options)}{allowed}"
        )
    message, cause = " ".join(str(error).split()), error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if append := re.search(r"To append to your default list use (\S+)", message):
        return UserError(f"{append[1][1:]}: is not in the defaults; write {append[1]}.")
    where = message.split(":")[0] + ": " if message.startswith("In ") else ""
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if isinstance(cause, (ConfigKeyError, AttributeError)) and is_dataclass(cause.object_type):
            return config.unknown_key(where, cause.full_key, cause.object_type)
        allowed = config.allowed_text(cause.object_type, cause.full_key)
        given = next((a for a in sys.argv if a.startswith(f"{cause.full_key}=")), cause.full_key)
        reason = str(cause.msg).splitlines()[0].rstrip(".")
        return UserError(f"{where}{given}: {reason}{allowed and '; must be ' + allowed}.")
    return UserError(message)
