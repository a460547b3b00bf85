"""The frame of the commands: Hydra composes a config, and a mistake becomes one line."""

import argparse
import gc
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mlp_jax import config
from mlp_jax.config import Experiment
from mlp_jax.errors import RunError, UserError
from mlp_jax.mistakes import check_overrides, explain
from mlp_jax.store import redacted

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
    130: stopped by Ctrl-C or SIGTERM.
    HYDRA_FULL_ERROR=1 in the environment shows the traceback of every error.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a run as Ctrl-C does
    gc.set_threshold(100_000)  # the imports allocate much and free little
    try:
        arguments = _parse_arguments()
        if arguments.help:
            lines = "\n".join(
                f"    {what}:\n        python -m {module} {line}" for line, what in examples
            )
            groups = _choices(arguments.config_dir)
            print(_HELP.format(summary=summary, module=module, examples=lines, groups=groups))
            return
        config.register_schema()
        _check(arguments)
        _run_in_hydra(run)
    except (UserError, RunError) as error:
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        _exit(error)
    except KeyboardInterrupt:
        print("\nstopped; a run that was open is marked KILLED", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()  # nor need the interpreter search it all once more before it exits


def compose(overrides: list[str]) -> Experiment:
    """The experiment that a command line would run: `compose(["+exp=xor", "seed=1"])`."""
    import hydra

    config.register_schema()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return config.to_experiment(hydra.compose("config", overrides))


def _exit(error: Exception) -> NoReturn:
    """At most two lines, whatever characters a value had."""
    lines = str(error).split("\n", maxsplit=1)
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]
    print(f"error: {chr(10).join(shown)}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 1)


def _parse_arguments() -> argparse.Namespace:
    """Hydra's options and the overrides."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help and --hydra-help.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_args()
    if arguments.experimental_rerun is not None:
        raise UserError("--experimental-rerun: would read a pickle, which can run any code.")
    if arguments.config_path is not None:
        raise UserError("--config-path: is fixed; add configs of your own with --config-dir.")
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir={arguments.config_dir}: is not a directory.")
    return arguments


def _choices(config_dir: str | None) -> str:
    """The groups below `conf` and below the `--config-dir` of the command line."""
    groups: dict[str, set[str]] = {}
    for root in (CONF, *([Path(config_dir)] if config_dir else [])):
        for file in root.glob("*/*.yaml"):
            groups.setdefault(file.parent.name, set()).add(file.stem)
    width = max(map(len, groups))
    return "\n".join(
        textwrap.fill(
            f"    {name:{width + 1}}  {', '.join(sorted(choices))}",
            width=90,
            subsequent_indent=" " * (width + 7),
        )
        for group, choices in sorted(groups.items())
        for name in ["+exp" if group == "exp" else group]
    )


def _check(arguments: argparse.Namespace) -> None:
    """Composes and validates every job before Hydra creates a directory or starts the first."""
    import hydra
    from omegaconf import OmegaConf

    search_path = []
    if arguments.config_dir is not None:
        folder = str(Path(arguments.config_dir).resolve()).replace("'", r"\'")
        search_path = [f"hydra.searchpath=['file://{folder}']"]
    if arguments.multirun:
        _check_secrets(arguments.overrides)
    # What is only shown may still lack values.
    is_run = not (arguments.cfg or arguments.info or arguments.hydra_help)
    given = overrides = [] if arguments.shell_completion else arguments.overrides
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            for overrides in _jobs(given, arguments.multirun):
                check_overrides(overrides)
                composed = hydra.compose(arguments.config_name or "config", overrides + search_path)
                # A value that Hydra gives at run time is checked then.
                if is_run and "${hydra:" not in OmegaConf.to_yaml(composed):
                    config.to_experiment(composed)
    except UserError as error:
        if not arguments.multirun:
            raise
        raise UserError(f"{error} (In the job {' '.join(overrides)}.)") from error
    except Exception as error:
        raise explain(error, overrides) from error


def _check_secrets(overrides: list[str]) -> None:
    """Refuses a password among the overrides of a sweep, which Hydra writes to multirun.yaml."""
    for override in overrides:
        if override.lstrip("+").startswith("tracking.uri=") and redacted(override) != override:
            raise UserError(
                "tracking.uri: a sweep writes its overrides to multirun.yaml; keep the password "
                "out of it and set $MLFLOW_TRACKING_URI instead."
            )


def _jobs(overrides: list[str], multirun: bool) -> list[list[str]]:
    """The overrides of each job."""
    if not multirun:
        return [overrides]
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    return BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)[0]


def _run_in_hydra(run: Callable[[Experiment], None]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import env_override
    from hydra.types import RunMode

    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    has_started = False

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def job(composed: Any) -> None:
        nonlocal has_started
        has_started = True
        try:
            run(config.to_experiment(composed))
        except (UserError, RunError) as error:
            if wants_traceback or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # of a sweep, Hydra names the overrides of the job
            _exit(error)

    try:
        with env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra raises what is told here
            job()
    except (UserError, RunError):
        raise
    except Exception as error:
        if has_started:
            raise
        raise explain(error, sys.argv[1:]) from error
