"""The same training twice: as our compiled loop, and in PyTorch as its tutorials write it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlp_jax.core import network
from mlp_jax.core.activations import ACTIVATIONS
from mlp_jax.core.backprop import Objective
from mlp_jax.core.fit import Task, compile_programs, no_block
from mlp_jax.core.initializers import INITIALIZERS
from mlp_jax.core.losses import LOSSES
from mlp_jax.core.optimizers import make_learning_rate, make_optimizer
from mlp_jax.core.training import Part, Training


class Work(NamedTuple):
    """A network, its data and how many steps are timed."""

    sizes: tuple[int, ...]
    num_examples: int
    batch_size: int
    num_steps: int

    @property
    def name(self) -> str:
        batch = "full batch" if self.batch_size == self.num_examples else f"batch {self.batch_size}"
        return f"{'-'.join(map(str, self.sizes))}, {batch}"


def examples(work: Work) -> Part:
    rng = np.random.default_rng(0)
    x = rng.random((work.num_examples, work.sizes[0]), np.float32)
    y = np.eye(max(work.sizes[-1], 2))[rng.integers(0, max(work.sizes[-1], 2), work.num_examples)]
    return Part(jnp.asarray(x), jnp.asarray(y[:, -work.sizes[-1] :], jnp.float32))


def our_loop(work: Work) -> Callable[[], object]:
    """`num_steps` of gradient descent in one call, which goes on from the last one's state."""
    eta = make_learning_rate("constant", 0.1, work.num_steps)
    pair = (
        ("sigmoid", "binary_cross_entropy") if work.sizes[-1] == 1 else ("softmax", "cross_entropy")
    )
    task = Task(
        training=Training(
            objective=Objective(ACTIVATIONS["sigmoid"], LOSSES[pair]),
            optimizer=make_optimizer("gradient_descent", eta),
            learning_rate=eta,
            batch_size=work.batch_size,
        ),
        params=network.init_params(jax.random.key(0), work.sizes, INITIALIZERS["glorot_normal"]),
        order=jax.random.key(1),
        train=examples(work),
        num_steps=work.num_steps,
        log_every=work.num_steps,
    )
    programs = compile_programs(task)
    carry, block, step = programs.start(task.params), no_block(task), 0

    def run() -> object:
        nonlocal carry, block, step
        carry, block, num_finite = programs.advance(
            carry, block, task.order, task.train, np.int32(step), np.int32(step + work.num_steps)
        )
        step += work.num_steps
        return num_finite

    return run


def torch_loop(work: Work, num_steps: int, num_threads: int) -> Callable[[], object]:
    """The same training in PyTorch, eager, as its tutorials write it, on the device of JAX."""
    import torch
    from torch import nn

    device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
    torch.manual_seed(0)
    layers: list[Any] = []
    for n_in, n_out in zip(work.sizes[:-1], work.sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
    model = nn.Sequential(*layers[:-1]).to(device)
    part = examples(work)
    x, y = (torch.from_numpy(np.array(array)).to(device) for array in part)
    loss: Any = nn.BCEWithLogitsLoss()
    if work.sizes[-1] > 1:
        y, loss = y.argmax(dim=1), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps_per_epoch = work.num_examples // work.batch_size

    def run() -> None:
        torch.set_num_threads(num_threads)
        for step in range(num_steps):
            if work.batch_size == work.num_examples:
                batch_x, batch_y = x, y
            else:
                if step % steps_per_epoch == 0:
                    order = torch.randperm(work.num_examples, device=device)
                at = step % steps_per_epoch * work.batch_size
                rows = order[at : at + work.batch_size]
                batch_x, batch_y = x[rows], y[rows]
            optimizer.zero_grad()
            loss(model(batch_x), batch_y).backward()
            optimizer.step()
        if device.type == "cuda":  # its kernels run on after the call
            torch.cuda.synchronize()

    return run
