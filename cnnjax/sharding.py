"""Devices: one mesh with the axis "data". One device is the special case of many."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH = "data"


def make_mesh(batch_size: int, data_parallel: bool = True) -> Mesh:
    """A mesh over as many devices as divide the batch evenly, or over one without `data_parallel`."""
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
