"""Keypoints of an object as places in a map over its box (He et al. 2017, section 5)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

ENLARGED = 4  # as many times are maps larger in which peaks are looked for on the device


def keypoint_cells(keypoints: Array, boxes: Array, size: int) -> tuple[Array, Array]:
    """The cell of each keypoint in a map of size x size cells over its box, and whether it counts.

    Args:
      keypoints: [..., P, 3]: x, y in pixels, and above 0 where labelled. boxes: [..., 4].
    Returns:
      int32 [..., P], row * size + column; bool [..., P]. Labelled ones outside the box do not count; on its right or
      lower border they lie in the last cell.
    """
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    at = keypoints[..., :2]
    cell = jnp.floor((at - low) * (size / jnp.maximum(high - low, 1e-6))).astype(jnp.int32)
    cell = jnp.where(at == high, size - 1, cell)
    counts = jnp.all((cell >= 0) & (cell < size), axis=-1) & (keypoints[..., 2] > 0)
    return jnp.where(counts, cell[..., 1] * size + cell[..., 0], 0), counts


def keypoint_loss(logits: Array, keypoints: Array, boxes: Array, positive: Array) -> tuple[Array, Array]:
    """Cross-entropy over the cells of a map, summed over an image's keypoints; and how many those are, both [N].

    logits: [N, R, S, S, P]. keypoints: [N, R, P, 3] of each region's object. boxes: [N, R, 4]. positive: [N, R].
    """
    size, points = logits.shape[2], logits.shape[-1]
    cells, counts = keypoint_cells(keypoints, boxes, size)
    counts &= positive[..., None]
    maps = jnp.moveaxis(logits.reshape(*logits.shape[:2], size * size, points), -1, -2)
    wrong = optax.softmax_cross_entropy_with_integer_labels(maps, cells)
    return jnp.sum(jnp.where(counts, wrong, 0), axis=(1, 2)), jnp.sum(counts, axis=(1, 2))


def find_keypoints(logits: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most likely place of each keypoint of an object, on the host: [P, 2] pixels and their logits [P].

    The map [S, S, P] is enlarged to whole pixels of the box [4], bicubic, and the middle of the best pixel is taken.
    """
    extent = np.maximum(np.asarray(box[2:], np.float64) - box[:2], 1)
    width, height = np.ceil(extent).astype(int)
    rows, columns = _cubic(logits.shape[0], height), _cubic(logits.shape[1], width)
    maps = np.einsum("yr,rcp,xc->pyx", rows, np.asarray(logits, np.float64), columns)
    best = maps.reshape(len(maps), -1).argmax(axis=1)
    at = np.stack([best % width, best // width], axis=1) + 0.5
    return np.asarray(box[:2]) + at * extent / [width, height], maps.reshape(len(maps), -1).max(axis=1)


def keypoint_peaks(logits: Array, boxes: Array) -> Array:
    """The most likely place of each keypoint, on the device: [..., P, 2] pixels.

    As `find_keypoints`, but every map [..., S, S, P] is enlarged ENLARGED times, whatever the size of its box [..., 4]:
    it has a static size.
    """
    size = ENLARGED * logits.shape[-2]
    weights = jnp.asarray(_cubic(logits.shape[-2], size), jnp.float32)

    def one(maps: Array) -> Array:
        large = jnp.einsum("yr,rcp,xc->pyx", weights, maps, weights, precision="highest")
        return jnp.argmax(large.reshape(len(large), -1), axis=1).astype(jnp.int32)

    best = jax.lax.map(one, logits.reshape(-1, *logits.shape[-3:])).reshape(*logits.shape[:-3], -1)
    share = (jnp.stack([best % size, best // size], axis=-1).astype(jnp.float32) + 0.5) / size
    extent = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1)
    return boxes[..., None, :2] + share * extent[..., None, :]


def _cubic(count: int, length: int) -> np.ndarray:
    """[length, count]: cubic interpolation (Keys 1981, a = -0.75) with half pixels; outside lies the border's value."""
    at = (np.arange(length) + 0.5) * (count / length) - 0.5
    first = np.floor(at).astype(int)
    weights = np.zeros((length, count))
    for tap in range(-1, 3):
        distance = np.abs(at - (first + tap))
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        np.add.at(
            weights,
            (np.arange(length), np.clip(first + tap, 0, count - 1)),
            np.where(distance <= 1, near, far),
        )
    return weights


def upsample(x: Array) -> Array:
    """[N, H, W, P] -> [N, 2H, 2W, P], bilinear with half pixels."""
    return jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "bilinear")
