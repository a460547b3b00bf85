"""The floor plan: imports only point down, and the rooms on one floor do not know each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlp_jax

PACKAGE = Path(mlp_jax.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

FLOORS = (
    {"errors"},
    {"types"},
    {"activations", "losses", "initializers", "metrics", "config", "data", "store"},
    {"network", "optimizers"},
    {"backprop", "representation"},
    {"gradcheck", "training", "explain"},
    {"population", "sharding", "checkpoint", "tracking", "figures", "problem", "pyfunc", "console"},
    {"fitting"},
    {"experiment", "sweep", "cli"},
    {"train", "predict", "ui"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SLOW_TO_IMPORT = {"mlflow", "matplotlib", "sklearn", "pandas"}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names of everything that the import statements among `nodes` import."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def syntax_tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def executed_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node`, without the bodies of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        skipped = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        )
        if not skipped:
            yield child
            yield from executed_on_import(child)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_point_down(module: str) -> None:
    assert module in FLOOR, f"{module}.py has no floor: give it a floor in FLOORS"
    names = imported(ast.walk(syntax_tree(module)))
    rooms = {name.split(".")[1] for name in names if name.startswith("mlp_jax.")}
    for room in rooms:
        assert room in FLOOR, f"{room}.py has no floor: give it a floor in FLOORS"
        assert FLOOR[room] < FLOOR[module], f"{module} must not import {room}"


@pytest.mark.parametrize("module", MODULES)
def test_slow_libraries_are_imported_when_needed(module: str) -> None:
    names = imported(executed_on_import(syntax_tree(module)))
    assert not {name.split(".")[0] for name in names} & SLOW_TO_IMPORT


def test_the_config_is_checked_without_jax() -> None:
    program = "import sys, mlp_jax.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
