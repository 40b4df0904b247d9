"""Losses of grid detectors without anchors. Each takes outputs and targets of N images and returns N numbers.

Outputs that the image says nothing about (the box and the class of an empty cell, a predictor that is not
responsible) get a gradient of exactly zero.
"""

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection import localization
from cnnjax.detection.boxes import iou
from cnnjax.detection.grid import Grid, Targets, cells_to_pixels, split_cells, yolov1_boxes

LAMBDA_COORD = 5.0
LAMBDA_NOOBJ = 0.5


def squared_loss(grid: Grid, outputs: Array, targets: Targets) -> Array:
    """The squared loss of localization.py in every cell: outputs [N, rows, columns, 5 + C] -> [N]."""
    return jnp.sum(localization.squared_loss(outputs, targets.cells), axis=(1, 2))


def logistic_loss(grid: Grid, outputs: Array, targets: Targets) -> Array:
    """The logistic loss of localization.py in every cell: outputs [N, rows, columns, 5 + C] -> [N]."""
    return jnp.sum(localization.logistic_loss(outputs, targets.cells), axis=(1, 2))


def yolov1_loss(grid: Grid, outputs: Array, targets: Targets) -> Array:
    """Equation 3 of the YOLO paper (Redmon et al. 2016): outputs [N, rows, columns, 5 B + C] -> [N].

    A cell's predictor is [C, x, y, sqrt(w), sqrt(h)], w and h in shares of the image. Responsible for the cell's
    object is the predictor of highest current IoU, or if none overlaps it, the nearest one (as in the authors'
    program; the paper is silent). Its confidence should equal that IoU, every other's zero.
    """
    predicted, classes = split_cells(grid, outputs)
    present = targets.cells[..., 0] > 0.5
    responsible, overlap = jax.lax.stop_gradient(_responsible(grid, predicted, targets))

    wanted = jnp.where(present[..., None], targets.cells[..., 1:5], 0)[..., None, :]
    number = jnp.asarray([grid.columns, grid.rows], outputs.dtype).reshape(1, 1, 1, 1, 2)
    wanted = jnp.concatenate([wanted[..., :2], jnp.sqrt(wanted[..., 2:] / number)], axis=-1)
    ours = jnp.where(responsible[..., None], predicted[..., 1:], 0)
    wanted = jnp.where(responsible[..., None], wanted, 0)
    coordinates = jnp.sum((ours - wanted) ** 2, axis=(-2, -1))

    confidence = (predicted[..., 0] - jnp.where(responsible, overlap, 0)) ** 2
    confidence = jnp.sum(jnp.where(responsible, confidence, LAMBDA_NOOBJ * confidence), axis=-1)

    care = present[..., None]
    label = jnp.sum((jnp.where(care, classes, 0) - jnp.where(care, targets.cells[..., 5:], 0)) ** 2, axis=-1)
    return jnp.sum(LAMBDA_COORD * coordinates + confidence + label, axis=(1, 2))


def _responsible(grid: Grid, predicted: Array, targets: Targets) -> tuple[Array, Array]:
    """Which predictor answers, [N, rows, columns, B] bool, and the IoU of each with the cell's object."""
    real = cells_to_pixels(grid, targets.cells[..., None, 1:5])
    boxes = cells_to_pixels(grid, yolov1_boxes(grid, predicted[..., 1:]))
    overlap = iou(boxes, real)
    distance = jnp.sum((boxes - real) ** 2, axis=-1)
    best = jnp.where(
        jnp.any(overlap > 0, axis=-1), jnp.argmax(overlap, axis=-1), jnp.argmin(distance, axis=-1)
    )
    chosen = jax.nn.one_hot(best, grid.boxes, dtype=bool)
    return chosen & (targets.cells[..., :1] > 0.5), overlap
