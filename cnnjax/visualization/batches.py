"""A compiled function over many images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.data.batches import evaluation_indices


def to_float(images: Any) -> Array:
    """uint8, or floats in [0, 1], [..., H, W, C] -> float32 in [0, 1]."""
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)


def map_batches(function: Callable[[Array], Any], images: np.ndarray, batch_size: int = 64) -> Any:
    """Applies a function of [B, H, W, C] floats to all images; the results, pytrees of [B, ...], are concatenated.

    The last batch is filled up by repeating an image, so a jitted function is compiled once.
    """
    results = []
    for index, mask in evaluation_indices(len(images), min(batch_size, len(images))):
        found = jax.device_get(function(to_float(images[index])))
        results.append(jax.tree.map(lambda leaf, mask=mask: leaf[mask], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
