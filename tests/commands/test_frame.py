"""The commands from outside: bad input gets a line or two and leaves nothing behind."""

import gzip
import itertools
import os
import random
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from mlp_jax.commands import frame, train
from mlp_jax.config import saved as recorded
from mlp_jax.config import schema as config
from mlp_jax.config.compose import compose
from mlp_jax.config.schema import CHOICES, CONF, Experiment
from mlp_jax.durable import rundir
from mlp_jax.experiment import machine
from mlp_jax.sweep.jobs import Job

Command = Callable[..., "Outcome"]


class Outcome:
    """What a command left: its exit status, its output and the files in its directory."""

    def __init__(self, status: object, out: str, err: str, files: list[str]) -> None:
        self.status, self.out, self.err, self.files = status, out, err, files

    def problem(self) -> str:
        """What is wrong with it as the answer to bad input, or ''."""
        lines = self.err.splitlines()
        wrong = {
            f"status {self.status}": self.status != 2,
            f"{len(lines)} lines": len(lines) not in (1, 2),
            "no 'error: '": not self.err.startswith("error: "),
            "says no more than that": len(self.err) < len("error: ") + 10,
            "a traceback": "Traceback" in self.err,
            "the tools' own words": any(w in self.err for w in ("DictConfig in", "object_type")),
            f"left {self.files}": bool(self.files),
        }
        return ", ".join(what for what, is_wrong in wrong.items() if is_wrong)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs the real `main` in an empty directory of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        GlobalHydra.instance().clear()
        status: object = 0
        try:
            train.main()
        except SystemExit as ended:
            status = ended.code
        except Exception as error:
            status = repr(error)
        return Outcome(status, *capsys.readouterr(), [str(p) for p in work.rglob("*")])

    yield run
    GlobalHydra.instance().clear()


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """The configs that would have been trained, instead of training them."""
    configs: list[Experiment] = []

    class Sweep(AbstractContextManager[Any]):
        def __exit__(self, *error: object) -> None:
            pass

        def is_over(self) -> bool:
            return False

        def train(self, jobs: Sequence[Job], on_done: Callable[[Any], None]) -> None:
            for job in jobs:
                configs.append(job.config)
                on_done(SimpleNamespace(job=job, error=None, loss=0.0, log="", is_earlier=False))

    monkeypatch.setattr(train, "train", lambda config, **given: configs.append(config))
    monkeypatch.setattr(train, "open_sweep", lambda jobs, **given: Sweep())
    return configs


# --- two hundred bad configs -------------------------------------------------------------------

NOT_NUMBERS = ["abc", "''", "[1]", "{a: 1}", "true", "nan", "-inf", "1e400", "é", "[[1]]", "0..1"]
BAD_VALUES = {
    "int": [*NOT_NUMBERS, "1.5", "-1", "1" + "0" * 30, "9" * 5_000, "3 4", "0x1p3"],
    "float": [*NOT_NUMBERS, "-1", "-1e-9", "[]", "1,5"],
    "bool": ["maybe", "2.5", "[true]", "{a: true}", "''", "null", "nan"],
    "str": ["[a]", "{a: b}", "''", "[]", "'a\nb'", "${nowhere}", "[[]]"],
    "list[int]": ["8", "[0]", "[-1]", "[1.5]", "[true]", "[a]", "[null]", "[[8]]", "{a: 8}", "null",
                  "[1" + "0" * 30 + "]", "''", "[nan]", "[1000000,1000000]"],
    "list[float]": ["1", "[a]", "[null]", "[0]", "[0.7,0.5]", "[0.5,0.5]", "[nan]", "null"],
    "list[str]": ["a", "3", "null", "{a: 1}", "[[a]]", "[{a: 1}]"],
    "list[Any]": ["3", "a", "{a: 1}", "true"],
    "Any": ["nope", "{a: nope}", "[nope]", "''", "[3.5]", "nan"],
}  # fmt: skip
INTERPOLATIONS = ["${x}", "${oc.env:HOME}", "${oc.env:NO_SUCH_VARIABLE}", "${nope:1}", "${", "${}"]
MALFORMED = [
    "=3", "seed", "seed==1", "seed=[1", "seed={a", "seed=(1", "seed='1", "==", "", " ", "seed 1",
    ".=1", "a..b=1", "seed[0]=1", "[seed]=1", "seed=1,2", "seed=range(3)", "seed=choice(1,2)",
    "seed=1=2=3)", "ü=1", "seed=😀", "+=1", "++seed", "~", "~=", "@=", "seed@=1", "seed:1",
    "model.hidden_sizes.a=3", "seed.a.b=3", "data.seed.x=1", "+model.activation.x.y=1",
    "\x1b[31m=1",
    "seed='a\nb\nc'", "name='a\nb'", "+é=1", "--nope", "--cfg", "--cfg=nope", "--info=nope",
    "--config-name=nope", "--config-dir=nope", "--config-path=nope", "--experimental-rerun=x",
    "--resolve", "-x", "optimizer=null", "optimizer=3", "optimizer=", "optimizer=[adam,nope]",
    "optimizer={a: 1}", "model=", "+exp=", "+exp=[xor,nope]", "exp=xor", "+exp.a=1", "+data=iris",
    "data@model=xor", "+exp@model=xor", "data@data.x=xor", "+model@data=mlp", "~exp", "~model=x",
    "schema=Model", "+schema/model=Model", "defaults=[]", "+defaults=[]", "early_stopping=null",
    "early_stopping=3", "early_stopping=[]", "+seed=1", "+a=1",
    "hydra.nope=1", "hydra.mode=NOPE", "hydra.run=3", "hydra/launcher=nope", "hydra/sweeper=nope",
    "hydra.searchpath=3", "hydra.job.chdir=maybe", "hydra=3", "hydra.run.dir=/proc/nope/x",
    "hydra/job_logging=nope", "_target_=os.getcwd", "+model._target_=os.getcwd",
]  # fmt: skip


def keys_of_choices() -> list[tuple[str, str, type, object]]:
    """(group override, dotted key, its dataclass, its type) of every key in every dataclass."""
    stems = {"Synthetic": "circles", "ScikitLearn": "iris", "Model": "mlp", "Tracking": "none"}
    sections = [("", "", Experiment)]
    sections += [("", f"{name}.", schema) for name, (schema,) in config.SECTIONS.items()]
    for group, choices in CHOICES.items():
        for choice in choices:
            name = stems.get(choice.__name__, choice.__name__.lower())
            sections.append((f"{group}={name}", f"{group}.", choice))
    return [
        (override, prefix + item.name, schema, item.type)
        for override, prefix, schema in sections
        for item in fields(schema)
        if not isinstance(item.type, type) or item.type.__module__ != config.__name__
    ]


def type_name(declared: object) -> str:
    text = getattr(declared, "__name__", "") if isinstance(declared, type) else str(declared)
    return str(declared if "[" in str(declared) else text).replace("typing.", "")


def bad_value_cases(rng: random.Random) -> list[list[str]]:
    """A value of the wrong type or out of range for every key."""
    unlimited = {"data.function", "model.params"}  # looked at together with the data
    cases = []
    for override, key, _, declared in keys_of_choices():
        name = type_name(declared)
        optional = name.startswith("Optional[")
        name = name.removeprefix("Optional[").removesuffix("]") if optional else name
        values = BAD_VALUES[name] + ([] if optional or name == "Any" else ["null"])
        if key in unlimited:
            values = ["${nowhere}"]
        if key == "model.class_weights":  # whose number is that of the classes of the data
            values.remove("[3.5]")
        cases += [[override, f"{key}={value}"] for value in rng.sample(values, min(3, len(values)))]
        cases += [[override, f"{key}={rng.choice(INTERPOLATIONS)}"]]
        cases += [[override, f"~{key}"]]
    return cases


def misspelt(word: str, rng: random.Random) -> str:
    i, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
    return rng.choice(
        [word[:i] + word[i + 1 :], word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :]]
    )


def misspelt_key_cases(rng: random.Random) -> list[list[str]]:
    keys = keys_of_choices()
    legal = {key for _, key, *_ in keys} | set(CHOICES) | {*config.SECTIONS, "exp"}
    cases = []
    for override, key, *_ in keys:
        section, _, name = key.rpartition(".")
        wrong = misspelt(name, rng) or "x"
        path = f"{section}.{wrong}" if section else wrong
        if path not in legal:
            cases.append([override, f"{rng.choice(['', '+', '++'])}{path}=1"])
    return cases


def misspelt_choice_cases(rng: random.Random) -> list[list[str]]:
    files = [(f.parent.name, f.stem) for f in sorted(CONF.glob("*/*.yaml"))]
    cases = []
    for group, name in files:
        wrong = misspelt(name, rng)
        if (group, wrong) not in files:
            cases.append([f"{'+' if group == 'exp' else ''}{group}={wrong}"])
    return cases


def bad_cases(kind: str) -> list[list[str]]:
    rng = random.Random(f"bad {kind}")
    if kind == "malformed":
        return [[text] for text in MALFORMED]
    make = {"value": bad_value_cases, "key": misspelt_key_cases, "choice": misspelt_choice_cases}
    cases = [[text for text in case if text] for case in make[kind](rng)]
    return rng.sample(cases, min(len(cases), {"value": 90, "key": 30, "choice": 20}[kind]))


KINDS = ("malformed", "value", "key", "choice")


def test_there_are_two_hundred_bad_configs() -> None:
    cases = [tuple(case) for kind in KINDS for case in bad_cases(kind)]
    assert len(set(cases)) >= 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(2))
def test_bad_configs(command: Command, composed: list[Experiment], kind: str, part: int) -> None:
    problems = []
    for case in bad_cases(kind)[part::2]:
        outcome = command(*case)
        if problem := outcome.problem():
            problems.append(f"{case}: {problem}: {outcome.err[:300]!r}")
    assert not problems, "\n".join(problems)
    assert not composed


# --- what is said ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["optimizer=adm"], "optimizer=adm: no such choice. Did you mean adam? optimizer is one"),
        (["+exp=xorr"], "exp=xorr: no such choice. Did you mean xor? exp is one of boolean"),
        (["sede=1"], "sede: no such key. Did you mean seed=1? An experiment has name, seed"),
        (["learning_rate=1"], "Did you mean optimizer.learning_rate=1?"),
        (["seed=1.5"], "seed=1.5: must be a whole number from 0 to 4,294,967,295."),
        (["model.hidden_sizes=[true]"], "model.hidden_sizes=[true]: must be a list of whole"),
        (["optimizer.learning_rate=true"], "learning_rate=true: must be a number > 0."),
        (["model.hidden_sizes.a=3"], "model.hidden_sizes has no keys; it must be a list of whole"),
        (["=3"], "=3: lacks a key; write KEY=VALUE or GROUP=CHOICE."),
        (["exp=xor"], "exp=xor: is not in the defaults; write +exp=xor."),
        (["optimizer=null"], "optimizer=null: a group takes one of its choices"),
        (["--config-dir", "nope"], "--config-dir=nope: is not a directory."),
        (["--config-name", "nope"], "--config-name=nope: no such choice."),
        (["--nope"], "unrecognized arguments: --nope; see --help"),
        (["--exp", "xor"], "--exp; see --help and --hydra-help. Did you mean +exp=xor?"),
        (["--exp=xor", "seed=1"], "Did you mean +exp=xor?"),
        (["--lr", "0.3", "+exp=xor"], "Did you mean optimizer.learning_rate=0.3?"),
        (["--hidden-sizes=[3]"], "Did you mean model.hidden_sizes=[3]?"),
        (["-m", "seed=0,1,-1"], "seed=-1: must be a whole number from 0 to 4,294,967,295. (In the"),
        (["-m", "seed=0,x", "num_epochs=1"], "seed=x: must be a whole number"),
        (["hydra.run.dir=out", "seed=-1"], "seed=-1: must be"),
        (["hydra.output_subdir=.hydra", "seed=-1"], "seed=-1: must be"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(
    command: Command, composed: list[Experiment], arguments: list[str], error: str
) -> None:
    outcome = command(*arguments)
    assert error in outcome.err
    assert not outcome.problem()
    assert not composed


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], list[str]]:
    """Writes an experiment of the user's own and returns the arguments that take it."""

    def write(text: str) -> list[str]:
        file = tmp_path / "mine" / "exp" / "own.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return ["--config-dir", str(tmp_path / "mine"), "+exp=own"]

    return write


def test_an_experiment_of_ones_own(
    command: Command, composed: list[Experiment], own: Callable[[str], list[str]]
) -> None:
    text = "# @package _global_\ndefaults:\n  - override /data: iris\nseed: 3\n"
    outcome = command(*own(text), "num_epochs=7")
    assert (outcome.status, outcome.err) == (0, "")
    [experiment] = composed
    assert (experiment.data.name, experiment.seed, experiment.num_epochs) == ("iris", 3, 7)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("# @package _global_\nsede: 3\n", "In 'exp/own': sede: no such key. Did you mean seed?"),
        ("# @package _global_\nmodel:\n  l3: 3\n", "In 'exp/own': model.l3: no such key."),
        ("# @package _global_\nseed: a\n", "In 'exp/own': seed=a: must be a whole number"),
        ("# @package _global_\nseed: -1\n", "seed=-1: must be a whole number"),
        ("# @package _global_\nseed: 0x" + "f" * 5_000, "4300 digits"),
        ("# @package _global_\ndefaults:\n  - override /data: irs\n", "Did you mean iris?"),
        ("# @package _global_\ndefaults:\n  - override /dta: iris\n", "dta"),
        ("# @package _global_\n- seed\n", "In 'exp/own'"),
        ("# @package _global_\nseed: [3\n", "line "),
        ('# @package _global_\nname: "a\\nb"\n', "must be a text of one line or less"),
        ("seed: 3\n", "the first line of exp/NAME.yaml must be '# @package _global_'"),
        ("", "the first line of exp/NAME.yaml must be '# @package _global_'"),
    ],
)
def test_a_mistake_in_an_experiment_of_ones_own(
    command: Command, composed: list[Experiment], own: Callable[[str], list[str]],
    text: str, error: str,
) -> None:  # fmt: skip
    outcome = command(*own(text))
    assert error in outcome.err
    assert not outcome.problem()
    assert not composed


def test_a_key_of_a_swept_group_is_that_of_each_jobs_choice(
    command: Command, composed: list[Experiment]
) -> None:
    """The default's, gradient descent's, are not asked."""
    outcome = command("-m", "+exp=xor", "optimizer=adam,adamw", "optimizer.b1=0.8")
    assert (outcome.status, outcome.err) == (0, "")
    assert [(c.optimizer.name, c.optimizer.b1) for c in composed] == [("adam", 0.8), ("adamw", 0.8)]


def test_a_key_that_a_swept_choice_lacks_is_told_with_its_job(
    command: Command, composed: list[Experiment]
) -> None:
    outcome = command("-m", "optimizer=adam,momentum", "optimizer.b1=0.8")
    assert "optimizer.b1: no such key. optimizer has name, learning_rate, mom" in outcome.err
    assert "(In the job optimizer=momentum optimizer.b1=0.8.)" in outcome.err
    assert not outcome.problem()
    assert not composed


def test_help_lists_groups_choices_and_examples(
    command: Command, own: Callable[[str], list[str]]
) -> None:
    outcome = command("--help", *own(""))
    assert (outcome.status, outcome.err, outcome.files) == (0, "", [])
    for file in CONF.glob("*/*.yaml"):
        assert file.stem in outcome.out
    assert " own," in outcome.out.partition("    +exp ")[2]
    assert outcome.out.count("python -m mlp_jax.train ") == 1 + 5


def test_without_arguments_there_is_the_help(command: Command, composed: list[Experiment]) -> None:
    outcome = command()
    assert (outcome.status, outcome.err, outcome.files, composed) == (0, "", [], [])
    assert outcome.out == command("--help").out


def test_cfg_job_prints_every_key(command: Command, composed: list[Experiment]) -> None:
    outcome = command("--cfg", "job", "data=table")
    assert (outcome.status, outcome.err, outcome.files, composed) == (0, "", [], [])
    for item in itertools.chain(fields(Experiment), fields(config.Table)):
        assert f"{item.name}:" in outcome.out


def test_cfg_job_says_what_each_key_is_for(command: Command) -> None:
    outcome = command("--cfg", "job", "data=mnist", "data.root='a b  # é: c'")
    for schema in (Experiment, config.Mnist, config.Sweep, CHOICES["optimizer"][0]):
        helps = [item.metadata["help"] for item in fields(schema) if "help" in item.metadata]
        assert all(f"# {text}\n" in outcome.out for text in helps if text)
    assert yaml.safe_load(outcome.out)["data"]["root"] == "a b  # é: c"
    long = " ".join(["word"] * 50)
    outcome = command("--cfg", "job", f"name='{long}'")
    assert yaml.safe_load(outcome.out)["name"] == long


@pytest.mark.parametrize("option", ["--cfg=job", "--info=config"])
def test_what_is_shown_has_no_password(command: Command, option: str) -> None:
    outcome = command(option, "+exp=xor", "tracking.uri=postgresql://me:pa55word@host/runs")
    assert outcome.status == 0
    assert "postgresql://***@host/runs" in outcome.out
    assert "pa55word" not in outcome.out + outcome.err


def test_a_sweep_runs_every_job(
    command: Command, composed: list[Experiment], tmp_path: Path
) -> None:
    outcome = command("-m", "seed=4,5", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert (outcome.status, outcome.err) == (0, "")
    assert [experiment.seed for experiment in composed] == [4, 5]


def test_a_value_that_hydra_gives_at_run_time(command: Command, composed: list[Experiment]) -> None:
    outcome = command("tracking.run_name=${hydra:runtime.cwd}")
    assert (outcome.status, outcome.err) == (0, "")
    assert composed[0].tracking.run_name == str(Path.cwd())


def test_the_environment_is_left_as_it_was(command: Command, composed: list[Experiment]) -> None:
    assert command("+exp=xor").status == 0
    assert len(composed) == 1
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_a_bug_shows_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(config: Experiment, **given: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(train, "train", bug)
    assert command("+exp=xor").status == "ZeroDivisionError()"


@pytest.mark.parametrize("arguments", [["seed=-1"], ["seed=a"], ["optimizer=adm"], ["--nope"]])
def test_hydra_full_error_shows_the_traceback(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert str(command(*arguments).status).startswith("UserError(")


# --- mistakes that only the data shows ---------------------------------------------------------

CSV = "a,b,c\n" + "\n".join(f"{i},{i * i % 7},{'xyz'[i % 3]}" for i in range(60)) + "\n"
REGRESSION = ["data=sine", "model.hidden_sizes=[4]"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["batch_size=5"], "batch_size=5: there are 4 training examples"),
        (["model.class_weights=[1,2,3]"], "model.class_weights"),
        (["model.label_smoothing=0.1", *REGRESSION], "model.label_smoothing=0.1: sine has no"),
        (["model.loss=cross_entropy", *REGRESSION], "the target of sine is a number"),
        (
            ["model.class_weights=balanced", *REGRESSION],
            "model.class_weights=balanced: sine has no",
        ),
        (["early_stopping.patience=3"], "xor has no validation part"),
        (
            ["data=circles", "early_stopping.patience=3", "early_stopping.monitor=r2"],
            "early_stopping.monitor=r2: circles measures loss, accuracy, ",
        ),
        (["model.params=[1]"], "model.params: not a list of"),
        (["model.params=[{W: [[1]], b: [1]}]"], "model.params: shapes of W and b"),
        (["data.function=[1]"], "data.function=[1]"),
        (["data=boolean", "data.function=majorty"], "Did you mean majority?"),
        (["data.test_size=5"], "data.test_size=5: takes 5 of 4 examples"),
        (["device=tpu"], "device=tpu: JAX finds none here"),
    ],
)
def test_a_config_that_does_not_fit_the_data(
    command: Command, arguments: list[str], error: str
) -> None:
    outcome = command("tracking=none", *arguments)
    assert error in outcome.err
    assert not outcome.problem()


def test_nothing_is_recorded_of_a_config_that_does_not_fit(command: Command) -> None:
    outcome = command("tracking=mlflow", "batch_size=5")
    assert "there are 4 training examples" in outcome.err
    assert not outcome.problem()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("missing.csv", None, "No such file"),
        ("table.csv", b"", "cannot be read"),
        ("table.csv", b"a,b,c\n", "no rows"),
        ("table.csv", CSV.encode()[:40] + b"1,2,3,4,5\n", "cannot be read"),
        ("table.csv", b"\xff\xfe\x00" * 50, "table.csv"),
        ("table.csv", CSV.replace("c", "d", 1).encode(), "data.target=c: 'c' is no column of"),
        ("table.npz", b"PK\x03\x04 cut off", "table.npz"),
        ("table.parquet", b"PAR1 cut off", "table.parquet"),
        ("table.xlsx", b"", "must end in .csv, "),
        ("table.csv/", None, "is a directory, not a file"),
    ],
)
def test_a_bad_table(
    command: Command, tmp_path: Path, name: str, content: bytes | None, error: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name.endswith("/"):
        path.mkdir()
    outcome = command("+exp=table", f"data.path='{path}'", "data.target=c")
    assert error in outcome.err
    assert not outcome.problem()


def write_mnist(root: Path) -> dict[str, bytes]:
    root.mkdir()
    files = {}
    for prefix, count in (("train", 20), ("t10k", 10)):
        for part, shape in (("images-idx3", (count, 2, 2)), ("labels-idx1", (count,))):
            header = bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()
            files[f"{prefix}-{part}-ubyte"] = header + bytes(int(np.prod(shape)))
    for name, content in files.items():
        (root / name).write_bytes(content)
    return files


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer", "gzip", "directory"])
def test_bad_mnist_files(command: Command, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "mnist"
    name, content = next(iter(write_mnist(root).items()))
    (root / name).unlink()
    if damage == "directory":
        (root / name).mkdir()
    elif damage == "gzip":
        (root / f"{name}.gz").write_bytes(gzip.compress(content)[:-12])
    elif damage != "missing":
        new = {"empty": b"", "truncated": content[:-1], "longer": content + b"0"}[damage]
        (root / name).write_bytes(new)
    outcome = command("+exp=mnist", f"data.root='{root}'", "data.validation_size=0")
    assert f"data.root={root}" in outcome.err
    assert not outcome.problem()


@pytest.mark.parametrize("below", ["file", "proc"])
def test_a_store_that_cannot_be_written(command: Command, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" if below == "file" else Path("/proc")
    outcome = command("+exp=xor", f"tracking.uri='sqlite:///{folder}/x/mlflow.db'")
    assert "tracking.uri=" in outcome.err
    assert not outcome.problem()


@pytest.mark.parametrize(
    "mistake",
    ["tracking.uri=ftp://host", "checkpoint.root=/dev/null/x", "checkpoint.root=" + "a/" * 1990],
)
def test_a_place_that_cannot_be_used_is_told_before_the_data_is_read(
    command: Command, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    from mlp_jax import data

    monkeypatch.setattr(data, "load", lambda config: pytest.fail("reads the data first"))
    outcome = command("+exp=xor", mistake)
    assert mistake.partition("=")[0] in outcome.err
    assert not outcome.problem()


# --- a run that was made -----------------------------------------------------------------------

LONG = "x" * 300  # no file system takes it


def write_run(directory: Path, *overrides: str, ending: str = "") -> Path:
    """The records of a run of 20 epochs, as if it had been begun here and perhaps ended so."""
    experiment = compose(["data=xor", "num_epochs=20", "tracking=none", *overrides])
    directory.mkdir(parents=True)
    rundir.write(directory, rundir.CONFIG, recorded.to_record(experiment, log_every=1, uri=None))
    rundir.write(directory, rundir.ENVIRONMENT, {"num_cores": machine.num_cores()})
    if ending:
        stopped = {"last_step": 20, "stopped_early": ending == "stopped early"}
        rundir.write(directory, rundir.RESULT, stopped)
    return directory


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["resume="], "resume=: give the directory of a run or its id, resume=RUN."),
        (["rerun"], "rerun=: give the directory of a run or its id, rerun=RUN."),
        (["resume=a", "rerun=b"], "resume=a rerun=b: takes one run, and no -m, --cfg or --info."),
        (["resume=a", "resume=b"], "resume=a resume=b: takes one run, and no -m, --cfg or --info."),
        (["-m", "resume=a"], "resume=a: takes one run, and no -m, --cfg or --info."),
        (
            ["--multirun", "rerun=a", "seed=0,1"],
            "rerun=a: takes one run, and no -m, --cfg or --info.",
        ),
        (["--cfg", "job", "resume=a"], "resume=a: takes one run, and no -m, --cfg or --info."),
        (["--hydra-help", "resume=a"], "resume=a: takes one run, and no -m, --cfg or --info."),
        (["--info", "all", "rerun=a"], "rerun=a: takes one run, and no -m, --cfg or --info."),
        (["resume=nope"], "resume=nope: no directory of a run, and none of that name or id below"),
        (["resume=."], "resume=.: no directory of a run"),
        (["resume=nope", "checkpoint.root=mine"], "name or id below mine; checkpoint.root=DIREC"),
        (["rerun=nope"], "rerun=nope: no such run, neither as a directory nor in sqlite:////"),
        (["rerun=nope", "tracking.uri=sqlite:///x/y.db"], "nor in sqlite:////"),
        (["rerun=nope", "tracking.uri=mlruns"], "tracking.uri=mlruns: not a store."),
        (["rerun=nope", "seed=1", "num_epochs=2"], "num_epochs, seed: a run is repeated as it was"),
        ([f"resume={LONG}"], "config.json: File name too long."),
        ([f"rerun={LONG}"], "config.json: File name too long."),
        (["resume=nope", f"checkpoint.root={LONG}"], "config.json: File name too long."),
        (["+exp=xor", f"checkpoint.root={LONG}"], f"checkpoint.root={LONG}: File name too long."),
        (["--config-dir", LONG, "+exp=own"], f"--config-dir={LONG}: is not a directory."),
    ],
)
def test_what_is_no_run_or_no_place_for_one_is_refused(
    command: Command, arguments: list[str], error: str
) -> None:
    outcome = command(*arguments)
    assert error in outcome.err
    assert not outcome.problem()


@pytest.mark.parametrize(
    ("of", "made_with", "arguments", "error"),
    [
        ("resume", [], ["num_epochs=10"], "num_epochs=10: the run has 20, which may only be"),
        ("resume", [], ["seed=4"], "seed=4 (the run has 0): a run that is resumed keeps its con"),
        ("resume", [], ["seed=4", "num_epochs=30"], "seed=4 (the run has 0): a run"),
        ("resume", [], ["optimizer=adam"], "optimizer=adam: not a key of the run's config"),
        ("resume", [], ["num_epochs=a"], "num_epochs=a: must be a whole number from 1"),
        ("resume", ["schedule=cosine"], ["num_epochs=30"], "the learning rate of schedule=cosine"),
        ("rerun", [], [], "the run has not finished, so there is nothing to compare with. Conti"),
        ("rerun", [], ["num_epochs=30"], "num_epochs: a run is repeated as it was; only checkp"),
    ],
)
def test_a_run_cannot_be_taken_up_otherwise_than_it_was_begun(
    command: Command, tmp_path: Path, of: str, made_with: list[str], arguments: list[str],
    error: str,
) -> None:  # fmt: skip
    directory = write_run(tmp_path / "runs" / "a", *made_with)
    before = content(directory)
    outcome = command(f"{of}={directory}", *arguments)
    assert error in outcome.err
    assert not outcome.problem()
    assert content(directory) == before


@pytest.mark.parametrize("given_as", ["directory", "name", "id"])
def test_a_finished_run_says_so_and_stays_as_it_is(
    command: Command, tmp_path: Path, given_as: str
) -> None:
    """Even where the record of another run is damaged."""
    root = tmp_path / "runs"
    for name in "abc":
        directory = write_run(root / name, ending="finished")
        rundir.write(directory, rundir.RUN, {"run_id": f"id of {name}"})
    for name in "ac":
        (root / name / rundir.RUN).write_text("{}")
    before = content(root)
    value = {"directory": root / "b", "name": "b", "id": "id of b"}[given_as]
    outcome = command(f"resume={value}", f"checkpoint.root={root}")
    assert (outcome.status, outcome.err, outcome.files) == (0, "", [])
    assert outcome.out == f"the run has finished, at step 20: {root / 'b'}\n"
    assert not (other := command("resume=id of nothing", f"checkpoint.root={root}")).problem()
    assert "resume=id of nothing: no directory of a run" in other.err
    assert content(root) == before


def test_a_finished_run_is_not_shortened(command: Command, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "a", ending="finished")
    outcome = command(f"resume={directory}", "num_epochs=19")
    assert "num_epochs=19: the run has 20, which may only be raised." in outcome.err
    assert not outcome.problem()


def test_a_run_that_stopped_early_is_not_prolonged(command: Command, tmp_path: Path) -> None:
    directory = write_run(tmp_path / "a", ending="stopped early")
    before = content(directory)
    outcome = command(f"resume={directory}", "num_epochs=30")
    assert outcome.status == 0
    assert outcome.out.startswith("the run has finished, at step 20; early stopping ended it: ")
    assert content(directory) == before


# --- a process of its own ----------------------------------------------------------------------


def run_process(cwd: Path, *arguments: str, **env: str) -> Outcome:
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    files = [str(path) for path in cwd.rglob("*")]
    return Outcome(ended.returncode, ended.stdout, ended.stderr, files)


@pytest.mark.parametrize("argument", ["optimizer=adm", "seed=[1", "seed='\u00e9\n'"])
def test_a_real_process(tmp_path: Path, argument: str) -> None:
    outcome = run_process(tmp_path, "-m", "mlp_jax.train", argument, PYTHONIOENCODING="ascii")
    assert not outcome.problem()


def test_a_real_process_with_a_traceback(tmp_path: Path) -> None:
    outcome = run_process(tmp_path, "-m", "mlp_jax.train", "seed=-1", HYDRA_FULL_ERROR="1")
    assert "Traceback" in outcome.err
    assert "seed=-1: must be" in outcome.err


def test_help_config_and_errors_import_nothing_heavy(tmp_path: Path) -> None:
    """They answer in the time of `import hydra` and a little; JAX alone takes more."""
    heavy = ("jax", "numpy", "mlflow", "matplotlib", "sklearn", "pandas", "optax", "rich")
    program = f"""
import sys
from mlp_jax.commands import train
for arguments in (["--help"], ["+exp=xor", "--cfg", "job"], ["+exp=nope"], ["seed=-1"],
                  ["resume=nope"], ["resume=a", "rerun=a"]):
    sys.argv = ["train.py", *arguments]
    try:
        train.main()
    except SystemExit:
        pass
print("IMPORTED", *(name for name in {heavy} if name in sys.modules))
"""
    outcome = run_process(tmp_path, "-c", program)
    assert outcome.out.splitlines()[-1] == "IMPORTED"
    assert not outcome.files


@pytest.mark.parametrize("password", ["s3(cret", "s3cret", "'s3 cret'", "s3[cret"])
@pytest.mark.parametrize("other", ["+optimizer=adam", "seed=-1", "sede=1", "optimizer=adm"])
def test_no_mistake_prints_a_password(command: Command, password: str, other: str) -> None:
    uri = f"tracking.uri=postgresql://me:{password}@host/db"
    for arguments in ((uri, other), (other, uri), (uri, "+exp=xor", "resume=x"), (f"++{uri}.a=1",)):
        outcome = command(*arguments)
        assert "s3" not in outcome.out + outcome.err and "cret" not in outcome.out + outcome.err
        assert not outcome.problem()


def test_a_sweep_does_not_write_a_password_to_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    uri = "tracking.uri=postgresql://me:s3cret@host/db"
    monkeypatch.setattr(sys, "argv", ["train", "-m", "seed=0,1", uri])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "MLFLOW_TRACKING_URI" in error and "s3cret" not in error
    assert not list(tmp_path.iterdir())


def test_overrides_may_stand_on_both_sides_of_an_option() -> None:
    _, options = frame._parse(["+exp=xor", "-m", "seed=1,2", "--cfg", "job", "name=x"])
    assert options.overrides == ["+exp=xor", "seed=1,2", "name=x"]
    assert (options.multirun, options.cfg) == (True, "job")
