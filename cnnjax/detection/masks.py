"""What a mask head learns and says about a box: a square of fixed size, stretched over that box."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

CHUNK = 8  # masks of whole images that are looked at at a time: they may be large


def mask_targets(masks: Array, owners: Array, boxes: Array, size: int) -> Array:
    """What a mask head learns: of each box [K, 4] the part of its object's mask, float32 [K, size, size] in [0, 1].

    This is RoIAlign as it was at first, without the shift by half a pixel, and with as many samples along a bin as it
    spans pixels, rounded up: the share of a bin that the object covers, not rounded to 0 or 1, as torchvision has it.

    Args:
      masks: bool [M, H, W]. owners: int32 [K], which of them; boxes: inside of the image.
    """
    height, width = masks.shape[1:]

    def one(of_box: tuple[Array, Array]) -> Array:
        owner, box = of_box
        rows = _coverage(box[1], box[3], size, height)
        columns = _coverage(box[0], box[2], size, width)
        shares = jnp.matmul(rows, masks[owner].astype(jnp.float32), precision="highest")
        return jnp.matmul(shares, columns.T, precision="highest")

    return jax.lax.map(one, (owners, boxes), batch_size=CHUNK)


def _coverage(low: Array, high: Array, bins: int, length: int) -> Array:
    """[bins, length]: how much every pixel of an axis counts in the mean of a bin's bilinear samples."""
    extent = jnp.maximum(high - low, 1)
    samples = jnp.ceil(extent / bins)
    pixels = jnp.arange(length, dtype=jnp.float32)
    starts = low + jnp.arange(bins, dtype=jnp.float32) * extent / bins

    def add(i: int, total: Array) -> Array:
        at = starts + (jnp.float32(i) + 0.5) * extent / (bins * samples)
        counts = (i < samples) & (at >= -1) & (at <= length)
        nearness = 1 - jnp.abs(jnp.clip(at, 0, length - 1)[:, None] - pixels[None])
        return total + jnp.where(counts[:, None], jnp.maximum(nearness, 0), 0)

    most = math.ceil((length + 1) / bins)
    return jax.lax.fori_loop(0, most, add, jnp.zeros((bins, length))) / samples


def paste_mask(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A square [S, S] of a mask head in its place in an image, on the host: float32 [height, width], 0 elsewhere.

    `box` is xyxy in pixels of that image. The mask gets a border of zeros and the box grows by the same share about
    its centre; its corners lose what follows the point, and the mask is resized to it, bilinear with half pixels, the
    last pixel included (as torchvision does, and the authors did).
    """
    padded = np.pad(np.asarray(mask, np.float32), 1)
    share = len(padded) / len(mask)
    x0, y0, x1, y1 = (float(v) for v in box)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    half_x, half_y = (x1 - x0) / 2 * share, (y1 - y0) / 2 * share
    left, right = math.trunc(centre_x - half_x), math.trunc(centre_x + half_x)
    top, bottom = math.trunc(centre_y - half_y), math.trunc(centre_y + half_y)
    rows = _interpolation(len(padded), top, bottom, height)
    columns = _interpolation(len(padded), left, right, width)
    return rows @ padded @ columns.T


def _interpolation(count: int, first: int, last: int, length: int) -> np.ndarray:
    """[length, count]: an axis of `count` values stretched over the pixels from `first` to `last`, both included, of
    an axis of `length`."""
    extent = max(last - first + 1, 1)
    pixels = np.arange(length)
    at = np.clip((pixels - first + 0.5) * (count / extent) - 0.5, 0, count - 1)
    weights = np.maximum(1 - np.abs(at[:, None] - np.arange(count)[None]), 0)
    inside = (pixels >= first) & (pixels < first + extent)
    return np.where(inside[:, None], weights, 0).astype(np.float32)


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> np.ndarray:
    """Masks [K, S, S] of boxes [K, 4] as pixels of an image, at least `threshold` probable: bool [K, height, width]."""
    pasted = np.zeros((len(masks), height, width), bool)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        pasted[i] = paste_mask(mask, box, height, width) >= threshold
    return pasted
