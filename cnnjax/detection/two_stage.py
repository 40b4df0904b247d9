"""What two-stage detectors do between their layers: proposals, samples, losses and detections, of static sizes.

All functions are pure. Those of one image are vmapped over a batch; boxes are xyxy in pixels of the padded frame.
Classes of objects count from 0; of the networks' outputs number 0 is the background, and class c is number c + 1.
The numbers are those of Ren et al. 2015, Lin et al. 2017 and He et al. 2017 as torchvision has them.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from cnnjax.detection.box_coding import DELTA_WEIGHTS, PLAIN, Weights, box_from_deltas, box_to_deltas
from cnnjax.detection.detect import Found
from cnnjax.detection.keypoints import keypoint_loss
from cnnjax.detection.masks import mask_targets
from cnnjax.detection.matching import BACKGROUND, match_boxes
from cnnjax.detection.nms import nms
from cnnjax.detection.sampling import Sample, sample

BETA = 1 / 9  # where smooth L1 turns from a square into a line


@dataclasses.dataclass(frozen=True)
class TwoStage:
    """Numbers of both stages. Pairs are of training and of evaluation."""

    per_level: tuple[int, int] = (2000, 1000)  # candidates of each level before suppression
    proposals: tuple[int, int] = (2000, 1000)
    proposal_iou: float = 0.7  # of two proposals with more overlap the better stays
    anchor_high: float = 0.7  # an anchor that overlaps an object so much is positive
    anchor_low: float = 0.3  # one that overlaps none so much is negative
    anchor_samples: int = 256
    anchor_share: float = 0.5  # of positive ones, at most
    region_high: float = 0.5  # from here on a proposal is positive, below it negative
    region_samples: int = 512
    region_share: float = 0.25
    score_threshold: float = 0.05
    iou_threshold: float = 0.5  # of two detections of a class
    max_detections: int = 100


class Truths(NamedTuple):
    """Objects of N images, padded to M."""

    boxes: Array  # [N, M, 4]
    classes: Array  # [N, M] int32
    valid: Array  # [N, M] bool
    masks: Array | None = None  # [N, M, H, W] bool
    keypoints: Array | None = None  # [N, M, P, 3]: x, y and whether labelled


class Proposals(NamedTuple):
    """Boxes that may hold an object, best first, padded to P."""

    boxes: Array  # [..., P, 4]
    valid: Array  # [..., P] bool


class Regions(NamedTuple):
    """The proposals that the second stage learns from: R slots, positive ones first."""

    boxes: Array  # [..., R, 4]
    objects: Array  # [..., R] int32: of the positive ones
    outputs: Array  # [..., R] int32: the right output; 0 is background
    positive: Array  # [..., R] bool
    valid: Array  # [..., R] bool


class Training(NamedTuple):
    """What a network says of N images in training, and of what it was asked."""

    objectness: Array  # [N, A] logits of all anchors
    anchor_deltas: Array  # [N, A, 4]
    anchors: Array  # [A, 4]
    anchor_objects: Array  # [N, A] int32, as `matching.match` has it
    anchor_sample: Sample  # [N, S]
    proposals: Proposals  # [N, P]
    regions: Regions  # [N, R]
    class_logits: Array  # [N, R, C]
    region_deltas: Array  # [N, R, C, 4]
    mask_logits: Array | None  # [N, R', S, S, C] of the first R' regions, which hold all positive ones
    keypoint_logits: Array | None  # [N, R', S, S, P]


class Detections(NamedTuple):
    """What a network finds in N images, best first, padded to K."""

    found: Found
    masks: Array | None  # [N, K, S, S] probabilities within the boxes
    keypoints: Array | None  # [N, K, S, S, P] logits within the boxes


def propose(
    settings: TwoStage,
    objectness: Sequence[Array],
    deltas: Sequence[Array],
    anchors: Sequence[Array],
    size: Array,
    train: bool,
) -> Proposals:
    """The best proposals of one image: of each level [A_l] logits, [A_l, 4] deltas and anchors.

    The best candidates of each level are cut at the image's `size` (height, width), suppress each other within
    their level, and the best of all levels stay. No gradient goes through them.
    """
    most, places = (pair[0 if train else 1] for pair in (settings.per_level, settings.proposals))
    boxes, scores, levels = [], [], []
    for level, (of_level, moved, around) in enumerate(zip(objectness, deltas, anchors, strict=True)):
        best, chosen = jax.lax.top_k(jax.lax.stop_gradient(of_level), min(most, len(of_level)))
        boxes.append(box_from_deltas(jax.lax.stop_gradient(moved[chosen]), around[chosen], PLAIN))
        scores.append(best)
        levels.append(jnp.full(len(best), level, jnp.int32))
    inside = cut(jnp.concatenate(boxes), size)
    score = jnp.where(_sides(inside) >= 1e-3, jnp.concatenate(scores), -jnp.inf)
    kept, _ = nms(inside, score, settings.proposal_iou, places, jnp.concatenate(levels))
    return Proposals(jnp.where((kept >= 0)[:, None], inside[kept], 0), kept >= 0)


def sample_anchors(
    settings: TwoStage, anchors: Array, truths: Truths, key: Array | None
) -> tuple[Array, Sample]:
    """The object of each anchor of one image [A], and which anchors the first stage learns from."""
    objects = match_boxes(
        truths.boxes, truths.valid, anchors, settings.anchor_high, settings.anchor_low, low_quality=True
    )
    chosen = sample(objects >= 0, objects == BACKGROUND, settings.anchor_samples, settings.anchor_share, key)
    return objects, chosen


def sample_regions(settings: TwoStage, proposals: Proposals, truths: Truths, key: Array | None) -> Regions:
    """The regions of one image that the second stage learns from: proposals and, so that there are some good ones
    from the beginning, the objects' own boxes."""
    boxes = jnp.concatenate([proposals.boxes, truths.boxes])
    valid = jnp.concatenate([proposals.valid, truths.valid])
    objects = match_boxes(truths.boxes, truths.valid, boxes, settings.region_high, settings.region_high)
    chosen = sample(
        (objects >= 0) & valid, (objects < 0) & valid, settings.region_samples, settings.region_share, key
    )
    of_chosen = jnp.where(chosen.positive, objects[chosen.indices], 0)
    return Regions(
        boxes=jax.lax.stop_gradient(boxes[chosen.indices]),
        objects=of_chosen,
        outputs=jnp.where(chosen.positive, truths.classes[of_chosen] + 1, 0),
        positive=chosen.positive,
        valid=chosen.valid,
    )


def positive_slots(settings: TwoStage) -> int:
    """How many of the regions can be positive: masks are learned from these only."""
    return int(settings.region_samples * settings.region_share)


def losses(outputs: Training, truths: Truths) -> dict[str, Array]:
    """The parts of the loss, each [N], whose means over the images are torchvision's losses of the batch.

    objectness and proposals (of boxes) of the first stage are divided by the number of sampled anchors of the batch;
    classes and boxes of the second by that of its regions, and masks by that of the positive ones.
    """
    parts = {**_anchor_losses(outputs, truths), **_region_losses(outputs, truths)}
    regions = outputs.regions
    if outputs.mask_logits is not None:
        parts["masks"] = _mask_loss(outputs.mask_logits, regions, truths)
    if outputs.keypoint_logits is not None:
        assert truths.keypoints is not None
        slots = outputs.keypoint_logits.shape[1]
        of_object = jnp.take_along_axis(truths.keypoints, regions.objects[:, :slots, None, None], axis=1)
        total, count = keypoint_loss(
            outputs.keypoint_logits, of_object, regions.boxes[:, :slots], regions.positive[:, :slots]
        )
        parts["keypoints"] = _over_batch(total, count)
    return parts


def _anchor_losses(outputs: Training, truths: Truths) -> dict[str, Array]:
    chosen, count = outputs.anchor_sample, jnp.sum(outputs.anchor_sample.valid, axis=1)
    logits = jnp.take_along_axis(outputs.objectness, chosen.indices, axis=1)
    deltas = jnp.take_along_axis(outputs.anchor_deltas, chosen.indices[..., None], axis=1)
    objects = jnp.take_along_axis(outputs.anchor_objects, chosen.indices, axis=1)
    wrong = optax.sigmoid_binary_cross_entropy(logits, chosen.positive.astype(jnp.float32))
    error = _box_error(deltas, outputs.anchors[chosen.indices], truths.boxes, objects, chosen.positive, PLAIN)
    return {
        "objectness": _over_batch(jnp.sum(jnp.where(chosen.valid, wrong, 0), axis=1), count),
        "proposals": _over_batch(error, count),
    }


def _region_losses(outputs: Training, truths: Truths) -> dict[str, Array]:
    regions, count = outputs.regions, jnp.sum(outputs.regions.valid, axis=1)
    wrong = optax.softmax_cross_entropy_with_integer_labels(outputs.class_logits, regions.outputs)
    of_class = regions.outputs[..., None, None]
    deltas = jnp.take_along_axis(outputs.region_deltas, of_class, axis=2)[:, :, 0]
    error = _box_error(deltas, regions.boxes, truths.boxes, regions.objects, regions.positive)
    return {
        "classes": _over_batch(jnp.sum(jnp.where(regions.valid, wrong, 0), axis=1), count),
        "boxes": _over_batch(error, count),
    }


def _mask_loss(logits: Array, regions: Regions, truths: Truths) -> Array:
    """The logistic loss of the right class's channel, mean over pixels and positive regions: [N]."""
    slots = logits.shape[1]
    positive, objects = regions.positive[:, :slots], regions.objects[:, :slots]
    assert truths.masks is not None
    wanted = jax.vmap(lambda masks, owners, boxes: mask_targets(masks, owners, boxes, logits.shape[2]))(
        truths.masks, objects, regions.boxes[:, :slots]
    )
    of_class = regions.outputs[:, :slots, None, None, None]
    chosen = jnp.take_along_axis(logits, of_class, axis=-1)[..., 0]
    wrong = jnp.mean(optax.sigmoid_binary_cross_entropy(chosen, wanted), axis=(2, 3))
    return _over_batch(jnp.sum(jnp.where(positive, wrong, 0), axis=1), jnp.sum(positive, axis=1))


def _box_error(
    deltas: Array,
    around: Array,
    truths: Array,
    objects: Array,
    positive: Array,
    weights: Weights = DELTA_WEIGHTS,
) -> Array:
    """Smooth L1 of the positive ones among [N, S] boxes, summed over each image: [N]."""
    care = positive[..., None]
    real = jnp.take_along_axis(truths, jnp.where(positive, objects, 0)[..., None], axis=1)
    # Elsewhere both are the same box with an inside, so that no NaN can come from there.
    unit = jnp.asarray([0, 0, 1, 1], real.dtype)[None, None]
    real, around = jnp.where(care, real, unit), jnp.where(care, around, unit)
    error = optax.huber_loss(deltas, box_to_deltas(real, around, weights), delta=BETA) / BETA
    return jnp.sum(jnp.where(care, error, 0), axis=(1, 2))


def _over_batch(total: Array, count: Array) -> Array:
    """[N] totals and counts of images -> [N], whose mean is the batch's total over its count."""
    return total * (len(total) / jnp.maximum(jnp.sum(count), 1).astype(total.dtype))


def detect_regions(
    settings: TwoStage, proposals: Proposals, class_logits: Array, deltas: Array, size: Array
) -> Found:
    """The final boxes of one image: proposals [P], logits [P, C] and deltas [P, C, 4] of each output.

    Every class may take every proposal. All are candidates: no bound comes before the suppression.
    """
    scores = jnp.where(proposals.valid[:, None], jax.nn.softmax(class_logits), 0)[:, 1:]
    boxes = cut(box_from_deltas(deltas[:, 1:], proposals.boxes[:, None]), size)
    scores = jnp.where(_sides(boxes) >= 1e-2, scores, 0).reshape(-1)
    boxes, classes = boxes.reshape(-1, 4), jnp.arange(deltas.shape[1] - 1, dtype=jnp.int32)
    of_box = jnp.tile(classes, len(deltas))
    kept, count = nms(
        boxes, scores, settings.iou_threshold, settings.max_detections, of_box, settings.score_threshold
    )
    real = kept >= 0
    return Found(
        jnp.where(real[:, None], boxes[kept], 0),
        jnp.where(real, scores[kept], 0),
        jnp.where(real, of_box[kept], -1),
        count,
    )


def cut(boxes: Array, size: Array) -> Array:
    """Boxes [..., 4] cut at the borders of an image of `size` [2] (height, width), which an array may hold."""
    limit = jnp.stack([size[1], size[0], size[1], size[0]]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limit.reshape((1,) * (boxes.ndim - 1) + (4,)))


def _sides(boxes: Array) -> Array:
    """The shorter side, [..., 4] -> [...]."""
    return jnp.min(boxes[..., 2:] - boxes[..., :2], axis=-1)
