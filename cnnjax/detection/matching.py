"""Which object, if any, an anchor or a proposal is to find."""

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection.boxes import iou

BACKGROUND = -1
BETWEEN = -2  # neither an object nor background: takes no part in training
CHUNK = 8  # objects


def match(overlaps: Array, valid: Array, high: float, low: float, low_quality: bool = False) -> Array:
    """The object of each candidate: overlaps [M, N] of M objects and N candidates -> int32 [N].

    A candidate takes the object that it overlaps most if that is `high` or more; below `low` it is BACKGROUND, and
    BETWEEN otherwise. Of equal objects it takes the first; those that are not `valid` [M] take part in nothing.

    low_quality: a candidate that no other one surpasses, in its overlap with some object, is matched all the same
    (Ren et al. 2015, section 3.1.2), to the object that it overlaps most itself, as torchvision has it: that may be
    another one. An object that nothing overlaps so makes all candidates that overlap it by 0 positive.
    """
    overlaps = jnp.where(valid[:, None], overlaps, -1)
    best, object_ = jnp.max(overlaps, axis=0), jnp.argmax(overlaps, axis=0).astype(jnp.int32)
    found = jnp.where(best >= high, object_, jnp.where(best < low, BACKGROUND, BETWEEN))
    if not low_quality:
        return found
    unsurpassed = (overlaps == jnp.max(overlaps, axis=1, keepdims=True)) & valid[:, None]
    return jnp.where(jnp.any(unsurpassed, axis=0), object_, found)


def match_boxes(
    truths: Array, valid: Array, candidates: Array, high: float, low: float, low_quality: bool = False
) -> Array:
    """`match` by the IoU of boxes [M, 4] and [N, 4], xyxy."""
    # A few objects at a time: the coordinates of all pairs may take gigabytes.
    overlaps = jax.lax.map(lambda box: iou(box[None], candidates), truths, batch_size=CHUNK)
    return match(overlaps, valid, high, low, low_quality)
