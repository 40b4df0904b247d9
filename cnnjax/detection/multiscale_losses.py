"""Losses of detectors over several scales. Each takes a network's maps and the objects of N images and returns its
parts by name, [N] each; their sum is what is minimised."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cnnjax.detection.boxes import box_xyxy_to_cxcywh, ciou
from cnnjax.detection.multiscale import (
    Assigned,
    Frame,
    Objects,
    Scale,
    Scales,
    assign,
    decode,
    overlaps_any,
)

Parts = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class DarknetLoss:
    """darknet's: its gradient is what darknet propagates, whose printed cost is another number.

    Logistic loss of centre, objectness and classes and half the squared error of the logarithmic size, those of a
    box times 2 - w h, in shares of the image. A prior without an object whose box overlaps any by more than
    `ignore_iou` is left alone (its configurations have 0.7; the paper says 0.5).
    """

    ignore_iou: float = 0.7
    also_above: float = 1.0

    def __call__(
        self, scales: Scales, outputs: Sequence[Array], objects: Objects, frame: Frame
    ) -> tuple[Parts, Array]:
        """The parts, and of how many objects there was no place: [N] int32."""
        return _sum(self, scales, outputs, objects, frame)

    def presence(self, scale: Scale, positive: Array, ignored: Array, target: Array) -> Array:
        return _unless(ignored & ~positive, _logistic(scale.objectness, positive))

    def box(self, scales: Scales, index: int, scale: Scale, target: Array, frame: Frame) -> Array:
        """[N, rows, columns, A] for boxes that should be `target` [..., 4]."""
        head = scales.heads[index]
        centre = box_xyxy_to_cxcywh(target)
        rows, columns = target.shape[1:3]
        number = _row([columns / frame[1], rows / frame[0]], target)
        in_cell = centre[..., :2] * number
        inside = in_cell - jnp.minimum(jnp.floor(in_cell), _row([columns - 1, rows - 1], target))
        inside = (inside + (head.scale_x_y - 1) / 2) / head.scale_x_y
        anchors = jnp.asarray(scales.anchors_of(head), target.dtype)[None, None, None]
        size = jnp.log(jnp.maximum(centre[..., 2:], 1e-6) / anchors)
        weight = 2 - jnp.prod(centre[..., 2:] / _row(frame[::-1], target), axis=-1)
        position = optax.sigmoid_binary_cross_entropy(scale.xy, inside)
        return weight * jnp.sum(position + (scale.wh - size) ** 2 / 2, axis=-1)

    def label(self, classes: Array) -> Array:
        return classes.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class OverlapLoss(DarknetLoss):
    """What later detectors took in its place: 1 - CIoU of boxes (Zheng et al. 2020), the CIoU itself as the wanted
    objectness, smoothed labels, and by `also_above` several priors for an object (Bochkovskiy et al. 2020, 3.4)."""

    also_above: float = 0.3
    box_weight: float = 5.0
    label_smoothing: float = 0.0

    def presence(self, scale: Scale, positive: Array, ignored: Array, target: Array) -> Array:
        quality = jnp.clip(jax.lax.stop_gradient(ciou(scale.boxes, target)), 0, 1)
        wanted = jnp.where(positive, quality, 0)
        return _unless(ignored & ~positive, optax.sigmoid_binary_cross_entropy(scale.objectness, wanted))

    def box(self, scales: Scales, index: int, scale: Scale, target: Array, frame: Frame) -> Array:
        return self.box_weight * (1 - ciou(scale.boxes, target))

    def label(self, classes: Array) -> Array:
        return super().label(classes) * (1 - self.label_smoothing) + self.label_smoothing / 2


def _sum(
    loss: DarknetLoss, scales: Scales, outputs: Sequence[Array], objects: Objects, frame: Frame
) -> tuple[Parts, Array]:
    shapes = [(output.shape[1], output.shape[2]) for output in outputs]
    assigned, lost = assign(scales, shapes, objects, frame, loss.also_above)
    parts = {name: jnp.zeros(len(lost), jnp.float32) for name in ("box", "presence", "classes")}
    for index, (scale, wanted) in enumerate(zip(decode(scales, outputs, frame), assigned, strict=True)):
        for name, value in _parts(loss, scales, index, scale, wanted, objects, frame).items():
            parts[name] = parts[name] + jnp.sum(value, axis=(1, 2, 3))
    return parts, lost


def _parts(
    loss: DarknetLoss,
    scales: Scales,
    index: int,
    scale: Scale,
    wanted: Assigned,
    objects: Objects,
    frame: Frame,
) -> Parts:
    """Of one head, each [N, rows, columns, A]."""
    here = wanted.positive
    target = jax.vmap(lambda boxes, owner: boxes[owner])(objects.boxes, wanted.owner)
    # Where there is no object both sides are the same box, so that no gradient can come from there.
    plain = jnp.asarray([0, 0, frame[1], frame[0]], target.dtype)[None, None, None, None]
    care = here[..., None]
    target = jnp.where(care, target, plain)
    scale = scale._replace(
        xy=jnp.where(care, scale.xy, 0),
        wh=jnp.where(care, scale.wh, 0),
        classes=jnp.where(care, scale.classes, 0),
    )
    ignored = overlaps_any(scale.boxes, objects, loss.ignore_iou)
    presence = loss.presence(scale, here, ignored, target)
    scale = scale._replace(boxes=jnp.where(care, scale.boxes, plain))
    label = optax.sigmoid_binary_cross_entropy(scale.classes, loss.label(wanted.classes))
    return {
        "box": _unless(~here, loss.box(scales, index, scale, target, frame)),
        "presence": presence,
        "classes": _unless(~here, jnp.sum(label, axis=-1)),
    }


def _logistic(logits: Array, target: Array) -> Array:
    return optax.sigmoid_binary_cross_entropy(logits, target.astype(logits.dtype))


def _unless(excluded: Array, value: Array) -> Array:
    return jnp.where(excluded, 0, value)


def _row(values: Sequence[float], like: Array) -> Array:
    return jnp.asarray(values, like.dtype).reshape((1,) * (like.ndim - 1) + (len(values),))
