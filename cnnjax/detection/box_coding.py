"""What a detector predicts of a box relative to an anchor or a proposal: four numbers that move and scale it."""

import math

import jax.numpy as jnp
from jax import Array

from cnnjax.detection.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh

Weights = tuple[float, float, float, float]  # of x, y, width, height

PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)  # of a region proposal network
DELTA_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)  # of Fast R-CNN's second stage
_LARGEST_GROWTH = math.log(1000 / 16)  # of a side by one step; keeps exp finite


def box_to_deltas(boxes: Array, anchors: Array, weights: Weights = DELTA_WEIGHTS) -> Array:
    """What moves and scales `anchors` [..., 4] into `boxes` [..., 4]: weighted (dx / w, dy / h, log dw, log dh) of
    centres and sizes (Girshick et al. 2014, appendix C). Boxes need an inside."""
    a, b = box_xyxy_to_cxcywh(anchors), box_xyxy_to_cxcywh(boxes)
    moved = (b[..., :2] - a[..., :2]) / a[..., 2:]
    scale = jnp.asarray(weights, boxes.dtype).reshape((1,) * (boxes.ndim - 1) + (4,))
    return jnp.concatenate([moved, jnp.log(b[..., 2:] / a[..., 2:])], axis=-1) * scale


def box_from_deltas(deltas: Array, anchors: Array, weights: Weights = DELTA_WEIGHTS) -> Array:
    """Undoes `box_to_deltas`; a side grows by a factor of 62.5 at most, and shrinks at will."""
    a = box_xyxy_to_cxcywh(anchors)
    scaled = deltas / jnp.asarray(weights, deltas.dtype).reshape((1,) * (deltas.ndim - 1) + (4,))
    centre = a[..., :2] + scaled[..., :2] * a[..., 2:]
    sides = a[..., 2:] * jnp.exp(jnp.minimum(scaled[..., 2:], _LARGEST_GROWTH))
    return box_cxcywh_to_xyxy(jnp.concatenate([centre, sides], axis=-1))
