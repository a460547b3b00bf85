"""`import mlp_jax as mlp`: at most 20 names, the same for Python and for type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlp_jax as mlp


def told_to_type_checkers() -> dict[str, str]:
    """Each name that is imported under `if TYPE_CHECKING`, and from where."""
    tree = ast.parse(Path(mlp.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_face_is_what_type_checkers_see() -> None:
    told = told_to_type_checkers()
    assert told.keys() == set(mlp.__all__) <= set(dir(mlp))
    assert len(mlp.__all__) <= 20
    for name, home in told.items():
        module, _, attribute = home.rpartition(".")
        value = getattr(mlp, name)
        assert value is getattr(sys.modules[module], attribute), name
        assert value.__doc__, name


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'mlp_jax' has no attribute 'fitt'"):
        _ = mlp.fitt


def test_a_name_is_loaded_when_it_is_asked_for() -> None:
    program = (
        "import sys, mlp_jax as mlp\n"
        "assert 'Network' in dir(mlp) and 'jax' not in sys.modules\n"
        "from mlp_jax import *\n"
        "assert Network is mlp.Network and 'jax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", sorted(mlp.__all__))
def test_every_function_of_the_library_has_an_example(name: str) -> None:
    value = getattr(mlp, name)
    assert not callable(value) or ">>> " in (value.__doc__ or "")
