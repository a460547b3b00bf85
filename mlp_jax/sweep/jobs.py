"""The jobs of a sweep: composed quickly, and grouped into populations.

Hydra composes a config from its files in about 90 ms. Jobs that make the same choices and override
the same keys differ only in the values of these, so Hydra composes the first of them and the
others put their values in its place. That is the same config: Hydra, too, sets the values of
overrides last, in the finished config. Numbers of traced keys, of which there may be thousands,
are put straight into the checked dataclasses.
"""

import copy
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from mlp_jax.config import guard as trust
from mlp_jax.config import schema as config
from mlp_jax.config.mistakes import check_overrides, explain
from mlp_jax.config.saved import OF_THE_RECORD
from mlp_jax.config.schema import Experiment
from mlp_jax.errors import UserError

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

Values = dict[str, Any]
"""Values of keys, by their dotted path."""


@dataclass(frozen=True)
class Job:
    """One training of a sweep: its number, what was asked for, and the checked config."""

    index: int
    overrides: tuple[str, ...]
    config: Experiment


# --- composition -------------------------------------------------------------------------------


@dataclass
class Template:
    """A composed config, into which each job of its kind puts its values."""

    composed: DictConfig
    """With the node `hydra`."""
    task: DictConfig
    """Without it."""
    has_interpolations: bool
    dirname_options: dict[str, Any]
    """How `hydra.job.override_dirname` is written."""
    checked: dict[str, Experiment]
    """By the values of keys that are not traced; the traced ones have those of some job."""


class Composer:
    """Makes jobs of overrides; `load` is Hydra's full composition of one job."""

    def __init__(self, load: Callable[[list[str]], DictConfig]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._load = load
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._jobs: dict[tuple[int, tuple[str, ...]], Job] = {}

    @classmethod
    def of(cls, loader: "ConfigLoader", master: DictConfig) -> "Composer":
        """Of the jobs of a sweep whose own config is `master`."""
        return cls(lambda overrides: loader.load_sweep_config(master, overrides))

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

    def dirname(self, job: Job) -> str:
        """`hydra.job.override_dirname` of a job."""
        return self._dirname(self.template(job)[0], job.overrides)

    def _experiment(self, index: int, overrides: Sequence[str]) -> Experiment:
        template, values = self._template(index, overrides)
        numbers = {path: v for path, v in values.items() if _is_number_of_traced_key(path, v)}
        rest = json.dumps({path: v for path, v in values.items() if path not in numbers})
        if template.has_interpolations or rest not in template.checked:
            self._put(template, index, overrides, values)
            with _hydra_config(template.composed):
                template.checked[rest] = config.to_experiment(template.task)
        return config.with_numbers(template.checked[rest], numbers)

    def _template(self, index: int, overrides: Sequence[str]) -> tuple[Template, Values]:
        rest, values = self._split(overrides)
        kind = (rest, frozenset(values))
        if kind not in self._templates:
            self._templates[kind] = self._compose(index, overrides)
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
            check_overrides([text])
            [self._parsed[text]] = self._parser.parse_overrides([text])
        return self._parsed[text]

    def _compose(self, index: int, overrides: Sequence[str]) -> Template:
        try:
            composed = self._load(list(overrides))
        except Exception as error:  # of a file, anything may be raised
            raise explain(error, list(overrides)) from error
        trust.check_hydra(composed.hydra)
        task = copy.deepcopy(composed)
        with flag_override(task, ["struct", "readonly"], False):
            del task["hydra"]
        values = json.dumps(OmegaConf.to_container(task), default=str)
        options: Any = OmegaConf.to_container(composed.hydra.job.config.override_dirname)
        return Template(composed, task, "${" in values, options, {})

    def _put(
        self, template: Template, index: int, overrides: Sequence[str], values: Values
    ) -> None:
        for path, value in values.items():
            OmegaConf.update(template.composed, path, value)
            OmegaConf.update(template.task, path, value)
        with flag_override(template.composed.hydra, ["struct", "readonly"], False):
            job = template.composed.hydra.job
            job.id, job.num = str(index), index
            job.override_dirname = self._dirname(template, overrides)
            template.composed.hydra.overrides.task = list(overrides)

    def _dirname(self, template: Template, overrides: Sequence[str]) -> str:
        from hydra._internal.config_loader_impl import get_overrides_dirname

        parsed = [self._parse(text) for text in overrides]
        return get_overrides_dirname(parsed, **template.dirname_options)


def _is_value_of_key(override: "Override") -> bool:
    """Whether it reads KEY=VALUE, of a key of the schema and with a value that replaces another."""
    from hydra.core.override_parser.types import OverrideType

    path, value = override.key_or_group, override.value()
    item = config.find_field(path)
    return (
        item is not None
        and not is_dataclass(item.type)
        and "[" not in path
        and override.package is None
        and override.type == OverrideType.CHANGE
        and not override.is_sweep_override()
        and not isinstance(value, dict)
        and "${" not in str(value)
    )


def _is_number_of_traced_key(path: str, value: Any) -> bool:
    item = config.find_field(path)
    return path in config.TRACED_KEYS and type(value) in (
        (int,) if item and item.type is int else (int, float)
    )


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
        raise UserError(f"{explain(error, list(overrides))} {where}".rstrip()) from error


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


# --- groups and names of jobs ------------------------------------------------------------------


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that differ only in traced numbers together, in the order of their first job."""
    by_structure: dict[str, list[Job]] = {}
    for job in jobs:
        by_structure.setdefault(_structure(job.config), []).append(job)
    return list(by_structure.values())


def _structure(experiment: Experiment) -> str:
    """All that the networks of one population have in common, as text.

    Whether a key that may be null is null belongs to it; so does the data where the weights of
    the classes are counted from it, and whether labels are smoothed, which not all data allow.
    """
    counts_classes = experiment.model.class_weights == "balanced"
    return json.dumps(
        {"sweep.halvings": experiment.sweep.halvings}
        | {
            path: value
            for path, value in config.flat_values(experiment).items()
            if not path.startswith(OF_THE_RECORD)
            and (
                path not in config.TRACED_KEYS
                or value is None
                or (path == "model.label_smoothing" and value == 0)
                or (counts_classes and path.startswith("data."))
            )
        }
    )


def differences(jobs: Sequence[Job]) -> list[str]:
    """The keys whose overrides are not the same in all jobs."""
    given = [assignments(job) for job in jobs]
    keys = dict.fromkeys(key for values in given for key in values)
    return [key for key in keys if len({values.get(key) for values in given}) > 1]


def assignments(job: Job) -> dict[str, str]:
    """The overrides of a job as `{"seed": "3", …}`."""
    pairs = (override.partition("=") for override in job.overrides)
    return {key.lstrip("+~"): value for key, _, value in pairs}


def own_overrides(job: Job) -> list[str]:
    """The overrides of a job that are about its own training."""
    of_sweep = ("sweep.", "population.")
    return [text for text in job.overrides if not text.lstrip("+~").startswith(of_sweep)]
