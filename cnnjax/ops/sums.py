"""Sums over all that a tree of arrays holds."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

_SMALL = 8192  # numbers in an array, of which a sum by rows would be a kernel more


def sum_of_squares(tree: Any) -> Array:
    """Of all numbers in all arrays, float32.

    Those of one shape are added first, then the rows of each shape, then all the rest, which the barrier keeps apart:
    XLA would sum every array by itself, on a GPU in two kernels.
    """
    by_shape: dict[tuple[int, ...], Array] = {}
    for leaf in jax.tree.leaves(tree):
        squares = jnp.square(leaf.astype(jnp.float32))
        by_shape[leaf.shape] = by_shape[leaf.shape] + squares if leaf.shape in by_shape else squares
    rows = [(x.sum(axis=-1) if x.size > _SMALL else x).reshape(-1) for x in by_shape.values()]
    return jnp.sum(jax.lax.optimization_barrier(jnp.concatenate(rows)))
