"""Devices: one mesh with the axis "data". One device, and one process, are the special case of many."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.config import ConfigError

BATCH = "data"


def make_mesh(batch_size: int, data_parallel: bool = True) -> Mesh:
    """A mesh over as many devices as divide the batch evenly, or over one without `data_parallel`.

    Several processes use all their devices: raises ConfigError if these do not divide the batch.
    """
    if jax.process_count() > 1 and (not data_parallel or batch_size % jax.device_count()):
        raise ConfigError(
            f"data.batch_size={batch_size}: {jax.process_count()} processes need --train.data_parallel and a "
            f"multiple of {jax.device_count()}, the number of their devices"
        )
    devices = jax.devices() if data_parallel else jax.local_devices()[:1]
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return jax.make_mesh(
        (count,), (BATCH,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:count]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, axis: int) -> NamedSharding:
    """Split along the given axis of every array."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), BATCH))


def place(tree: Any, where: NamedSharding) -> Any:
    """The host's arrays on the devices. With several processes each one hands over only what its devices hold."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, where, lambda index: a[index]), tree)


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Which of `count` rows, split over the mesh, the devices of this process hold."""
    places = sharded(mesh, 0).addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[index] for index in places]))


def place_local_rows(rows: np.ndarray, mesh: Mesh, count: int) -> jax.Array:
    """An array of `count` rows split over the mesh, of which each process has its `local_rows`."""
    where = sharded(mesh, 0)
    return jax.make_array_from_process_local_data(where, rows, (count, *rows.shape[1:]))
