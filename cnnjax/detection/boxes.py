"""Boxes: overlap measures, conversions, and the geometry of a letterboxed image.

A box is [x1, y1, x2, y2] in pixels, continuous: a box that covers one pixel is 1 wide. Functions act on the last
axis, [..., 4], and broadcast like arithmetic (leading axes must have equal rank).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

AnyArray = TypeVar("AnyArray", Array, np.ndarray)

# Below every size that matters, in pixels or shares of an image; keeps divisions and gradients finite.
EPSILON = 1e-9


def box_xyxy_to_xywh(boxes: Array) -> Array:
    """Corner and size, as in COCO's files."""
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def box_xywh_to_xyxy(boxes: Array) -> Array:
    """The inverse of box_xyxy_to_xywh."""
    return jnp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def box_xyxy_to_cxcywh(boxes: Array) -> Array:
    """Centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def box_cxcywh_to_xyxy(boxes: Array) -> Array:
    """The inverse of box_xyxy_to_cxcywh."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def area(boxes: Array) -> Array:
    """[..., 4] -> [...]; 0 where a box has no inside."""
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return size[..., 0] * size[..., 1]


def clip_boxes(boxes: Array, height: float, width: float) -> Array:
    """Cuts boxes at the borders of an image."""
    limit = jnp.asarray([width, height, width, height], boxes.dtype)
    return jnp.clip(boxes, 0, limit.reshape((1,) * (boxes.ndim - 1) + (4,)))


def iou(a: Array, b: Array) -> Array:
    """Intersection over union, [..., 4] and [..., 4] -> [...]. Two boxes without an inside give 0, not NaN."""
    return _intersection_and_union(*_in_range(a, b))[2]


def giou(a: Array, b: Array) -> Array:
    """Generalized IoU, in (-1, 1] (Rezatofighi et al. 2019, algorithm 1)."""
    a, b = _in_range(a, b)
    _, union, overlap = _intersection_and_union(a, b)
    hull = area(_hull(a, b))
    return overlap - (hull - union) / _positive(hull)


def diou(a: Array, b: Array) -> Array:
    """Distance IoU: less the squared distance of centres over that of the hull's corners (Zheng et al. 2020)."""
    a, b = _in_range(a, b)
    return _intersection_and_union(a, b)[2] - _centre_distance(a, b)


def ciou(a: Array, b: Array) -> Array:
    """Complete IoU: DIoU less a penalty for another aspect ratio (Zheng et al. 2020, equations 10 and 11).

    The weight of the penalty is held constant in the gradient, as the authors do.
    """
    a, b = _in_range(a, b)
    overlap = _intersection_and_union(a, b)[2]
    angle_a, angle_b = _aspect_angle(a), _aspect_angle(b)
    v = (4 / math.pi**2) * (angle_a - angle_b) ** 2
    alpha = jax.lax.stop_gradient(v / _positive(1 - overlap + v))
    return overlap - _centre_distance(a, b) - alpha * v


def pairwise(measure: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """Every box of `a` [..., N, 4] with every box of `b` [..., M, 4]: [..., N, M]."""
    return measure(a[..., :, None, :], b[..., None, :, :])


class Letterbox(NamedTuple):
    """How an image was scaled and padded into a frame: x_frame = x * scale_x + left, and so for y."""

    scale_x: float
    scale_y: float
    left: int
    top: int
    inner_height: int
    inner_width: int


def letterbox(height: int, width: int, frame: tuple[int, int]) -> Letterbox:
    """The largest copy of a height x width image that fits, centred, into a frame (height, width).

    The inner size is rounded to whole pixels, so the two scales differ by up to half a pixel over the frame;
    boxes use the exact scales and return to where they were.
    """
    scale = min(frame[0] / height, frame[1] / width)
    inner_height, inner_width = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Letterbox(
        scale_x=inner_width / width,
        scale_y=inner_height / height,
        left=(frame[1] - inner_width) // 2,
        top=(frame[0] - inner_height) // 2,
        inner_height=inner_height,
        inner_width=inner_width,
    )


def box_to_letterbox(boxes: AnyArray, geometry: Letterbox) -> AnyArray:
    """Boxes [..., 4] of the image in pixels of the frame; of numpy or JAX, as they came."""
    scale, shift = _scale_and_shift(boxes, geometry)
    return boxes * scale + shift


def box_from_letterbox(boxes: AnyArray, geometry: Letterbox) -> AnyArray:
    """Boxes [..., 4] of the frame in pixels of the image; of numpy or JAX, as they came."""
    scale, shift = _scale_and_shift(boxes, geometry)
    return (boxes - shift) / scale


def _scale_and_shift(boxes: Array | np.ndarray, geometry: Letterbox) -> tuple[np.ndarray, np.ndarray]:
    shape = (1,) * (boxes.ndim - 1) + (4,)
    scale = np.asarray([geometry.scale_x, geometry.scale_y] * 2, boxes.dtype)
    shift = np.asarray([geometry.left, geometry.top] * 2, boxes.dtype)
    return scale.reshape(shape), shift.reshape(shape)


def _positive(x: Array) -> Array:
    """x, or where it is smaller EPSILON, as far as the type can hold that: never 0."""
    return jnp.maximum(x, max(EPSILON, float(jnp.finfo(x.dtype).smallest_normal)))


def _in_range(a: Array, b: Array) -> tuple[Array, Array]:
    """Pairs of boxes, those whose areas would overflow made smaller by a power of two; all measures are ratios."""
    exponent = jnp.finfo(a.dtype).maxexp // 2
    largest = jnp.maximum(jnp.max(jnp.abs(a), axis=-1), jnp.max(jnp.abs(b), axis=-1))
    scale = jnp.where(largest > 2.0 ** (exponent - 2), 2.0 ** -(exponent + 2), 1.0).astype(a.dtype)[..., None]
    return a * scale, b * scale


def _intersection_and_union(a: Array, b: Array) -> tuple[Array, Array, Array]:
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    size = jnp.maximum(high - low, 0)
    intersection = size[..., 0] * size[..., 1]
    union = area(a) + area(b) - intersection
    return intersection, union, intersection / _positive(union)


def _hull(a: Array, b: Array) -> Array:
    return jnp.concatenate(
        [jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1
    )


def _centre_distance(a: Array, b: Array) -> Array:
    hull = _hull(a, b)
    diagonal = jnp.sum((hull[..., 2:] - hull[..., :2]) ** 2, axis=-1)
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return jnp.sum(between**2, axis=-1) / _positive(diagonal)


def _aspect_angle(boxes: Array) -> Array:
    size = _positive(boxes[..., 2:] - boxes[..., :2])
    return jnp.arctan2(size[..., 0], size[..., 1])
