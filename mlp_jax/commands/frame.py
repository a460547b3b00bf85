"""The frame of the commands: Hydra composes a config, and a mistake becomes one line."""

import argparse
import gc
import io
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mlp_jax.config import guard as trust
from mlp_jax.config import schema as config
from mlp_jax.config.mistakes import check_overrides, explain
from mlp_jax.config.schema import Experiment
from mlp_jax.errors import RunError, UserError, redacted
from mlp_jax.experiment import compiled
from mlp_jax.sweep.jobs import Composer, Job

_HERE = Path(__file__).parents[1]
CONF = _HERE / "conf" if (_HERE / "conf").exists() else _HERE.parent / "conf"
"""In the package where it was installed from a wheel, beside it in a checkout."""

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
    --hydra-help        Hydra's own options
"""


class OfRun(NamedTuple):
    """What `NAME=RUN` does with a run that was made, in words and as a function.

    The function gets the run's directory or id and the other overrides.
    """

    words: str
    do: Callable[[str, list[str]], None]


def run_command(
    run: Callable[[Experiment], Any],
    module: str,
    summary: str,
    examples: list[tuple[str, str]],
    of_runs: Mapping[str, OfRun] | None = None,
    open_sweep: Callable[[Sequence[Job]], Any] | None = None,
) -> None:
    """Composes the config that the command line asks for and runs it; the exit status says how.

    `NAME=RUN` calls the function of that name in `of_runs` instead. What `run` returns, of a
    sweep's job, is the number that a search minimises. `open_sweep` gives a command that can train
    the jobs of a sweep together its `Sweep`, from the first of them.

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
            values = {"summary": summary, "module": module, "examples": lines}
            print(_HELP.format(**values, groups=groups, of_runs=_help_of(of_runs or {})))
            return
        if of_run := _of_run(arguments, of_runs or {}):
            compiled.keep()
            of_run()
            return
        config.register_schema()
        _check(arguments)
        compiled.keep()
        with _without_passwords() if arguments.cfg or arguments.info else nullcontext():
            _run_in_hydra(run, module, open_sweep)
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


@contextmanager
def _without_passwords() -> Iterator[None]:
    """Prints what is printed meanwhile, but no password of a store."""
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            yield
    finally:
        print(redacted(shown.getvalue()), end="")


def compose(overrides: list[str]) -> Experiment:
    """The experiment that a command line would run: `compose(["+exp=xor", "seed=1"])`."""
    import hydra

    config.register_schema()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return config.to_experiment(hydra.compose("config", overrides))


def _exit(error: Exception) -> NoReturn:
    """At most two lines, whatever characters a value had, without a password."""
    lines = redacted(str(error)).split("\n", maxsplit=1)
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
    if arguments.config_dir is not None and not _is_directory(arguments.config_dir):
        raise UserError(f"--config-dir={arguments.config_dir}: is not a directory.")
    return arguments


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # out of reach, or longer than a name may be
        return False


def _of_run(
    arguments: argparse.Namespace, of_runs: Mapping[str, OfRun]
) -> Callable[[], None] | None:
    """What to do instead of composing a config, where an override names a run."""
    named = [text for text in arguments.overrides if text.partition("=")[0] in of_runs]
    if not named:
        return None
    asks_hydra = arguments.multirun or arguments.cfg or arguments.info or arguments.hydra_help
    if len(named) > 1 or asks_hydra:
        raise UserError(f"{' '.join(named)}: takes one run, and no -m, --cfg or --info.")
    name, _, value = named[0].partition("=")
    if not value:
        raise UserError(f"{name}=: give the directory of a run or its id, {name}=RUN.")
    others = [text for text in arguments.overrides if text != named[0]]
    return lambda: of_runs[name].do(value, others)


def _help_of(of_runs: Mapping[str, OfRun]) -> str:
    lines = "".join(f"    {name + '=RUN':20}{words}\n" for name, (words, _) in of_runs.items())
    title = "With a run that was made; RUN is its directory or its id:"
    return f"{title}\n{lines}\n" if of_runs else ""


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
    """Composes and validates what is asked for before Hydra creates a directory or starts it."""
    import hydra

    search_path = []
    if arguments.config_dir is not None:
        folder = str(Path(arguments.config_dir).resolve()).replace("'", r"\'")
        search_path = [f"hydra.searchpath=['file://{folder}']"]
    given = [] if arguments.shell_completion else arguments.overrides
    # What is only shown may still lack values.
    is_run = not (arguments.cfg or arguments.info or arguments.hydra_help)
    name = arguments.config_name or "config"
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            check_overrides(given)
            trust.check_search_path(given)
            if arguments.multirun:
                _check_secrets(given)
                _check_sweep(name, given + search_path)
            else:
                _check_job(name, given + search_path, is_run)
    except UserError:
        raise
    except Exception as error:
        raise explain(error, given) from error


def _check_job(name: str, overrides: list[str], is_run: bool) -> None:
    import hydra
    from omegaconf import OmegaConf, flag_override

    composed = hydra.compose(name, overrides, return_hydra_config=True)
    trust.check_hydra(composed.hydra)
    with flag_override(composed, ["struct", "readonly"], False):
        del composed["hydra"]
    # A value that Hydra gives at run time is checked then.
    if is_run and "${hydra:" not in OmegaConf.to_yaml(composed):
        config.to_experiment(composed)


def _check_sweep(name: str, overrides: list[str]) -> None:
    """What a sweep's jobs have in common; and every job, where the sweeper does not check them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    common = loader.load_configuration(name, overrides, RunMode.MULTIRUN)
    trust.check_hydra(common.hydra)
    if common.hydra.sweeper._target_ == BasicSweeperConf._target_:
        composer = Composer.of(loader, common)
        parsed = OverridesParser.create(loader).parse_overrides([*common.hydra.overrides.task])
        for index, job in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
            composer.job(index, job)


def _check_secrets(overrides: list[str]) -> None:
    """Refuses a password among the overrides of a sweep, which Hydra writes to multirun.yaml."""
    for override in overrides:
        if override.lstrip("+").startswith("tracking.uri=") and redacted(override) != override:
            raise UserError(
                "tracking.uri: a sweep writes its overrides to multirun.yaml; keep the password "
                "out of it and set $MLFLOW_TRACKING_URI instead."
            )


def _run_in_hydra(
    run: Callable[[Experiment], Any], module: str, open_sweep: Callable[[Sequence[Job]], Any] | None
) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import env_override
    from hydra.types import RunMode

    wants_traceback = "HYDRA_FULL_ERROR" in os.environ
    has_started = False

    def job(composed: Any) -> Any:
        nonlocal has_started
        has_started = True
        try:
            return run(config.to_experiment(composed))
        except (UserError, RunError) as error:
            if wants_traceback or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # of a sweep, Hydra names the overrides of the job
            _exit(error)

    def sweep(jobs: Sequence[Job]) -> Any:
        nonlocal has_started
        has_started = True
        assert open_sweep is not None
        return open_sweep(jobs)

    job.__module__ = module  # from which Hydra takes the job's name
    if open_sweep is not None:
        job.open_sweep = sweep  # type: ignore[attr-defined]  # where our launcher looks for it
    start = hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(job)
    try:
        with env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra raises what is told here
            start()
    except (UserError, RunError):
        raise
    except Exception as error:
        if has_started:
            raise
        raise explain(error, sys.argv[1:]) from error
