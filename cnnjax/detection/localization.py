"""Classification with localization: one vector y = [P, bx, by, bw, bh, C1, ..., Cn] per image, or per grid cell.

P says whether there is an object. bx, by is its centre and bw, bh its size, in shares of the image (in a grid: of
the cell). Where P = 0 everything else is "don't care": it has no influence on a loss and gets no gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cnnjax.detection.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, clip_boxes


def encode_localization(
    boxes: Array, classes: Array, present: Array, height: int, width: int, num_classes: int
) -> Array:
    """Targets [N, 5 + C] of images with at most one object: boxes [N, 4] xyxy pixels, classes [N], present [N]."""
    share = box_xyxy_to_cxcywh(boxes) / jnp.asarray([[width, height, width, height]], boxes.dtype)
    one_hot = jax.nn.one_hot(classes, num_classes, dtype=boxes.dtype)
    whole = jnp.concatenate([jnp.ones_like(share[:, :1]), share, one_hot], axis=1)
    return jnp.where(present[:, None], whole, 0)


def squared_loss(outputs: Array, targets: Array, box_weight: float = 1.0) -> Array:
    """[..., 5 + C] -> [...]: (P - P^)^2, and where P = 1 the squared error of every other entry too, the box's
    times `box_weight` (YOLOv1's lambda_coord)."""
    present, outputs, targets = _care(outputs, targets)
    error = (outputs - targets) ** 2
    rest = box_weight * jnp.sum(error[..., 1:5], axis=-1) + jnp.sum(error[..., 5:], axis=-1)
    return error[..., 0] + jnp.where(present, rest, 0)


def logistic_loss(outputs: Array, targets: Array, box_weight: float = 1.0) -> Array:
    """[..., 5 + C] -> [...]: logistic loss of P; where P = 1 also `box_weight` times the squared error of the box
    and the softmax cross-entropy of the class. The outputs are logits, except the box."""
    present, outputs, targets = _care(outputs, targets)
    presence = optax.sigmoid_binary_cross_entropy(outputs[..., 0], targets[..., 0])
    box = jnp.sum((outputs[..., 1:5] - targets[..., 1:5]) ** 2, axis=-1)
    label = optax.softmax_cross_entropy(outputs[..., 5:], targets[..., 5:])
    return presence + jnp.where(present, box_weight * box + label, 0)


class Localized(NamedTuple):
    """The one object of each of N images."""

    scores: Array  # [N], of an object being there
    boxes: Array  # [N, 4] xyxy pixels, clipped
    classes: Array  # [N] int32


def decode_localization(outputs: Array, height: int, width: int, logits: bool = True) -> Localized:
    """What a network's outputs [N, 5 + C] say. `logits`: trained with `logistic_loss`, not `squared_loss`."""
    scores = jax.nn.sigmoid(outputs[:, 0]) if logits else jnp.clip(outputs[:, 0], 0, 1)
    pixels = outputs[:, 1:5] * jnp.asarray([[width, height, width, height]], outputs.dtype)
    boxes = clip_boxes(box_cxcywh_to_xyxy(pixels), height, width)
    return Localized(scores, boxes, jnp.argmax(outputs[:, 5:], axis=-1).astype(jnp.int32))


def _care(outputs: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Presence, and both vectors with zeros for what does not matter, so that not even a NaN there does."""
    present = targets[..., 0] > 0.5
    care = jnp.concatenate(
        [jnp.ones_like(targets[..., :1], bool), jnp.broadcast_to(present[..., None], targets[..., 1:].shape)],
        axis=-1,
    )
    return present, jnp.where(care, outputs, 0), jnp.where(care, targets, 0)
