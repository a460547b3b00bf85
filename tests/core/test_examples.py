"""The examples in docstrings run as they are written, in float32 and in float64."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlp_jax as mlp
from mlp_jax import core, library

MODULES = [
    f"{folder.__name__}.{module.name}"
    for folder in (core, library)
    for module in pkgutil.iter_modules(folder.__path__)
]
FACE = [
    *("core.backprop", "core.gradcheck", "core.losses", "core.network", "core.optimizers"),
    *("library.boolean", "library.explain", "library.towers"),
]


def examples(name: str) -> list[doctest.DocTest]:
    """Those of every docstring, also of one behind an assignment."""
    module = importlib.import_module(name)
    nodes = ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    names = vars(module) | {"jax": jax, "jnp": jnp, "np": np, "mlp": mlp}
    parser = doctest.DocTestParser()
    found = [
        parser.get_doctest(node.value.value, dict(names), name, module.__file__, node.lineno)
        for node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    ]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("float64", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_they_are_written(name: str, float64: bool) -> None:
    with jax.enable_x64(float64):
        for test in examples(name):
            assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", FACE)
def test_the_modules_behind_the_face_have_examples(name: str) -> None:
    assert examples(f"mlp_jax.{name}")
