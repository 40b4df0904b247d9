"""Features of regions of interest, of fixed size: RoIAlign (He et al. 2017, section 3) and RoIPool (Girshick 2015).

Boxes are xyxy in pixels of the image; `scale` is the size of the features in shares of the image's.
"""

import jax.numpy as jnp
from jax import Array

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
    if sampling < 1:
        raise ValueError(f"sampling={sampling}: the number of samples along a bin must be 1 or more")
    height, width, channels = features.shape
    rows = _samples(boxes[:, 1] * scale, boxes[:, 3] * scale, size[0], height, sampling, aligned)
    columns = _samples(boxes[:, 0] * scale, boxes[:, 2] * scale, size[1], width, sampling, aligned)
    pixels = features.reshape(height * width, channels)
    total = jnp.zeros((len(boxes), size[0] * sampling, size[1] * sampling, channels), features.dtype)
    for row, of_row in rows:
        for column, of_column in columns:
            weight = (of_row[:, :, None] * of_column[:, None, :])[..., None]
            value = pixels[row[:, :, None] * width + column[:, None, :]]
            # A pixel without weight is not looked at, or 0 times infinity would be NaN.
            total += jnp.where(weight > 0, weight.astype(features.dtype) * value, 0)
    return jnp.mean(total.reshape(len(boxes), size[0], sampling, size[1], sampling, channels), axis=(2, 4))


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
    low: Array, high: Array, bins: int, length: int, sampling: int, aligned: bool
) -> list[tuple[Array, Array]]:
    """The two pixels of an axis beside every sample, [K, bins * sampling], and their weights; 0 outside."""
    if aligned:
        low, high = low - 0.5, high - 0.5
    extent = high - low if aligned else jnp.maximum(high - low, 1)
    share = (jnp.arange(bins * sampling, dtype=low.dtype) + 0.5) / (bins * sampling)
    at = low[:, None] + extent[:, None] * share[None]
    inside = ((at >= -1) & (at <= length)).astype(low.dtype)
    at = jnp.clip(at, 0, length - 1)
    first = jnp.floor(at)
    second = jnp.minimum(first + 1, length - 1)
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
