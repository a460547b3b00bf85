"""The floor plan: imports only point down, and the rooms on one floor do not know each other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlp_jax

PACKAGE = Path(mlp_jax.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)

FLOORS = (
    {"errors"},
    {"types", "config", "signed"},
    {"activations", "losses", "initializers", "metrics", "data", "store", "checkpoint",
     "environment", "interrupt", "rundir", "mistakes", "comparison", "journal", "liveness",
     "trust"},
    {"network", "optimizers", "recorded", "saving", "jobs", "search", "delivery", "compiled"},
    {"backprop", "representation", "recovery"},
    {"proof", "explain", "training", "sender", "packaging"},
    {"divergence", "problem", "tracking", "figures", "pyfunc", "console"},
    {"fitting", "bulk", "sweep_figure"},
    {"course", "overview"},
    {"summary", "lockstep"},
    {"population", "session", "cli", "family"},
    {"experiment", "standings"},
    {"repeat", "sweep"},
    {"train", "gradcheck", "ui", "report", "sync"},
)  # fmt: skip
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
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


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
    own_room = module.split(".")[0]
    assert own_room in FLOOR, f"{own_room} has no floor: give it one in FLOORS"
    names = imported(ast.walk(syntax_tree(module)))
    rooms = {name.split(".")[1] for name in names if name.startswith("mlp_jax.")}
    for room in rooms - {own_room}:
        assert FLOOR[room] < FLOOR[own_room], f"{module} must not import {room}"


@pytest.mark.parametrize("module", MODULES)
def test_slow_libraries_are_imported_when_needed(module: str) -> None:
    names = imported(executed_on_import(syntax_tree(module)))
    assert not {name.split(".")[0] for name in names} & SLOW_TO_IMPORT


def test_the_config_is_checked_without_jax() -> None:
    program = "import sys, mlp_jax.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
