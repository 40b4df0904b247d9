"""Anchors of a pyramid: boxes of each level's own size at every place of its map (Lin et al. 2017, section 4.1)."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

Map = tuple[int, int]  # rows, columns


@dataclasses.dataclass(frozen=True)
class LevelAnchors:
    """`sizes`: of each level, the side of a square of the anchors' area. `ratios`: height over width."""

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def at_origin(self, level: int) -> np.ndarray:
        """[A, 4] xyxy around (0, 0), float32, whose borders are rounded to whole pixels, halves to even ones."""
        root = np.sqrt(np.asarray(self.ratios, np.float32))
        half = np.float32(self.sizes[level] / 2) * np.stack([1 / root, root], axis=1)
        return np.round(np.concatenate([-half, half], axis=1))

    def __call__(self, maps: Sequence[Map], frame: Map) -> list[Array]:
        """Of each level [rows * columns * A, 4] xyxy in pixels of the frame (height, width), float32.

        All anchors of a place lie side by side. Their centres are whole multiples of the stride, beginning at 0, and
        the stride is the whole number of pixels per place. They are not cut at the frame's borders.
        """
        return [self._of_level(level, of_level, frame) for level, of_level in enumerate(maps)]

    def _of_level(self, level: int, of_level: Map, frame: Map) -> Array:
        rows, columns = of_level
        y = jnp.arange(rows, dtype=jnp.float32) * (frame[0] // rows)
        x = jnp.arange(columns, dtype=jnp.float32) * (frame[1] // columns)
        centres = jnp.stack(jnp.meshgrid(x, y), axis=-1)
        both = jnp.concatenate([centres, centres], axis=-1)
        return (both[:, :, None] + jnp.asarray(self.at_origin(level))[None, None]).reshape(-1, 4)
