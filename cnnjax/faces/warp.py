"""Similarities between point sets, and piecewise affine warps of faces."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from cnnjax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift, without reflection. rotation: [2, 2]; shift: [2]."""

    scale: float
    rotation: np.ndarray
    shift: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """[2, 3], the linear part and the shift."""
        return np.concatenate([self.scale * self.rotation, self.shift[:, None]], axis=1)

    @property
    def degrees(self) -> float:
        return float(np.degrees(np.arctan2(self.rotation[1, 0], self.rotation[0, 0])))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """points: [..., 2]."""
        return self.scale * points @ self.rotation.T + self.shift

    def inverse(self) -> "Similarity":
        return Similarity(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.shift) / self.scale)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The similarity of least squares that takes points [n, 2] to others [n, 2] (Umeyama 1991, equations 40 to 42).

    Raises ConfigError where all source points are one.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    from_, to = source - source_mean, target - target_mean
    spread = np.sum(from_**2)
    if not spread > 0:
        raise ConfigError("no similarity takes points that are all at one place to others")
    u, singular, v = np.linalg.svd(to.T @ from_)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v)) or 1.0])  # never a reflection
    rotation = (u * signs) @ v
    scale = float(np.sum(singular * signs) / spread)
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def triangulate(points: np.ndarray) -> np.ndarray:
    """Delaunay triangles [T, 3] int32 of points [n, 2]. Triangulate the mean shape once, and use it for all faces.

    Raises ConfigError for points of which no triangle can be made.
    """
    from scipy.spatial import Delaunay, QhullError  # takes long to import, and every run knows of faces

    try:
        return Delaunay(points).simplices.astype(np.int32)
    except (QhullError, ValueError) as error:
        raise ConfigError("no triangles: the points are too few, on a line, or not finite") from error


def frame_points(width: int, height: int) -> np.ndarray:
    """Corners and middles of the edges of an image [8, 2]: added to a face's points they move the whole picture."""
    xs, ys = np.array([0, (width - 1) / 2, width - 1]), np.array([0, (height - 1) / 2, height - 1])
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    return np.delete(grid, 4, axis=0)


def warp(
    image: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    triangles: np.ndarray,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Moves points of an image to others, the triangles between them by affine maps; what lies in none is black.

    Each pixel of the result is looked up in the image, between its pixels, so that there are no holes.

    Args:
      image: uint8 [H, W] or [H, W, C].
      source, target: [n, 2] x and y in pixels, of pixels' centres.
      triangles: [T, 3] of `triangulate`.
      size: width and height of the result; the image's without.

    Returns:
      uint8 [height, width] or [height, width, C].
    """
    width, height = size or (image.shape[1], image.shape[0])
    if len(source) != len(target) or triangles.max() >= len(source):
        raise ConfigError(f"{len(source)} points cannot be warped to {len(target)} by these triangles")
    pixels = image if image.ndim == 3 else image[..., None]
    warped = _warp(
        jnp.asarray(pixels),
        jnp.asarray(source[triangles], jnp.float32),
        jnp.asarray(target[triangles], jnp.float32),
        height,
        width,
    )
    return np.asarray(warped).reshape(height, width, *image.shape[2:])


@partial(jax.jit, static_argnames=("height", "width"))
def _warp(image: Array, source: Array, target: Array, height: int, width: int) -> Array:
    """source, target: corners of the triangles [T, 3, 2]."""

    def row(y: Array) -> Array:
        places = jnp.stack([jnp.arange(width, dtype=jnp.float32), jnp.full(width, y)], axis=-1)
        shares = _barycentric(target, places)  # [width, T, 3]
        worst = jnp.min(shares, axis=-1)
        best = jnp.argmax(worst, axis=-1)
        share = jnp.take_along_axis(shares, best[:, None, None], axis=1)[:, 0]
        inside = jnp.take_along_axis(worst, best[:, None], axis=1)[:, 0] >= -1e-4
        looked_up = jnp.einsum("wk,wkc->wc", share, source[best], precision=jax.lax.Precision.HIGHEST)
        return jnp.where(inside[:, None], _bilinear(image, looked_up), 0)

    colours = jax.lax.map(row, jnp.arange(height, dtype=jnp.float32))
    return jnp.clip(jnp.round(colours), 0, 255).astype(jnp.uint8)


def _barycentric(triangles: Array, places: Array) -> Array:
    """What the corners of triangles [T, 3, 2] count at places [n, 2]: [n, T, 3]; none below 0 inside."""
    first, second, third = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    a, b = second - first, third - first
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    # of a triangle without area nothing is inside
    inverse = jnp.where(jnp.abs(area) > 1e-6, 1 / area, jnp.nan)
    offset = places[:, None] - first[None]
    beta = (offset[..., 0] * b[None, :, 1] - offset[..., 1] * b[None, :, 0]) * inverse[None]
    gamma = (a[None, :, 0] * offset[..., 1] - a[None, :, 1] * offset[..., 0]) * inverse[None]
    shares = jnp.stack([1 - beta - gamma, beta, gamma], axis=-1)
    return jnp.where(jnp.isnan(shares), -jnp.inf, shares)


def _bilinear(image: Array, places: Array) -> Array:
    """Values [n, C] of an image [H, W, C] at x, y [n, 2] float32; beyond its border, those of the border."""
    limit = jnp.array([image.shape[1] - 1, image.shape[0] - 1], jnp.float32)
    places = jnp.clip(places, 0, limit[None])
    low = jnp.floor(places)
    share = places - low
    x0, y0 = low[:, 0].astype(jnp.int32), low[:, 1].astype(jnp.int32)
    x1, y1 = jnp.minimum(x0 + 1, image.shape[1] - 1), jnp.minimum(y0 + 1, image.shape[0] - 1)
    u, v = share[:, :1], share[:, 1:]
    values = [image[y, x].astype(jnp.float32) for y, x in ((y0, x0), (y0, x1), (y1, x0), (y1, x1))]
    return (values[0] * (1 - u) + values[1] * u) * (1 - v) + (values[2] * (1 - u) + values[3] * u) * v


def morph(
    image: np.ndarray, source: np.ndarray, target: np.ndarray, triangles: np.ndarray, frames: int = 12
) -> list[np.ndarray]:
    """The way from a face as it is to its points at `target`, each frame uint8 of the image's shape."""
    shares = np.linspace(0, 1, frames)
    return [warp(image, source, (1 - t) * source + t * target, triangles) for t in shares]


def save_gif(frames: Sequence[np.ndarray], path: str | Path, milliseconds: int = 80) -> None:
    """Writes frames, uint8 [H, W] or [H, W, 3], there and back, as an animation that goes on for ever."""
    if not frames:
        raise ConfigError("a gif needs at least one frame")
    pictures = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
