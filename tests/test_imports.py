"""The house: who may import whom among the folders, and which libraries each may know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mlp_jax

PACKAGE = Path(mlp_jax.__file__).parent
FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
    if "conf" not in file.relative_to(PACKAGE).parts
}
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "estimators": {"errors", "core"},
    "library": {"errors", "core"},
    "config": {"errors"},
    "durable": {"errors"},
    "tracking": {"errors", "durable"},
    "data": {"errors", "config"},
    "experiment": {"errors", "core", "config", "durable", "tracking", "data"},
}
MAY_IMPORT["sweep"] = MAY_IMPORT["experiment"] | {"experiment"}
MAY_IMPORT["commands"] = MAY_IMPORT["sweep"] | {"sweep"}
DOORS = {"__main__", "train", "gradcheck", "report", "ui", "sync"}
KNOWS = {  # the places that may import a library; core.optimizers, say, is one within core
    "jax": ("core", "estimators", "library", "experiment", "sweep"),
    "optax": ("core",),
    "mlflow": ("tracking", "experiment.model"),
    "sqlalchemy": ("tracking",),
    "hydra": ("config", "commands"),
    "pandas": ("data", "sweep", "tracking.search", "experiment.prediction"),
}
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


def without_types(node: ast.AST, functions: bool = True) -> Iterator[ast.AST]:
    """The nodes below `node` but for `if TYPE_CHECKING`, and for the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not is_typing and (functions or not is_function):
            yield child
            yield from without_types(child, functions)


def syntax_tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", FILES)
def test_imports_only_point_down(module: str) -> None:
    names = imported(without_types(syntax_tree(module)))
    folder = module.split(".")[0]
    allowed = {"commands"} if folder in DOORS else MAY_IMPORT.get(folder, set()) | {folder}
    ours = {name.split(".")[1] for name in names if name.startswith("mlp_jax.")}
    assert ours <= allowed, f"{module} must not import {ours - allowed}"
    for library, places in KNOWS.items():
        if any(name.split(".")[0] == library for name in names):
            assert any(f"{module}.".startswith(f"{place}.") for place in places), library


def test_no_circle_within_a_folder() -> None:
    graph = {}
    for module in FILES:
        names = {name.removeprefix("mlp_jax.") for name in imported(ast.walk(syntax_tree(module)))}
        graph[module] = {m for n in names for m in (n, n.rpartition(".")[0]) if m in FILES} - {
            module
        }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", FILES)
def test_slow_libraries_are_imported_when_needed(module: str) -> None:
    names = imported(without_types(syntax_tree(module), functions=False))
    its_base = {"sklearn"} if module.startswith("estimators.") else set()
    assert not {name.split(".")[0] for name in names} & (SLOW_TO_IMPORT - its_base)


@pytest.mark.parametrize("module", ["mlp_jax", "mlp_jax.config.schema"])
def test_jax_is_not_imported_by(module: str) -> None:
    program = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
