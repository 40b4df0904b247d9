"""Which pixels a neuron can see, found by running the model backwards."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.models.layers import avg_pool
from cnnjax.network import Network
from cnnjax.visualization.relu_rules import is_relu, open_


def receptive_fields(network: Network, layer: str, positions: np.ndarray) -> np.ndarray:
    """Boxes [K, 4], xyxy in pixels, end exclusive, of the pixels that positions [K, 2] (y, x) of a layer depend on.

    Boxes end at the border of the picture. Of a vector, positions are not used: it sees what its layer sees.

    A NaN is sent back from a position and reaches exactly the pixels it depends on, whatever the weights: ReLUs are
    opened and max pooling is replaced by averaging, because both would send it to some of their inputs only. Models
    must have them in their fields `act` and `pool`. Rows are taken to depend on y alone and columns on x, as they do
    where windows are rectangles.
    """
    rows, y = np.unique(np.asarray(positions)[:, 0], return_inverse=True)
    columns, x = np.unique(np.asarray(positions)[:, 1], return_inverse=True)
    count = max(len(rows), len(columns))
    probes = np.stack([np.resize(rows, count), np.resize(columns, count)], axis=1)
    cpu = jax.local_devices(backend="cpu")[0]  # algorithms of accelerators may mix neighbours
    with jax.default_device(cpu), jax.debug_nans(False):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.variables)
        model = network.model.clone(pool=avg_pool)
        if is_relu(getattr(model, "act", None)):
            model = model.clone(act=open_)
        blank = Network(model, zeros, network.image_shape)
        seen = np.asarray(_seen(blank, layer, jnp.asarray(probes, jnp.int32)))
    vertical, horizontal = (_extent(np.any(seen, axis=axis)) for axis in (2, 1))
    return np.stack([horizontal[x, 0], vertical[y, 0], horizontal[x, 1], vertical[y, 1]], axis=1)


def _extent(seen: Any) -> np.ndarray:
    """First and one past the last of the true entries of each row: [K, 2]."""
    return np.stack([seen.argmax(axis=1), seen.shape[1] - seen[:, ::-1].argmax(axis=1)], axis=1)


@functools.partial(jax.jit, static_argnames="layer")
def _seen(network: Network, layer: str, positions: Array) -> Array:
    """[K, H, W], whether pixels reach the positions."""

    def activation(images: Array) -> Array:
        return network.stages(images)[layer]

    count = positions.shape[0]
    values, pull_back = jax.vjp(activation, jnp.zeros((count, *network.image_shape)))
    index: Any = (jnp.arange(count), positions[:, 0], positions[:, 1]) if values.ndim == 4 else slice(None)
    (gradient,) = pull_back(jnp.zeros_like(values).at[index].set(jnp.nan))
    return jnp.any(jnp.isnan(gradient), axis=-1)
