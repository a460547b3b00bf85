"""Optimizers and schedules as two tables: a new one is a line in its table.

The keyword arguments of an entry are the numbers of that optimizer or schedule, with their
defaults. The learning rate and every number that changes no shape may be traced.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

LearningRate = Callable[[Array], Array]
"""η as a function of the step, the number of updates made before."""


def _progress(t: Array, first: int, last: int) -> Array:
    """From 0 at step `first` to 1 at step `last`, and 1 after it."""
    return jnp.minimum((t - first) / (last - first), 1)


def _cosine(progress: Array, final_factor: float | Array) -> Array:
    return (1 - final_factor) * (0.5 * (1 + jnp.cos(jnp.pi * progress))) + final_factor


def _warmup_cosine(
    t: Array, last: int, *, warmup: float = 0.05, final_factor: float | Array = 0.0
) -> Array:
    """From 0 to 1 along a line, in a fraction `warmup` of the steps, then the cosine."""
    peak = min(round(warmup * (last + 1)), last - 1)
    falling = _cosine(_progress(t, peak, last), final_factor)
    return jnp.where(t < peak, t / max(peak, 1), falling)


def _piecewise(
    t: Array, last: int, *, boundaries: Sequence[float] = (0.5, 0.75), factor: float | Array = 0.1
) -> Array:
    """`factor` for each boundary, a fraction of the steps, that is passed; the first step is not.

    A boundary that would round to step 0 stands at step 1.
    """
    drops = np.array([max(round(at * (last + 1)), 1) for at in boundaries])
    return factor ** jnp.sum(t >= drops)


SCHEDULES: dict[str, Callable[..., float | Array]] = {
    "constant": lambda t, last: 1.0,
    "exponential": lambda t, last, *, final_factor=0.01: final_factor ** _progress(t, 0, last),
    # Loshchilov & Hutter 2017, eq. 5, one period.
    "cosine": lambda t, last, *, final_factor=0.0: _cosine(_progress(t, 0, last), final_factor),
    "warmup_cosine": _warmup_cosine,
    "piecewise": _piecewise,
}
"""By name the factor of η at step t, where 0 is the first step and `last` the last one."""


def gradient_descent(learning_rate: LearningRate) -> optax.GradientTransformation:
    """The lecture's own: θ_{t+1} = θ_t − η ∇θ_t. The state is t."""

    def init(params: optax.Params) -> Array:
        return jnp.zeros((), jnp.int32)

    def update(
        grads: optax.Updates, step: Array, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Array]:
        eta = learning_rate(step)
        return jax.tree.map(lambda g: -eta.astype(g.dtype) * g, grads), step + 1

    return optax.GradientTransformation(init, update)


def _weights_only(params: optax.Params) -> optax.Params:
    """Decay shrinks the weight matrices and leaves the rest, as the penalties do."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim == 2 and getattr(path[-1], "name", "") == "W", params
    )


def _eps(eps: float | Array, inside_sqrt: bool) -> dict[str, float | Array]:
    return {"eps": 0.0, "eps_root": eps} if inside_sqrt else {"eps": eps, "eps_root": 0.0}


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "gradient_descent": gradient_descent,
    # Polyak 1964: m ← μm + g, Δθ = −ηm. Nesterov 1983: Δθ = −η (g + μm).
    "momentum": lambda eta, *, momentum=0.9: optax.sgd(eta, momentum),
    "nesterov": lambda eta, *, momentum=0.9: optax.sgd(eta, momentum, nesterov=True),
    # Duchi, Hazan & Singer 2011: v ← v + g², Δθ = −η g/√(v + ε). PyTorch has g/(√v + ε).
    "adagrad": lambda eta, *, initial_accumulator_value=0.1, eps=1e-7:
        optax.adagrad(eta, initial_accumulator_value, eps),
    # Hinton 2012, lecture 6e, which has no ε: v ← ρv + (1−ρ) g², Δθ = −η g/√(v + ε) as in Keras.
    # PyTorch has g/(√v + ε): eps_inside_sqrt=False.
    "rmsprop": lambda eta, *, decay=0.9, eps=1e-8, eps_inside_sqrt=True:
        optax.rmsprop(eta, decay, eps, eps_in_sqrt=eps_inside_sqrt),
    # Kingma & Ba 2015, algorithm 1: m ← β₁m + (1−β₁) g, v ← β₂v + (1−β₂) g²; at the t-th update
    # m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ), Δθ = −η m̂/(√v̂ + ε). With eps_inside_sqrt m̂/√(v̂ + ε).
    "adam": lambda eta, *, b1=0.9, b2=0.999, eps=1e-8, eps_inside_sqrt=False:
        optax.adam(eta, b1, b2, **_eps(eps, eps_inside_sqrt)),
    # Loshchilov & Hutter 2019: adam's Δθ − ηλW.
    "adamw": lambda eta, *, b1=0.9, b2=0.999, eps=1e-8, eps_inside_sqrt=False, weight_decay=0.01:
        optax.adamw(eta, b1, b2, **_eps(eps, eps_inside_sqrt),
                    weight_decay=weight_decay, mask=_weights_only),
    # Chen et al. 2023: Δθ = −η (sign(β₁m + (1−β₁) g) + λW), then m ← β₂m + (1−β₂) g.
    "lion": lambda eta, *, b1=0.9, b2=0.99, weight_decay=0.01:
        optax.lion(eta, b1, b2, weight_decay=weight_decay, mask=_weights_only),
    # Liu & Nocedal 1989: Δθ = −αη H g, α by a line search that begins at 1.
    "lbfgs": lambda eta, *, memory_size=10, max_linesearch_steps=20:
        optax.lbfgs(eta, memory_size, linesearch=optax.scale_by_zoom_linesearch(
            max_linesearch_steps, initial_guess_strategy="one")),
}  # fmt: skip
"""By name the optax transformation from the learning rate; g is the gradient, Δθ the update."""


def clip_by_global_norm(max_norm: float | Array) -> optax.GradientTransformation:
    """Turns g into c g/‖g‖ where ‖g‖ > c. Pascanu, Mikolov & Bengio 2013, algorithm 1.

    ‖g‖ = s ‖g/s‖ with s = max |g|, so that no square overflows; there `optax` makes the update 0.
    """

    def clip(grads: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        largest = optax.tree.norm(grads, ord="inf")
        scale = jnp.where(largest > 0, largest, 1)
        unit = jax.tree.map(lambda g: g / scale.astype(g.dtype), grads)
        norm = optax.tree.norm(unit)

        def clipped(g: Array, u: Array) -> Array:
            return jnp.where(scale * norm > max_norm, (max_norm / norm * u).astype(g.dtype), g)

        return jax.tree.map(clipped, grads, unit)

    return optax.stateless(clip)


def numbers_of(entry: Callable[..., Any]) -> dict[str, Any]:
    """The numbers of an entry of `OPTIMIZERS` or `SCHEDULES` with their defaults.

    >>> numbers_of(OPTIMIZERS["rmsprop"])
    {'decay': 0.9, 'eps': 1e-08, 'eps_inside_sqrt': True}
    """
    parameters = inspect.signature(entry).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _find(what: str, table: dict[str, Callable[..., Any]], name: str, numbers: Any) -> Any:
    if name not in table:
        raise ValueError(f"no {what} {name!r}: must be one of {', '.join(table)}")
    allowed = numbers_of(table[name])
    for number in numbers:
        if number not in allowed:
            raise ValueError(
                f"{name} takes no {number}: its numbers are {', '.join(allowed) or 'none'}"
            )
    return table[name]


def make_learning_rate(
    name: str, learning_rate: float | Array, num_steps: int, **numbers: Any
) -> LearningRate:
    """η of each of `num_steps` steps: the factor of the schedule `name` times `learning_rate`.

    `numbers` are the schedule's own. Raises `ValueError` for a name or a number that is none.

    >>> eta = make_learning_rate("cosine", 0.1, 101, final_factor=0.5)
    >>> [round(float(eta(step)), 4) for step in (0, 50, 100)]
    [0.1, 0.075, 0.05]
    """
    factor = _find("schedule", SCHEDULES, name, numbers)
    last = max(num_steps - 1, 1)

    def eta(step: int | Array) -> Array:
        t = jnp.asarray(step, float)  # an integer divided would be float32 in a float64 training
        return jnp.asarray(learning_rate * factor(t, last, **numbers))

    return eta


def make_optimizer(
    name: str, learning_rate: LearningRate, clip_norm: float | Array | None = None, **numbers: Any
) -> optax.GradientTransformationExtraArgs:
    """The optimizer `name`, its gradients clipped by their global norm first if `clip_norm` is set.

    `numbers` are the optimizer's own. Raises `ValueError` for a name or a number that is none.

    >>> optimizer = make_optimizer("momentum", make_learning_rate("constant", 0.5, 100))
    >>> grads = {"b": jnp.array([2.0, -4.0])}
    >>> updates, state = optimizer.update(grads, optimizer.init(grads))
    >>> updates["b"].tolist()
    [-1.0, 2.0]
    """
    transformation = _find("optimizer", OPTIMIZERS, name, numbers)(learning_rate, **numbers)
    if clip_norm is not None:
        if name == "lbfgs":
            raise ValueError("lbfgs takes no clip_norm: its line search needs the gradient itself")
        transformation = optax.chain(clip_by_global_norm(clip_norm), transformation)
    return optax.with_extra_args_support(transformation)
