"""Multilayer perceptrons as the lecture writes them, trained by JAX: `import mlp_jax as mlp`.

The names below are the library. Each is loaded when it is first asked for, so that a command that
needs no JAX does not wait for it.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # for type checkers and editors; `_HOMES` says the same to Python
    from mlp_jax.commands.train import run as run
    from mlp_jax.core.activations import ACTIVATIONS as ACTIVATIONS
    from mlp_jax.core.initializers import INITIALIZERS as INITIALIZERS
    from mlp_jax.core.losses import LOSSES as LOSSES
    from mlp_jax.core.network import Network as Network
    from mlp_jax.core.optimizers import OPTIMIZERS as OPTIMIZERS
    from mlp_jax.core.optimizers import SCHEDULES as SCHEDULES
    from mlp_jax.estimators import MLPClassifier as MLPClassifier
    from mlp_jax.estimators import MLPRegressor as MLPRegressor
    from mlp_jax.library.boolean import boolean as boolean
    from mlp_jax.library.explain import explain as explain
    from mlp_jax.library.functions import backprop as backprop
    from mlp_jax.library.functions import check_gradient as check_gradient
    from mlp_jax.library.functions import evaluate as evaluate
    from mlp_jax.library.functions import fit as fit
    from mlp_jax.library.functions import fit_many as fit_many
    from mlp_jax.library.functions import forward as forward
    from mlp_jax.library.towers import towers as towers

_HOMES = {
    # a network, and what it can be made of
    "Network": "core.network",
    "ACTIVATIONS": "core.activations",
    "LOSSES": "core.losses",
    "INITIALIZERS": "core.initializers",
    # its training, of one and of many
    "fit": "library.functions",
    "fit_many": "library.functions",
    "OPTIMIZERS": "core.optimizers",
    "SCHEDULES": "core.optimizers",
    # what it computes, and how the gradient comes about
    "evaluate": "library.functions",
    "forward": "library.functions",
    "backprop": "library.functions",
    "check_gradient": "library.functions",
    "explain": "library.explain",
    # networks whose parameters are written down, not trained
    "boolean": "library.boolean",
    "towers": "library.towers",
    # the command from Python
    "run": "commands.train",
    # in scikit-learn's interface
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """PEP 562: imports the home of a name, and remembers the value."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlp_jax' has no attribute {name!r}")
    home = import_module(f"mlp_jax.{_HOMES[name]}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
