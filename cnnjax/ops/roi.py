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
    centre is at 0.5. Without it, as RoIAlign was at first, it is at 0, and a box is at least one pixel wide.
    """
    height, width, _ = features.shape
    rows = _sampled(boxes[:, 1] * scale, boxes[:, 3] * scale, size[0], height, sampling, aligned)
    columns = _sampled(boxes[:, 0] * scale, boxes[:, 2] * scale, size[1], width, sampling, aligned)
    return jnp.einsum("kiy,yxc,kjx->kijc", rows, features, columns)


def roi_pool(features: Array, boxes: Array, size: Size, scale: float = 1.0) -> Array:
    """[H, W, C] and boxes [K, 4] -> [K, rows, columns, C]: the maximum of every bin, whose borders are rounded
    outwards to whole pixels; 0 in bins without a pixel."""
    height, width, _ = features.shape
    rows = _covered(boxes[:, 1] * scale, boxes[:, 3] * scale, size[0], height)
    columns = _covered(boxes[:, 0] * scale, boxes[:, 2] * scale, size[1], width)
    of_rows = jnp.max(jnp.where(rows[..., None, None], features[None, None], -jnp.inf), axis=2)
    found = jnp.max(jnp.where(columns[:, None, ..., None], of_rows[:, :, None], -jnp.inf), axis=3)
    return jnp.where(jnp.isfinite(found), found, 0)


def _sampled(low: Array, high: Array, bins: int, length: int, sampling: int, aligned: bool) -> Array:
    """[K, bins, length]: the weight of every pixel of an axis in the mean of a bin's samples."""
    if aligned:
        low, high = low - 0.5, high - 0.5
    extent = high - low if aligned else jnp.maximum(high - low, 1)
    share = (jnp.arange(bins * sampling, dtype=low.dtype) + 0.5) / (bins * sampling)
    at = low[:, None] + extent[:, None] * share[None]
    inside = (at >= -1) & (at <= length)
    pixels = jnp.arange(length, dtype=low.dtype)
    distance = jnp.abs(jnp.clip(at, 0, length - 1)[..., None] - pixels[None, None])
    weights = jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
    return jnp.mean(weights.reshape(len(low), bins, sampling, length), axis=2)


def _covered(low: Array, high: Array, bins: int, length: int) -> Array:
    """bool [K, bins, length]: which pixels of an axis lie in a bin."""
    first = jnp.round(low)
    extent = jnp.maximum(jnp.round(high) - first + 1, 1)
    edges = jnp.arange(bins + 1, dtype=low.dtype)[None] * extent[:, None] / bins
    start = (first[:, None] + jnp.floor(edges[:, :-1]))[..., None]
    stop = (first[:, None] + jnp.ceil(edges[:, 1:]))[..., None]
    pixels = jnp.arange(length, dtype=low.dtype)[None, None]
    return (pixels >= start) & (pixels < stop)
