"""Multilayer perceptrons as the lecture writes them, trained by JAX: `import mlp_jax as mlp`.

The names below are the library. Each is loaded when it is first asked for, so that a command that
needs no JAX does not wait for it.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # for type checkers and editors; `_HOMES` says the same to Python
    from mlp_jax.core.activations import ACTIVATIONS as ACTIVATIONS
    from mlp_jax.core.initializers import INITIALIZERS as INITIALIZERS
    from mlp_jax.core.losses import LOSSES as LOSSES
    from mlp_jax.core.network import Network as Network
    from mlp_jax.core.optimizers import OPTIMIZERS as OPTIMIZERS
    from mlp_jax.core.optimizers import SCHEDULES as SCHEDULES

_HOMES = {
    # a network, and what it can be made of
    "Network": "core.network",
    "ACTIVATIONS": "core.activations",
    "LOSSES": "core.losses",
    "INITIALIZERS": "core.initializers",
    # how it can be trained
    "OPTIMIZERS": "core.optimizers",
    "SCHEDULES": "core.optimizers",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """PEP 562: imports the home of a name, and remembers the value."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlp_jax' has no attribute {name!r}")
    home = import_module(f"mlp_jax.{_HOMES[name]}")
    value = globals()[name] = getattr(home, name, home)  # a name may be that of a module itself
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
