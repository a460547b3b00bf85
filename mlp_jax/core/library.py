"""The library: what `import mlp_jax as mlp` offers for a `Network` and arrays.

Arrays are NumPy's or JAX's, in float32 or float64 (which JAX must be told of:
`jax.config.update("jax_enable_x64", True)`); they are computed with in the dtype of the parameters.
Nothing here reads or writes a file, or prints. A wrong shape, name or number is a `ValueError`.
"""

import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from mlp_jax.core import backprop as backpropagation
from mlp_jax.core import fit as one
from mlp_jax.core import gradcheck, network, population, training
from mlp_jax.core.backprop import Objective, Penalty
from mlp_jax.core.fit import Fitted, Programs, Task
from mlp_jax.core.gradcheck import GradientCheck
from mlp_jax.core.initializers import Initializer
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.network import Layers, Network, Params, as_layers
from mlp_jax.core.optimizers import make_learning_rate, make_optimizer
from mlp_jax.core.population import FittedMany, Population
from mlp_jax.core.training import Order, Part, Parts, Training, keys_of

Choice = str | Mapping[str, Any]
"""An optimizer or a schedule by its name, or `{"name": "adam", "b1": 0.8}` with its numbers."""

Numbers = float | np.ndarray | Array
"""One number, or one for each network."""

Observe = Callable[[Params], Mapping[str, Array]]
"""What else is logged at a log point, by name: arrays computed from the parameters."""


# --- one network, one batch --------------------------------------------------------------------


def forward(net: Network, params: Layers, x: ArrayLike) -> tuple[list[Array], list[Array]]:
    """The forward pass: `zs` = [z^1, …, z^L] and `activations` = [a^0, …, a^{L−1}].

        a^0 = x        z^l = W^l a^{l−1} + b^l        a^l = g(z^l)

    `x` is one example (n_0,) or a batch (batch, n_0), whose arrays then have the batch in front.

    >>> net = mlp.Network((2, 1), output="sigmoid")
    >>> zs, activations = mlp.forward(net, [(np.array([[1.0, 2.0]]), np.array([0.5]))], [3.0, 4.0])
    >>> zs[0].tolist(), activations[0].tolist()
    ([11.5], [3.0, 4.0])
    """
    layers = as_layers(net, params)
    of_one = partial(network.forward, layers, activation=net.activation_functions)
    x = _examples("x", x, net.sizes[0], layers[0].W.dtype, (), ("batch",))

    return of_one(x) if x.ndim == 1 else jax.vmap(of_one)(x)


def backprop(
    net: Network, params: Layers, x: ArrayLike, y: ArrayLike, *, l2: float = 0.0, l1: float = 0.0
) -> tuple[Array, Params]:
    """The mean loss of a batch, plus l2/2 Σ W² + l1 Σ |W|, and its gradient by backpropagation.

        δ^L = ∂L/∂z^L        δ^l = (W^{l+1})ᵀ δ^{l+1} ⊙ g'(z^l)
        ∂L/∂W^l = 1/m Σ_i δ^l_i (a^{l−1}_i)ᵀ        ∂L/∂b^l = 1/m Σ_i δ^l_i

    `x` is (batch, n_0) and `y` (batch, n_L). The gradient has the shapes of `params`.

    >>> net = mlp.Network((1, 1), loss="half_squared_error")
    >>> value, grads = mlp.backprop(net, [(np.array([[2.0]]), np.array([0.0]))], [[3.0]], [[5.0]])
    >>> float(value), grads[0].W.tolist(), grads[0].b.tolist()
    (0.5, [[3.0]], [1.0])
    """
    params = as_layers(net, params)
    x, y = _batch(net, params[0].W.dtype, x, y)
    return backpropagation.backprop(params, x, y, *_penalized(net, l2, l1))


def check_gradient(
    net: Network, params: Layers, x: ArrayLike, y: ArrayLike, *, l2: float = 0.0, l1: float = 0.0
) -> GradientCheck:
    """Backprop on a batch against `jax.grad` and against differences of the loss, in float64.

    `x` is (batch, n_0) and `y` (batch, n_L). The result says for each layer how far they are
    apart, and in `passed` whether all of it is rounding.

    >>> net = mlp.Network((2, 3, 1), activation="tanh", output="sigmoid")
    >>> params = net.init(jax.random.key(0))
    >>> mlp.check_gradient(net, params, [[0.0, 1.0], [1.0, 1.0]], [[1.0], [0.0]]).passed
    True
    """
    params = as_layers(net, params)
    x, y = _batch(net, params[0].W.dtype, x, y)
    return gradcheck.check_gradient(_penalized(net, l2, l1), params, x, y)


def evaluate(net: Network, params: Layers, x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """The mean loss of all examples; the accuracy behind a sigmoid or softmax, else R².

    `x` is (batch, n_0) and `y` (batch, n_L). The class of several outputs is the largest of them;
    of one output, whether it reaches ½. R² is that of several targets together.

    >>> net = mlp.Network((1, 1), output="sigmoid")
    >>> params = [(np.array([[4.0]]), np.array([0.0]))]
    >>> mlp.evaluate(net, params, [[-1.0], [2.0]], [[0.0], [1.0]])["accuracy"]
    1.0
    """
    params = as_layers(net, params)
    measured = _evaluate(net, params, _batch(net, params[0].W.dtype, x, y))
    return {name: float(value) for name, value in measured.items()}


# --- training ----------------------------------------------------------------------------------


def fit(
    net: Network,
    params: Layers,
    x: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: float,
    num_steps: int | None = None,
    optimizer: Choice = "gradient_descent",
    schedule: Choice = "constant",
    batch_size: int | None = None,
    seed: int = 0,
    order: ArrayLike | None = None,
    l2: float = 0.0,
    l1: float = 0.0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    min_delta: float = 0.0,
    log_every: int | None = None,
    observe: Observe | None = None,
) -> Fitted:
    """Trains a network from `params` on x (num_examples, n_0) and y (num_examples, n_L).

        θ_{t+1} = θ_t − η_t ∇L(θ_t)        for `optimizer="gradient_descent"`

    `optimizer` is one of `OPTIMIZERS` and `schedule` one of `SCHEDULES`, the factor of each step's
    η. A batch has `batch_size` examples, all if it is `None`; each epoch is shuffled by `seed`, and
    its remainder dropped. Or `order` has the examples of each step, (num_steps, batch_size).
    A cross-entropy takes 0 ≤ y ≤ 1, and behind a softmax rows that sum to 1, such as one-hot ones.
    There is a log point every `log_every` steps, by default about 100 in all. It has `train/loss`
    and the accuracy or R² after the last update; with `validation=(x, y)` those of `validation/`,
    and as `train/loss` the mean over the batches since the last one, each before its update.
    With `patience` the training stops after so many log points at which the validation's `monitor`
    (loss, accuracy or r2) is not better by `min_delta`, and keeps the best parameters.
    `observe(params)` gives more arrays to log. The result has `.params`, their `.step`, and
    `.history` with an array for each name beside `.history.steps`. Raises `ValueError`, and
    `DivergedError` where a number is not finite.

    >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [0], [0], [1]])
    >>> net = mlp.Network((2, 1), output="sigmoid")
    >>> params = net.init(jax.random.key(0))
    >>> result = mlp.fit(net, params, x, y, learning_rate=1.0, num_steps=400)
    >>> result.step, result.history.steps[:3].tolist(), float(result.history["train/accuracy"][-1])
    (400, [4, 8, 12], 1.0)
    >>> net.predict(result.params, x).round()[:, 0].tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    params = as_layers(net, params)
    shuffle_key = keys_of(int(_seeds("seed", seed, ndim=0)))[1]
    parts = _parts(net, params[0].W.dtype, x, y, validation)
    num_examples = len(parts.train.x)
    if order is not None:
        order = _order(order, num_examples, num_steps, batch_size)
        num_steps, batch_size = order.shape
    recipe = _recipe(
        net,
        num_examples=num_examples,
        num_steps=num_steps,
        has_validation=validation is not None,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=batch_size,
        l2=l2,
        l1=l1,
        patience=patience,
        monitor=monitor,
        min_delta=min_delta,
        observe=observe,
    )
    for name, values in recipe.own().items():
        raise ValueError(f"{name} has shape {values.shape}: fit takes one number, fit_many many")
    task = Task(
        training=recipe.training(),
        params=params,
        order=shuffle_key if order is None else order,
        train=parts.train,
        validation=parts.validation,
        num_steps=recipe.num_steps,
        log_every=_log_every(log_every, recipe.num_steps),
    )
    return one.fit(task, _compiled(recipe, task))


def fit_many(
    net: Network,
    x: ArrayLike,
    y: ArrayLike,
    *,
    learning_rate: Numbers,
    num_steps: int,
    seeds: Sequence[int] | np.ndarray | None = None,
    params: Layers | None = None,
    initializer: str | Initializer = "glorot_uniform",
    scale: Numbers = 1.0,
    bias_initializer: str | Initializer = "zeros",
    dtype: DTypeLike = jnp.float32,
    optimizer: Choice = "gradient_descent",
    schedule: Choice = "constant",
    batch_size: int | None = None,
    l2: Numbers = 0.0,
    l1: Numbers = 0.0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    min_delta: Numbers = 0.0,
    log_every: int | None = None,
    observe: Observe | None = None,
    mesh: Mesh | None = None,
) -> FittedMany:
    """Trains many networks as one program: `fit` under `vmap`, split over the devices of `mesh`.

    A network for each of `seeds`, which draw its initial parameters (as `net.init` does) and its
    order; or from `params`, whose arrays have a leading axis of networks. Every number may be an
    array with a value for each network, also those of an optimizer or a schedule:
    `optimizer={"name": "momentum", "momentum": np.linspace(0, 0.9, 10)}`. `x` and `y` are shared,
    or have a leading axis of networks, too; so has `validation` then.

    The result has `.params` and `.step` with a leading axis, `.history["train/loss"]` of shape
    (networks, log points), which is NaN after a network's end, `.history.diverged_at` (0 where it
    did not), and `result[i]` is one network's training. Results agree with `fit` to about 1e-5 in
    1,000 steps of float32. Raises `ValueError`.

    >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
    >>> net = mlp.Network((2, 4, 1), output="sigmoid")
    >>> many = mlp.fit_many(net, x, y, seeds=range(8), learning_rate=np.linspace(0.5, 1, 8),
    ...                 num_steps=400)
    >>> many.history["train/loss"].shape, many.params[0].W.shape, len(many[3].history)
    ((8, 100), (8, 4, 2), 100)
    """
    if params is None and seeds is None:
        raise ValueError("seeds=None: give seeds=range(n) for n networks, or their params")
    given: Params | None = None
    if params is not None:
        given = as_layers(net, params, of_many=True)
        dtype = given[0].W.dtype
        seeds = np.arange(len(given[0].b)) if seeds is None else seeds
    seeds = _seeds("seeds", seeds, ndim=1)
    num_networks = len(seeds)
    if given is not None and len(given[0].b) != num_networks:
        raise ValueError(
            f"seeds={reprlib.repr(seeds.tolist())}: {num_networks} seeds, and params of "
            f"{len(given[0].b)} networks; give as many, or leave one of them out"
        )
    parts = _parts(net, dtype, x, y, validation, num_networks)
    recipe = _recipe(
        net,
        num_examples=parts.train.x.shape[-2],
        num_steps=num_steps,
        has_validation=validation is not None,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=batch_size,
        l2=l2,
        l1=l1,
        patience=patience,
        monitor=monitor,
        min_delta=min_delta,
        observe=observe,
        scale=scale,
    )
    own = recipe.own(dtype)
    for name, values in own.items():
        if values.shape != (num_networks,):
            raise ValueError(
                f"{name} has shape {values.shape}: it is one number, or one for each of the "
                f"{num_networks} networks"
            )

    def start(origin: Any, numbers: dict[str, Array]) -> tuple[Params, Order]:
        init_key, shuffle_key = keys_of(origin["seed"])
        if origin["params"] is not None:
            return origin["params"], shuffle_key
        factor: Any = numbers.get("scale", scale)
        drawn = net.init(
            init_key, initializer, scale=factor, bias_initializer=bias_initializer, dtype=dtype
        )
        return drawn, shuffle_key

    is_shared = parts.train.x.ndim == 2
    return population.train(
        Population(
            make_training=recipe.training,
            start=start,
            origins={"seed": seeds, "params": given},
            numbers=own,
            parts=parts if is_shared else lambda some: jax.tree.map(lambda a: a[some], parts),
            num_steps=recipe.num_steps,
            log_every=_log_every(log_every, recipe.num_steps),
        ),
        mesh or population.make_mesh(num_networks, _default_platform()),
        check=False,
    )


def _default_platform() -> str:
    """Of the device that JAX computes on unless it is told otherwise."""
    (device,) = jnp.zeros(()).devices()
    return device.platform


class _Recipe(NamedTuple):
    """What a training is made of, as hashable data, so that equal ones are compiled once."""

    net: Network
    optimizer: str
    schedule: str
    numbers: tuple[tuple[str, Any], ...]
    """By name; those of the optimizer and of the schedule as "optimizer.b1"."""
    batch_size: int
    num_steps: int
    patience: int | None = None
    monitor: str = "loss"
    observe: Observe | None = None

    def own(self, dtype: DTypeLike = float) -> dict[str, np.ndarray]:
        """The numbers that are arrays, with a value for each network."""
        return {
            name: np.asarray(value, dtype)
            for name, value in self.numbers
            if isinstance(value, np.ndarray)
        }

    def training(self, own: Mapping[str, Array] | None = None) -> Training:
        """With the numbers that a network of a population has of its own."""
        numbers = dict(self.numbers) | dict(own or {})

        def of(section: str) -> dict[str, Any]:
            return {
                name.removeprefix(section): value
                for name, value in numbers.items()
                if name.startswith(section)
            }

        eta = make_learning_rate(
            self.schedule, numbers["learning_rate"], self.num_steps, **of("schedule.")
        )
        penalty = Penalty(numbers["l2"], numbers["l1"])
        sign, name = -1 if self.monitor == "loss" else 1, f"validation/{self.monitor}"
        return Training(
            objective=_objective(self.net, *penalty),
            optimizer=make_optimizer(self.optimizer, eta, **of("optimizer.")),
            learning_rate=eta,
            batch_size=self.batch_size,
            threshold=_threshold(self.net),
            monitor=None if self.patience is None else lambda logged: sign * logged[name],
            patience=self.patience,
            min_delta=numbers["min_delta"],
            observe=self.observe,
        )


def _recipe(
    net: Network,
    *,
    num_examples: int,
    num_steps: int | None,
    has_validation: bool = False,
    optimizer: Choice = "gradient_descent",
    schedule: Choice = "constant",
    batch_size: int | None = None,
    patience: int | None = None,
    monitor: str = "loss",
    observe: Observe | None = None,
    l2: Any = 0.0,
    l1: Any = 0.0,
    min_delta: Any = 0.0,
    **numbers: Any,
) -> _Recipe:
    """The same checked. What the tables of optimizers and schedules check is left to them."""
    numbers |= {"l2": l2, "l1": l1, "min_delta": min_delta}
    num_steps = _whole("num_steps", num_steps, least=1)
    batch_size = num_examples if batch_size is None else _whole("batch_size", batch_size, least=1)
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size={batch_size}: there are {num_examples} training examples; give a number "
            f"from 1 to {num_examples}, or None for all of them"
        )
    patience = None if patience is None else _whole("patience", patience, least=1)
    measured = ("loss", "r2" if _threshold(net) is None else "accuracy")
    if patience is not None and not has_validation:
        raise ValueError(f"patience={patience}: stopping early needs validation=(x, y)")
    if patience is not None and monitor not in measured:
        raise ValueError(f"monitor={monitor!r}: {net.output} measures {' and '.join(measured)}")
    names: dict[str, str] = {}
    for section, choice, example in (
        ("optimizer", optimizer, {"name": "adam", "b1": 0.8}),
        ("schedule", schedule, {"name": "cosine", "final_factor": 0.1}),
    ):
        chosen = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
        if not isinstance(chosen.get("name"), str):
            raise ValueError(
                f"{section}={choice!r}: must be a name, or its numbers beside the key 'name' as in "
                f"{example}"
            )
        names[section] = chosen.pop("name")
        numbers |= {
            f"{section}.{key}": tuple(value) if isinstance(value, list) else value
            for key, value in chosen.items()
        }
    for name in ("learning_rate", "l2", "l1", "min_delta"):
        numbers[name] = _not_negative(name, numbers[name])
    return _Recipe(
        net,
        names["optimizer"],
        names["schedule"],
        tuple((name, _one_or_each(value)) for name, value in numbers.items()),
        batch_size,
        num_steps,
        patience,
        monitor,
        observe,
    )


def _one_or_each(value: Any) -> Any:
    """An array without axes as a Python number, which is hashable; another one as NumPy's."""
    if isinstance(value, np.ndarray | np.generic | Array):
        return np.asarray(value) if np.ndim(value) else value.item()
    return value


_MAX_PROGRAMS = 64

_programs: dict[Any, Programs] = {}


def _compiled(recipe: _Recipe, task: Task) -> Programs:
    """The programs of `fit`, compiled once for equal recipes, shapes and settings of JAX."""
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), (task.params, task.order, task.parts))
    config: Any = jax.config
    settings = (config.jax_default_device, config.jax_default_matmul_precision)
    key = (recipe, task.log_every, shapes, settings)
    if key not in _programs:
        if len(_programs) == _MAX_PROGRAMS:
            del _programs[next(iter(_programs))]
        _programs[key] = one.compile_programs(task)
    return _programs[key]


# --- what is given -----------------------------------------------------------------------------


def _threshold(net: Network) -> float | None:
    """Where the two classes of a single output meet; `None` where the targets are numbers."""
    return 0.5 if net.output in ("sigmoid", "softmax") else None


def _objective(net: Network, l2: Any, l1: Any) -> Objective:
    """A penalty that is 0 in every network costs nothing."""
    is_used = not all(isinstance(value, float | int) and value == 0 for value in (l2, l1))
    return Objective(
        net.activation_functions, net.loss_function, Penalty(l2, l1) if is_used else None
    )


def _penalized(net: Network, l2: Any, l1: Any) -> Objective:
    """The objective with the numbers of a caller, which JAX may trace."""
    for name, value in ("l2", l2), ("l1", l1):
        if not isinstance(value, jax.core.Tracer):
            _not_negative(name, value)
    return _objective(net, l2, l1)


@partial(jax.jit, static_argnums=0)
def _evaluate(net: Network, params: Params, part: Part) -> training.Metrics:
    settings = _recipe(net, num_examples=1, learning_rate=0.0, num_steps=1)
    return training.evaluate(settings.training(), params, part)


def _whole(name: str, value: Any, least: int) -> int:
    """A count as Python's `int`; a bool is none."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or not least <= whole < 2**31:
        raise ValueError(f"{name}={value!r}: must be a whole number, {least} or more")
    return whole


def _log_every(log_every: int | None, num_steps: int) -> int:
    """About 100 log points in all where nothing else is said."""
    return -(-num_steps // 100) if log_every is None else _whole("log_every", log_every, least=1)


def _not_negative(name: str, value: Any) -> np.ndarray:
    """A number, or one for each network."""
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if not np.all(np.isfinite(numbers) & (numbers >= 0)):
        raise ValueError(f"{name}={value!r}: must be finite and not negative")
    return numbers


def _seeds(name: str, given: Any, ndim: int) -> np.ndarray:
    seeds = np.asarray(given)
    is_whole = seeds.ndim == ndim and seeds.size and seeds.dtype.kind in "iu"
    if not is_whole or not 0 <= seeds.min() <= seeds.max() < 2**32:
        what = "a whole number" if ndim == 0 else "whole numbers in one dimension, at least one,"
        raise ValueError(f"{name}={reprlib.repr(given)}: must be {what} from 0 to {2**32 - 1:,}")
    return seeds.astype(np.uint32)


def _examples(
    what: str, values: Any, width: int | np.integer[Any], dtype: Any, *shapes: tuple[str, ...]
) -> Array:
    """As a JAX array of one of these shapes, `width` behind them."""
    array = jnp.asarray(values, dtype)
    if array.ndim - 1 not in map(len, shapes) or array.shape[-1] != width or not array.size:
        allowed = " or ".join(
            f"({', '.join([*shape, str(width)])}{'' if shape else ','})" for shape in shapes
        )
        raise ValueError(f"{what} has shape {array.shape}: it must be {allowed}")
    return array


def _batch(net: Network, dtype: Any, x: Any, y: Any, *shapes: tuple[str, ...]) -> Part:
    shapes = shapes or (("batch",),)
    x = _examples("x", x, net.sizes[0], dtype, *shapes)
    y = _examples("y", y, net.sizes[-1], dtype, *shapes)
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}: their examples differ in number")
    return Part(x, y)


def _parts(
    net: Network, dtype: Any, x: Any, y: Any, validation: Any, num_networks: int | None = None
) -> Parts:
    """The data of `fit`; of `fit_many`, where each network may have its own."""
    shapes = [("num_examples",), ("networks", "num_examples")][: 1 + (num_networks is not None)]
    train = _batch(net, dtype, x, y, *shapes)
    held_out = None
    if validation is not None:
        try:
            held_out_x, held_out_y = validation
        except (TypeError, ValueError):
            given = reprlib.repr(validation)
            raise ValueError(f"validation={given}: must be two arrays, (x, y)") from None
        held_out = _batch(net, dtype, held_out_x, held_out_y, *shapes)
    for part in filter(None, (train, held_out)):
        if part.x.ndim != train.x.ndim or (part.x.ndim == 3 and len(part.x) != num_networks):
            raise ValueError(
                f"x has shape {part.x.shape}: where networks have data of their own, all parts "
                f"have a leading axis of the {num_networks} networks"
            )
        for name, values in part._asdict().items():
            if not bool(jnp.all(jnp.isfinite(values))):
                raise ValueError(f"{name} has a number that is not finite")
        _check_targets(net, part.y)
    return Parts(train, held_out)


def _check_targets(net: Network, y: Array) -> None:
    """A cross-entropy takes probabilities; those of a softmax are a distribution."""
    binary, of_classes = (
        LOSSES["sigmoid", "binary_cross_entropy"],
        LOSSES["softmax", "cross_entropy"],
    )
    loss, sums = net.loss_function, jnp.sum(y, axis=-1)
    if loss in (binary, of_classes) and not bool(jnp.all((y >= 0) & (y <= 1))):
        raise ValueError(
            f"y reaches from {jnp.min(y):g} to {jnp.max(y):g}: a cross-entropy takes 0 ≤ y ≤ 1. "
            "Give classes −1 and 1 as 0 and 1, and numbers of classes one-hot, "
            "np.eye(num_classes)[y]"
        )
    if loss == of_classes and not bool(jnp.all(jnp.abs(sums - 1) < 0.01)):  # it may be rounded
        raise ValueError(
            f"y has rows whose sums reach from {jnp.min(sums):g} to {jnp.max(sums):g}: behind a "
            "softmax each sums to 1. Give numbers of classes one-hot, np.eye(num_classes)[y], and "
            'where several classes may hold at once output="sigmoid"'
        )


def _order(order: Any, num_examples: int, num_steps: int | None, batch_size: int | None) -> Array:
    rows = np.asarray(order)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"order has shape {rows.shape} and dtype {rows.dtype}: it must be "
            "(num_steps, batch_size) whole numbers"
        )
    for name, given, length in zip(
        ("num_steps", "batch_size"), (num_steps, batch_size), rows.shape, strict=True
    ):
        if given not in (None, length):
            raise ValueError(f"{name}={given}: order has shape {rows.shape}; leave {name} out")
    if rows.size and not (rows.min() >= 0 and rows.max() < num_examples):
        raise ValueError(
            f"order reaches from {rows.min()} to {rows.max()}: it must name the examples "
            f"0 to {num_examples - 1}"
        )
    return jnp.asarray(rows, jnp.int32)
