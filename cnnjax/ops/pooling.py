"""Pooling as plain array operations."""

import jax
import jax.numpy as jnp
from jax import Array


def max_pool_2x2(x: Array) -> Array:
    """Max pooling 2x2 with stride 2: [N, H, W, C] -> [N, H // 2, W // 2, C].

    Forward and backward are elementwise over a reshaped view, where the gradient of XLA's own pooling is a
    select-and-scatter (on CPU ten times slower). As there, an odd last row or column is dropped, and of equal
    values the first takes the gradient.
    """
    _, height, width, _ = x.shape
    return _pool(x[:, : height // 2 * 2, : width // 2 * 2])


@jax.custom_vjp
def _pool(x: Array) -> Array:
    return _forward(x)[0]


def _forward(x: Array) -> tuple[Array, Array]:
    """The maxima and, saved for the gradient, where in its window each lies: uint8, 0 to 3 by rows."""
    n, height, width, channels = x.shape
    windows = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    best = windows[:, :, 0, :, 0]
    place = jnp.zeros(best.shape, jnp.uint8)
    for i in (1, 2, 3):
        value = windows[:, :, i // 2, :, i % 2]
        place = jnp.where(value > best, jnp.uint8(i), place)
        best = jnp.maximum(best, value)
    return best, place


def _backward(place: Array, gradient: Array) -> tuple[Array]:
    n, rows, columns, channels = gradient.shape
    here = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = place[:, :, None, :, None] == here
    spread = jnp.where(chosen, gradient[:, :, None, :, None], jnp.zeros((), gradient.dtype))
    return (spread.reshape(n, 2 * rows, 2 * columns, channels),)


_pool.defvjp(_forward, _backward)
