"""Boxes over grids of several scales, as in YOLOv3 (Redmon & Farhadi 2018, section 2) and what followed it.

Each head of a network gives a map [N, rows, columns, A (5 + C)]: for each of its A anchors (priors)
[tx, ty, tw, th, objectness, C classes]. All classes are independent of each other.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection.anchors import MAX_LOG_SIZE
from cnnjax.detection.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, iou, pairwise
from cnnjax.detection.grid import shape_iou

Frame = tuple[int, int]  # height, width of the image that enters the network, in pixels

_LEAST_SIDE = 1e-3  # of the image: objects with smaller sides are passed over
_SURE = 1e-6  # distance from 0 and 1 at which a probability still has a logit


@dataclasses.dataclass(frozen=True)
class Head:
    """One scale. mask: which of all anchors it has.

    scale_x_y: a centre may lie so much more than a cell, less a cell, beyond its cell (Bochkovskiy et al. 2020, 3.3).
    new_coords: the network gives probabilities, not logits, and sizes as anchor * (2 t)^2 (Wang et al. 2021).
    """

    mask: tuple[int, ...]
    scale_x_y: float = 1.0
    new_coords: bool = False


@dataclasses.dataclass(frozen=True)
class Scales:
    """The heads of a detector: anchors (width, height) in pixels, whatever the size of the image."""

    anchors: tuple[tuple[float, float], ...]
    heads: tuple[Head, ...]
    num_classes: int

    def anchors_of(self, head: Head) -> tuple[tuple[float, float], ...]:
        return tuple(self.anchors[index] for index in head.mask)


class Scale(NamedTuple):
    """What a head says, for each of its anchors in each cell."""

    xy: Array  # [N, rows, columns, A, 2] logits of the centre inside the cell
    wh: Array  # [N, rows, columns, A, 2] logarithms of the size in anchors
    objectness: Array  # [N, rows, columns, A] logits
    classes: Array  # [N, rows, columns, A, C] logits
    boxes: Array  # [N, rows, columns, A, 4] xyxy pixels, not clipped


def decode(scales: Scales, outputs: Sequence[Array], frame: Frame) -> list[Scale]:
    """The maps of a network in terms of boxes, in float32; b = sigma(t) + cell, size = anchor e^t (YOLOv3, 2.1)."""
    return [_decode(scales, head, out, frame) for head, out in zip(scales.heads, outputs, strict=True)]


def _decode(scales: Scales, head: Head, output: Array, frame: Frame) -> Scale:
    t = output.astype(jnp.float32).reshape(*output.shape[:3], len(head.mask), 5 + scales.num_classes)
    anchors = jnp.asarray(scales.anchors_of(head), t.dtype)[None, None, None]
    if head.new_coords:
        probability = jnp.clip(t, _SURE, 1 - _SURE)
        logits = jnp.log(probability) - jnp.log1p(-probability)
        xy, rest, wh = logits[..., :2], logits[..., 4:], 2 * jnp.log(2 * probability[..., 2:4])
        inside, size = t[..., :2], (2 * t[..., 2:4]) ** 2 * anchors
    else:
        xy, rest, wh = t[..., :2], t[..., 4:], t[..., 2:4]
        inside, size = jax.nn.sigmoid(xy), jnp.exp(jnp.minimum(wh, MAX_LOG_SIZE)) * anchors
    centre = _cells(inside * head.scale_x_y - (head.scale_x_y - 1) / 2, frame)
    boxes = box_cxcywh_to_xyxy(jnp.concatenate([centre, size], axis=-1))
    return Scale(xy, wh, rest[..., 0], rest[..., 1:], boxes)


def _cells(inside: Array, frame: Frame) -> Array:
    """Places in cells [N, rows, columns, A, 2] in pixels of the image."""
    rows, columns = inside.shape[1:3]
    column = jnp.arange(columns, dtype=inside.dtype)[None, None, :, None]
    row = jnp.arange(rows, dtype=inside.dtype)[None, :, None, None]
    x = (inside[..., 0] + column) * (frame[1] / columns)
    return jnp.stack([x, (inside[..., 1] + row) * (frame[0] / rows)], axis=-1)


def flipped(scales: Scales, outputs: Sequence[Array], axes: Sequence[int]) -> tuple[Array, ...]:
    """The maps of a network as they would say the same of images that are flipped along axes 1 (rows) or 2 (columns)."""
    return tuple(_flipped(scales, head, out, axes) for head, out in zip(scales.heads, outputs, strict=True))


def _flipped(scales: Scales, head: Head, output: Array, axes: Sequence[int]) -> Array:
    t = output.reshape(*output.shape[:3], len(head.mask), 5 + scales.num_classes)
    for axis in axes:
        place = 2 - axis  # of the centre in the cell: x, y
        inside = t[..., place]
        t = jnp.flip(t.at[..., place].set(1 - inside if head.new_coords else -inside), axis)
    return t.reshape(output.shape)


class Candidates(NamedTuple):
    """What a detector proposes for N images, before suppression: P priors of all heads, in the heads' order."""

    boxes: Array  # [N, P, 4] xyxy pixels, not clipped
    objectness: Array  # [N, P]
    scores: Array  # [N, P, C]: objectness times the probability of each class


def candidates(scales: Scales, outputs: Sequence[Array], frame: Frame) -> Candidates:
    """A detection may be of several classes: each has its own score (darknet's rule)."""
    boxes, objectness, classes = [], [], []
    for scale in decode(scales, outputs, frame):
        count = scale.boxes.shape[0]
        boxes.append(scale.boxes.reshape(count, -1, 4))
        objectness.append(jax.nn.sigmoid(scale.objectness).reshape(count, -1))
        classes.append(jax.nn.sigmoid(scale.classes).reshape(count, -1, scales.num_classes))
    presence = jnp.concatenate(objectness, axis=1)
    return Candidates(
        jnp.concatenate(boxes, axis=1), presence, presence[..., None] * jnp.concatenate(classes, axis=1)
    )


class Assigned(NamedTuple):
    """What a head should say about N images; of boxes without an object nothing, and of some not even that."""

    positive: Array  # [N, rows, columns, A] bool: an object is here
    owner: Array  # [N, rows, columns, A] int32: which one; 0 where none
    classes: Array  # [N, rows, columns, A, C] bool, of all objects that came here


class Objects(NamedTuple):
    """The objects of N images, M each."""

    boxes: Array  # [N, M, 4] xyxy pixels
    classes: Array  # [N, M] integers
    valid: Array  # [N, M] bool


def assign(
    scales: Scales, shapes: Sequence[tuple[int, int]], objects: Objects, frame: Frame, also_above: float = 1.0
) -> tuple[list[Assigned], Array]:
    """Which anchor of which cell answers for each object, for heads with (rows, columns) = shapes.

    It is the anchor of all heads whose shape overlaps the object's most, of equal ones the first, in the cell that
    holds the centre; with `also_above` every anchor whose shape overlaps by more, too (YOLOv4). Of several objects
    in one place the last stays, with the classes of all. Objects smaller than a thousandth of the frame are passed
    over, as in darknet.

    Returns what each head should say, and how many objects of each image found no place of their own: [N] int32.
    """
    share = box_xyxy_to_cxcywh(objects.boxes) / jnp.asarray(
        [[[frame[1], frame[0], frame[1], frame[0]]]], jnp.float32
    )
    valid = objects.valid & jnp.all(share[..., 2:] >= _LEAST_SIDE, axis=-1)
    sizes = objects.boxes[..., 2:] - objects.boxes[..., :2]
    overlap = shape_iou(sizes[:, :, None], jnp.asarray(scales.anchors, jnp.float32)[None, None])
    best = jax.nn.one_hot(jnp.argmax(overlap, axis=-1), len(scales.anchors), dtype=bool)
    wanted = (best | (overlap > also_above)) & valid[..., None]

    assigned, kept = [], jnp.zeros(valid.shape, bool)
    for head, (rows, columns) in zip(scales.heads, shapes, strict=True):
        number = jnp.asarray([[[columns, rows]]], jnp.float32)
        cell = jnp.clip(jnp.floor(share[..., :2] * number), 0, number - 1).astype(jnp.int32)
        mask = jnp.asarray(head.mask)
        one = jax.vmap(
            lambda cell, wanted, labels, s=(rows, columns): _place(scales, s, cell, wanted, labels)
        )
        found, has_place = one(cell, wanted[..., mask], objects.classes)
        kept |= jnp.any(has_place & best[..., mask], axis=-1)
        assigned.append(found)
    return assigned, jnp.sum(valid & ~kept, axis=-1, dtype=jnp.int32)


def _place(
    scales: Scales, shape: tuple[int, int], cell: Array, wanted: Array, labels: Array
) -> tuple[Assigned, Array]:
    """One image and head: cell [M, 2] as (column, row), wanted [M, A] anchors of the objects.

    Returns also, [M, A], which of these places the objects keep.
    """
    (rows, columns), (count, anchors) = shape, wanted.shape
    slots = rows * columns * anchors
    place = ((cell[:, 1] * columns + cell[:, 0]) * anchors)[:, None] + jnp.arange(anchors)[None]
    place = jnp.where(wanted, place, slots)  # out of range: dropped
    number = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[:, None], place.shape)
    owner = jnp.full(slots, -1, jnp.int32).at[place].max(number, mode="drop")
    kept = wanted & (owner.at[place].get(mode="fill", fill_value=-1) == number)
    classes = jnp.zeros((slots, scales.num_classes), bool)
    label = jnp.broadcast_to(labels[:, None], place.shape)
    classes = classes.at[place, label].set(True, mode="drop")
    here = (rows, columns, anchors)
    found = Assigned(
        (owner >= 0).reshape(here), jnp.maximum(owner, 0).reshape(here), classes.reshape(*here, -1)
    )
    return found, kept


def overlaps_any(boxes: Array, objects: Objects, threshold: float) -> Array:
    """[N, rows, columns, A]: boxes [..., 4] whose IoU with any object of their image is above the threshold."""
    flat = jax.lax.stop_gradient(boxes).reshape(boxes.shape[0], -1, 4)
    best = jnp.max(
        jnp.where(objects.valid[:, None], pairwise(iou, flat, objects.boxes), 0), axis=-1, initial=0
    )
    return (best > threshold).reshape(boxes.shape[:-1])
