"""Haar features: differences of sums over rectangles of a window (Viola & Jones 2001, section 2)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.faces.integral import integral_image

# Of each type: cells across and down, and the cells (x, y) that count against the whole.
TYPES: dict[str, tuple[int, int, tuple[tuple[int, int], ...]]] = {
    "two beside": (2, 1, ((1, 0),)),
    "two above": (1, 2, ((0, 1),)),
    "three beside": (3, 1, ((1, 0),)),
    "three above": (1, 3, ((0, 1),)),
    "four": (2, 2, ((0, 0), (1, 1))),
}


@dataclasses.dataclass(frozen=True)
class Features:
    """Haar features of a window, as OpenCV's cascades have them.

    size: width and height of the window.
    rectangles: [F, R, 4] int32, x, y, width, height in pixels of the window; a feature of fewer ends in zeros.
    weights: [F, R] int32. A value is the weighted sum of the rectangles' sums; the whole weighs -1 and its brighter
      part so much that a constant window gives 0.
    """

    size: tuple[int, int]
    rectangles: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.rectangles)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Features":
        return Features(self.size, self.rectangles[chosen], self.weights[chosen])


def all_features(size: tuple[int, int] = (24, 24), names: tuple[str, ...] = tuple(TYPES)) -> Features:
    """Every feature of the named types that fits in a window: 162,336 of all five in 24x24 pixels."""
    rectangles, weights = [], []
    for name in names:
        across, down, bright = TYPES[name]
        places = _places(size, across, down)
        x, y, width, height = places.T
        cells = [np.stack([x + i * width, y + j * height, width, height], 1) for i, j in bright]
        whole = np.stack([x, y, across * width, down * height], 1)
        unused = [np.zeros_like(whole)] * (2 - len(bright))
        rectangles.append(np.stack([whole, *cells, *unused], 1))
        factor = across * down // len(bright)
        row = [-1, *[factor] * len(bright), *[0] * len(unused)]
        weights.append(np.broadcast_to(np.array(row, np.int32), (len(whole), 3)))
    return Features(size, np.concatenate(rectangles), np.concatenate(weights))


def _places(size: tuple[int, int], across: int, down: int) -> np.ndarray:
    """x, y, width and height [n, 4] of the first cell of all features of a type."""
    grids = np.meshgrid(
        np.arange(size[0], dtype=np.int32),
        np.arange(size[1], dtype=np.int32),
        np.arange(1, size[0] // across + 1, dtype=np.int32),
        np.arange(1, size[1] // down + 1, dtype=np.int32),
        indexing="ij",
    )
    x, y, width, height = (grid.ravel() for grid in grids)
    fits = (x + across * width <= size[0]) & (y + down * height <= size[1])
    return np.stack([x, y, width, height], 1)[fits]


def corner_matrix(features: Features) -> np.ndarray:
    """What each corner of a window's integral image counts: int8 [F, (height + 1) * (width + 1)]."""
    width, height = features.size
    matrix = np.zeros((len(features), height + 1, width + 1), np.int8)
    rows = np.arange(len(features))
    for index in range(features.weights.shape[1]):
        x, y, w, h = features.rectangles[:, index].T
        weight = features.weights[:, index].astype(np.int8)
        for sign, row, column in ((1, y, x), (1, y + h, x + w), (-1, y, x + w), (-1, y + h, x)):
            matrix[rows, row, column] += np.int8(sign) * weight
    return matrix.reshape(len(features), -1)


def contrast(windows: Array) -> Array:
    """The divisor of a window's features: area times the standard deviation of what lies a pixel inside its border.

    windows: [N, H, W] integers. Returns [N] float32; 0 of constant windows.
    """
    # Centred on 128, both terms fit in 32 bits of a window of up to 24x24 pixels; what is left is exact.
    inner = windows[:, 1:-1, 1:-1].astype(jnp.int32) - 128
    area = inner.shape[1] * inner.shape[2]
    if area > 512:
        raise ValueError(f"windows of {windows.shape[1]}x{windows.shape[2]} pixels are too large")
    total = jnp.sum(inner, axis=(1, 2))
    squares = jnp.sum(inner * inner, axis=(1, 2)).astype(jnp.uint32)
    return jnp.sqrt((jnp.uint32(area) * squares - (total * total).astype(jnp.uint32)).astype(jnp.float32))


@jax.jit
def _raw_values(integrals: Array, matrix: Array) -> Array:
    # Products and sums of whole numbers below 2^24 are exact in float32.
    return jnp.matmul(matrix.astype(jnp.float32), integrals.T, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames="normalize")
def _window_values(windows: Array, matrix: Array, normalize: bool) -> Array:
    integrals = integral_image(windows).reshape(len(windows), -1).astype(jnp.float32)
    values = _raw_values(integrals, matrix)
    return values / jnp.maximum(contrast(windows), 1.0)[None, :] if normalize else values


def feature_values(
    features: Features, windows: np.ndarray, normalize: bool = True, chunk: int = 2048
) -> np.ndarray:
    """Values of features in windows of their size.

    Args:
      windows: [N, height, width] uint8, up to 24x24 pixels.
      normalize: divide by `contrast`, as cascades do; otherwise values are whole numbers.

    Returns:
      [F, N] float32.
    """
    if windows.shape[1:] != features.size[::-1]:
        raise ValueError(f"windows of {windows.shape[1:]} pixels, features of {features.size[::-1]}")
    values = np.empty((len(features), len(windows)), np.float32)
    matrix = corner_matrix(features)
    for start in range(0, len(features), chunk):
        part = matrix[start : start + chunk]
        padded = np.concatenate([part, np.zeros((chunk - len(part), part.shape[1]), np.int8)])
        found = _window_values(jnp.asarray(windows), jnp.asarray(padded), normalize)
        values[start : start + chunk] = np.asarray(found)[: len(part)]
    return values
