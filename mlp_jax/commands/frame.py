"""The frame of the commands: Hydra composes a config, and a mistake becomes one line."""

import argparse
import gc
import io
import os
import re
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from mlp_jax.commands.output import outlast
from mlp_jax.config import guard
from mlp_jax.config.checks import meant_key, to_experiment
from mlp_jax.config.compose import (
    Composer,
    Job,
    experiment,
    fix_time,
    load,
    open_hydra,
)  # fmt: skip
from mlp_jax.config.schema import CONF, Experiment
from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.experiment import machine

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.config_loader import ConfigLoader
    from hydra.types import HydraContext
    from omegaconf import DictConfig

_HELP = """\
{summary}

    python -m {module} +exp=EXPERIMENT [KEY=VALUE …]

Examples:
{examples}

Groups and their choices (GROUP=CHOICE; defaults in conf/config.yaml):
{groups}

{of_runs}Options:
    --cfg job           print the composed config and stop; it lists every key
    --config-dir DIR    find experiments and choices of your own in DIR: DIR/exp/own.yaml, +exp=own
    -m, --multirun      a sweep: every combination of the values, trained together:
                        -m 'seed=range(100)' optimizer.learning_rate=0.1,1
                        hydra/sweeper=random, latin_hypercube or optuna search instead:
                        -m hydra/sweeper=random 'optimizer.learning_rate=interval(0.1,10)'
                        hydra/launcher=basic (joblib …) trains job by job
    --version           of this package
    --hydra-help        Hydra's own options
"""


class OfRun(NamedTuple):
    """What `NAME=RUN` does with a run that was made, in words and as a function.

    The function gets the run's directory or id and the other overrides.
    """

    words: str
    do: Callable[[str, list[str]], Any]


class Command(NamedTuple):
    """A command that composes an experiment: what it does, and what its --help says.

    `loss` is the number that a search minimises, of what `run` returns. `NAME=RUN` calls the
    function of that name in `of_runs` instead. `open_sweep` is of a command that can train the
    jobs of a sweep together: it makes its `Sweep`, from the first of them.
    """

    module: str
    summary: str
    examples: Sequence[tuple[str, str]]
    run: Callable[[Experiment], Any]
    loss: Callable[[Any], float | None] = lambda result: None
    open_sweep: Callable[[Sequence[Job]], Any] | None = None
    of_runs: Mapping[str, OfRun] = {}


def main(command: Command, arguments: Sequence[str] | None = None) -> None:
    """Does what the command line asks for, without arguments the help; the exit status says how.

    0: done. 1: the run failed. 2: a mistake in what was asked for; nothing was written.
    130: stopped by Ctrl-C or SIGTERM.
    HYDRA_FULL_ERROR=1 in the environment shows the traceback of every error.
    """
    outlast()
    _shield()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a run as Ctrl-C does
    gc.set_threshold(100_000)  # the imports allocate much and free little
    try:
        call(command, (sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except (UserError, RunError) as error:
        if "HYDRA_FULL_ERROR" in os.environ:
            raise
        _exit(error)
    except KeyboardInterrupt as error:
        print(f"\n{error}" if error.args else "\nstopped before the run began", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # at once: a compiler that is still at work does not survive an orderly end
    finally:
        gc.freeze()  # nor need the interpreter search it all once more before it exits


def _exit(error: Exception) -> NoReturn:
    """At most two lines, whatever characters a value had, without a password."""
    lines = redacted(str(error)).split("\n", maxsplit=1)
    shown = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines]
    print(f"error: {chr(10).join(shown)}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 1)


def _shield() -> None:
    """No setting that is meant for other programs ends a run: figures go to files, and what a
    library warns of, as several do that the user did not choose, is no error here.
    """
    os.environ["MPLBACKEND"] = "agg"
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.simplefilter("ignore")


def version() -> str:
    """Of the package."""
    return f"mlp_jax {machine.version('mlp_jax')}"


def call(command: Command, arguments: Sequence[str]) -> Any:
    """Does what the arguments ask for and returns what it came to. Raises `UserError` and so on."""
    if "--version" in arguments:
        print(version())
        return None
    parser, options = _parse(arguments)
    if options.help:
        print(_help(command, options.config_dir))
        return None
    if of_run := _of_run(options, command.of_runs):
        machine.keep_programs()
        return of_run()
    task = _TaskOfMany(command) if command.open_sweep else _Task(command)
    try:
        with open_hydra(options.config_dir, command.module.rpartition(".")[2]) as hydra:
            if options.cfg or options.info or options.hydra_help or options.shell_completion:
                return _show(options, hydra, parser)
            return _start(task, options, hydra.config_loader)
    except (UserError, RunError):
        raise
    except Exception as error:
        if task.has_started:
            raise
        raise guard.explain(error, options.overrides) from error


class _Task:
    """What Hydra calls for a job."""

    def __init__(self, command: Command) -> None:
        self.command, self.has_started = command, False
        self.experiment: Experiment | None = None

    def __call__(self, composed: "DictConfig") -> Any:
        self.has_started = True
        if self.experiment is not None:  # of a single run, checked before
            return self.command.run(self.experiment)
        return self.command.loss(self.command.run(to_experiment(composed)))


class _TaskOfMany(_Task):
    """Of a command that trains the jobs of a sweep together, as our launcher asks for."""

    def open_sweep(self, jobs: Sequence[Job]) -> Any:
        self.has_started = True
        assert self.command.open_sweep is not None
        return self.command.open_sweep(jobs)


def _start(task: _Task, options: argparse.Namespace, loader: "ConfigLoader") -> Any:
    from hydra._internal.callbacks import Callbacks
    from hydra.types import HydraContext, RunMode

    overrides = [*options.overrides, *(["hydra.mode=MULTIRUN"] if options.multirun else [])]
    is_sweep = any(re.fullmatch(r"\+*hydra\.mode=MULTIRUN", text) for text in overrides)
    if is_sweep:
        _check_secrets(overrides)
    composed = load(loader, overrides, options.config_name or "config", is_sweep)
    machine.keep_programs()
    context = HydraContext(loader, Callbacks())
    if composed.hydra.mode == RunMode.MULTIRUN:
        return _sweep(task, composed, context)
    composed.hydra.mode = RunMode.RUN
    return _run(task, composed, context)


def _run(task: _Task, composed: "DictConfig", context: "HydraContext") -> Any:
    """Runs the experiment as a job of Hydra: in its directory and with its logging."""
    from hydra.core.utils import JobStatus, run_job

    composed.hydra.runtime.output_dir = str(Path(composed.hydra.run.dir).absolute())
    task.experiment = experiment(composed)
    logs = composed.hydra.job_logging.get("root") is not None  # else those of the caller stay
    ended = run_job(task, composed, "hydra.run.dir", None, context, configure_logging=logs)
    if ended.status == JobStatus.FAILED:
        raise ended._return_value
    return ended.return_value


def _sweep(task: _Task, master: "DictConfig", context: "HydraContext") -> Any:
    """Has the sweeper make the jobs of what they have in common, and the launcher run them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    fix_time(master)
    loader, overrides = context.config_loader, [*master.hydra.overrides.task]
    if master.hydra.sweeper._target_ == BasicSweeperConf._target_:  # which checks no job
        composer, parser = Composer.of(loader, master), OverridesParser.create(loader)
        given = [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
        parsed = parser.parse_overrides([*given, *overrides])
        for index, texts in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
            composer.job(index, texts)
    sweeper = Plugins.instance().instantiate_sweeper(
        hydra_context=context, task_function=task, config=master
    )
    return [job for batch in sweeper.sweep(arguments=overrides) or [] for job in batch]


def _show(options: argparse.Namespace, hydra: "Hydra", parser: argparse.ArgumentParser) -> None:
    """What Hydra shows of a config or of itself, but no password of a store."""
    name, overrides = options.config_name or "config", options.overrides
    if options.multirun:
        raise UserError("--multirun: runs a sweep; --cfg, --info and --hydra-help only show.")
    composed = load(hydra.config_loader, [] if options.shell_completion else overrides, name)
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            if options.cfg:
                hydra.show_cfg(name, overrides, options.cfg, options.package, options.resolve)
            elif options.info:
                hydra.show_info(options.info, name, overrides)
            elif options.hydra_help:
                hydra.hydra_help(name, parser, options)
            else:
                hydra.shell_completion(name, overrides)
    finally:
        text = redacted(shown.getvalue())
        print(_with_help(text, composed) if options.cfg == "job" else text, end="")


def _with_help(text: str, composed: "DictConfig") -> str:
    """A config in YAML with what each key is for."""
    from omegaconf import OmegaConf

    helps = {
        f"{section}.{item.name}".removeprefix("."): item.metadata["help"]
        for section in ["", *map(str, composed)]
        if is_dataclass(schema := OmegaConf.get_type(composed, section or None))
        for item in fields(schema)
        if item.metadata.get("help")
    }
    lines, path = text.splitlines(), [""]
    for index, line in enumerate(lines):
        if match := re.match(r"((?:  )?)(\w+):(.*)", line):
            path[len(match[1]) // 2 :] = [match[2]]
            below = lines[index + 1] if index + 1 < len(lines) else ""
            goes_on = match[3] and below.startswith(f"{match[1]}  ")
            if not goes_on and (help := helps.get(".".join(path))):
                lines[index] = f"{line:31} # {help}"
    return "".join(f"{line}\n" for line in lines)


def _check_secrets(overrides: list[str]) -> None:
    """Refuses a password among the overrides of a sweep, which Hydra writes to multirun.yaml."""
    for override in overrides:
        if override.lstrip("+").startswith("tracking.uri=") and redacted(override) != override:
            raise UserError(
                "tracking.uri: a sweep writes its overrides to multirun.yaml; keep the password "
                "out of it and set $MLFLOW_TRACKING_URI instead."
            )


# --- options and help --------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Hydra's options and the overrides."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help and --hydra-help.")

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = refuse  # type: ignore[method-assign]
    options, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise _no_option(unknown[0], arguments)
    if options.experimental_rerun is not None:
        raise UserError("--experimental-rerun: would read a pickle, which can run any code.")
    if options.config_path is not None:
        raise UserError("--config-path: is fixed; add configs of your own with --config-dir.")
    if options.config_dir is not None and not _is_directory(options.config_dir):
        raise UserError(f"--config-dir={options.config_dir}: is not a directory.")
    if options.resolve and not options.cfg:
        raise UserError("--resolve: goes with --cfg.")
    return parser, options


def _no_option(option: str, arguments: Sequence[str]) -> UserError:
    """With the override that may be meant by --KEY VALUE or --KEY=VALUE."""
    name, _, value = option.partition("=")
    following = arguments[arguments.index(option) + 1 :][:1]
    value = value or "".join(text for text in following if "=" not in text)
    hint = meant_key(name.lstrip("-").replace("-", "_"), f"={value}" if value else "")
    return UserError(f"unrecognized arguments: {option}; see --help and --hydra-help.{hint}")


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # out of reach, or longer than a name may be
        return False


def _of_run(options: argparse.Namespace, of_runs: Mapping[str, OfRun]) -> Callable[[], Any] | None:
    """What to do instead of composing a config, where an override names a run."""
    named = [text for text in options.overrides if text.partition("=")[0] in of_runs]
    if not named:
        return None
    asks_hydra = options.multirun or options.cfg or options.info or options.hydra_help
    if len(named) > 1 or asks_hydra:
        raise UserError(f"{' '.join(named)}: takes one run, and no -m, --cfg or --info.")
    name, _, value = named[0].partition("=")
    if not value:
        raise UserError(f"{name}=: give the directory of a run or its id, {name}=RUN.")
    others = [text for text in options.overrides if text != named[0]]
    return lambda: of_runs[name].do(value, others)


def _help(command: Command, config_dir: str | None) -> str:
    lines = [f"    {what}:\n        python -m {command.module} {line}"
             for line, what in command.examples]  # fmt: skip
    of_runs = "".join(f"    {name + '=RUN':20}{of.words}\n" for name, of in command.of_runs.items())
    title = "With a run that was made; RUN is its directory or its id:"
    return _HELP.format(
        summary=command.summary,
        module=command.module,
        examples="\n".join(lines),
        groups=_choices(config_dir),
        of_runs=f"{title}\n{of_runs}\n" if of_runs else "",
    )


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
