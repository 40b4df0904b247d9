"""How the entries of a batch follow their image: a row of KINDS for each kind. An entry of no kind stays as it is."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment.geometry import Motion
from cnnjax.config import ConfigError
from cnnjax.detection.boxes import area

Batch = Mapping[str, Array]

MIN_VISIBLE = 0.3
MIN_SIDE = 2.0


class Kind(NamedTuple):
    """How the entries of a kind change. Each function takes a batch and returns the entries that it changes.

    Attributes:
      entries: all that belong to it.
      move: with the picture, by a motion of the batch.
      flip: in a picture that shows left and right exchanged, bool [N], beside their places.
      cut: at the borders of what can be seen, a frame xyxy [N, 4] in pixels.
      join: of several pictures that become one: entries [N, pictures, ...] -> [N, ...].
    """

    entries: tuple[str, ...]
    move: Callable[[Batch, Motion], Batch]
    flip: Callable[[Batch, Array], Batch]
    cut: Callable[[Batch, Array], Batch]
    join: Callable[[Batch], Batch]


def present(names: Collection[str]) -> Iterator[Kind]:
    """The kinds that a batch with these entries has."""
    return (kind for name, kind in KINDS.items() if name in names)


def entries(names: Collection[str]) -> list[str]:
    """Those of the entries of a batch that follow the image."""
    return [name for kind in present(names) for name in kind.entries if name in names]


def follow(batch: Batch, motion: Motion, frame: Array | None = None) -> dict[str, Array]:
    """The batch after a motion of its images, whose entry "image" stays for the caller to change.

    `frame` [N, 4], xyxy in pixels, is what can be seen afterwards; by default the whole picture.
    """
    if frame is None:
        whole = np.array([0, 0, *motion.size[::-1]], np.float32)
        frame = jnp.broadcast_to(whole[None], (len(motion.matrix), 4))
    changed = dict(batch)
    for kind in present(batch):
        changed |= kind.move(changed, motion)
        if motion.flips:
            changed |= kind.flip(changed, motion.mirrored)
        changed |= kind.cut(changed, frame)
    return changed


def join(batch: Batch) -> dict[str, Array]:
    """The entries [N, pictures, ...] of all kinds as those of one picture each."""
    joined: dict[str, Array] = {}
    for kind in present(batch):
        joined |= kind.join(batch)
    return joined


def _unchanged(batch: Batch, mirrored: Array) -> Batch:
    return {}


def _rows(batch: Batch, names: tuple[str, ...]) -> Batch:
    """Entries [N, pictures, M, ...] one after the other: [N, pictures * M, ...]."""
    found = {name: batch[name] for name in names if name in batch}
    return {name: a.reshape(len(a), -1, *a.shape[3:]) for name, a in found.items()}


def _move_boxes(batch: Batch, motion: Motion) -> Batch:
    """The box around each moved box: that of a turned one is larger than the object, as wherever boxes are turned."""
    boxes = batch["boxes"]
    corners = motion.points(boxes[..., np.array([[0, 1], [2, 1], [2, 3], [0, 3]])].reshape(len(boxes), -1, 2))
    corners = corners.reshape(*boxes.shape[:2], 4, 2)
    return {"boxes": jnp.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1)}


def _cut_boxes(batch: Batch, frame: Array) -> Batch:
    """A box stays valid if at least MIN_VISIBLE of its area and MIN_SIDE pixels of both sides are left."""
    whole, limits = batch["boxes"], frame[:, None].astype(batch["boxes"].dtype)
    cut = jnp.clip(whole, jnp.tile(limits[..., :2], 2), jnp.tile(limits[..., 2:], 2))
    enough = area(cut) >= MIN_VISIBLE * area(whole)
    enough &= jnp.min(cut[..., 2:] - cut[..., :2], axis=-1) >= MIN_SIDE
    return {"boxes": cut, "valid": batch["valid"] & enough}


def _move_points(batch: Batch, motion: Motion) -> Batch:
    points = batch["points"]
    return {"points": motion.points(points.reshape(len(points), -1, 2)).reshape(points.shape)}


def _swap_points(batch: Batch, mirrored: Array) -> Batch:
    """In a mirror image the left eye is the right one of who is seen: row i gets what row flip_points[:, i] was."""
    points, visible = batch["points"], batch["visible"]
    swapped = batch["flip_points"]
    order = jnp.where(mirrored[:, None], swapped, jnp.arange(swapped.shape[1], dtype=swapped.dtype)[None])
    order = order.reshape(len(order), *(1,) * (visible.ndim - 2), -1)
    return {
        "points": jnp.take_along_axis(points, order[..., None], axis=-2),
        "visible": jnp.take_along_axis(visible, order, axis=-1),
    }


def _cut_points(batch: Batch, frame: Array) -> Batch:
    """A point outside is not visible; its place is still right."""
    points = batch["points"]
    limits = frame.reshape(len(frame), *(1,) * (points.ndim - 2), 4).astype(points.dtype)
    inside = (points >= limits[..., :2]) & (points < limits[..., 2:])
    return {"visible": batch["visible"] & inside.all(axis=-1)}


def _join_points(batch: Batch) -> Batch:
    if batch["points"].ndim != 5:
        raise ConfigError(
            "augment.mosaic and augment.mixup: points [N, K, 2] are of one object; those of several pictures need a "
            "row for each of the boxes"
        )
    return _rows(batch, ("points", "visible"))


def _move_masks(batch: Batch, motion: Motion) -> Batch:
    masks = batch["masks"]
    if masks.ndim == 3:
        return {"masks": motion.nearest(masks[..., None])[..., 0]}
    return {"masks": jnp.moveaxis(motion.nearest(jnp.moveaxis(masks, 1, -1)), -1, 1)}


def _cut_masks(batch: Batch, frame: Array) -> Batch:
    masks = batch["masks"]
    height, width = masks.shape[-2:]
    inside = inside_frame(frame, height, width)
    inside = inside if masks.ndim == 3 else inside[:, None]
    return {"masks": jnp.where(inside, masks, jnp.zeros((), masks.dtype))}


def _join_masks(batch: Batch) -> Batch:
    """Masks of instances in a row; of semantic ones, of which each pixel has one picture's at most, the sum."""
    masks = batch["masks"]
    if masks.ndim == 5:
        return _rows(batch, ("masks",))
    return {"masks": jnp.sum(masks, axis=1, dtype=masks.dtype)}


def inside_frame(frame: Array, height: int, width: int) -> Array:
    """bool [N, H, W]: the pixels whose centres are inside of xyxy [N, 4]."""
    x1, y1, x2, y2 = frame.T[:, :, None]
    rows, columns = (jnp.arange(size, dtype=jnp.float32)[None] + 0.5 for size in (height, width))
    down, right = (rows > y1) & (rows < y2), (columns > x1) & (columns < x2)
    return down[:, :, None] & right[:, None, :]


KINDS: dict[str, Kind] = {
    # "boxes" [N, M, 4] xyxy, "valid" [N, M] and what else has a row for each box
    "boxes": Kind(
        ("boxes", "classes", "valid", "ignored", "area"),
        _move_boxes,
        _unchanged,
        _cut_boxes,
        lambda batch: _rows(batch, ("boxes", "classes", "valid", "ignored", "area")),
    ),
    # "points" [N, K, 2] (x, y) or, of each box, [N, M, K, 2]; "visible" [N, K] or [N, M, K]; to flip them "flip_points"
    # int [N, K], the row that each point has in a mirror image
    "points": Kind(("points", "visible"), _move_points, _swap_points, _cut_points, _join_points),
    # "masks" of each box [N, M, H, W] uint8 or bool, or of all pixels [N, H, W] int; what comes into the picture is 0
    "masks": Kind(("masks",), _move_masks, _unchanged, _cut_masks, _join_masks),
}
