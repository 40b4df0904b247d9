"""Faster R-CNN (Ren et al. 2015), Mask R-CNN and Keypoint R-CNN (He et al. 2017) on a feature pyramid.

From normalized images to samples for the losses, or to detections, in one pass of static shapes. What happens
between the layers is in detection/two_stage.py.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.detection import two_stage
from cnnjax.detection.keypoints import upsample
from cnnjax.detection.level_anchors import LevelAnchors
from cnnjax.detection.two_stage import Detections, Proposals, Training, Truths, TwoStage
from cnnjax.models.fpn import FPN
from cnnjax.models.grid import GridNet
from cnnjax.models.layers import Doubling, Trunk, conv, flatten, frozen_batch_norm, stage
from cnnjax.models.resnet import RESNET50, ResNet
from cnnjax.ops.roi import roi_align_levels, roi_levels

SAMPLING = 2  # bilinear values along each side of a bin
BOX_BINS, MASK_BINS = 7, 14  # along each side of what the heads see of a box
_normal = nn.initializers.normal


class RegionProposals(nn.Module):
    """A 3x3 convolution shared by all levels, and of each anchor a logit and four deltas (Ren et al. 2015, 3.1).

    Maps [N, H_l, W_l, C] -> of each [N, H_l * W_l * A] and [N, H_l * W_l * A, 4], float32.
    """

    anchors: int  # at a place
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, levels: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        layer = partial(conv, kernel_init=_normal(0.01), dtype=self.dtype)
        shared = layer(self.features, 3, padding=1, name="conv")
        objectness = layer(self.anchors, 1, padding=0, name="objectness")
        deltas = layer(4 * self.anchors, 1, padding=0, name="deltas")
        seen = [nn.relu(shared(level)) for level in levels]
        logits = [objectness(x).reshape(x.shape[0], -1).astype(jnp.float32) for x in seen]
        return logits, [deltas(x).reshape(x.shape[0], -1, 4).astype(jnp.float32) for x in seen]


class BoxHead(nn.Module):
    """Two fully connected layers on [K, 7, 7, C] -> logits [K, outputs] and deltas [K, outputs, 4], float32."""

    outputs: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="fc6")(flatten(x)))
        x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="fc7")(x))
        last = partial(nn.Dense, dtype=self.dtype)
        logits = last(self.outputs, kernel_init=_normal(0.01), name="classes")(x)
        deltas = last(4 * self.outputs, kernel_init=_normal(0.001), name="deltas")(x)
        return logits.astype(jnp.float32), deltas.reshape(x.shape[0], -1, 4).astype(jnp.float32)


class MaskHead(nn.Module):
    """3x3 convolutions, a transposed one that doubles the size, and of each output a logit per pixel:
    [K, 14, 14, C] -> [K, 28, 28, outputs], float32 (He et al. 2017, figure 4)."""

    outputs: int
    convs: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, features in enumerate(self.convs, start=1):
            x = nn.relu(conv(features, 3, padding=1, dtype=self.dtype, name=f"conv{i}")(x))
        x = nn.relu(Doubling(self.convs[-1], 2, dtype=self.dtype, name="deconv")(x))
        return conv(self.outputs, 1, padding=0, dtype=self.dtype, name="logits")(x).astype(jnp.float32)


class KeypointHead(nn.Module):
    """3x3 convolutions, a transposed one and a bilinear enlargement: [K, 14, 14, C] -> [K, 56, 56, points], float32."""

    points: int
    convs: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, features in enumerate(self.convs, start=1):
            x = nn.relu(conv(features, 3, padding=1, dtype=self.dtype, name=f"conv{i}")(x))
        return upsample(Doubling(self.points, 4, dtype=self.dtype, name="deconv")(x).astype(jnp.float32))


class RCNN(nn.Module):
    """A two-stage detector: images [N, H, W, 3] -> `Detections`, or with the objects `Training`.

    `num_outputs`: classes and, as number 0, the background. `trunk` makes a model of the zoo, whose `stages`, finest
    first, carry the pyramid; there is a size of anchors for each level. Without `mask_convs` or `keypoint_convs` there
    is no such head. `canonical_size`: see `roi_levels`. Stages beside those of the trunk: level1, ..., objectness1, ...
    of each level; logits, masks and keypoints of each region.
    """

    trunk: Callable[..., nn.Module]
    num_outputs: int = 91
    stages: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4")
    features: int = 256
    pooled_level: bool = True
    anchors: LevelAnchors = LevelAnchors()
    canonical_size: float = 224.0
    hidden: int = 1024
    mask_convs: tuple[int, ...] = ()
    keypoint_convs: tuple[int, ...] = ()
    keypoints: int = 17
    settings: TwoStage = TwoStage()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool = False,
        truths: Truths | None = None,
        sizes: Array | None = None,
        key: Array | None = None,
        settings: TwoStage | None = None,
    ) -> Detections | Training:
        """`sizes` [N, 2]: height and width of the images in their frames, where these are padded at the bottom and
        right; boxes are cut there. `key`: of the random samples of training; without it the first ones are taken.
        `settings`: in place of the network's own."""
        settings = settings or self.settings
        frame = (x.shape[1], x.shape[2])
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.asarray(frame, jnp.float32), (x.shape[0], 2))
        found = Trunk(self.trunk(num_outputs=None, dtype=self.dtype, parent=None), name="trunk")(x, train)
        maps = [found[name] for name in self.stages]
        _check_frame(frame, maps)
        levels = FPN(self.features, self.pooled_level, self.dtype, name="fpn")(maps)
        levels = [stage(self, f"level{i}", level) for i, level in enumerate(levels, start=1)]
        rpn = RegionProposals(len(self.anchors.ratios), self.features, self.dtype, name="rpn")
        objectness, deltas = rpn(levels)
        objectness = [stage(self, f"objectness{i}", of) for i, of in enumerate(objectness, start=1)]
        anchors = self.anchors([(level.shape[1], level.shape[2]) for level in levels], frame)

        def propose(logits: list[Array], moved: list[Array], size: Array) -> Proposals:
            return two_stage.propose(settings, logits, moved, anchors, size, train=truths is not None)

        proposals = jax.vmap(propose)(objectness, deltas, sizes)
        pyramid = _Pyramid(levels[: len(maps)], frame, self.canonical_size)
        if truths is None:
            return self._detect(settings, pyramid, proposals, sizes)
        return self._learn(settings, pyramid, proposals, truths, key, objectness, deltas, anchors)

    def _detect(
        self, settings: TwoStage, pyramid: "_Pyramid", proposals: Proposals, sizes: Array
    ) -> Detections:
        logits, deltas = self._boxes(pyramid, proposals.boxes)
        found = jax.vmap(partial(two_stage.detect_regions, settings))(proposals, logits, deltas, sizes)
        masks = self._masks(pyramid, found.boxes)
        if masks is not None:
            of_class = jnp.maximum(found.classes + 1, 0)[..., None, None, None]
            masks = nn.sigmoid(jnp.take_along_axis(masks, of_class, axis=-1)[..., 0])
        return Detections(found, masks, self._keypoints(pyramid, found.boxes))

    def _learn(
        self,
        settings: TwoStage,
        pyramid: "_Pyramid",
        proposals: Proposals,
        truths: Truths,
        key: Array | None,
        objectness: list[Array],
        deltas: list[Array],
        anchors: list[Array],
    ) -> Training:
        all_anchors = jnp.concatenate(anchors)
        keys = None if key is None else jax.random.split(key, (2, len(truths.boxes)))
        first, second = (None, None) if keys is None else keys
        objects, chosen = jax.vmap(
            lambda truths, key: two_stage.sample_anchors(settings, all_anchors, truths, key)
        )(truths, first)
        regions = jax.vmap(partial(two_stage.sample_regions, settings))(proposals, truths, second)
        logits, moved = self._boxes(pyramid, regions.boxes)
        positive = regions.boxes[:, : two_stage.positive_slots(settings)]
        return Training(
            objectness=jnp.concatenate(objectness, axis=1),
            anchor_deltas=jnp.concatenate(deltas, axis=1),
            anchors=all_anchors,
            anchor_objects=objects,
            anchor_sample=chosen,
            proposals=proposals,
            regions=regions,
            class_logits=logits,
            region_deltas=moved,
            mask_logits=self._masks(pyramid, positive),
            keypoint_logits=self._keypoints(pyramid, positive),
        )

    def _boxes(self, pyramid: "_Pyramid", boxes: Array) -> tuple[Array, Array]:
        """Logits [N, R, outputs] and deltas [N, R, outputs, 4] of boxes [N, R, 4]."""
        head = BoxHead(self.num_outputs, self.hidden, self.dtype, name="box_head")
        logits, deltas = head(pyramid(boxes, BOX_BINS))
        return stage(self, "logits", _by_image(logits, boxes)), _by_image(deltas, boxes)

    def _masks(self, pyramid: "_Pyramid", boxes: Array) -> Array | None:
        """Logits [N, R, 28, 28, outputs] within boxes [N, R, 4]."""
        if not self.mask_convs:
            return None
        head = MaskHead(self.num_outputs, self.mask_convs, self.dtype, name="mask_head")
        return stage(self, "masks", _by_image(head(pyramid(boxes, MASK_BINS)), boxes))

    def _keypoints(self, pyramid: "_Pyramid", boxes: Array) -> Array | None:
        """Logits [N, R, 56, 56, points] within boxes [N, R, 4]."""
        if not self.keypoint_convs:
            return None
        head = KeypointHead(self.keypoints, self.keypoint_convs, self.dtype, name="keypoint_head")
        return stage(self, "keypoints", _by_image(head(pyramid(boxes, MASK_BINS)), boxes))


class _Pyramid(NamedTuple):
    """The levels [N, H_l, W_l, C] that regions are cut from."""

    levels: list[Array]
    frame: tuple[int, int]
    canonical_size: float

    def __call__(self, boxes: Array, size: int) -> Array:
        """What lies in boxes [N, R, 4], of each in the level for its size: [N * R, size, size, C]."""
        scales = [level.shape[1] / self.frame[0] for level in self.levels]

        def one(levels: list[Array], boxes: Array) -> Array:
            of_box = roi_levels(boxes, len(levels), self.canonical_size)
            return roi_align_levels(levels, boxes, of_box, scales, (size, size), SAMPLING, aligned=False)

        found = jax.vmap(one)(self.levels, boxes)
        return found.reshape(-1, *found.shape[2:])


def _by_image(x: Array, boxes: Array) -> Array:
    """[N * R, ...] -> [N, R, ...] for boxes [N, R, 4]."""
    return x.reshape(*boxes.shape[:2], *x.shape[1:])


def _check_frame(frame: tuple[int, int], maps: Sequence[Array]) -> None:
    for level in maps:
        if frame[0] % level.shape[1] or frame[1] % level.shape[2]:
            raise ConfigError(
                f"images of {frame[0]}x{frame[1]} do not divide into maps of {level.shape[1]}x{level.shape[2]}: "
                f"take sides that are multiples of the trunk's stride"
            )


def resnet_rcnn(
    stage_sizes: tuple[int, ...] = RESNET50,
    epsilon: float = 1e-5,
    dtype: jnp.dtype = jnp.float32,
    **fields: Any,
) -> RCNN:
    """On a ResNet with frozen batch norm, of which stages 2 to 4 learn; `epsilon` of that norm."""
    norm = partial(frozen_batch_norm, epsilon=epsilon)
    return RCNN(trunk=partial(ResNet, stage_sizes=stage_sizes, frozen=2, norm=norm), dtype=dtype, **fields)


# What makes a Faster R-CNN a Mask R-CNN, and a Keypoint R-CNN, which knows persons only.
MASKS: dict[str, Any] = {"mask_convs": (256,) * 4}
KEYPOINTS: dict[str, Any] = {"keypoint_convs": (512,) * 8, "num_outputs": 2}

# 0.9 M parameters for images of about 128 pixels, on strides 4, 8 and 16.
SMALL: dict[str, Any] = {
    "trunk": partial(GridNet, widths=(16, 32, 64, 96), blocks=(0, 1, 1, 1)),
    "num_outputs": 5,
    "stages": ("block2_1", "block3_1", "head"),
    "features": 64,
    "pooled_level": False,
    "anchors": LevelAnchors(sizes=(16.0, 32.0, 64.0)),
    "canonical_size": 56.0,
    "hidden": 128,
    "mask_convs": (64, 64),
    "settings": TwoStage(per_level=(200, 200), proposals=(100, 100), anchor_samples=64, region_samples=32),
}
