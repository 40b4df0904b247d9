"""A cascade slid over an image at all scales, window for window as OpenCV's detectMultiScale does it."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.faces.cascade import MARGIN, Cascade
from cnnjax.faces.grouping import group_rectangles
from cnnjax.faces.haar import corner_matrix
from cnnjax.faces.integral import integral_on_host

CHUNK = 16384  # windows to a call of the compiled function
MOST_CORNERS = 9  # of a feature's rectangles, those that cancel left out
LEAST_DEVIATION = 10.0  # windows of a smaller standard deviation are too flat to be looked at


class Level(NamedTuple):
    """One size of the pyramid: the image is `scale` times as large as `image`, looked at every `step` pixels."""

    scale: float
    image: np.ndarray
    step: int


@dataclasses.dataclass(frozen=True)
class Windows:
    """Places of a window in the levels of a pyramid.

    level, x, y: [n] int32; x and y in pixels of the level.
    """

    level: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, chosen: np.ndarray) -> "Windows":
        return Windows(self.level[chosen], self.x[chosen], self.y[chosen])


def resize_exact(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing of uint8 [H, W] in fixed point with 8 bits of fraction, as OpenCV's INTER_LINEAR_EXACT."""
    y0, y1, wy = _taps(image.shape[0], height)
    x0, x1, wx = _taps(image.shape[1], width)
    pixels = image.astype(np.int32)
    rows = pixels[:, x0] * (256 - wx) + pixels[:, x1] * wx
    sums = rows[y0] * (256 - wy)[:, None] + rows[y1] * wy[:, None]
    return ((sums + (1 << 15)) >> 16).astype(np.uint8)


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones that it is made of, and what the second weighs, of 256."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(place).astype(np.int64)
    weight = np.rint((place - first) * 256).astype(np.int32)
    inside = (first >= 0) & (first < old - 1)
    first = np.clip(first, 0, old - 1)
    return first, np.minimum(first + 1, old - 1), np.where(inside, weight, 0).astype(np.int32)


def make_pyramid(
    image: np.ndarray, size: tuple[int, int], factor: float = 1.1, least: int = 0, most: int = 0
) -> list[Level]:
    """The image [H, W] uint8 in all sizes in which the window, `size` wide and high, fits.

    factor: of one scale to the next. least, most: widths of windows in pixels of the image, 0 for any.
    """
    if factor <= 1:
        raise ConfigError(f"a factor of {factor:g} between scales: it must be above 1")
    height, width = image.shape
    levels: list[Level] = []
    scale = 1.0
    while round(size[0] * scale) <= width and round(size[1] * scale) <= height:
        window = round(size[0] * scale)
        if most and window > most:
            break
        if window >= least:
            single = np.float32(scale)  # OpenCV keeps it so, and multiplies and divides in this precision
            new_height, new_width = (round(float(np.float32(side) / single)) for side in image.shape)
            levels.append(
                Level(float(single), resize_exact(image, new_height, new_width), 1 if single >= 2 else 2)
            )
        scale *= factor
    return levels


def all_windows(levels: list[Level], size: tuple[int, int]) -> Windows:
    """All windows of a pyramid, row by row."""
    parts = []
    strips = -(-(levels[0].image.shape[1] - size[0] + 1) // 32) if levels else 0
    for index, level in enumerate(levels):
        height, width = level.image.shape
        high, wide = height - size[1] + 1, width - size[0] + 1
        # OpenCV cuts all levels into as many strips of whole steps, whose rounding may lose the last rows.
        strip = max(-(-(high // level.step) // strips), 1) * level.step
        ys = np.arange(0, min(strips * strip, high), level.step, dtype=np.int32)
        xs = np.arange(0, wide, level.step, dtype=np.int32)
        y, x = (grid.ravel() for grid in np.meshgrid(ys, xs, indexing="ij"))
        parts.append(np.stack([np.full_like(x, index), x, y]))
    return Windows(*np.concatenate(parts, axis=1)) if parts else Windows(*np.zeros((3, 0), np.int32))


def cut_out(levels: list[Level], windows: Windows, size: tuple[int, int]) -> np.ndarray:
    """The pixels of windows, uint8 [n, height, width]."""
    shape = (size[1], size[0])
    cut = [
        levels[level].image[y : y + size[1], x : x + size[0]]
        for level, x, y in zip(windows.level, windows.x, windows.y, strict=True)
    ]
    return np.stack(cut) if cut else np.zeros((0, *shape), np.uint8)


class _Sums(NamedTuple):
    """Integral images of all levels in one row of numbers: where each begins, and how long its rows are."""

    values: np.ndarray
    start: np.ndarray
    stride: np.ndarray

    @classmethod
    def of(cls, images: Sequence[np.ndarray]) -> "_Sums":
        integrals = [integral_on_host(image) for image in images]
        sizes = [integral.size for integral in integrals]
        start = np.cumsum([0, *sizes])
        stride = np.array([integral.shape[1] for integral in integrals], np.int64)
        values = np.concatenate([np.zeros(0, np.int64), *(integral.ravel() for integral in integrals)])
        return cls(values, start[: len(sizes)], stride)

    def padded(self) -> np.ndarray:
        """As int32, in one of few lengths: each is a compilation. What does not fit wraps around, as `integral_image`
        has it."""
        size = len(self.values)
        unit = max(1 << 18, 1 << max(0, size.bit_length() - 3))
        return np.pad(self.values.astype(np.int32), (0, -size % unit if size else unit))


class _Trees(NamedTuple):
    """A cascade as the compiled function reads it: corners [T, M, C] of the nodes' features with their weights."""

    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray

    @classmethod
    def of(cls, cascade: Cascade, stage: int) -> "_Trees":
        """Those of a stage, padded to one of few numbers: each is a compilation."""
        begin = int(cascade.trees[:stage].sum())
        count = int(cascade.trees[stage])
        part = slice(begin, begin + count)
        used, feature = np.unique(cascade.feature[part], return_inverse=True)
        matrix = corner_matrix(cascade.features[used])[feature.reshape(-1, cascade.feature.shape[1])]
        place = np.argsort(matrix == 0, axis=-1, kind="stable")[..., :MOST_CORNERS]
        weight = np.take_along_axis(matrix, place, axis=-1).astype(np.int32)
        row, column = np.divmod(np.where(weight == 0, 0, place).astype(np.int32), cascade.size[0] + 1)
        tables = (cascade.threshold, cascade.left, cascade.right, cascade.leaf)
        padded = -count % 256
        return cls(
            *(
                np.pad(a, [(0, padded)] + [(0, 0)] * (a.ndim - 1))
                for a in (row, column, weight, *(table[part] for table in tables))
            )
        )


@jax.jit
def _stage_sums(
    integral: Array, base: Array, stride: Array, inverse: Array, trees: _Trees, count: Array
) -> Array:
    """Sums [n] of the first `count` trees in windows at `base` of the integral images."""
    nodes = trees.threshold.shape[1]

    def value(tree: Array, node: int) -> Array:
        total = jnp.zeros_like(base)
        for corner in range(MOST_CORNERS):
            place = base + trees.row[tree, node, corner] * stride + trees.column[tree, node, corner]
            total += trees.weight[tree, node, corner] * integral.at[place].get(mode="promise_in_bounds")
        return total.astype(jnp.float32) * inverse

    def outcome(tree: Array, child: Array, later: Array) -> Array:
        leaf = jnp.broadcast_to(trees.leaf[tree, jnp.maximum(-child, 0)], base.shape)
        return jnp.where(child <= 0, leaf, later[jnp.maximum(child, 0)])

    def add(tree: Array, sums: Array) -> Array:
        later = jnp.zeros((nodes, len(base)), jnp.float32)
        for node in reversed(range(nodes)):
            low = outcome(tree, trees.left[tree, node], later)
            high = outcome(tree, trees.right[tree, node], later)
            later = later.at[node].set(jnp.where(value(tree, node) < trees.threshold[tree, node], low, high))
        return sums + later[0]

    return jax.lax.fori_loop(0, count, add, jnp.zeros(base.shape, jnp.float32))


class Scan:
    """Windows of one size in images: their contrast, and what a cascade makes of them."""

    def __init__(self, images: Sequence[np.ndarray], size: tuple[int, int]) -> None:
        self._size = size
        self._sums = _Sums.of(images)
        self._squares = _Sums.of([image.astype(np.int64) ** 2 for image in images]).values
        self._device = jnp.asarray(self._sums.padded())

    def deviations(self, windows: Windows) -> np.ndarray:
        """`haar.contrast` of the windows [n], float64."""
        base, stride = self._places(windows)
        width, height = self._size
        corners = [base + row * stride + column for row in (1, height - 1) for column in (1, width - 1)]

        def inner(values: np.ndarray) -> np.ndarray:
            above_left, above_right, left, right = (values[corner] for corner in corners)
            return (right - left - above_right + above_left).astype(np.float64)

        area = (width - 2) * (height - 2)
        return np.sqrt(np.maximum(area * inner(self._squares) - inner(self._sums.values) ** 2, 0))

    def stage_sums(
        self, cascade: Cascade, windows: Windows, stage: int, deviations: np.ndarray
    ) -> np.ndarray:
        """The sums [n] float32 of a stage, of windows with these `deviations`."""
        base, stride = self._places(windows)
        trees = _Trees.of(cascade, stage)
        inverse = (1 / np.maximum(deviations, 1e-9)).astype(np.float32)
        sums = np.empty(len(windows), np.float32)
        for start in range(0, len(windows), CHUNK):
            part = slice(start, min(start + CHUNK, len(windows)))
            count = part.stop - part.start
            padding = (0, (CHUNK if count > CHUNK // 16 else CHUNK // 16) - count)
            arrays = [
                np.pad(a[part], padding) for a in (base.astype(np.int32), stride.astype(np.int32), inverse)
            ]
            found = _stage_sums(self._device, *arrays, trees, np.int32(cascade.trees[stage]))
            sums[part] = np.asarray(found)[:count]
        return sums

    def _places(self, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        stride = self._sums.stride[windows.level]
        return self._sums.start[windows.level] + windows.y * stride + windows.x, stride

    def passing(self, cascade: Cascade, windows: Windows, skip: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Which windows pass all stages.

        skip: leave out a window to the right of one that failed the first stage, as OpenCV does. The windows must be
          those of `all_windows`.

        Returns:
          The numbers [k] of those that pass, and how many windows passed each stage, [S].
        """
        deviations = self.deviations(windows)
        width, height = self._size
        # OpenCV compares single precision numbers.
        seen = np.float32((width - 2) * (height - 2)) * (1 / np.maximum(deviations, 1e-9)).astype(np.float32)
        alive = np.flatnonzero((deviations > 0) & (seen < np.float32(1 / LEAST_DEVIATION)))
        passed = np.zeros(len(cascade.trees), np.int64)
        for stage, threshold in enumerate(cascade.stage_threshold):
            if not len(alive):
                break
            sums = self.stage_sums(cascade, windows[alive], stage, deviations[alive])
            good = sums >= np.float32(threshold) - np.float32(MARGIN)
            if stage == 0 and skip:
                failed = np.zeros(len(windows), bool)
                failed[alive[~good]] = True
                good &= _looked_at(windows, failed)[alive]
            alive = alive[good]
            passed[stage] = len(alive)
        return alive, passed


def _looked_at(windows: Windows, failed: np.ndarray) -> np.ndarray:
    """Which windows are looked at when each that is, and fails, makes the scan pass over the next one of its row."""
    number = np.arange(len(windows))
    starts = np.ones(len(windows), bool)
    starts[1:] = (windows.y[1:] != windows.y[:-1]) | (windows.level[1:] != windows.level[:-1])
    # A window after one that does not fail is looked at; in a run of failing ones it is every other one.
    certain = starts.copy()
    certain[1:] |= ~failed[:-1]
    last = np.maximum.accumulate(np.where(certain, number, 0))
    return (number - last) % 2 == 0


def stage_margins(cascade: Cascade, windows: np.ndarray) -> np.ndarray:
    """By how much windows of the cascade's size, uint8 [N, height, width], pass each stage: [N, S]; below 0 they fail."""
    count = len(windows)
    scan = Scan(list(windows), cascade.size)
    places = Windows(np.arange(count), np.zeros(count, np.int64), np.zeros(count, np.int64))
    deviations = scan.deviations(places)
    sums = [scan.stage_sums(cascade, places, stage, deviations) for stage in range(len(cascade.trees))]
    return np.stack(sums, axis=1) - cascade.stage_threshold


def raw_boxes(levels: list[Level], windows: Windows, size: tuple[int, int]) -> np.ndarray:
    """Boxes [n, 4] int64 of windows in pixels of the image: x, y, width, height, as OpenCV rounds them."""
    scale = np.array([level.scale for level in levels], np.float32)[windows.level]
    sides = [np.full(len(windows), side) for side in size]
    places = np.stack([windows.x, windows.y, *sides], axis=1).astype(np.float32)
    return np.rint(places * scale[:, None]).astype(np.int64)


def detect(
    cascade: Cascade,
    image: np.ndarray,
    factor: float = 1.1,
    neighbors: int = 3,
    least: int = 0,
    most: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Faces, or what the cascade was trained to find, in a grey image [H, W] uint8.

    Args:
      factor: of one scale to the next.
      neighbors: overlapping windows that a box must be made of are more than so many.
      least, most: widths of boxes in pixels; 0 for any.

    Returns:
      boxes [n, 4] float64 xyxy in pixels, and how many windows each is made of [n]; most windows first.

    Raises ConfigError for an image that is smaller than the cascade's window.
    """
    width, height = cascade.size
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ConfigError(f"a cascade looks at grey images of 8 bits, not at {image.dtype} {image.shape}")
    if image.shape[0] < height or image.shape[1] < width:
        raise ConfigError(
            f"an image of {image.shape[1]}x{image.shape[0]} pixels is smaller than the cascade's window of {width}x{height}"
        )
    levels = make_pyramid(image, cascade.size, factor, least, most)
    windows = all_windows(levels, cascade.size)
    if not len(windows):
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    kept, _ = Scan([level.image for level in levels], cascade.size).passing(cascade, windows)
    boxes, counts = group_rectangles(raw_boxes(levels, windows[kept], cascade.size), neighbors)
    order = np.argsort(-counts, kind="stable")
    boxes = boxes[order].astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), counts[order]
