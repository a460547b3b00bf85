"""`python -m mlp_jax`, which says what there is."""

import importlib.util
import re
import sys
from importlib.metadata import version

import pytest

from mlp_jax import __main__


def said(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    monkeypatch.setattr(sys, "argv", ["mlp_jax", *arguments])
    try:
        __main__.main()
    except SystemExit as ended:
        assert ended.code == 0
    return capsys.readouterr().out


def test_the_version(monkeypatch, capsys):
    expected = f"mlp_jax {version('mlp_jax')}\n"
    assert said("--version", monkeypatch=monkeypatch, capsys=capsys) == expected


def test_the_commands_that_are_named_are_there(monkeypatch, capsys):
    modules = re.findall(r"python -m ([\w.]+) ", said(monkeypatch=monkeypatch, capsys=capsys))
    assert {"mlp_jax.train", "mlp_jax.report"} <= set(modules)
    assert all(importlib.util.find_spec(module) for module in modules)
