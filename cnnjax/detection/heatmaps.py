"""Heatmaps of points: one map for each joint with a bump where it is, and the joint's place from a map.

As in Xiao, Wu & Wei 2018, "Simple baselines for human pose estimation". Maps are [..., H, W, K]; points are [..., K, 2],
x and y, where pixel i has the coordinate i; place x of the image is place x / stride of a map.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Decoded(NamedTuple):
    """points [..., K, 2], scores [..., K]: the largest value of each map."""

    points: Array
    scores: Array


def encode_heatmaps(
    points: Array, visible: Array, size: tuple[int, int], stride: float, sigma: float = 2.0
) -> tuple[Array, Array]:
    """Maps [..., H, W, K] of points [..., K, 2] in pixels of the image, and weights [..., K], 0 or 1.

    The bump is a Gaussian of `sigma` map pixels and height 1 around the nearest pixel, cut at 3 sigma in x and in y.
    The weight is 0 of points that are not visible, or whose bump is wholly outside of the map of `size` (H, W).
    """
    height, width = size
    center = jnp.floor(points / stride + 0.5)
    bump_x = _bump(center[..., 0], width, sigma)
    bump_y = _bump(center[..., 1], height, sigma)
    inside = jnp.any(bump_x > 0, axis=-1) & jnp.any(bump_y > 0, axis=-1)
    weights = (inside & visible).astype(jnp.float32)
    return jnp.einsum("...kh,...kw,...k->...hwk", bump_y, bump_x, weights, precision="highest"), weights


def decode_heatmaps(maps: Array) -> Decoded:
    """The place of the largest value of each map [..., H, W, K], in map pixels, moved a quarter of a pixel toward its
    larger neighbour in x and in y where it has two. (0, 0) of a map without a value above 0."""
    height, width = maps.shape[-3:-1]
    flat = maps.reshape(*maps.shape[:-3], height * width, maps.shape[-1])
    best = jnp.argmax(flat, axis=-2)
    x, y = best % width, best // width
    quarter_x = _quarter(flat, best, x, width, 1)
    quarter_y = _quarter(flat, best, y, height, width)
    scores = jnp.max(flat, axis=-2)
    points = jnp.stack([x, y], axis=-1).astype(jnp.float32) + jnp.stack([quarter_x, quarter_y], axis=-1)
    return Decoded(jnp.where(scores[..., None] > 0, points, jnp.float32(0)), scores)


def soft_argmax(maps: Array, temperature: float = 1.0) -> Array:
    """The mean place [..., K, 2] in map pixels under the softmax of each map [..., H, W, K] / temperature."""
    height, width = maps.shape[-3:-1]
    share = jax.nn.softmax(maps / temperature, axis=(-3, -2))
    x = jnp.einsum("...hwk,w->...k", share, jnp.arange(width, dtype=maps.dtype), precision="highest")
    y = jnp.einsum("...hwk,h->...k", share, jnp.arange(height, dtype=maps.dtype), precision="highest")
    return jnp.stack([x, y], axis=-1)


def flipped_back(maps: Array, permutation: Sequence[int]) -> Array:
    """The maps [..., H, W, K] of images that were flipped left to right as those of the images themselves.

    They are turned, their joints swapped, and moved right by a pixel: with a stride of s, pixel i of a map is place s i
    of the image, and a flip puts it at s (W - i) - 1, nearest to pixel W - i.
    """
    back = jnp.flip(maps, axis=-2)[..., np.asarray(permutation)]
    return jnp.concatenate([back[..., :1, :], back[..., :-1, :]], axis=-2)


def crop_matrix(center: tuple[float, float], side: float, degrees: float, size: int) -> np.ndarray:
    """The affine map [2, 3] from an image to a crop of size x size pixels of the square with this centre and side in
    pixels, turned by `degrees` clockwise."""
    scale, angle = size / side, np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, (size / 2 - turn @ np.asarray(center))[:, None]], axis=1)


def _bump(center: Array, length: int, sigma: float) -> Array:
    """Gaussians [..., length] around the places `center` [...]."""
    places = jnp.arange(length, dtype=jnp.float32).reshape((1,) * center.ndim + (length,))
    distance = places - center[..., None]
    height = jnp.exp(-(distance**2) / (2 * sigma**2))
    return jnp.where(jnp.abs(distance) <= int(3 * sigma), height, jnp.float32(0))


def _quarter(flat: Array, best: Array, place: Array, length: int, step: int) -> Array:
    """+-0.25 toward the larger of the two neighbours `step` away, 0 at the border and next to its first pixel."""
    last = flat.shape[-2] - 1
    after = jnp.take_along_axis(flat, jnp.minimum(best + step, last)[..., None, :], axis=-2)[..., 0, :]
    before = jnp.take_along_axis(flat, jnp.maximum(best - step, 0)[..., None, :], axis=-2)[..., 0, :]
    has_both = (place > 1) & (place < length - 1)
    return jnp.where(has_both, 0.25 * jnp.sign(after - before), jnp.float32(0)).astype(jnp.float32)
