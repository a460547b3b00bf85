"""Nothing that a config, a file or a store holds makes a command run code or leak a secret."""

import ast
import gzip
import io
import pickle
import pickletools
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

import mlp_jax
from mlp_jax.commands import frame, train
from mlp_jax.config.compose import compose
from mlp_jax.data import files, load, mnist
from mlp_jax.errors import UserError
from mlp_jax.experiment import run as experiment
from mlp_jax.tracking import run as tracking
from mlp_jax.tracking.facts import RunRecord

PACKAGE = Path(mlp_jax.__file__).parent

# --- a config imports nothing ------------------------------------------------------------------

CANARY = "hostile_canary"
_HANDLER = f"{{class: {CANARY}.run}}"
_LOGGING = "version: 1, root: {handlers: [x], level: INFO}"
HOSTILE = [
    *(f"{plus}{key}._target_={CANARY}.run"
      for key in ("model", "data", "optimizer", "schedule", "tracking", "early_stopping",
                  "population", "sweep", "checkpoint", "model.params", "data.function")
      for plus in ("+", "++")),
    f"+_target_={CANARY}.run",
    f"_target_={CANARY}.run",
    f"model={{_target_: {CANARY}.run}}",
    f"model.class_weights={{_target_: {CANARY}.run}}",
    f"model.activation={CANARY}.run",
    f"model.initializer={CANARY}.run",
    f"model.bias_initializer={CANARY}.run",
    f"optimizer={{_target_: {CANARY}.run}}",
    f"hydra.launcher._target_={CANARY}.run",
    f"hydra.sweeper._target_={CANARY}.run",
    f"++hydra.launcher.nested={{_target_: {CANARY}.run}}",
    f"++hydra.sweeper.sampler={{_target_: {CANARY}.run}}",
    f"+hydra.callbacks.x={{_target_: {CANARY}.run}}",
    f"++hydra.callbacks.x._target_={CANARY}.run",
    f"++hydra.callbacks={{x: {{_target_: {CANARY}.run, _partial_: true}}}}",
    f"++hydra.job_logging.handlers.x={_HANDLER}",
    f"++hydra.job_logging={{{_LOGGING}, handlers: {{x: {_HANDLER}}}}}",
    f"++hydra.job_logging={{{_LOGGING}, handlers: {{x: {{'()': {CANARY}.run}}}}}}",
    f"++hydra.job_logging={{{_LOGGING}, formatters: {{x: {{'()': {CANARY}.run}}}}}}",
    f"++hydra.job_logging={{{_LOGGING}, filters: {{x: {{'()': {CANARY}.run}}}}}}",
    "++hydra.job_logging={" + _LOGGING + ", handlers: {x: {class: logging.StreamHandler, "
    f"stream: 'ext://{CANARY}.run'}}}}}}",
    "++hydra.job_logging={" + _LOGGING + ", handlers: {x: {class: logging.handlers.QueueHandler, "
    f"queue: {CANARY}.run}}}}}}",
    "++hydra.job_logging={" + _LOGGING + ", handlers: {x: {class: logging.handlers.SocketHandler, "
    "host: 127.0.0.1, port: 9}}}",
    f"++hydra.hydra_logging={{{_LOGGING}, handlers: {{x: {_HANDLER}}}}}",
    f"++hydra.hydra_logging.formatters.x={{'()': {CANARY}.run}}",
    f"++hydra.job_logging.root={{_target_: {CANARY}.run}}",
    f"hydra.searchpath=[pkg://{CANARY}]",
    f"++hydra.searchpath=[pkg://{CANARY}]",
    f"hydra.searchpath=['file:///tmp','pkg://{CANARY}']",
    f"++hydra.job.config.x={{_target_: {CANARY}.run}}",
    f"++hydra.help._target_={CANARY}.run",
    "+hydra.job.env_set.PATH=/nowhere",
    "++hydra.job.env_set={LD_PRELOAD: /nowhere.so}",
    "hydra.job.env_copy=[HOME]",
]  # fmt: skip


@pytest.fixture
def attack(tmp_path, monkeypatch, capsys):
    """Runs the command; it fails where the canary was imported or a job would have run."""
    (tmp_path / f"{CANARY}.py").write_text("def run(*args, **kwargs): raise SystemExit(66)\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(tmp_path)
    ran = []
    monkeypatch.setattr(train, "train", lambda config, **given: ran.append(config))

    def run(*arguments):
        """What is wrong with what it did, or ''."""
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        GlobalHydra.instance().clear()
        status = None
        try:
            train.main()
        except SystemExit as exit_:
            status = exit_.code
        except Exception as error:
            status = repr(error)
        told = capsys.readouterr().err
        refused = status == 2 and told.startswith("error: ") and "Traceback" not in told
        harmless = CANARY not in sys.modules and not ran and not list(work.iterdir())
        return "" if refused and harmless else f"{arguments}: {status}, {told[:200]}"

    yield run
    GlobalHydra.instance().clear()


def test_there_are_fifty():
    assert len(set(HOSTILE)) >= 50


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_fifty_hostile_overrides(attack, multirun):
    # What a sweep checks job by job is the same.
    hostile = [text for text in HOSTILE if "hydra" in text] if multirun else HOSTILE
    problems = [problem for each in hostile if (problem := attack(*multirun, each))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("key", ["model.params", "data.function"])
def test_what_may_be_any_value_is_only_a_value(monkeypatch, key):
    value = f"{{_target_: {CANARY}.run}}"
    value = f"[{value}]" if key == "model.params" else value
    with pytest.raises(UserError, match=key):
        experiment.run(compose(["tracking=none", f"{key}={value}"]))
    assert CANARY not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{_target_: {CANARY}.run}}",
        f"hydra: {{callbacks: {{x: {{_target_: {CANARY}.run}}}}}}",
        f"hydra: {{launcher: {{_target_: {CANARY}.run}}}}",
        f"hydra: {{sweeper: {{_target_: {CANARY}.run}}}}",
        f"hydra: {{job_logging: {{{_LOGGING}, handlers: {{x: {_HANDLER}}}}}}}",
        "hydra: {job: {env_set: {GIT_CONFIG_COUNT: '1'}}}",
    ],
)
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_hostile_experiment(attack, tmp_path, text, multirun):
    (tmp_path / "mine" / "exp").mkdir(parents=True)
    (tmp_path / "mine" / "exp" / "own.yaml").write_text(f"# @package _global_\n{text}\n")
    assert not attack(*multirun, "--config-dir", str(tmp_path / "mine"), "+exp=own")


@pytest.mark.parametrize("logging", ["default", "stdout", "none", "disabled"])
def test_hydras_own_logging_is_allowed(monkeypatch, tmp_path, logging):
    ran = []
    monkeypatch.setattr(frame, "outlast", lambda: None)  # the handlers keep pytest's own streams
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda config, **given: ran.append(config))
    monkeypatch.setattr(sys, "argv", ["train.py", f"hydra/job_logging={logging}", "tracking=none"])
    GlobalHydra.instance().clear()
    train.main()
    assert len(ran) == 1


# What an experiment may have as any value, and Hydra is sent to by an interpolation.
TARGET = f"{{_target_: {CANARY}.run}}"
SENT_ELSEWHERE = [
    [f"data.function={TARGET}", "+hydra.launcher.x=${data.function}"],
    [f"data.function={TARGET}", "+hydra.sweeper.x=${data.function}"],
    [f"data.function={TARGET}", "hydra.sweeper.params=${data.function}"],
    [f"data.function={TARGET}", "hydra.launcher=${data.function}"],
    [f"data.function={TARGET}", "hydra.callbacks=${data.function}"],
    [f"data.function={{x: {TARGET}}}", "hydra.callbacks=${data.function}"],
    [f"data.function={{x: {TARGET}}}", "+hydra.launcher.x=${data.function.x}"],
    [f"data.function=[[{TARGET}]]", "+hydra.launcher.x=[[${data.function.0.0}]]"],
    [f"model.params=[{TARGET}]", "+hydra.launcher.x=${model.params}"],
    [f"model.params=[[{TARGET}]]", "++hydra.sweeper.x.y=[${model.params.0}]"],
    [f"+data.function.a.b={TARGET}", "+hydra.launcher.x={y: [{z: '${data.function.a}'}]}"],
    ["+hydra.launcher.x=${oc.decode:'{_target_: " + CANARY + ".run}'}"],
    ["+hydra.launcher.x=${oc.create:{_target_: " + CANARY + ".run}}"],
    ["+hydra.launcher.x=${oc.decode:${oc.env:HOSTILE}}"],
    ["hydra.callbacks=${oc.decode:${oc.env:HOSTILE}}"],
    ["hydra.job=${data.function}"],
    ["hydra.job_logging=${oc.decode:${oc.env:HOSTILE}}"],
    ["hydra.launcher._target_=${oc.env:HOSTILE}"],
    [f"data.function={{version: 1, handlers: {{x: {_HANDLER}}}}}",
     "hydra.job_logging=${data.function}"],
    [f"data.function={{version: 1, handlers: {{x: {_HANDLER}}}}}",
     "hydra.hydra_logging=${data.function}"],
    [f"data.function={_HANDLER}", "+hydra.job_logging.handlers.x=${data.function}"],
    ["data.function=[${data.function}]"],
    [f"hydra.sweeper.params={{hydra.launcher._target_: {CANARY}.run}}"],
    [f"hydra.sweeper.params={{++hydra.callbacks.x._target_: {CANARY}.run}}"],
    ["hydra/sweeper=basic", "+hydra.sweeper.params={hydra/launcher: joblib}"],
    ["+hydra.launcher.setup=['touch hostile']"],
    [f"+hydra.nested.x={TARGET}"],
    [f"hydra={{searchpath: ['pkg://{CANARY}']}}"],
    ["hydra.searchpath=['${oc.env:HOSTILE}']"],
    ["hydra.job.env_copy=${oc.create:[HOSTILE]}"],
    ["hydra.output_subdir=../x"],
    ["hydra.output_subdir=/tmp"],
    ["hydra.output_subdir=."],
    ["hydra.output_subdir=dask"],
    ["hydra.launcher.output_subdir=../x"],
    ["hydra.launcher.output_subdir=dask"],
    ["hydra.sweep.subdir=/tmp"],
    ["hydra.sweep.subdir=a/../../x"],
    ["hydra.run={dir: /tmp}"],
    ["name=../x", "hydra.sweep={dir: '${name}'}"],
    ["++hydra.overrides.task=['seed=1']"],
    [f"++hydra.overrides.hydra=['hydra.searchpath=[pkg://{CANARY}]']"],
    ["hydra.job.name=../../x"],
    ["hydra.sweeper._target_=hydra_plugins.mlp_jax._sweeping.sweep"],
    ["hydra.launcher._target_=hydra_plugins.mlp_jax._population.Path"],
    ["hydra.sweeper._target_=hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"],
]  # fmt: skip


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_what_hydra_makes_objects_of_takes_nothing_from_elsewhere(attack, monkeypatch, multirun):
    monkeypatch.setenv("HOSTILE", TARGET)
    problems = [found for each in SENT_ELSEWHERE if (found := attack(*multirun, *each))]
    assert not problems, "\n".join(problems)


def test_numpy_is_not_called_on_a_pickle(attack, tmp_path):
    """What was once run: `numpy.load` of a pickle that imports the canary."""

    class Hostile:
        def __reduce__(self):
            return (__import__, (CANARY,))

    np.save(tmp_path / "p.npy", np.array([Hostile()], object), allow_pickle=True)
    target = f"{{_target_: numpy.load, file: '{tmp_path}/p.npy', allow_pickle: true}}"
    sent = "+hydra.launcher.x=${data.function}"
    assert not attack("-m", f"data.function={target}", sent, "seed=0,1")
    assert not attack(f"data.function={target}", sent)


def _logging_to(file, name="hydra_logging"):
    return (
        f"hydra.{name}={{version: 1, root: {{handlers: [x], level: INFO}}, formatters: "
        f"{{f: {{format: chosen}}}}, handlers: {{x: {{class: logging.FileHandler, "
        f"formatter: f, filename: '{file}'}}}}}}"
    )


@pytest.mark.parametrize("name", ["job_logging", "hydra_logging"])
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_no_text_is_appended_to_a_file(attack, tmp_path, name, multirun):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    own = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # Hydra's file, another text
    for file in (victim, "${oc.env:HOME}/x", "${data.function}", "hydra.log", own):
        given = [f"data.function={victim}"] if "data" in str(file) else []
        assert not attack(*multirun, *given, "++" + _logging_to(file, name))
    assert victim.read_text() == "as it was"


def test_a_format_of_ones_own_goes_to_the_terminal(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(frame, "outlast", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda config, **given: ran.append(config))
    own = "++hydra.job_logging.formatters.simple.format='%(message)s'"
    monkeypatch.setattr(sys, "argv", ["train.py", "hydra/job_logging=stdout", own, "tracking=none"])
    train.main()
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("file", "text", "arguments"),
    [
        ("exp/own.yaml", "data: {function: HERE}\nhydra: {launcher: {x: '${data.function}'}}",
         ["+exp=own"]),
        ("exp/own.yaml", "data: {function: HERE}\nhydra: {sweeper: {params: '${data.function}'}}",
         ["+exp=own"]),
        ("exp/own.yaml", "model: {params: [[HERE]]}\nhydra: {sweeper: {x: ['${model.params}']}}",
         ["+exp=own"]),
        ("exp/own.yaml", "data: {function: {x: HERE}}\nhydra: {callbacks: '${data.function}'}",
         ["+exp=own"]),
        ("exp/own.yaml", "hydra: {sweeper: {params: {hydra.launcher._target_: CANARY.run}}}",
         ["+exp=own"]),
        ("exp/own.yaml", "hydra: {searchpath: ['pkg://CANARY']}", ["+exp=own"]),
        ("own.yaml", "defaults: [config]\nhydra: {searchpath: ['pkg://CANARY']}",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nx: pkg://CANARY\nhydra: {searchpath: ['${x}']}",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config, _self_]\n"
         "hydra: {searchpath: '${oc.decode:\"[pkg://CANARY]\"}'}", ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nx: ['pkg://CANARY']\nhydra: {searchpath: '${x}'}",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nx: {searchpath: ['pkg://CANARY']}\nhydra: ${x}",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nhydra: '${oc.create:{searchpath:[pkg://CANARY]}}'",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nhydra: {searchpath: 'pkg://CANARY'}",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config]\nhydra: {searchpath: {x: 'pkg://CANARY'}}",
         ["--config-name=own"]),
        ("own.yaml", "# @package hydra\ndefaults: [/config]\nsearchpath: ['pkg://CANARY']",
         ["--config-name=own"]),
        ("own.yaml", "defaults: [config, 'pkg://CANARY/x']", ["--config-name=own"]),
        ("own.yaml", "defaults: ['pkg://CANARY/x', config]", ["--config-name=own"]),
        ("exp/own.yaml", "defaults: [/more/own@_global_]", ["+exp=own"]),
        ("exp/own.yaml", "hydra: {searchpath: '${oc.decode:\"[pkg://CANARY]\"}'}", ["+exp=own"]),
        ("hydra/env/own.yaml", "# @package hydra\nsearchpath: ['pkg://CANARY']",
         ["hydra/env=own"]),
        ("exp/own.yaml", "hydra: {overrides: {hydra: ['hydra.searchpath=[pkg://CANARY]']}}",
         ["+exp=own"]),
        ("exp/own.yaml", "hydra: {overrides: {task: ['hydra.searchpath=[pkg://CANARY]']}}",
         ["+exp=own"]),
        ("exp/own.yaml", "x: ['hydra.searchpath=[pkg://CANARY]']\n"
         "hydra: {overrides: {task: '${x}', hydra: '${x}'}}", ["+exp=own"]),
        ("hydra/launcher/own.yaml", "# @package hydra.launcher\n_target_: CANARY.run",
         ["hydra/launcher=own"]),
        ("hydra/launcher/own.yaml", "_target_: CANARY.run", ["hydra/launcher=own"]),
        ("hydra/sweeper/own.yaml", "_target_: CANARY.run", ["hydra/sweeper=own"]),
        ("hydra/callbacks/own.yaml", "x: {_target_: CANARY.run}", ["+hydra/callbacks=own"]),
        ("hydra/job_logging/own.yaml", "{version: 1, handlers: {x: {class: CANARY.run}}}",
         ["hydra/job_logging=own"]),
        ("hydra/env/own.yaml", "# @package _global_\nhydra: {job: {env_set: {PATH: '/x'}}}",
         ["hydra/env=own"]),
        ("model/own.yaml", "defaults: [mlp]\n_target_: CANARY.run", ["model=own"]),
        ("data/own.yaml", "defaults: [boolean]\nfunction: [[{x: HERE}]]", ["data=own"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_hostile_file(attack, tmp_path, file, text, arguments, multirun):
    path = tmp_path / "mine" / file
    path.parent.mkdir(parents=True)
    text = text.replace("HERE", TARGET).replace("CANARY", CANARY)
    path.write_text(f"# @package _global_\n{text}\n" if file.startswith("exp") else text)
    more = tmp_path / "mine" / "more" / "own.yaml"
    more.parent.mkdir()
    more.write_text(f"hydra: {{searchpath: ['pkg://{CANARY}']}}")
    assert not attack(*multirun, "--config-dir", str(tmp_path / "mine"), *arguments)


ELSEWHERE = [
    "hydra: {run: {dir: HERE}, sweep: {dir: HERE}}",
    "hydra: {run: {dir: .., subdir: x}, sweep: {dir: ..}}",
    "hydra: {run: {dir: x/../..}, sweep: {dir: x/../..}}",
    "name: HERE\nhydra: {run: {dir: '${name}'}, sweep: {dir: '${name}'}}",
    "hydra: {sweep: {subdir: HERE}}",
    "hydra: {output_subdir: dask}",
    "hydra: {run: {dir: HERE}, sweep: {dir: HERE}, overrides: {hydra: [hydra.run.dir=HERE]}}",
    "hydra: {run: {dir: '${hydra:runtime.cwd}/..'}, sweep: {dir: '${hydra:runtime.cwd}/..'}}",
    "hydra: {launcher: {output_subdir: ../dask}}",
    "hydra: {launcher: {folder: HERE}}",
]


@pytest.mark.parametrize("text", ELSEWHERE)
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_file_does_not_say_that_hydra_writes_elsewhere(attack, tmp_path, text, multirun):
    victim = tmp_path / "home" / "dask" / "config.yaml"
    victim.parent.mkdir(parents=True)
    victim.write_text("as it was")
    file = tmp_path / "mine" / "exp" / "own.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\n{text.replace('HERE', str(victim.parent))}\n")
    assert not attack(*multirun, "--config-dir", str(tmp_path / "mine"), "+exp=own")
    assert victim.read_text() == "as it was"


def test_the_values_of_a_job_do_not_say_that_it_writes_elsewhere(attack):
    for name in ("../x", "/x"):
        assert not attack("-m", f"name=a,{name}", "hydra.sweep.subdir=${name}", "seed=1")
        assert not attack("-m", f"name=a,{name}", "hydra.sweep.subdir='${hydra:job.num}${name}/..'")


def test_the_command_line_says_where_hydra_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "outlast", lambda: None)
    monkeypatch.setattr(train, "train", lambda config, **given: None)
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path / "out", "../out"):
        mlp_jax.run("tracking=none", f"hydra.run.dir={out}", "hydra.output_subdir=.hydra")
    file = tmp_path / "exp" / "own.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\nhydra: {run: {dir: 'own/${optimizer.name}/${seed}'}}")
    mlp_jax.run("--config-dir=.", "+exp=own", "tracking=none", "hydra.output_subdir=.hydra")
    assert (tmp_path / "own/gradient_descent/0/.hydra/config.yaml").exists()
    assert (tmp_path / "out/.hydra/config.yaml").exists()
    assert (tmp_path.parent / "out/.hydra/config.yaml").exists()


# --- pickle ------------------------------------------------------------------------------------


def is_pickle(content: bytes) -> bool:
    """Whether the opcodes are those of a pickle, from the first byte to the last."""
    try:
        *_, (last, _, place) = pickletools.genops(content)
    except Exception:  # of what is none, anything
        return False
    return last.name == "STOP" and place == len(content) - 1


def pickled_members(path: Path) -> list[str]:
    content = path.read_bytes()
    if not zipfile.is_zipfile(path):
        return [path.name] if is_pickle(content) else []
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, member in members.items():
        if name.endswith(".npy"):
            np.load(io.BytesIO(member), allow_pickle=False)
    return [name for name, member in members.items() if is_pickle(member)]


def test_what_a_pickle_looks_like(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({"a": [1]}))
    (tmp_path / "b").write_text("no pickle")
    np.savez(tmp_path / "c.npz", a=np.zeros(3))
    assert pickled_members(tmp_path / "a") == ["a"]
    assert not pickled_members(tmp_path / "b") + pickled_members(tmp_path / "c.npz")


def test_a_run_neither_reads_nor_writes_a_pickle(tmp_path, monkeypatch, make_store):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    monkeypatch.chdir(tmp_path)
    uri = make_store(tmp_path)
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    experiment.run(compose(["+exp=xor", "num_epochs=20", f"tracking.uri={uri}"]))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".npz", ".png", ".yaml", ".json"} <= {path.suffix for path in written}
    assert not [member for path in written for member in pickled_members(path)]


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.stem)
def test_no_module_imports_pickle_or_lets_numpy_use_it(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {
            "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal",
        }  # fmt: skip
    for call in calls(tree):
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "np.load":
            assert "allow_pickle=False" in ast.unparse(call)


# --- files that lie ----------------------------------------------------------------------------


def idx(shape, content=b""):
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + content


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (60_000, 28, 28), (1, 1, 2**31)])
def test_an_idx_header_that_lies_allocates_nothing(tmp_path, monkeypatch, shape, compress):
    path = tmp_path / ("a.gz" if compress else "a")
    content = idx(shape, b"\0" * 100)
    path.write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(UserError, match=r"declares .* entries and holds fewer"):
        mnist.read_idx(path, 3)


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "a.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(idx((10, 1, 1)))
        for _ in range(50):
            file.write(b"\0" * 2**20)
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(UserError, match="holds more"):
        mnist.read_idx(path, 3)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def npy(shape, descr="<f8", content=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (npy((10**12,)), "declares 8,000,000,000,1.. bytes and holds 128"),
        (npy((2,), content=b"\0" * 800), "declares 144 bytes and holds"),
        (npy((-1,), content=b"\0" * 8), "declares"),
        (npy((1,), "|O", pickle.dumps([1])), "holds pickled objects, which are not read"),
        (b"no array at all", "cannot be read"),
    ],
)
def test_an_archive_that_lies_is_refused_before_it_is_read(tmp_path, monkeypatch, member, reason):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("y.npy", member)
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(UserError, match=reason):
        load(compose(["data=table", f"data.path={path}", "data.target=y"]).data)


def test_an_archive_that_is_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, y=np.zeros(10**6))
    monkeypatch.setattr(files.os, "sysconf", lambda name: 1024)
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: pytest.fail("was read"))
    with pytest.raises(UserError, match=r"unpacks to 8,000,128 bytes; at most 524,288"):
        load(compose(["data=table", f"data.path={path}", "data.target=y"]).data)


def test_a_link_that_leads_out_of_the_root_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(idx((1, 1, 1), b"0"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train-images-idx3-ubyte").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"give data.root={tmp_path}"):
        load(compose(["data=mnist", f"data.root={tmp_path / 'root'}"]).data)


@pytest.mark.parametrize("name", ["../a", "/elsewhere/a", "x/../../a"])
def test_an_artifact_stays_in_its_run(tmp_path, monkeypatch, name, make_store):
    monkeypatch.chdir(tmp_path)
    uri = make_store(tmp_path)
    run = tracking.begin(uri, "paths", RunRecord("a run"))
    with run, pytest.raises(ValueError, match="is not below"):
        run.add(name, "text")
    assert run.is_delivered


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri", ["http://me:pa55word@127.0.0.1:1", "http://127.0.0.1:1/?token=pa55word"]
)
def test_a_whole_run_keeps_the_password_of_its_store(tmp_path, monkeypatch, capfd, uri):
    monkeypatch.chdir(tmp_path)
    experiment.run(
        compose(["+exp=xor", "num_epochs=5", f"tracking.uri='{uri}'"]), command=f"train {uri}"
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if b"pa55word" in path.read_bytes()]
    assert "pa55word" not in "".join(capfd.readouterr())


def test_the_ui_listens_on_this_machine_only():
    from mlp_jax.commands import ui

    assert ui._HOST == "127.0.0.1"
    assert '"--host", _HOST' in (PACKAGE / "commands/ui.py").read_text(encoding="utf-8")
