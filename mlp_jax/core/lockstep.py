"""Networks in lockstep: trainings that differ only in numbers, as one compiled program.

The single training under `vmap`: a loop over steps, each a step of all networks. They are split
evenly over the devices, the cores of a CPU among them, and into chunks that fit the memory. Every
network has the initial parameters, the order of the data and the log points that it has alone.

The host looks at them about ten times in a training. There it drops the networks that diverged or
stopped early, and in successive halving the worse half.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from mlp_jax.config.schema import Experiment, with_values
from mlp_jax.core import training
from mlp_jax.core.course import Course, Member, Progress
from mlp_jax.core.fit import Fitted
from mlp_jax.core.gradcheck import GradientCheck, check_gradients
from mlp_jax.core.network import Params, num_params
from mlp_jax.core.training import Metrics, Part, Training, TrainState
from mlp_jax.data import Dataset
from mlp_jax.errors import UserError
from mlp_jax.experiment import machine
from mlp_jax.experiment.setup import (
    Parts,
    Problem,
    encode_parts,
    initial_params,
    keys_of,
    make_training,
    objective,
)

NUM_ROUNDS = 10
"""How often, about, the host looks at the networks in training."""

CHUNK_BYTES = 2**30
"""Of the states, the gradients, one batch's activations and the data of each network's own."""

OnProgress = Callable[[Progress], None]


def spread_over_cores() -> None:
    """Lets JAX take each core of a CPU for a device, over which networks can be split.

    It does nothing where JAX has begun to compute in this process, or where the user has chosen.
    """
    if jax.config.jax_num_cpu_devices == -1:  # type: ignore[attr-defined]
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", machine.num_cores())


class Networks(NamedTuple):
    """Networks on the devices; every array has a leading axis of networks."""

    state: TrainState
    shuffle_key: PRNGKeyArray
    numbers: dict[str, Array]
    """The values of the config in which the networks differ, by their key."""
    own: Parts | None
    """Their data, where they do not share it."""


def check_members(
    base: Problem,
    params: Params,
    train: Part,
    numbers: Mapping[str, np.ndarray],
) -> list[GradientCheck]:
    """The gradient checks of networks with stacked `params`, on the first 32 training examples.

    `train` is stacked too where each network has data of its own.
    """
    x, y = (np.asarray(array[..., :32, :]) for array in train)
    return check_gradients(
        params,
        x,
        y,
        lambda numbers: _training(base, numbers).objective,
        dict(numbers),
        num_coordinates=4 if num_params(base.params) < 100_000 else 1,
    )


def _training(base: Problem, numbers: Mapping[str, Array]) -> Training:
    config = with_values(base.config, numbers)
    return make_training(config, base.dataset, base.training.batch_size, base.num_steps)


class _Chunk:
    """Networks that are in memory together, and how many log points they have behind them."""

    def __init__(self, indices: np.ndarray, networks: Networks) -> None:
        self.indices, self.networks, self.num_points = indices, networks, 0


class Lockstep:
    """The networks of one program: what they share, what each has, what has become of each."""

    def __init__(
        self,
        base: Problem,
        configs: Sequence[Experiment],
        datasets: Sequence[Dataset],
        numbers: Mapping[str, np.ndarray],
    ) -> None:
        """`base` is the problem of the first config; `numbers` is where the configs differ."""
        self.base, self.configs, self.datasets, self.numbers = base, configs, datasets, numbers
        self.seeds = np.array([config.seed for config in configs], np.uint32)
        devices = [d for d in jax.local_devices() if d.platform == jax.devices()[0].platform]
        self.mesh = Mesh(np.array(devices[: len(configs)]), ("networks",))
        self.shared: Parts | None = None
        if all(dataset is datasets[0] for dataset in datasets):
            self.shared = Parts(base.train, base.validation, base.test)
        elif base.config.model.class_weights == "balanced":
            raise ValueError("balanced class weights depend on the data, which differ")
        ends = np.arange(base.log_every, base.num_steps + base.log_every, base.log_every)
        self.course = Course(
            len(configs),
            np.minimum(ends, base.num_steps),
            objective(base.config, base.dataset),
            base.training.patience,
        )
        self.begun: dict[int, tuple[Params, PRNGKeyArray, GradientCheck]] = {}
        self.ended: dict[int, tuple[Params, int, dict[str, dict[str, float]]]] = {}
        self.start = self._over_networks(self._start)
        self.result = self._over_networks(self._result)
        self.programs: dict[tuple[int, int], Callable[..., Any]] = {}

    # --- what is compiled ----------------------------------------------------------------------

    def _over_networks(self, function: Callable[..., Any], **jit: Any) -> Callable[..., Any]:
        """`function(network, shared data, …)` of all networks, split over the devices."""

        def all_networks(networks: Any, *shared: Any) -> Any:
            return jax.vmap(lambda network: function(network, *shared))(networks)

        def split(networks: Any, *shared: Any) -> Any:
            along, whole = PartitionSpec("networks"), PartitionSpec()
            specs = (along, *[whole] * len(shared))
            return jax.shard_map(
                all_networks, mesh=self.mesh, in_specs=specs, out_specs=along, check_vma=False
            )(networks, *shared)

        return jax.jit(split, **jit)

    def _start(self, inputs: tuple[Array, dict[str, Array], Parts | None]) -> Networks:
        seed, numbers, own = inputs
        init_key, shuffle_key = keys_of(seed)
        config = with_values(self.base.config, numbers)
        params = initial_params(config, self.base.sizes, init_key)
        state = training.init_state(_training(self.base, numbers), params)
        return Networks(state, shuffle_key, numbers, own)

    def _interval(
        self, network: Networks, shared: Parts | None, length: int
    ) -> tuple[Networks, Metrics]:
        """The next `length` steps, and what is logged after them."""
        parts, state = network.own or shared, network.state
        assert parts is not None
        per_epoch = self.base.steps_per_epoch
        state, logged = training.train_interval(
            _training(self.base, network.numbers),
            length,
            not (self.base.log_every % per_epoch) and not (length % per_epoch),
            state,
            network.shuffle_key,
            parts.train,
            parts.validation,
        )
        if state.best is not None:
            logged["num_worse"] = state.best.num_worse
        return network._replace(state=state), logged

    def rounds(self, size: int, length: int) -> Callable[..., Any]:
        """The program of up to `size` log intervals of `length` steps.

        How many is an argument, so that rounds of different lengths are one program.
        """
        if (size, length) in self.programs:
            return self.programs[size, length]

        def some(network: Networks, shared: Parts | None, count: Array) -> Any:
            def step(point: Array, carry: tuple[Networks, Metrics]) -> tuple[Networks, Metrics]:
                network, logged = self._interval(carry[0], shared, length)
                return network, jax.tree.map(lambda all, v: all.at[point].set(v), carry[1], logged)

            _, shapes = jax.eval_shape(lambda n: self._interval(n, shared, length), network)
            empty = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), shapes)
            return jax.lax.fori_loop(0, count, step, (network, empty))

        self.programs[size, length] = self._over_networks(some, donate_argnums=0)
        return self.programs[size, length]

    def _result(self, network: Networks, shared: Parts | None) -> tuple[Params, Array, Any]:
        """The parameters that are kept, their step, and every part's metrics."""
        parts, fixed = network.own or shared, _training(self.base, network.numbers)
        assert parts is not None
        params, step = training.kept(network.state)
        metrics = {
            name: training.evaluate(fixed, params, part)
            for name, part in parts._asdict().items()
            if part is not None
        }
        return params, step, metrics

    # --- what the host does --------------------------------------------------------------------

    def train(self, halvings: int, on_progress: OnProgress) -> list[Member]:
        """Trains all of them to their end."""
        ends = self._ends(halvings)
        chunks = self._split()
        # In successive halving all chunks compete; else one is done with before the next begins.
        for together in [chunks] if halvings else [[chunk] for chunk in chunks]:
            begun = [self.begin(indices) for indices in together]
            for end in ends:
                for chunk in begun:
                    self._advance(chunk, end, on_progress)
                if end < ends[-1]:
                    self._halve(begun)
        return [self._member(index) for index in range(len(self.configs))]

    def _ends(self, halvings: int) -> list[int]:
        """The log points at which the worse half is dropped, and the last one."""
        last = len(self.course.steps)
        if last >> halvings == 0:
            raise UserError(
                f"{halvings} halvings need {2**halvings} log points, there are {last}: make "
                "log_every smaller, or halve less often."
            )
        return sorted({last >> k for k in range(halvings + 1)})

    def _split(self) -> list[np.ndarray]:
        """The networks in chunks that fit the memory."""
        itemsize = np.dtype(self.base.config.dtype).itemsize
        start = jax.eval_shape(self._start, jax.tree.map(lambda a: a[0], self.inputs([0])))
        own = sum(leaf.size * itemsize for leaf in jax.tree.leaves((start.state, start.own)))
        batch = self.base.training.batch_size * sum(self.base.sizes)
        each = 2 * own + itemsize * (num_params(self.base.params) + 4 * batch)
        size = max(1, CHUNK_BYTES // each // self.mesh.size) * self.mesh.size
        indices = np.arange(len(self.configs))
        return [indices[at : at + size] for at in range(0, len(indices), size)]

    def inputs(self, indices: Sequence[int] | np.ndarray) -> Any:
        """What `_start` takes of some networks."""
        own = None
        if self.shared is None:
            parts = [encode_parts(self.base.config, self.datasets[i]) for i in indices]
            own = jax.tree.map(lambda *arrays: np.stack(arrays), *parts)
        numbers = {key: values[indices] for key, values in self.numbers.items()}
        return self.seeds[indices], numbers, own

    def _padded(self, indices: np.ndarray) -> np.ndarray:
        """Filled up with copies of the last one, to a multiple of the devices."""
        return np.pad(indices, (0, -len(indices) % self.mesh.size), mode="edge")

    def begin(self, indices: np.ndarray) -> _Chunk:
        """The initial networks, their gradients checked."""
        sharding = NamedSharding(self.mesh, PartitionSpec("networks"))
        inputs = jax.device_put(self.inputs(self._padded(indices)), sharding)
        networks = self.start(inputs)
        params = jax.device_get(networks.state.params)
        count = len(indices)
        train = (self.shared or jax.tree.map(lambda array: array[:count], networks.own)).train
        gradients = check_members(
            self.base,
            jax.tree.map(lambda leaf: leaf[:count], params),
            train,
            {key: values[indices] for key, values in self.numbers.items()},
        )
        keys = jax.device_get(jax.random.key_data(networks.shuffle_key))
        for at, (index, gradient) in enumerate(zip(indices, gradients, strict=True)):
            self.begun[index] = (_one(params, at), jax.random.wrap_key_data(keys[at]), gradient)
        return _Chunk(indices, networks)

    def _advance(self, chunk: _Chunk, end: int, on_progress: OnProgress) -> None:
        """Trains a chunk up to the log point number `end`."""
        course, base = self.course, self.base
        num_full, rest = divmod(base.num_steps, base.log_every)
        size = -(-len(course.steps) // NUM_ROUNDS)
        while chunk.num_points < end and len(chunk.indices):
            left = num_full - chunk.num_points
            count = min(size, end - chunk.num_points, left) if left else 1
            program = self.rounds(size, base.log_every) if left else self.rounds(1, rest)
            chunk.networks, logged = program(chunk.networks, self.shared, count)
            logged = {
                name: values[: len(chunk.indices), :count]
                for name, values in jax.device_get(logged).items()
            }
            course.record(chunk.indices, chunk.num_points, logged)
            chunk.num_points += count
            on_progress(course.progress())
            self._drop_done(chunk)

    def _halve(self, chunks: list[_Chunk]) -> None:
        worse = self.course.halve(np.concatenate([chunk.indices for chunk in chunks]))
        for chunk in chunks:
            # At once: a network that stays in its chunk is carried on.
            self._finish(chunk, np.flatnonzero(np.isin(chunk.indices, worse)))
            self._drop_done(chunk)

    def _drop_done(self, chunk: _Chunk) -> None:
        """Takes the networks that are done out of a chunk where they are half of it or more."""
        is_done = self.course.is_done[chunk.indices]
        if is_done.sum() < len(is_done) / 2:
            return
        self._finish(chunk, np.flatnonzero(is_done))
        left = np.flatnonzero(~is_done)
        if len(left):
            where = self._padded(left)
            chunk.networks = jax.tree.map(lambda leaf: leaf[where], chunk.networks)
        chunk.indices = chunk.indices[left]

    def _finish(self, chunk: _Chunk, places: np.ndarray) -> None:
        """Fetches what is kept of the networks at some places of a chunk, if it is not yet."""
        places = np.array([at for at in places if chunk.indices[at] not in self.ended], int)
        if not len(places):
            return
        params, steps, metrics = jax.device_get(self.result(chunk.networks, self.shared))
        for at in places.tolist():
            measured = {
                part: {name: float(values[at]) for name, values in of_part.items()}
                for part, of_part in metrics.items()
            }
            self.ended[chunk.indices[at]] = (_one(params, at), int(steps[at]), measured)

    def _member(self, index: int) -> Member:
        initial, shuffle_key, gradient = self.begun[index]
        params, step, metrics = self.ended[index]
        diverged_at = int(self.course.diverged_at[index]) or None
        problem = problem_of(self.base, self.configs[index], self.datasets[index])
        return Member(
            problem._replace(params=initial, shuffle_key=shuffle_key),
            gradient,
            Fitted(params, step, self.course.log_points(index)),
            {} if diverged_at else metrics,
            diverged_at,
            int(self.course.halved_at[index]) or None,
        )


def problem_of(base: Problem, config: Experiment, dataset: Dataset) -> Problem:
    """The problem of a network like `base`, without its own parameters and key."""
    if dataset is not base.dataset:
        base = base._replace(dataset=dataset, **encode_parts(config, dataset)._asdict())
    return base._replace(config=config)


def _one(tree: Params, at: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[at], tree)
