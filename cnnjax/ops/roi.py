"""Features of regions of interest, of fixed size: RoIAlign (He et al. 2017, section 3) and RoIPool (Girshick 2015).

Boxes are xyxy in pixels of the image; `scale` is the size of the features in shares of the image's.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.detection.boxes import area

Size = tuple[int, int]  # bins: rows, columns


def roi_align(
    features: Array, boxes: Array, size: Size, scale: float = 1.0, sampling: int = 2, aligned: bool = True
) -> Array:
    """[H, W, C] and boxes [K, 4] -> [K, rows, columns, C]: the mean of `sampling`^2 bilinear values in every bin.

    Samples up to one pixel outside take the border's value, those farther out are 0. `aligned`: the first pixel's
    centre is at 0.5. Without it, as RoIAlign was at first, it is at 0, and a box is at least one pixel wide. What is
    not finite stays in the bins that look at it. Raises ValueError for a number of samples that would depend on the
    box, as 0 and -1 mean elsewhere: shapes are static here.
    """
    one_level = jnp.zeros(len(boxes), jnp.int32)
    return roi_align_levels([features], boxes, one_level, [scale], size, sampling, aligned)


def roi_align_levels(
    features: Sequence[Array],
    boxes: Array,
    levels: Array,
    scales: Sequence[float],
    size: Size,
    sampling: int = 2,
    aligned: bool = True,
) -> Array:
    """`roi_align` of each box in one level of a pyramid: [H_l, W_l, C] of each level, boxes [K, 4] and the number of
    their level, [K] int32 -> [K, rows, columns, C].

    The pixels of all levels lie in one row, from which each sample is taken once: no level is computed for boxes of
    another one. `scales`: the size of each level in shares of the image's. Raises ValueError as above.
    """
    if sampling < 1:
        raise ValueError(f"sampling={sampling}: the number of samples along a bin must be 1 or more")
    shapes = np.array([level.shape[:2] for level in features], np.int32)
    starts = np.cumsum([0, *shapes.prod(axis=1)[:-1]]).astype(np.int32)
    start, height, width = (jnp.asarray(of)[levels] for of in (starts, shapes[:, 0], shapes[:, 1]))
    inside = boxes * jnp.asarray(scales, boxes.dtype)[levels][:, None]
    rows = _samples(inside[:, 1], inside[:, 3], size[0], height, sampling, aligned)
    columns = _samples(inside[:, 0], inside[:, 2], size[1], width, sampling, aligned)
    channels = features[0].shape[2]
    pixels = jnp.concatenate([level.reshape(-1, channels) for level in features])
    total = jnp.zeros((len(boxes), size[0] * sampling, size[1] * sampling, channels), pixels.dtype)
    for row, of_row in rows:
        first = start[:, None] + row * width[:, None]
        for column, of_column in columns:
            weight = (of_row[:, :, None] * of_column[:, None, :])[..., None]
            value = pixels[first[:, :, None] + column[:, None, :]]
            # A pixel without weight is not looked at, or 0 times infinity would be NaN.
            total += jnp.where(weight > 0, weight.astype(pixels.dtype) * value, 0)
    return jnp.mean(total.reshape(len(boxes), size[0], sampling, size[1], sampling, channels), axis=(2, 4))


def roi_levels(boxes: Array, num_levels: int, canonical_size: float = 224.0) -> Array:
    """The level of a pyramid, whose first one has stride 4, for each box [..., 4], int32 from 0.

    A box of the area of a square of `canonical_size` belongs to the level of stride 16, one of twice the sides to the
    next; smaller and larger ones than there are levels for to the first and last (Lin et al. 2017, equation 1).
    """
    # Counted from level 4, as in the paper: how a size just below a power of two is rounded depends on that.
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(area(boxes)) / canonical_size) + 1e-6)
    return jnp.clip(level - 2, 0, num_levels - 1).astype(jnp.int32)


def roi_pool(features: Array, boxes: Array, size: Size, scale: float = 1.0) -> Array:
    """[H, W, C] and boxes [K, 4] -> [K, rows, columns, C]: the maximum of every bin, whose borders are rounded
    outwards to whole pixels; 0 in bins without a pixel."""
    height, width, _ = features.shape
    rows = _covered(boxes[:, 1] * scale, boxes[:, 3] * scale, size[0], height)
    columns = _covered(boxes[:, 0] * scale, boxes[:, 2] * scale, size[1], width)
    of_rows = jnp.max(jnp.where(rows[..., None, None], features[None, None], -jnp.inf), axis=2)
    found = jnp.max(jnp.where(columns[:, None, ..., None], of_rows[:, :, None], -jnp.inf), axis=3)
    empty = ~(jnp.any(rows, axis=2)[:, :, None] & jnp.any(columns, axis=2)[:, None, :])
    return jnp.where(empty[..., None], 0, found)


def _samples(
    low: Array, high: Array, bins: int, length: Array, sampling: int, aligned: bool
) -> list[tuple[Array, Array]]:
    """The two pixels of an axis beside every sample, [K, bins * sampling], and their weights; 0 outside. `length`
    [K]: of the axis."""
    end = length.astype(low.dtype)[:, None]
    if aligned:
        low, high = low - 0.5, high - 0.5
    extent = high - low if aligned else jnp.maximum(high - low, 1)
    share = (jnp.arange(bins * sampling, dtype=low.dtype) + 0.5) / (bins * sampling)
    at = low[:, None] + extent[:, None] * share[None]
    inside = ((at >= -1) & (at <= end)).astype(low.dtype)
    at = jnp.clip(at, 0, end - 1)
    first = jnp.floor(at)
    second = jnp.minimum(first + 1, end - 1)
    return [
        (first.astype(jnp.int32), inside * (1 - (at - first))),
        (second.astype(jnp.int32), inside * (at - first)),
    ]


def _covered(low: Array, high: Array, bins: int, length: int) -> Array:
    """bool [K, bins, length]: which pixels of an axis lie in a bin.

    In whole numbers: the quotient of floats may lie above the whole number that it is.
    """
    first = _round(low)
    extent = jnp.maximum(_round(high) - first + 1, 1)
    edges = jnp.arange(bins + 1, dtype=jnp.int32)[None] * extent[:, None]
    start = (first[:, None] + edges[:, :-1] // bins)[..., None]
    stop = (first[:, None] - (-edges[:, 1:] // bins))[..., None]
    pixels = jnp.arange(length, dtype=jnp.int32)[None, None]
    return (pixels >= start) & (pixels < stop)


def _round(x: Array) -> Array:
    """To the nearest whole number, int32; halves away from zero, as C's round. Far outside of any image it stops."""
    whole = jnp.trunc(x)
    rounded = whole + jnp.sign(x) * (jnp.abs(x - whole) >= 0.5).astype(x.dtype)
    return jnp.clip(rounded, -(2.0**20), 2.0**20).astype(jnp.int32)
