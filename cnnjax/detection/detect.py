"""From a grid detector's outputs to its final boxes, in one jitted function; and the table of its forms."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection import grid_losses
from cnnjax.detection.anchors import AnchorLoss, decode_anchors
from cnnjax.detection.boxes import clip_boxes
from cnnjax.detection.grid import (
    Candidates,
    Grid,
    Targets,
    decode_logistic,
    decode_squared,
    decode_yolov1,
)
from cnnjax.detection.nms import nms


class Form(NamedTuple):
    """What the numbers of a cell mean: how they are trained and how they are read."""

    loss: Callable[[Grid, Array, Targets], Array]
    decode: Callable[[Grid, Array], Candidates]


FORMS: dict[str, Form] = {
    "squared": Form(grid_losses.squared_loss, decode_squared),
    "logistic": Form(grid_losses.logistic_loss, decode_logistic),
    "yolov1": Form(grid_losses.yolov1_loss, decode_yolov1),
    "anchors": Form(AnchorLoss(), decode_anchors),
}


def form_of(name: str, focal_gamma: float = 0.0) -> Form:
    """A form of the table; `focal_gamma` of the loss with anchors."""
    return Form(AnchorLoss(focal_gamma=focal_gamma), decode_anchors) if name == "anchors" else FORMS[name]


class Found(NamedTuple):
    """The final boxes of N images, best first, padded to K."""

    boxes: Array  # [N, K, 4] xyxy pixels, clipped; 0 where padded
    scores: Array  # [N, K]; 0 where padded
    classes: Array  # [N, K] int32; -1 where padded
    counts: Array  # [N] int32


def detect(
    grid: Grid,
    outputs: Array,
    form: str,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    max_outputs: int = 100,
) -> Found:
    """Decodes outputs [N, rows, columns, D] and suppresses doubles within each class. Pure; jit it.

    Average precision wants a low `score_threshold`, a picture one near 0.5.
    """
    boxes, scores, classes = FORMS[form].decode(grid, outputs)

    def one_image(boxes: Array, scores: Array, classes: Array) -> Found:
        chosen, count = nms(boxes, scores, iou_threshold, max_outputs, classes, score_threshold)
        real = chosen >= 0
        inside = clip_boxes(boxes[chosen], grid.height, grid.width)
        return Found(
            jnp.where(real[:, None], inside, 0),
            jnp.where(real, scores[chosen], 0),
            jnp.where(real, classes[chosen], -1),
            count,
        )

    return jax.vmap(one_image)(boxes, scores, classes)
