"""The library: what `import mlp_jax as mlp` offers for a `Network` and arrays.

Arrays are NumPy's or JAX's, in float32 or float64 (which JAX must be told of:
`jax.config.update("jax_enable_x64", True)`); they are computed with in the dtype of the parameters.
Nothing here reads or writes a file, or prints. A wrong shape, name or number is a `ValueError`.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from mlp_jax.core import backprop as backpropagation
from mlp_jax.core import fit as one
from mlp_jax.core import gradcheck, network, population
from mlp_jax.core.backprop import Objective
from mlp_jax.core.fit import Fitted, Programs, Task
from mlp_jax.core.gradcheck import GradientCheck
from mlp_jax.core.initializers import Initializer
from mlp_jax.core.network import Layers, Network, Params, as_layers
from mlp_jax.core.population import FittedMany, Population
from mlp_jax.core.training import Order, keys_of
from mlp_jax.library.arrays import order_of, part_of, parts_of, seeds_of
from mlp_jax.library.recipe import (
    Choice,
    Numbers,
    Observe,
    Recipe,
    make_recipe,
    not_negative,
    objective,
    threshold,
)

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
    return net.on_examples(network.forward, params, x)


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
    x, y = part_of(net, params[0].W.dtype, x, y)
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
    x, y = part_of(net, params[0].W.dtype, x, y)
    return gradcheck.check_gradient(_penalized(net, l2, l1), params, x, y)


def evaluate(net: Network, params: Layers, x: ArrayLike, y: ArrayLike) -> dict[str, float]:
    """The mean loss of all examples, and scikit-learn's metrics by their names.

    `x` is (batch, n_0) and `y` (batch, n_L). Behind a sigmoid or softmax they are those of classes:
    accuracy, balanced_accuracy, precision, recall, f1, roc_auc, average_precision and log_loss. The
    class of several outputs is the largest of them; of one output, whether it reaches ½. Else they
    are r2, rmse and mae, means over the targets.

    >>> net = mlp.Network((1, 1), output="sigmoid")
    >>> params = [(np.array([[4.0]]), np.array([0.0]))]
    >>> mlp.evaluate(net, params, [[-1.0], [2.0]], [[0.0], [1.0]])["accuracy"]
    1.0
    """
    params = as_layers(net, params)
    part = part_of(net, params[0].W.dtype, x, y)
    return one.evaluate(objective(net, 0, 0), params, part, threshold(net))


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
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    input_noise: float = 0.0,
    max_norm: float | None = None,
    ema_decay: float | None = None,
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
    `dropout` is the share of each hidden layer's neurons that a step leaves out, `input_dropout`
    that of the inputs; `input_noise` is the standard deviation of what is added to the inputs,
    `max_norm` the largest norm of a hidden neuron's weights. With `ema_decay` β the moving average
    of the parameters is what is measured and returned.
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
    shuffle_key = keys_of(int(seeds_of("seed", seed, ndim=0)))[1]
    parts = parts_of(net, params[0].W.dtype, x, y, validation)
    if order is not None:
        order = order_of(order, len(parts.train.x), num_steps, batch_size)
        num_steps, batch_size = order.shape
    recipe = make_recipe(
        net, parts,
        learning_rate=learning_rate, num_steps=num_steps, optimizer=optimizer, schedule=schedule,
        batch_size=batch_size, l2=l2, l1=l1, dropout=dropout, input_dropout=input_dropout,
        input_noise=input_noise, max_norm=max_norm, ema_decay=ema_decay,
        patience=patience, monitor=monitor, min_delta=min_delta, log_every=log_every,
        observe=observe,
    )  # fmt: skip
    for name, values in recipe.own().items():
        raise ValueError(f"{name} has shape {values.shape}: fit takes one number, fit_many many")
    task = recipe.task(params, shuffle_key if order is None else order, parts)
    return one.fit(task, _compiled(recipe, task))


_programs: dict[Any, Programs] = {}


def _compiled(recipe: Recipe, task: Task) -> Programs:
    """Compiled once for equal recipes, shapes and settings of JAX; the last 64 are kept."""
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), (task.params, task.order, task.parts))
    config: Any = jax.config
    key = (recipe, shapes, config.jax_default_device, config.jax_default_matmul_precision)
    if key not in _programs:
        if len(_programs) == 64:
            del _programs[next(iter(_programs))]
        _programs[key] = one.compile_programs(task)
    return _programs[key]


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
    dropout: Numbers = 0.0,
    input_dropout: Numbers = 0.0,
    input_noise: Numbers = 0.0,
    max_norm: Numbers | None = None,
    ema_decay: Numbers | None = None,
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
    seeds = seeds_of("seeds", seeds, ndim=1)
    num_networks = len(seeds)
    if given is not None and len(given[0].b) != num_networks:
        raise ValueError(
            f"seeds={reprlib.repr(seeds.tolist())}: {num_networks} seeds, and params of "
            f"{len(given[0].b)} networks; give as many, or leave one of them out"
        )
    parts = parts_of(net, dtype, x, y, validation, num_networks)
    recipe = make_recipe(
        net, parts, scale=scale,
        learning_rate=learning_rate, num_steps=num_steps, optimizer=optimizer, schedule=schedule,
        batch_size=batch_size, l2=l2, l1=l1, dropout=dropout, input_dropout=input_dropout,
        input_noise=input_noise, max_norm=max_norm, ema_decay=ema_decay,
        patience=patience, monitor=monitor, min_delta=min_delta, log_every=log_every,
        observe=observe,
    )  # fmt: skip
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
    (default_device,) = jnp.zeros(()).devices()  # the one that JAX is told to compute on
    return population.train(
        Population(
            make_training=recipe.training,
            start=start,
            origins={"seed": seeds, "params": given},
            numbers=own,
            parts=parts if is_shared else lambda some: jax.tree.map(lambda a: a[some], parts),
            num_steps=recipe.num_steps,
            log_every=recipe.log_every,
        ),
        mesh or population.make_mesh(num_networks, default_device.platform),
        check=False,
    )


def _penalized(net: Network, l2: Any, l1: Any) -> Objective:
    """The objective with the numbers of a caller, which JAX may trace."""
    for name, value in ("l2", l2), ("l1", l1):
        if not isinstance(value, jax.core.Tracer):
            not_negative(name, value)
    return objective(net, l2, l1)
