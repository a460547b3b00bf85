"""Configs that Hydra composes: one of a command line, or the many of a sweep, quickly.

Hydra composes a config from its files in about 90 ms. Jobs of a sweep that make the same choices
and override the same keys differ only in the values of these, so Hydra composes the first of them
and the others put their values in its place. That is the same config: Hydra, too, sets the values
of overrides last, in the finished config. Numbers of traced keys, of which there may be thousands,
are put straight into the checked dataclasses.
"""

import copy
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from mlp_jax.config import guard
from mlp_jax.config.checks import to_experiment, with_numbers
from mlp_jax.config.schema import (
    CONF,
    TRACED_KEYS,
    Experiment,
    find_field,
    is_whole,
    register_schema,
)
from mlp_jax.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

Values = dict[str, Any]
"""Values of keys, by their dotted path."""


def compose(overrides: list[str], config_dir: str | None = None) -> Experiment:
    """The experiment that a command line would run: `compose(["+exp=xor", "seed=1"])`."""
    with open_hydra(config_dir) as hydra:
        return experiment(load(hydra.config_loader, overrides))


@contextmanager
def open_hydra(config_dir: str | None = None, job: str = "train") -> Iterator["Hydra"]:
    """Hydra, which finds configs in `conf/`, in a directory of the user's own, in the schema."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    register_schema()
    version.setbase("1.3")
    path = create_config_search_path(str(CONF))
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend("command-line", folder, SearchPathQuery(provider="schema"))
    before = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2(job, path)
    finally:
        restore_gh_from_backup(before)


def load(
    loader: "ConfigLoader", overrides: list[str], name: str = "config", multirun: bool = False
) -> DictConfig:
    """The composed config, with the node `hydra`. Raises `UserError`.

    That of a sweep (`multirun`) is what its jobs have in common, and lacks what they sweep over.
    """
    from hydra.types import RunMode

    guard.check_overrides(overrides)
    try:
        primary = loader.repository.load_config(config_path=name)  # type: ignore[attr-defined]
        guard.check_search_path(overrides, primary and primary.config)
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        of_jobs = _below_swept_groups(overrides) if multirun else []
        common = [text for text in overrides if text not in of_jobs]
        composed = loader.load_configuration(name, common, mode, from_shell=False)
        if of_jobs:
            task = composed.hydra.overrides.task
            given = [text for text in overrides if text in {*task, *of_jobs}]
            of_files = [text for text in task if text not in given]  # which is refused below
            with flag_override(composed.hydra, ["struct", "readonly"], False):
                composed.hydra.overrides.task = given + of_files
    except UserError:
        raise
    except Exception as error:  # of a file, anything may be raised
        raise guard.explain(error, overrides) from error
    guard.check_hydra(composed, overrides)
    fix_time(composed)
    with _hydra_config(composed):
        guard.check_directories(composed, overrides)
    OmegaConf.set_readonly(composed.hydra, False)  # as Hydra composes it
    return composed


def _below_swept_groups(overrides: list[str]) -> list[str]:
    """Those of keys that each job's choice of a group has or lacks: not what all have in common."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = tuple(f"{each.key_or_group}." for each in parsed if each.is_sweep_override())
    return [each.input_line or "" for each in parsed if each.key_or_group.startswith(swept)]


def experiment(composed: DictConfig) -> Experiment:
    """The checked experiment of a composed config. Raises `UserError`."""
    try:
        with _hydra_config(composed):
            return to_experiment(_task(composed))
    except OmegaConfBaseException as error:
        raise guard.explain(error, []) from error


def fix_time(master: DictConfig) -> None:
    """Takes the time once: all `${now:…}` of a sweep and its jobs, whose cache this becomes."""
    now, cache = datetime.now(), OmegaConf.get_cache(master)["now"]
    for pattern in re.findall(r"\$\{now:([^${}]*)\}", str(OmegaConf.to_container(master))):
        cache.setdefault((pattern,), now.strftime(pattern))


def _task(composed: DictConfig) -> DictConfig:
    """The config without the node `hydra`."""
    task = copy.deepcopy(composed)
    with flag_override(task, ["struct", "readonly"], False):
        del task["hydra"]
    return task


@contextmanager
def _hydra_config(composed: DictConfig) -> Iterator[None]:
    """What `${hydra:…}` in a config reads."""
    from hydra.core.hydra_config import HydraConfig

    singleton = HydraConfig.instance()
    before = singleton.cfg
    singleton.set_config(composed)
    try:
        yield
    finally:
        singleton.cfg = before


# --- the jobs of a sweep -----------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One training of a sweep: its number, what was asked for, and the checked config."""

    index: int
    overrides: tuple[str, ...]
    config: Experiment


@dataclass
class Template:
    """A composed config, into which each job of its kind puts its values."""

    composed: DictConfig
    """With the node `hydra`."""
    task: DictConfig
    """Without it."""
    has_interpolations: bool
    names_directories: bool
    """Whether the values of a job say where its files go."""
    checked: dict[str, Experiment]
    """By the values of keys that are not traced; the traced ones have those of some job."""


class Composer:
    """Makes jobs of overrides; `load` is Hydra's full composition of one job.

    `given` are the overrides of Hydra's own keys, which all jobs have in common.
    """

    def __init__(self, load: Callable[[list[str]], DictConfig], given: Sequence[str] = ()) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._load, self._given = load, list(given)
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._jobs: dict[tuple[int, tuple[str, ...]], Job] = {}

    @classmethod
    def of(cls, loader: "ConfigLoader", master: DictConfig) -> "Composer":
        """Of the jobs of a sweep whose own config is `master`."""
        given: Any = OmegaConf.to_container(master.hydra.overrides.hydra)  # as it was written
        return cls(lambda overrides: loader.load_sweep_config(master, overrides), given)

    def job(self, index: int, overrides: Sequence[str]) -> Job:
        """The checked job. Raises `UserError`, which names its overrides."""
        known = (index, tuple(overrides))
        if known not in self._jobs:
            with _naming(overrides):
                self._jobs[known] = Job(*known, self._experiment(*known))
        return self._jobs[known]

    def template(self, job: Job) -> tuple[Template, Values]:
        """What a job has in common with others of its kind, and its own values."""
        return self._template(job.index, job.overrides)

    def composed(self, job: Job) -> Template:
        """The template with a job's values in it, until the next call of a method."""
        template, values = self.template(job)
        self._put(template, job.index, job.overrides, values)
        return template

    def _experiment(self, index: int, overrides: Sequence[str]) -> Experiment:
        template, values = self._template(index, overrides)
        numbers = {path: v for path, v in values.items() if _is_number_of_traced_key(path, v)}
        rest = json.dumps({path: v for path, v in values.items() if path not in numbers})
        is_new = template.has_interpolations or rest not in template.checked
        if is_new or template.names_directories:
            self._put(template, index, overrides, values)
            with _hydra_config(template.composed):
                guard.check_directories(template.composed, self._given)
                if is_new:
                    template.checked[rest] = to_experiment(template.task)
        return with_numbers(template.checked[rest], numbers)

    def _template(self, index: int, overrides: Sequence[str]) -> tuple[Template, Values]:
        rest, values = self._split(overrides)
        kind = (rest, frozenset(values))
        if kind not in self._templates:
            self._templates[kind] = self._compose(overrides)
        return self._templates[kind], values

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], Values]:
        """The overrides that Hydra must compose, and the values that others give to keys."""
        rest: list[Override] = []
        values: Values = {}
        for override in map(self._parse, overrides):
            if _is_value_of_key(override):
                values[override.key_or_group] = override.value()
            else:
                rest.append(override)
        if any(_also_sets(override, path) for override in rest for path in values):
            return tuple(overrides), {}  # the order counts, which Hydra keeps
        return tuple(override.input_line or "" for override in rest), values

    def _parse(self, text: str) -> "Override":
        if text not in self._parsed:
            guard.check_overrides([text])
            [self._parsed[text]] = self._parser.parse_overrides([text])
        return self._parsed[text]

    def _compose(self, overrides: Sequence[str]) -> Template:
        try:
            composed = self._load(list(overrides))
        except Exception as error:  # of a file, anything may be raised
            raise guard.explain(error, list(overrides)) from error
        guard.check_hydra(composed, [*self._given, *overrides])
        task = _task(composed)
        values = json.dumps(OmegaConf.to_container(task), default=str)
        sweep = str(OmegaConf.to_container(composed.hydra.sweep))
        names_directories = "${" in re.sub(r"\$\{(now:[^${}]*|hydra[.:]job\.num)\}", "", sweep)
        return Template(composed, task, "${" in values, names_directories, {})

    def _put(
        self, template: Template, index: int, overrides: Sequence[str], values: Values
    ) -> None:
        from hydra._internal.config_loader_impl import get_overrides_dirname

        for path, value in values.items():
            OmegaConf.update(template.composed, path, value)
            OmegaConf.update(template.task, path, value)
        hydra = template.composed.hydra
        with flag_override(hydra, ["struct", "readonly"], False):
            hydra.job.id, hydra.job.num = str(index), index
            hydra.job.override_dirname = get_overrides_dirname(
                [self._parse(text) for text in overrides], **hydra.job.config.override_dirname
            )
            hydra.overrides.task = list(overrides)


def _is_value_of_key(override: "Override") -> bool:
    """Whether it reads KEY=VALUE, of a key of the schema and with a value that replaces another."""
    from hydra.core.override_parser.types import OverrideType

    path, value = override.key_or_group, override.value()
    item = find_field(path)
    return (
        item is not None
        and not is_dataclass(item.type)
        and "[" not in path
        and override.package is None
        and override.type == OverrideType.CHANGE
        and not override.is_sweep_override()
        and "{" not in str(value)  # neither a mapping nor an interpolation
    )


def _is_number_of_traced_key(path: str, value: Any) -> bool:
    item = find_field(path)
    numbers = (int,) if item and is_whole(item) else (int, float)
    return path in TRACED_KEYS and type(value) in numbers


def _also_sets(override: "Override", path: str) -> bool:
    """Whether an override sets or removes the key `path`, directly or within a group of keys."""
    name = override.key_or_group
    return name == path or (isinstance(override.value(), dict) and path.startswith(name + "."))


@contextmanager
def _naming(overrides: Sequence[str]) -> Iterator[None]:
    """Mistakes as a `UserError` that names the job."""
    from hydra.errors import HydraException

    shown = textwrap.shorten(" ".join(overrides), 200)
    where = f"(In the job {shown}.)" if overrides else ""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} {where}".rstrip()) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{guard.explain(error, list(overrides))} {where}".rstrip()) from error
