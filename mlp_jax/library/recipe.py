"""What `fit` and `fit_many` make a training of, checked: a `ValueError` says what is none."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import DTypeLike

from mlp_jax.core.backprop import Objective, Penalty
from mlp_jax.core.fit import Task
from mlp_jax.core.history import lower_is_better
from mlp_jax.core.metrics import names_of
from mlp_jax.core.network import Network, Params
from mlp_jax.core.optimizers import make_learning_rate, make_optimizer
from mlp_jax.core.regularization import Noise
from mlp_jax.core.training import Order, Parts, Training

Choice = str | Mapping[str, Any]
"""An optimizer or a schedule by its name, or `{"name": "adam", "b1": 0.8}` with its numbers."""

Numbers = float | np.ndarray | Array
"""One number, or one for each network."""

Observe = Callable[[Params], Mapping[str, Array]]
"""What else is logged at a log point, by name: arrays computed from the parameters."""


class Recipe(NamedTuple):
    """A training as data, which is hashable where no number is an array."""

    net: Network
    optimizer: str
    schedule: str
    numbers: tuple[tuple[str, Any], ...]
    """By name; those of the optimizer and of the schedule as "optimizer.b1"."""
    batch_size: int
    num_steps: int
    log_every: int
    patience: int | None
    monitor: str
    observe: Observe | None

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
        sign, name = -1 if lower_is_better(self.monitor) else 1, f"validation/{self.monitor}"
        return Training(
            objective=objective(self.net, numbers["l2"], numbers["l1"]),
            optimizer=make_optimizer(self.optimizer, eta, **of("optimizer.")),
            learning_rate=eta,
            batch_size=self.batch_size,
            threshold=threshold(self.net),
            also=() if self.patience is None else (self.monitor,),
            monitor=None if self.patience is None else lambda logged: sign * logged[name],
            patience=self.patience,
            min_delta=numbers["min_delta"],
            observe=self.observe,
            noise=_noise(numbers),
            max_norm=numbers["max_norm"],
            ema_decay=numbers["ema_decay"],
        )

    def task(self, params: Params, order: Order, parts: Parts) -> Task:
        """Of one network, whose numbers are all here."""
        return Task(
            training=self.training(),
            params=params,
            order=order,
            train=parts.train,
            validation=parts.validation,
            num_steps=self.num_steps,
            log_every=self.log_every,
        )


def make_recipe(
    net: Network,
    parts: Parts,
    *,
    num_steps: int | None,
    optimizer: Choice,
    schedule: Choice,
    batch_size: int | None,
    log_every: int | None,
    patience: int | None,
    monitor: str,
    observe: Observe | None,
    **numbers: Numbers | None,
) -> Recipe:
    """Of what a caller gives, checked; the tables of optimizers and schedules check their own."""
    num_examples = parts.train.x.shape[-2]
    num_steps = _whole("num_steps", num_steps)
    batch_size = num_examples if batch_size is None else _whole("batch_size", batch_size)
    if batch_size > num_examples:
        raise ValueError(
            f"batch_size={batch_size}: there are {num_examples} training examples; give a number "
            f"from 1 to {num_examples}, or None for all of them"
        )
    if patience is not None and parts.validation is None:
        raise ValueError(f"patience={patience}: stopping early needs validation=(x, y)")
    measured = names_of(threshold(net))
    if patience is not None and monitor not in measured:
        raise ValueError(f"monitor={monitor!r}: {net.output} measures {', '.join(measured)}")
    for name in ("learning_rate", "l2", "l1", "min_delta", "input_noise"):
        numbers[name] = not_negative(name, numbers[name])
    if numbers["max_norm"] is not None:
        numbers["max_norm"] = not_negative("max_norm", numbers["max_norm"])
    for name in ("dropout", "input_dropout", "ema_decay"):
        if numbers[name] is not None:
            numbers[name] = _share(name, numbers[name])
    optimizer, numbers_of_optimizer = _chosen("optimizer", optimizer, {"name": "adam", "b1": 0.8})
    schedule, numbers_of_schedule = _chosen(
        "schedule", schedule, {"name": "cosine", "final_factor": 0.1}
    )
    numbers |= numbers_of_optimizer | numbers_of_schedule
    return Recipe(
        net,
        optimizer,
        schedule,
        tuple((name, _one_or_each(value)) for name, value in numbers.items()),
        batch_size,
        num_steps,
        -(-num_steps // 100) if log_every is None else _whole("log_every", log_every),
        None if patience is None else _whole("patience", patience),
        monitor,
        observe,
    )


def _chosen(what: str, choice: Choice, example: Choice) -> tuple[str, dict[str, Any]]:
    """The name of an optimizer or a schedule, and its numbers, each as "optimizer.b1"."""
    numbers = dict(choice) if isinstance(choice, Mapping) else {"name": choice}
    name = numbers.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"{what}={choice!r}: must be a name, or its numbers beside the key 'name' as in "
            f"{example}"
        )
    return name, {
        f"{what}.{key}": tuple(value) if isinstance(value, list) else value
        for key, value in numbers.items()
    }


def _one_or_each(value: Any) -> Any:
    """An array without axes as a Python number, which is hashable; another one as NumPy's."""
    if isinstance(value, np.ndarray | np.generic | Array):
        return np.asarray(value) if np.ndim(value) else value.item()
    return value


def threshold(net: Network) -> float | None:
    """Where the two classes of a single output meet; `None` where the targets are numbers."""
    return 0.5 if net.output in ("sigmoid", "softmax") else None


def objective(net: Network, l2: Any, l1: Any) -> Objective:
    """What is minimised. A penalty that is 0 in every network costs nothing."""
    is_used = not all(isinstance(value, float | int) and value == 0 for value in (l2, l1))
    return Objective(
        net.activation_functions, net.loss_function, Penalty(l2, l1) if is_used else None
    )


def _whole(name: str, value: Any) -> int:
    """A count as Python's `int`; a bool is none."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if isinstance(value, bool) or not 1 <= whole < 2**31:
        raise ValueError(f"{name}={value!r}: must be a whole number, 1 or more")
    return whole


def _noise(numbers: Mapping[str, Any]) -> Noise | None:
    """What is random in a step. What is 0 in every network costs nothing."""
    noise = Noise(numbers["dropout"], numbers["input_dropout"], numbers["input_noise"])
    is_used = any(not isinstance(v, float | int) or v > 0 for v in noise[:3])
    return noise if is_used else None


def _share(name: str, value: Any) -> np.ndarray:
    """A number below 1, or one for each network."""
    numbers = not_negative(name, value)
    if not np.all(numbers < 1):
        raise ValueError(f"{name}={value!r}: must be a share, at least 0 and below 1")
    return numbers


def not_negative(name: str, value: Any) -> np.ndarray:
    """A number, or one for each network."""
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if not np.all(np.isfinite(numbers) & (numbers >= 0)):
        raise ValueError(f"{name}={value!r}: must be finite and not negative")
    return numbers
