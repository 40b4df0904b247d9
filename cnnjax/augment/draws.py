"""Random draws that belong to an example, and neither to its batch nor to the devices.

One number for each draw, so that switching one augmentation on leaves the others as they were.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

(
    CROP, FLIP, AFFINE, ELASTIC, BRIGHTNESS, CONTRAST, CUTOUT, MIX, MIX_PLACE, FLIP_VERTICAL, RANDOM_CROP, COLOUR,
    MOSAIC, MOSAIC_PLACE, COLOUR_JITTER, RAND_AUGMENT, ERASING,
) = range(17)  # fmt: skip
_FIRST_FLIP = 2**32 - 1  # stands for an epoch that no run reaches


class Keys(NamedTuple):
    """The keys of a batch [N], and what alternating flips go by."""

    example: Array  # of an example in its epoch
    first_flip: Array  # the same in every epoch
    odd: Array  # bool: whether the number of the epoch is odd


def keys_of(root: Array, epochs: Array | int, indices: Array) -> Keys:
    """Keys of the examples `indices` [N] of the data set in their `epochs` ([N], or one for all)."""
    epochs = jnp.broadcast_to(jnp.asarray(epochs), indices.shape)
    example = jax.vmap(lambda epoch, i: jax.random.fold_in(jax.random.fold_in(root, epoch), i))
    first = jax.random.fold_in(root, _FIRST_FLIP)
    return Keys(
        example(epochs, indices),
        jax.vmap(lambda i: jax.random.fold_in(first, i))(indices),
        epochs % 2 == 1,
    )


def fold(keys: Array, draw: int) -> Array:
    """The keys [N] of one draw."""
    return jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys)


def uniform(keys: Array, draw: int, shape: tuple[int, ...] = (), limit: float = 1.0) -> Array:
    """float32 [N, *shape], evenly from -limit to limit."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32, -limit, limit))(fold(keys, draw))


def integers(keys: Array, draw: int, limit: int) -> Array:
    """int32 [N, 2], evenly from -limit to limit."""
    return jax.vmap(lambda key: jax.random.randint(key, (2,), -limit, limit + 1))(fold(keys, draw))


def pixels(keys: Array, draw: int, height: int, width: int) -> Array:
    """int32 [N, 2]: a row and a column."""
    sizes = np.array([height, width], np.int32)
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, sizes))(fold(keys, draw))
