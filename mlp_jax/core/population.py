"""A population: trainings that differ only in numbers, as one compiled program.

The single training under `vmap`: a loop over steps, each a step of all networks. They are split
evenly over the devices of a mesh, the cores of a CPU among them, and into chunks that fit the
memory. Every network has the initial parameters, the order of the data and the log points that it
has alone.

The host looks at them about ten times in a training. There it drops the networks that diverged or
stopped early, and in successive halving the worse half.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mlp_jax.core import training
from mlp_jax.core.backprop import Objective
from mlp_jax.core.fit import Fitted
from mlp_jax.core.gradcheck import GradientCheck, check_gradients
from mlp_jax.core.history import Histories, Progress
from mlp_jax.core.network import Params, dtype_of, layers_of, num_params
from mlp_jax.core.training import (
    Block,
    Carry,
    Metrics,
    Order,
    Part,
    Parts,
    Training,
    TrainState,
)
from mlp_jax.errors import UserError

NUM_ROUNDS = 10
"""How often, about, the host looks at the networks in training."""

CHUNK_BYTES = 2**30
"""Of the states, the gradients, one batch's activations, predictions and data of their own."""

ALONG = PartitionSpec("networks")

CARRY = Carry(state=0, losses=1)  # type: ignore[arg-type]
"""The axes of networks."""

OnProgress = Callable[[Progress], None]


def make_mesh(num_networks: int, platform: str | None = None) -> Mesh:
    """The devices of a platform, JAX's default one if it is `None`; not more than networks."""
    return Mesh(np.array(jax.local_devices(backend=platform)[:num_networks]), ("networks",))


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """Networks that differ in numbers; arrays of what each has have a leading axis of networks."""

    make_training: Callable[[dict[str, Array]], Training]
    """From a network's numbers, by their names."""
    start: Callable[[Any, dict[str, Array]], tuple[Params, Order]]
    """A network's initial parameters and its order, from its origin and its numbers."""
    origins: Any
    """What `start` takes, such as the seeds."""
    numbers: Mapping[str, np.ndarray]
    parts: Parts | Callable[[np.ndarray], Parts]
    """The data; where each network has its own, a function of their indices."""
    num_steps: int
    log_every: int
    objective: str = "train/loss"
    """The metric by which successive halving ranks the networks."""
    repeats: int = 1
    """So many networks in a row are one trial, which is judged by their mean."""

    def __len__(self) -> int:
        return len(jax.tree.leaves((self.origins, self.numbers))[0])

    def select(self, indices: np.ndarray) -> tuple[Any, dict[str, np.ndarray], Parts | None]:
        """What some networks start with, and their data if they have their own."""
        origins, numbers = jax.tree.map(
            lambda values: values[indices], (self.origins, dict(self.numbers))
        )
        return origins, numbers, self.parts(indices) if callable(self.parts) else None


@dataclass(frozen=True, eq=False)
class FittedMany:
    """Trained networks; every array has a leading axis of networks."""

    params: Params
    """The parameters that each network kept, of `step`."""
    step: np.ndarray
    initial: Params
    metrics: dict[str, dict[str, np.ndarray]]
    """Of each part; where a network diverged they are those of its last step."""
    history: Histories
    gradients: list[GradientCheck]

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, network: int) -> Fitted:
        """One network's training, as `fit` would return it."""
        params = jax.tree.map(lambda leaf: leaf[network], self.params)
        return Fitted(params, int(self.step[network]), self.history[network])


class _Networks(NamedTuple):
    """Networks on the devices."""

    state: TrainState
    order: Order
    numbers: dict[str, Array]
    own: Parts | None


class _Chunk:
    """Networks that are in memory together, and how many log points they have behind them."""

    def __init__(self, indices: np.ndarray, networks: _Networks) -> None:
        self.indices, self.networks, self.num_points = indices, networks, 0


class Saved(NamedTuple):
    """What a population that is one chunk carries from round to round, of all its networks."""

    state: TrainState
    num_points: int
    histories: dict[str, np.ndarray]


def train(
    population: Population,
    mesh: Mesh | None = None,
    *,
    halvings: int = 0,
    on_progress: OnProgress = lambda progress: None,
    check: bool = True,
) -> FittedMany:
    """Trains all of them to their end; `check` compares the gradient of each with `jax.grad`.

    With `halvings` k > 0 only the better half goes on after 1/2^k of the steps, the better half of
    those after twice as many, and so on until the last ones train to the end. Raises `UserError`
    where there are too few log points for it.
    """
    return Trainer(population, mesh or make_mesh(len(population))).train(
        halvings, on_progress, check
    )


class Trainer:
    """The programs of a population, and what has become of each network."""

    def __init__(self, population: Population, mesh: Mesh) -> None:
        self.population, self.mesh = population, mesh
        num_steps, log_every = population.num_steps, population.log_every
        ends = np.arange(log_every, num_steps + log_every, log_every)
        one = jax.tree.map(lambda array: array[0], population.select(np.array([0])))
        self.example = jax.eval_shape(self._start, one)
        self.fixed = population.make_training(jax.tree.map(jnp.asarray, one[1]))  # of the first one
        self.histories = Histories(
            len(population),
            np.minimum(ends, num_steps),
            population.objective,
            self.fixed.patience,
            population.repeats,
        )
        self.shared = None if callable(population.parts) else population.parts
        self.gradients: list[GradientCheck] = []
        self.initial: Any = None
        self.result: Any = None
        self.is_fetched = np.zeros(len(population), bool)
        self.num_points = -(-len(ends) // NUM_ROUNDS)
        self.start = self._split(jax.vmap(self._start), ALONG)
        self.advance = self._split(
            self._rounds, (ALONG, PartitionSpec(None, "networks")), donate_argnums=0
        )
        self.kept = self._split(jax.vmap(self._kept, (0, None)), ALONG)

    # --- what is compiled ----------------------------------------------------------------------

    def _split(self, function: Callable[..., Any], outputs: Any, **jit: Any) -> Callable[..., Any]:
        """`function(networks, shared data, …)` with the networks split over the devices."""

        def split(networks: Any, *shared: Any) -> Any:
            specs = (ALONG, *[PartitionSpec()] * len(shared))
            return jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=outputs, check_vma=False
            )(networks, *shared)

        return jax.jit(split, **jit)

    def _start(self, selected: tuple[Any, dict[str, Array], Parts | None]) -> _Networks:
        origin, numbers, own = selected
        params, order = self.population.start(origin, numbers)
        fixed = self.population.make_training(numbers)
        return _Networks(training.init_state(fixed, params), order, numbers, own)

    def _rounds(
        self, networks: _Networks, shared: Parts | None, first: Array, count: Array
    ) -> tuple[_Networks, Metrics]:
        """Of a device's networks: `count` log intervals from number `first`, and what they log.

        What is logged has a leading axis of `self.num_points` log points, more than `count`.
        """
        log_every, num_steps = self.population.log_every, self.population.num_steps
        num_networks = len(networks.state.step)

        def fixed_and_parts(network: _Networks) -> tuple[Training, Parts]:
            parts = network.own or shared
            assert parts is not None
            return self.population.make_training(network.numbers), parts

        def step_of_one(network: _Networks, state: TrainState, rows: Any) -> tuple[TrainState, Any]:
            fixed, parts = fixed_and_parts(network)
            batch = training.take(parts.train, rows)
            return training.train_step(fixed, state, batch, network.order)

        def draw_of_one(number: Array, network: _Networks) -> Any:
            fixed, parts = fixed_and_parts(network)
            return training.draw(fixed, network.order, len(parts.train.x), number, num_networks)

        def log_of_one(network: _Networks, carry: Carry, start: Any, stop: Any) -> Any:
            fixed, parts = fixed_and_parts(network)
            num_finite = training.num_finite(carry, start, stop)
            carry, logged = training.log_point(fixed, carry, parts.train, parts.validation)
            if (best := carry.state.best) is not None:
                logged["num_worse"] = best.num_worse
            return carry, logged | {"num_finite": num_finite}

        step = partial(jax.vmap(step_of_one), networks)
        draw = lambda number: jax.vmap(draw_of_one, (None, 0), 1)(number, networks)  # noqa: E731
        log_point = jax.vmap(log_of_one, (0, CARRY, None, None), (CARRY, 0))

        def interval(
            point: Array, carry: Carry, block: Block | None
        ) -> tuple[Carry, Block | None, Metrics]:
            start = (first + point) * log_every
            stop = jnp.minimum(start + log_every, num_steps)
            carry, block = training.advance(step, draw, carry, block, start, stop)
            carry, logged = log_point(networks, carry, start, stop)
            return carry, block, logged

        def add(point: Array, reached: Any) -> Any:
            carry, block, logged = interval(point, *reached[:2])
            return (
                carry,
                block,
                jax.tree.map(lambda all, v: all.at[point].set(v), reached[2], logged),
            )

        losses = jnp.zeros((log_every, num_networks), dtype_of(networks.state.params))
        carry = Carry(networks.state, losses)
        rows = jax.eval_shape(draw, first)
        block = None if rows is None else Block(jnp.int32(-1), jnp.zeros(rows.shape, rows.dtype))
        shapes = jax.eval_shape(interval, first, carry, block)[2]
        logged = jax.tree.map(lambda s: jnp.zeros((self.num_points, *s.shape), s.dtype), shapes)
        carry, _, logged = jax.lax.fori_loop(0, count, add, (carry, block, logged))
        return networks._replace(state=carry.state), logged

    def _kept(self, network: _Networks, shared: Parts | None) -> tuple[Params, Array, Any]:
        """The parameters that are kept, their step, and every part's metrics."""
        parts, fixed = network.own or shared, self.population.make_training(network.numbers)
        assert parts is not None
        params, step = training.kept(network.state)
        metrics = {
            name: training.evaluate(fixed, params, part)
            for name, part in parts._asdict().items()
            if part is not None
        }
        return params, step, metrics

    # --- what the host does --------------------------------------------------------------------

    def train(self, halvings: int, on_progress: OnProgress, check: bool) -> FittedMany:
        ends = self._ends(halvings)
        chunks = self._chunks()
        # In successive halving all chunks compete; else one is done with before the next begins.
        for together in [chunks] if halvings else [[chunk] for chunk in chunks]:
            begun = [self.begin(indices, check) for indices in together]
            for end in ends:
                for chunk in begun:
                    self._advance(chunk, end, on_progress)
                if end < ends[-1]:
                    self._halve(begun)
        return self.fitted()

    def rounds(
        self, saved: Saved | None = None, is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Callable[[], Saved]]:
        """Trains all networks in one chunk, from the beginning or from what was saved.

        Yields after each round what copies their state. A network that is done is carried along, so
        that a state has the same shape after each. `fitted` has the networks at the end, which is
        after the round where `is_over` says so.
        """
        chunk = self.begin(np.arange(len(self.population)), check=True)
        if saved is not None:
            sharding = NamedSharding(self.mesh, ALONG)
            where = self._padded(chunk.indices)
            state = jax.tree.map(lambda leaf: np.asarray(leaf)[where], saved.state)
            chunk.networks = chunk.networks._replace(state=jax.device_put(state, sharding))
            chunk.num_points = saved.num_points
            self.histories.restore(saved.histories)
        while not (self.histories.is_done.all() or is_over()):
            self._round(chunk, len(self.histories.steps))
            yield lambda: self._saved(chunk)
        self._fetch(chunk, chunk.indices)

    def _saved(self, chunk: _Chunk) -> Saved:
        count = len(chunk.indices)
        state = jax.device_get(jax.tree.map(lambda leaf: leaf[:count], chunk.networks.state))
        return Saved(state, chunk.num_points, self.histories.arrays())

    def saved_template(self) -> TrainState:
        """The shapes and dtypes of the state of `Saved`."""
        count = len(self.population)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), self.example.state
        )

    def fitted(self) -> FittedMany:
        params, step, metrics = self.result
        return FittedMany(params, step, self.initial, metrics, self.histories, self.gradients)

    def _ends(self, halvings: int) -> list[int]:
        """The log points at which the worse half is dropped, and the last one."""
        last = len(self.histories.steps)
        if last >> halvings == 0:
            raise UserError(
                f"{halvings} halvings need {2**halvings} log points, there are {last}: make "
                "log_every smaller, or halve less often."
            )
        return sorted({last >> k for k in range(halvings + 1)})

    def bytes_each(self) -> int:
        """The memory that a network takes, about."""
        params = self.example.state.params
        layers = layers_of(params)
        itemsize, sizes = dtype_of(params).itemsize, sum(sum(layer.W.shape) for layer in layers)
        own = sum(
            leaf.size * itemsize for leaf in jax.tree.leaves((self.example.state, self.example.own))
        )
        parts = self.example.own or self.shared
        assert parts is not None
        measured = max(part.x.shape[0] for part in parts if part) * layers[-1].W.shape[0]
        return 2 * own + itemsize * (
            num_params(params) + 4 * self.fixed.batch_size * sizes + 2 * measured
        )

    def _chunks(self) -> list[np.ndarray]:
        """The networks in chunks that fit the memory."""
        size = max(1, CHUNK_BYTES // self.bytes_each() // self.mesh.size) * self.mesh.size
        indices = np.arange(len(self.population))
        return [indices[at : at + size] for at in range(0, len(indices), size)]

    def _padded(self, indices: np.ndarray) -> np.ndarray:
        """Filled up with copies of the last one, to a multiple of the devices."""
        return np.pad(indices, (0, -len(indices) % self.mesh.size), mode="edge")

    def begin(self, indices: np.ndarray, check: bool = False) -> _Chunk:
        """The initial networks, with their gradients checked on the first 32 examples."""
        sharding = NamedSharding(self.mesh, ALONG)
        networks = self.start(
            jax.device_put(self.population.select(self._padded(indices)), sharding)
        )
        count = len(indices)
        params, own = jax.device_get(
            jax.tree.map(lambda leaf: leaf[:count], (networks.state.params, networks.own))
        )
        self.initial = self._stored(self.initial, indices, params)
        if check:
            numbers = {name: values[indices] for name, values in self.population.numbers.items()}
            parts = own or self.shared
            assert parts is not None
            self.gradients += check_start(
                self.population.make_training, params, parts.train, numbers
            )
        return _Chunk(indices, networks)

    def _stored(self, all_networks: Any, indices: np.ndarray, values: Any) -> Any:
        """Values of some networks put in their places among those of all."""
        if all_networks is None:
            all_networks = jax.tree.map(
                lambda value: np.full((len(self.population), *value.shape[1:]), 0, value.dtype),
                values,
            )
        for array, value in zip(
            jax.tree.leaves(all_networks), jax.tree.leaves(values), strict=True
        ):
            array[indices] = value
        return all_networks

    def _advance(self, chunk: _Chunk, end: int, on_progress: OnProgress) -> None:
        """Trains a chunk up to the log point number `end`."""
        while chunk.num_points < end and len(chunk.indices):
            self._round(chunk, end)
            on_progress(self.histories.progress())
            self._drop_done(chunk)

    def _round(self, chunk: _Chunk, end: int) -> None:
        """Trains a chunk until the host looks at it again, at the log point `end` at the latest."""
        count = min(self.num_points, end - chunk.num_points)
        chunk.networks, logged = self.advance(
            chunk.networks, self.shared, jnp.int32(chunk.num_points), jnp.int32(count)
        )
        logged = {
            name: np.swapaxes(values[:count, : len(chunk.indices)], 0, 1)
            for name, values in jax.device_get(logged).items()
        }
        self.histories.record(chunk.indices, chunk.num_points, logged)
        chunk.num_points += count

    def _halve(self, chunks: Sequence[_Chunk]) -> None:
        worse = self.histories.halve(np.concatenate([chunk.indices for chunk in chunks]))
        for chunk in chunks:
            # At once: a network that stays in its chunk is carried on.
            self._fetch(chunk, np.flatnonzero(np.isin(chunk.indices, worse)))
            self._drop_done(chunk)

    def _drop_done(self, chunk: _Chunk) -> None:
        """Takes the networks that are done out of a chunk where they are half of it or more."""
        is_done = self.histories.is_done[chunk.indices]
        if is_done.sum() < len(is_done) / 2:
            return
        self._fetch(chunk, np.flatnonzero(is_done))
        left = np.flatnonzero(~is_done)
        if len(left):
            where = self._padded(left)
            chunk.networks = jax.tree.map(lambda leaf: leaf[where], chunk.networks)
        chunk.indices = chunk.indices[left]

    def _fetch(self, chunk: _Chunk, places: np.ndarray) -> None:
        """Fetches what is kept of the networks at some places of a chunk, if it is not yet."""
        places = places[~self.is_fetched[chunk.indices[places]]]
        if len(places):
            indices = chunk.indices[places]
            kept = jax.device_get(self.kept(chunk.networks, self.shared))
            found = jax.tree.map(lambda leaf: leaf[places], kept)
            self.result = self._stored(self.result, indices, found)
            self.is_fetched[indices] = True


def check_start(
    make_training: Callable[[dict[str, Array]], Training],
    params: Params,
    train: Part,
    numbers: Mapping[str, np.ndarray],
) -> list[GradientCheck]:
    """The gradient checks of networks with stacked `params`, on the first 32 training examples.

    `train` is stacked too where each network has data of its own.
    """
    x, y = (np.asarray(array[..., :32, :]) for array in train)
    one = jax.tree.map(lambda leaf: leaf[0], params)

    def make_objective(numbers: dict[str, Array]) -> Objective:
        return training.example_objective(make_training(numbers), one, x.shape[-2])

    return check_gradients(params, x, y, make_objective, dict(numbers))
