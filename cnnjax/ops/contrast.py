"""Ways to even out the contrast of a picture, and the width of what is drawn on it: columns of MCDNN.

Ciresan, Meier, Schmidhuber, "Multi-column Deep Neural Networks for Image Classification" (CVPR 2012) and
"Multi-Column Deep Neural Network for Traffic Sign Classification" (Neural Networks 2012). Each function takes
pictures [..., H, W, C] of values in [0, 1], grey or RGB, to others of the same kind.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LEVELS = 256  # at which brightness is counted
_TILES = 8  # of adaptive equalization, on each side
_CLIP = 2.56  # the most of one level in a tile, in shares of an even spread: .01 of all its pixels
_SATURATED = 0.01  # of the pixels, at each end
_NARROW, _WIDE, _RADIUS = 0.5, 1.0, 2  # pixels
# Linear RGB of the primaries of sRGB to XYZ, of daylight D65 (IEC 61966-2-1).
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ.sum(axis=1)
_DELTA = 6 / 29  # where the cube root of Lab begins


def adjust(images: Array) -> Array:
    """Brightness stretched so that 1 % of the pixels are black and 1 % white (Matlab's imadjust)."""

    def of_one(light: Array) -> Array:
        shares = _cumulative(_counts(light)) / light.size
        low = jnp.argmax(shares > _SATURATED) / (LEVELS - 1)
        high = jnp.argmax(shares >= 1 - _SATURATED) / (LEVELS - 1)
        return jnp.where(high > low, (light - low) / jnp.where(high > low, high - low, 1), light)

    return _on_brightness(of_one, images)


def equalize(images: Array) -> Array:
    """Brightness replaced by the share of pixels that are at most as bright (histogram equalization)."""

    def of_one(light: Array) -> Array:
        return _looked_up(_cumulative(_counts(light)) / light.size, light)

    return _on_brightness(of_one, images)


def equalize_adaptively(images: Array) -> Array:
    """Equalized within 8x8 tiles, with clipped counts, between whose centres it is interpolated (CLAHE).

    Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994; the counts beyond the
    limit are spread as OpenCV's createCLAHE(2.56, (8, 8)) spreads them.
    """
    return _on_brightness(_clahe, images)


def sharpen(images: Array) -> Array:
    """The difference of two Gaussians around each pixel, added to grey: edges, whatever the light they stand in.

    5x5 filters as in the paper, which does not say how wide they are: standard deviations of .5 and 1 pixels here.
    """
    kernel = _gaussian(_NARROW) - _gaussian(_WIDE)
    *batch, height, width, channels = images.shape
    planes = jnp.moveaxis(images.reshape(-1, height, width, channels), -1, 1).reshape(-1, height, width, 1)
    padded = jnp.pad(planes, ((0, 0), (_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)), mode="edge")
    weights = jnp.asarray(kernel[:, :, None, None], images.dtype)
    edges = jax.lax.conv_general_dilated(
        padded, weights, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    edges = jnp.moveaxis(edges.reshape(-1, channels, height, width), 1, -1)
    return jnp.clip(0.5 + edges.reshape(*batch, height, width, channels), 0, 1)


def fit_width(images: Array, width: int) -> Array:
    """What is drawn on black, brought to `width` pixels from its first to its last column, in the middle.

    A column counts from half a level of brightness on. As Pillow's BILINEAR resizes that box: with antialiasing where it
    shrinks. An empty picture stays so. Images as wide as `width` or less lose what does not fit.
    """
    sides = images.shape[-3:]

    def of_one(image: Array) -> Array:
        there = jnp.max(image, axis=(0, 2)) > 0.5 / (LEVELS - 1)
        columns = jnp.arange(sides[1], dtype=jnp.float32)
        first = jnp.argmax(there).astype(jnp.float32)
        end = sides[1] - jnp.argmax(there[::-1]).astype(jnp.float32)
        step = (end - first) / width  # source pixels for one of the result
        begin = (sides[1] - width) // 2
        target = columns - begin
        centres = first + (target + 0.5) * step
        reach = jnp.maximum(step, 1)
        weights = jnp.maximum(0, 1 - jnp.abs(columns[None] + 0.5 - centres[:, None]) / reach)
        inside = (columns >= first) & (columns < end)
        shown = (target >= 0) & (target < width)
        weights = jnp.where(inside[None] & shown[:, None], weights, 0)
        weights = weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-6)
        moved = jnp.einsum("tx,yxc->ytc", weights, image, precision="highest")
        return jnp.where(jnp.any(there), moved, image).astype(image.dtype)

    return jax.vmap(of_one)(images.reshape(-1, *sides)).reshape(images.shape)


CONTRASTS: dict[str, Callable[[Array], Array]] = {
    "imadjust": adjust,
    "histeq": equalize,
    "clahe": equalize_adaptively,
    "conorm": sharpen,
}


def _on_brightness(change: Callable[[Array], Array], images: Array) -> Array:
    """Changes grey pictures, and of colours the lightness L of CIE Lab alone; `change` is of one plane [H, W]."""
    planes = images.reshape(-1, *images.shape[-3:])
    if images.shape[-1] == 1:
        changed = jax.vmap(change)(planes[..., 0])[..., None]
    else:
        lab = _lab(planes)
        light = jax.vmap(change)(lab[..., 0] / 100)
        changed = _rgb(lab.at[..., 0].set(100 * jnp.clip(light, 0, 1)))
    return jnp.clip(changed, 0, 1).astype(images.dtype).reshape(images.shape)


def _levels(light: Array) -> Array:
    return jnp.clip(jnp.round(light * (LEVELS - 1)), 0, LEVELS - 1).astype(jnp.int32)


def _counts(light: Array) -> Array:
    """How many pixels have each level, int32 [LEVELS]."""
    return jnp.zeros(LEVELS, jnp.int32).at[_levels(light).ravel()].add(1)


def _cumulative(counts: Array) -> Array:
    return jnp.cumsum(counts, axis=-1).astype(jnp.float32)


def _looked_up(table: Array, light: Array) -> Array:
    """`table` [LEVELS], read between its entries, so that it has a slope."""
    return jnp.interp(light * (LEVELS - 1), jnp.arange(LEVELS, dtype=jnp.float32), table)


def _clahe(light: Array) -> Array:
    height, width = light.shape
    down, across = (-(-side // _TILES) for side in (height, width))
    # As OpenCV: a picture that tiles do not divide is mirrored on at its right and lower edge.
    missing = (down * _TILES - height, across * _TILES - width)
    padded = jnp.pad(light, [(0, n) for n in missing], mode="reflect") if any(missing) else light
    tiles = padded.reshape(_TILES, down, _TILES, across).transpose(0, 2, 1, 3)
    tables = jax.vmap(jax.vmap(_clipped_shares))(tiles)
    rows, below = _between(height, down)
    columns, right = _between(width, across)
    below, right = below[:, None], right[None]
    found = functools.partial(_of_tiles, tables, light)
    upper, lower = (found(row, columns[0]) * (1 - right) + found(row, columns[1]) * right for row in rows)
    return upper * (1 - below) + lower * below


def _clipped_shares(tile: Array) -> Array:
    """The cumulative shares [LEVELS] of a tile, no level counted more than the limit; the excess goes to all levels."""
    most = max(int(_CLIP * tile.size / LEVELS), 1)
    counts = _counts(tile)
    excess = jnp.sum(jnp.maximum(counts - most, 0))
    rest = excess % LEVELS
    every = jnp.maximum(LEVELS // jnp.maximum(rest, 1), 1)
    level = jnp.arange(LEVELS)
    more = (level % every == 0) & (level // every < rest)
    return _cumulative(jnp.minimum(counts, most) + excess // LEVELS + more.astype(jnp.int32)) / tile.size


def _between(size: int, side: int) -> tuple[tuple[np.ndarray, np.ndarray], Array]:
    """For each pixel the tiles before and after it along an axis, and how near it is to the latter."""
    place = np.arange(size, dtype=np.float32) / side - 0.5
    first = np.floor(place).astype(int)
    ends = np.clip(first, 0, _TILES - 1), np.clip(first + 1, 0, _TILES - 1)
    return ends, jnp.asarray(place - first, jnp.float32)


def _of_tiles(tables: Array, light: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    """Each pixel by the table of its tile, read between the entries."""
    place = jnp.clip(light, 0, 1) * (LEVELS - 1)
    low = jnp.clip(jnp.floor(place), 0, LEVELS - 2)
    at = (rows[:, None], columns[None], low.astype(jnp.int32))
    below, above = tables[at], tables[at[0], at[1], at[2] + 1]
    return below + (above - below) * (place - low)


def _gaussian(sigma: float) -> np.ndarray:
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    one = np.exp(-(offsets**2) / (2 * sigma**2))
    return np.outer(one, one) / one.sum() ** 2


def _lab(rgb: Array) -> Array:
    """sRGB [..., 3] of [0, 1] to CIE Lab of daylight D65, L from 0 to 100."""
    bright = rgb > 0.04045
    linear = jnp.where(bright, ((jnp.where(bright, rgb, 1) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _product(linear, _TO_XYZ / _WHITE[:, None])
    large = xyz > _DELTA**3
    f = jnp.where(large, jnp.cbrt(jnp.where(large, xyz, 1)), xyz / (3 * _DELTA**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _rgb(lab: Array) -> Array:
    """The way back, not clipped."""
    y = (lab[..., 0] + 16) / 116
    f = jnp.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = jnp.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29))
    linear = _product(xyz, np.linalg.inv(_TO_XYZ / _WHITE[:, None]))
    bright = linear > 0.0031308
    return jnp.where(bright, 1.055 * jnp.where(bright, linear, 1) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _product(colours: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum("...c,dc->...d", colours, jnp.asarray(matrix, colours.dtype), precision="highest")
