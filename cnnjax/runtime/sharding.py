"""Devices: one mesh with the axis "data". One device, and one process, are the special case of many."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.config import ConfigError

BATCH = "data"


def make_mesh(
    batch_size: int, data_parallel: bool = True, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices, or over one without `data_parallel`; of this program, or of those that are given.

    Raises ConfigError if they do not divide the batch evenly. Virtual devices of a CPU share its cores, so there
    as many are taken as do.
    """
    if devices is None and jax.process_count() > 1 and (not data_parallel or batch_size % jax.device_count()):
        raise ConfigError(
            f"data.batch_size={batch_size}: {jax.process_count()} processes need --train.data_parallel and a "
            f"multiple of {jax.device_count()}, the number of their devices"
        )
    if devices is None:
        devices = jax.devices() if data_parallel else jax.local_devices()
    devices = list(devices) if data_parallel else list(devices)[:1]
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if count < len(devices) and devices[0].platform != "cpu":
        raise ConfigError(
            f"data.batch_size={batch_size} does not divide over {len(devices)} devices: choose a multiple of "
            f"{len(devices)}, or --train.data_parallel=false for one device"
        )
    return jax.make_mesh(
        (count,), (BATCH,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:count]
    )


def evaluation_mesh() -> Mesh:
    """A mesh over all devices of this process, for batches that are padded to what they divide."""
    return make_mesh(jax.local_device_count(), devices=jax.local_devices())


def on_cpu(mesh: Mesh) -> bool:
    """Whether programs of this mesh run on a CPU; its devices decide, not this process's default."""
    return mesh.devices.flat[0].platform == "cpu"


def process_on_cpu() -> bool:
    """Whether the devices of this process are CPUs: of what is decided before there is a mesh, such as a workload."""
    return on_cpu(evaluation_mesh())


def check_fits(arrays: Mapping[str, Any], mesh: Mesh) -> None:
    """Raises ConfigError if whole arrays on each device would exceed its memory, where a device tells its size."""
    needed = sum(array.nbytes for array in arrays.values())
    stats = mesh.local_devices[0].memory_stats() or {}
    free = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
    if needed > free:
        raise ConfigError(
            f"the data take {needed / 1e9:.1f} GB of each device's memory, of which {free / 1e9:.1f} GB are free: "
            "--mode=prepare writes them for --data.stream, which reads batch by batch"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
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
