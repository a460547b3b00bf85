"""The frame of the studies."""

import doctest
import sys

import pytest

from experiments import information, study


def test_metric_names():
    assert doctest.testmod(study).failed == 0


@pytest.mark.parametrize("options", [[], ["--write"]])
def test_files_are_written_only_when_asked(options, tmp_path, make_store, monkeypatch, capsys):
    """The run has the figure and the page in either case."""
    for name in ("FIGURES", "TABLES"):
        monkeypatch.setattr(study, name, tmp_path / name)
    monkeypatch.setattr(study, "GALLERY", tmp_path / "README.md")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", make_store(tmp_path))
    monkeypatch.setattr(sys, "argv", ["information", *options])
    study.run_study(information.measure, information.draw)
    names = {path.name for path in tmp_path.iterdir()} & {"FIGURES", "TABLES", "README.md"}
    assert names == ({"FIGURES", "TABLES", "README.md"} if options else set())
    (picture,) = tmp_path.glob("mlartifacts/**/information.png")
    (page,) = tmp_path.glob("mlartifacts/**/information.md")
    assert picture.stat().st_size > 10_000
    assert page.read_text().startswith("# What do information")


def test_a_study_says_what_it_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["information", "--help"])
    with pytest.raises(SystemExit):
        study.run_study(information.measure, information.draw)
    assert "--write" in (shown := capsys.readouterr().out)
    assert str(information.__doc__).splitlines()[0] in shown
