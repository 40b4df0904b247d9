"""A compiled function over many images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


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
    size = min(batch_size, len(images))
    results = []
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        missing = size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        result = jax.device_get(function(to_float(batch)))
        results.append(jax.tree.map(lambda leaf, keep=size - missing: leaf[:keep], result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
