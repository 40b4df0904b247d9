"""Grid detection: the image is cut into cells, and the cell that holds an object's centre answers for it.

Inside a cell the upper left is (0, 0) and the lower right (1, 1); sizes are in cells and may exceed 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection.boxes import EPSILON, box_cxcywh_to_xyxy, box_xyxy_to_cxcywh


@dataclasses.dataclass(frozen=True)
class Grid:
    """The shape of a detector's output over an image of height x width pixels.

    Without anchors a cell holds `boxes` times [P, bx, by, bw, bh], then one vector of C classes. With anchors,
    (width, height) in pixels, it holds [P, tx, ty, tw, th, C1, ..., Cn] for each of them.
    """

    rows: int
    columns: int
    height: int
    width: int
    num_classes: int
    boxes: int = 1
    anchors: tuple[tuple[float, float], ...] = ()

    @property
    def num_outputs(self) -> int:
        """Numbers per cell."""
        if self.anchors:
            return len(self.anchors) * (5 + self.num_classes)
        return 5 * self.boxes + self.num_classes

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a cell in pixels."""
        return self.width / self.columns, self.height / self.rows


class Targets(NamedTuple):
    """What a grid should say about a batch of N images.

    cells: [N, rows, columns, 5 + C], with anchors [N, rows, columns, A, 5 + C]: [P, bx, by, bw, bh, one-hot],
      zeros where there is no object.
    boxes: [N, M, 4] xyxy pixels, valid: [N, M]: the objects themselves.
    collisions: [N] int32, objects that got no place because an earlier one in the list has it.
    """

    cells: Array
    boxes: Array
    valid: Array
    collisions: Array


def encode(grid: Grid, boxes: Array, classes: Array, valid: Array) -> Targets:
    """Boxes [N, M, 4] xyxy pixels, classes [N, M] and valid [N, M] as the targets of a grid.

    With anchors, an object goes to the anchor whose shape it overlaps most. Of several objects in one place
    the first of the list stays; the others are counted as collisions.
    """
    cells, collisions = jax.vmap(lambda b, c, v: _encode_image(grid, b, c, v))(boxes, classes, valid)
    return Targets(cells, boxes, valid, collisions)


def _whole(x: Array, size: float) -> Array:
    """How often `size` fits into x, exactly: XLA divides by a constant with its rounded inverse."""
    quotient = jnp.floor(x / size)
    too_low, too_high = (quotient + 1) * size <= x, quotient * size > x
    return quotient + too_low.astype(x.dtype) - too_high.astype(x.dtype)


def _encode_image(grid: Grid, boxes: Array, classes: Array, valid: Array) -> tuple[Array, Array]:
    slots = max(1, len(grid.anchors))
    centres = box_xyxy_to_cxcywh(boxes)
    # A centre on the right or lower border of the image belongs to the last cell.
    column, row = (
        jnp.clip(_whole(centres[:, i], grid.cell[i]), 0, count - 1)
        for i, count in enumerate((grid.columns, grid.rows))
    )
    corner = jnp.stack([column, row], axis=1) * jnp.asarray([grid.cell], boxes.dtype)
    in_cell = (centres[:, :2] - corner) / jnp.asarray([grid.cell], boxes.dtype)
    slot = jnp.zeros(len(boxes), jnp.int32)
    if grid.anchors:
        sizes = (boxes[:, 2:] - boxes[:, :2])[:, None]
        slot = jnp.argmax(shape_iou(sizes, jnp.asarray(grid.anchors, boxes.dtype)[None]), axis=1)
    place = (row * grid.columns + column).astype(jnp.int32) * slots + slot.astype(jnp.int32)
    # An image has few objects, so every pair is compared: earlier[i, j] says that j comes before i.
    earlier = jnp.tri(len(boxes), k=-1, dtype=bool)
    lost = jnp.any(earlier & valid[None] & (place[:, None] == place[None]), axis=1)
    vector = jnp.concatenate(
        [
            jnp.ones_like(in_cell[:, :1]),
            in_cell,
            centres[:, 2:] / jnp.asarray([grid.cell], boxes.dtype),
            jax.nn.one_hot(classes, grid.num_classes, dtype=boxes.dtype),
        ],
        axis=1,
    )
    num_places = grid.rows * grid.columns * slots
    place = jnp.where(valid & ~lost, place, num_places)  # out of range: dropped
    cells = jnp.zeros((num_places, 5 + grid.num_classes), boxes.dtype).at[place].set(vector, mode="drop")
    shape = (grid.rows, grid.columns, slots, 5 + grid.num_classes)
    cells = cells.reshape(shape if grid.anchors else (*shape[:2], shape[3]))
    return cells, jnp.sum(valid & lost, dtype=jnp.int32)


def shape_iou(a: Array, b: Array) -> Array:
    """IoU of two boxes (width, height), [..., 2], laid on the same centre."""
    both = jnp.prod(jnp.minimum(a, b), axis=-1)
    return both / jnp.maximum(jnp.prod(a, axis=-1) + jnp.prod(b, axis=-1) - both, EPSILON)


def cells_to_pixels(grid: Grid, boxes: Array) -> Array:
    """Boxes [bx, by, bw, bh] of the cells, [N, rows, columns, B, 4], as xyxy pixels of the image."""
    column = jnp.arange(grid.columns, dtype=boxes.dtype)[None, None, :, None]
    row = jnp.arange(grid.rows, dtype=boxes.dtype)[None, :, None, None]
    width, height = grid.cell
    x, y = (boxes[..., 0] + column) * width, (boxes[..., 1] + row) * height
    return box_cxcywh_to_xyxy(jnp.stack([x, y, boxes[..., 2] * width, boxes[..., 3] * height], axis=-1))


class Candidates(NamedTuple):
    """Every box that a detector proposes, before suppression: K per image."""

    boxes: Array  # [N, K, 4] xyxy pixels
    scores: Array  # [N, K]: P of the object times P of its class
    classes: Array  # [N, K] int32


def split_cells(grid: Grid, outputs: Array) -> tuple[Array, Array]:
    """Outputs [N, rows, columns, 5 B + C] as boxes [N, rows, columns, B, 5] and classes [N, rows, columns, C]."""
    end = 5 * grid.boxes
    return outputs[..., :end].reshape(*outputs.shape[:-1], grid.boxes, 5), outputs[..., end:]


def decode_squared(grid: Grid, outputs: Array) -> Candidates:
    """Of a network trained with the squared loss: every output is the number itself."""
    cells, classes = split_cells(grid, outputs)
    return candidates(
        grid, cells[..., 1:], jnp.clip(cells[..., 0], 0, 1), jnp.clip(classes, 0, 1)[..., None, :]
    )


def decode_logistic(grid: Grid, outputs: Array) -> Candidates:
    """Of a network trained with the logistic loss: P and the classes are logits."""
    cells, classes = split_cells(grid, outputs)
    return candidates(
        grid, cells[..., 1:], jax.nn.sigmoid(cells[..., 0]), jax.nn.softmax(classes, axis=-1)[..., None, :]
    )


def decode_yolov1(grid: Grid, outputs: Array) -> Candidates:
    """Of YOLOv1: as the squared form, but sizes are square roots of shares of the image."""
    cells, classes = split_cells(grid, outputs)
    return candidates(
        grid,
        yolov1_boxes(grid, cells[..., 1:]),
        jnp.clip(cells[..., 0], 0, 1),
        jnp.clip(classes, 0, 1)[..., None, :],
    )


def yolov1_boxes(grid: Grid, outputs: Array) -> Array:
    """YOLOv1's [x, y, sqrt(w), sqrt(h)], sizes in shares of the image, as [bx, by, bw, bh] of the cells."""
    number = jnp.asarray([grid.columns, grid.rows], outputs.dtype).reshape((1,) * (outputs.ndim - 1) + (2,))
    return jnp.concatenate([outputs[..., :2], outputs[..., 2:] ** 2 * number], axis=-1)


def candidates(grid: Grid, boxes: Array, presence: Array, classes: Array) -> Candidates:
    """Boxes in cells [N, rows, columns, B, 4], P [..., B] and class probabilities [..., B or 1, C]."""
    pixels = cells_to_pixels(grid, boxes)
    scores = presence * jnp.max(classes, axis=-1)
    best = jnp.broadcast_to(jnp.argmax(classes, axis=-1), scores.shape).astype(jnp.int32)
    count = boxes.shape[0]
    return Candidates(pixels.reshape(count, -1, 4), scores.reshape(count, -1), best.reshape(count, -1))
