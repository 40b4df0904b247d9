"""The gradient of a batch: as one, or in parts of which each has its own statistics in batch normalization."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from cnnjax.config import ConfigError, Experiment
from cnnjax.runtime.sharding import BATCH
from cnnjax.tasks import Batch
from cnnjax.tasks.metrics import Sums
from cnnjax.training import parts as parts_of

# The loss of (params, batch, keys), a mean, and beside it: new state of the model and other means, and sums.
Keys = tuple[Array, ...]
Loss = Callable[[Any, Batch, Keys], tuple[Array, tuple[tuple[Any, Any], Sums]]]
Found = tuple[Array, tuple[Any, Any], Sums, Any]  # the loss, what is beside it, and the gradient


class Begun(Protocol):
    """What a step begins from."""

    @property
    def params(self) -> Any: ...

    @property
    def model_state(self) -> Any: ...


def check_parts(experiment: Experiment, model: Any, image_shape: tuple[int, ...]) -> None:
    """Raises ConfigError for parts of a batch that are not equal, or of whose statistics nobody asks."""
    count, batch_size = experiment.train.norm_parts, experiment.data.batch_size
    if count == 1:
        return
    if batch_size % count or batch_size == count:
        raise ConfigError(
            f"train.norm_parts={count}: data.batch_size={batch_size} is no multiple of it, twice or more"
        )
    if not parts_of.has_statistics(model, image_shape):
        raise ConfigError(
            f"--train.norm_parts has no effect with model.name={experiment.model.name}: it has no batch normalization"
        )


def whole(loss: Loss, state: Begun, batch: Batch, keys: Keys) -> Found:
    """Of the whole batch, whose statistics are those of all its examples."""
    (value, (means, sums)), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, keys)
    return value, means, sums, grads


def in_parts(
    loss: Loss, state: Begun, batch: Batch, keys: Keys, parts: int, mesh: Mesh | None = None
) -> Found:
    """The same of so many equal parts of the batch, one after the other, each on its own and with keys of its own.

    New state, such as running statistics, is the mean of that of the parts. Where the devices of the mesh divide the
    parts, a device looks at whole ones, and all that devices exchange is one sum. The result is the same on any number
    of devices, to rounding.
    """

    def change(params: Any, batch: Batch, keys: Keys) -> tuple[Array, tuple[tuple[Any, Any], Sums]]:
        value, ((new, means), sums) = loss(params, batch, keys)
        # As a difference, so that the mean of what stays as it is, is exactly that.
        return value, ((jax.tree.map(jnp.subtract, new, state.model_state), means), sums)

    split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
    of_parts = tuple(jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(parts)) for key in keys)
    if mesh is None or mesh.size == 1 or parts % mesh.size:
        found = _of_parts(change, state.params, split, of_parts)
    else:
        everywhere, mine = PartitionSpec(), PartitionSpec(BATCH)
        found = jax.shard_map(
            functools.partial(_over_devices, change, mesh.size),
            mesh=mesh, in_specs=(everywhere, mine, mine), out_specs=everywhere, check_vma=False,
        )(state.params, split, of_parts)  # fmt: skip
    value, (moved, means), sums, grads = found
    return value, (jax.tree.map(jnp.add, state.model_state, moved), means), sums, grads


def _over_devices(loss: Loss, devices: int, params: Any, split: Batch, keys: Keys) -> Found:
    """Of the parts of all devices, on each that has some of them."""
    value, means, sums, grads = _of_parts(loss, params, split, keys)
    mine = (*jax.tree.map(lambda a: a / devices, (value, means, grads)), sums)
    flat, restore = ravel_pytree(mine)  # one exchange, not one for each array
    value, means, grads, sums = restore(lax.psum(flat, BATCH))
    return value, means, sums, grads


def _of_parts(loss: Loss, params: Any, split: Batch, keys: Keys) -> Found:
    def mean_loss(params: Any) -> tuple[Array, tuple[Any, Sums]]:
        of_part = functools.partial(loss, params)
        if len(keys[0]) == 1:
            return of_part(*jax.tree.map(lambda a: a[0], (split, keys)))
        values, (means, sums) = jax.vmap(of_part)(split, keys)
        mean, total = functools.partial(jnp.mean, axis=0), functools.partial(jnp.sum, axis=0)
        return mean(values), (jax.tree.map(mean, means), jax.tree.map(total, sums))

    (value, (means, sums)), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    return value, means, sums, grads
