"""The command from Python, and the list of commands."""

import inspect
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import mlp_jax as mlp
from mlp_jax import __main__ as commands
from mlp_jax.commands import train
from mlp_jax.durable import rundir
from mlp_jax.errors import RunError, UserError

SHORT = ("+exp=xor", "num_epochs=20", "tracking=none")


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_run_returns_the_result_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    result = mlp.run(*SHORT, "seed=3")
    assert (result.problem.config.seed, result.problem.num_steps) == (3, 20)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    mlp.run(*SHORT, quiet=False)
    assert "network   2-8-1" in capfd.readouterr().out


def test_a_run_from_python_is_continued_and_is_that_of_the_command() -> None:
    whole = mlp.run(*SHORT, "num_epochs=30")
    mlp.run(*SHORT, "checkpoint.root=short")
    (directory,) = Path("short").iterdir()
    assert rundir.read(directory, rundir.CONFIG)["num_epochs"] == 20
    longer = mlp.run(f"resume={directory}", "num_epochs=30")
    assert longer.fitted.params[0].W.tolist() == whole.fitted.params[0].W.tolist()
    assert mlp.run(f"resume={directory}") is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["sede=1"], "sede: no such key. Did you mean seed=1?"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["batch_size=5", *SHORT], "there are 4 training examples"),
        (["-m", "seed=0,-1"], "seed=-1: must be a whole number"),
        (["seed=0,1"], "seed=0,1: "),
        (["-m", "seed=0,1", "sweep.halvings=9"], "needs 512 log points, there are 100"),
        (["-m", "seed=0,1", "num_epochs=150", "sweep.halvings=7"], "there are 75"),
        (["-m", "seed=0,1", "num_epochs=null", "num_steps=90", "log_every=50", "sweep.halvings=2"],
         "sweep.halvings=2: needs 4 log points, there are 2"),
        (["-m", "seed=0,1", "population.exact=true", "sweep.halvings=2"],
         "networks that are trained together"),
        (["-m", "num_epochs=20", "log_every=10", "sweep.halvings=2"], "4 log points, there are 2"),
        (["-m", "batch_size=2,5", *SHORT], "batch_size=5: there are 4 training examples"),
        (["-m", "device=cpu,tpu", *SHORT], "device=tpu: JAX finds none"),
        (["-m", *SHORT, "data=sine", "model.label_smoothing=0,0.2"], "model.label_smoothing=0.2: "),
        (["hydra/sweeper=basic", "+hydra.sweeper.params.seed=1"], "stands below one that is null"),
    ],
)  # fmt: skip
def test_a_mistake_is_raised(tmp_path: Path, arguments: list[str], error: str) -> None:
    with pytest.raises(UserError) as raised:
        mlp.run(*arguments)
    assert error in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [5, ["+exp=xor"], None])
def test_an_argument_is_a_text(wrong: Any) -> None:
    unchecked = inspect.unwrap(mlp.run)  # the types, which these tests have checked
    with pytest.raises(UserError) as raised:
        unchecked("+exp=xor", wrong)
    assert str(raised.value).startswith(f"{wrong}: overrides are texts KEY=VALUE")


def test_a_run_that_fails_raises() -> None:
    with pytest.raises(RunError, match="diverged"):
        mlp.run(*SHORT, "data=sine", "optimizer.learning_rate=1e30", "model.activation=identity")


@pytest.mark.parametrize("multirun", ["-m", "hydra.mode=MULTIRUN"])
def test_a_sweep_from_python(multirun: str, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = mlp.run(multirun, *SHORT, "seed=3,4")
    assert [job.overrides[-1] for job in jobs] == ["seed=3", "seed=4"]
    assert all(0 < job.return_value < 1 for job in jobs)
    assert len(list(Path("multirun").glob("*/*/?/.hydra/config.yaml"))) == 2
    assert capfd.readouterr() == ("", "")


def test_what_a_sweeper_is_given_is_swept_over() -> None:
    jobs = mlp.run("-m", *SHORT, "hydra/sweeper=random", "hydra.sweeper.num_trials=2",
                   "+hydra.sweeper.params.seed=5")  # fmt: skip
    assert [job.overrides[0] for job in jobs] == ["seed=5", "seed=5"]


def test_the_time_of_a_sweep_is_taken_once() -> None:
    subdir = "hydra.sweep.subdir=${now:%f}-${hydra.job.num}"
    for launcher in ("population", "basic"):
        mlp.run("-m", *SHORT, "seed=range(3)", subdir, "hydra.sweep.dir=" + launcher,
                f"hydra/launcher={launcher}")  # fmt: skip
        names = [path.name for path in Path(launcher).iterdir() if path.is_dir()]
        assert len(names) == 3
        assert len({name.partition("-")[0] for name in names}) == 1


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--version"]])
def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mlp-jax", *arguments])
    commands.main()
    assert capsys.readouterr().out == f"mlp_jax {metadata.version('mlp_jax')}\n"


def test_the_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mlp-jax"])
    commands.main()
    listed = capsys.readouterr().out
    doors = {file.stem for file in Path(mlp.__path__[0]).glob("[a-z]*.py")} - {"errors"}
    assert doors == set(commands.COMMANDS)
    assert all(f"python -m mlp_jax.{name} " in listed for name in doors)
    monkeypatch.setattr(sys, "argv", ["mlp-jax", "tran"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2


def test_a_command_has_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(train, "train", lambda config, **given: seen.append((config.seed, given)))
    monkeypatch.setattr(sys, "argv", ["mlp-jax", "train", *SHORT, "seed=7"])
    commands.main()
    assert seen == [(7, {"arguments": [*SHORT, "seed=7"], "quiet": False})]
