"""A directory for each job of a sweep with `.hydra/`, as Hydra's own launchers make it.

YAML is slow to write, and the files of a thousand jobs differ in a few words: each kind of job is
written once, with marks where jobs differ.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from omegaconf import OmegaConf

from mlp_jax.config.schema import flat_values
from mlp_jax.errors import redacted
from mlp_jax.sweep.jobs import Composer, Job, Template

_NUM = "${hydra.job.num}"
_NONCE = uuid4().hex


class Directories:
    """Makes the directories of jobs below `root`, the sweep's.

    Their configs go to `subdir`, nowhere where it is None.
    """

    def __init__(self, composer: Composer, root: str, subdir: str | None) -> None:
        self._composer, self._root, self._subdir = composer, root, subdir
        self._forms: dict[int, _Form] = {}

    def make(self, job: Job) -> Path:
        """The job's directory, absolute."""
        template, values = self._composer.template(job)
        form = self._forms.get(id(template))
        if form is None:
            form = self._forms[id(template)] = _form(template, values, self._root)
        directory = self._path(job, form)
        directory.mkdir(parents=True, exist_ok=True)
        if self._subdir is not None:
            folder = directory / self._subdir
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self._files(job, form, values, directory).items():
                (folder / name).write_text(text, encoding="utf-8")
        return directory

    def _path(self, job: Job, form: "_Form") -> Path:
        if form.directory is not None:
            return Path(form.directory.replace(_NUM, str(job.index))).absolute()
        sweep = self._composer.composed(job).composed.hydra.sweep
        return Path(str(sweep.dir), str(sweep.subdir)).absolute()

    def _files(
        self, job: Job, form: "_Form", paths: Iterable[str], directory: Path
    ) -> dict[str, str]:
        overrides = [_scalar(redacted(text)) for text in job.overrides]
        of_job = {
            "job.id": f"'{job.index}'",
            "job.num": str(job.index),
            "job.override_dirname": _scalar(redacted(self._composer.dirname(job))),
            "runtime.output_dir": _scalar(str(directory)),
            "overrides.task": "".join(f"\n    - {text}" for text in overrides) or " []",
        }
        flat = flat_values(job.config)
        return {
            "config.yaml": _filled(form.config, {path: _yaml(flat[path]) for path in paths}),
            "hydra.yaml": _filled(form.hydra, of_job),
            "overrides.yaml": "".join(f"- {text}\n" for text in overrides) or "[]\n",
        }


class _Form(NamedTuple):
    """The files of one kind of job, with marks."""

    config: str
    hydra: str
    directory: str | None
    """With the job's number to be put in; None where it depends on more than that."""


_OF_THE_JOB = ("job.id", "job.num", "job.override_dirname", "runtime.output_dir", "overrides.task")


def _form(template: Template, paths: Iterable[str], root: str) -> _Form:
    config = OmegaConf.to_container(template.task)
    hydra = OmegaConf.to_container(template.composed.hydra, enum_to_str=True)
    for values, marked in ((config, paths), (hydra, _OF_THE_JOB)):
        for path in marked:
            *groups, name = path.split(".")
            node: Any = values
            for group in groups:
                node = node[group]
            node[name] = _mark(path)
    return _Form(
        redacted(OmegaConf.to_yaml(OmegaConf.create(config))),
        redacted(OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra}))).replace(
            f" {_mark('overrides.task')}", _mark("overrides.task")
        ),
        _directory(template, root),
    )


def _mark(path: str) -> str:
    return f"x{_NONCE}-{path}-x"


def _filled(text: str, values: Mapping[str, str]) -> str:
    for path, value in values.items():
        text = text.replace(_mark(path), value)
    return text


def _directory(template: Template, root: str) -> str | None:
    """The directory of a kind of job where it depends on nothing but the job's number.

    Each composition has a time of its own, so that of the sweep counts.
    """
    sweep = template.composed.hydra.sweep
    raw = OmegaConf.to_container(sweep)
    assert isinstance(raw, dict)
    of_sweep = re.sub(r"\$\{now:[^${}]*\}", "", str(raw["dir"]))
    if "${" in of_sweep or "${" in str(raw["subdir"]).replace(_NUM, ""):
        return None
    return str(Path(root, str(raw["subdir"])))


def _scalar(text: str) -> str:
    """A text in YAML."""
    is_plain = re.fullmatch(r"[A-Za-z_+/][\w.+/=,@()\[\]-]*", text)
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _yaml(value: Any) -> str:
    """A value in YAML, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    text = json.dumps(redacted(value) if isinstance(value, str) else value, ensure_ascii=False)
    # YAML reads a number with an exponent only where it has a point.
    has_exponent = isinstance(value, float) and "e" in text and "." not in text
    return text.replace("e", ".0e", 1) if has_exponent else text
