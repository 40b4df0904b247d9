"""What an image holds and what a detector says it holds, as plain arrays on the host."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from pycocotools import mask

from cnnjax.detection.rle import RLE


@dataclasses.dataclass(frozen=True)
class Truth:
    """The objects of one image.

    boxes [n, 4] xyxy pixels; classes [n] from 0. `difficult` and `crowd` objects count neither as found nor as
    missed; a crowd region may take any number of detections. `area` in pixels decides COCO's small, medium and
    large; without it, the box's. `masks`: of each object, in the size of the image, where masks are judged.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray | None = None
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None
    masks: Sequence[RLE] | None = None
    keypoints: np.ndarray | None = None  # [n, K, 3]: x, y in pixels and, above 0, whether they are known

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        defaults = {"difficult": np.zeros(len(boxes)), "crowd": np.zeros(len(boxes)), "area": size.prod(1)}
        types = {"classes": np.int64, "difficult": bool, "crowd": bool, "area": np.float64}
        object.__setattr__(self, "boxes", boxes)
        for name, dtype in types.items():
            value = getattr(self, name)
            value = np.asarray(defaults[name] if value is None else value, dtype).reshape(-1)
            if len(value) != len(boxes):
                raise ValueError(f"{len(boxes)} boxes but {len(value)} values of {name}")
            object.__setattr__(self, name, value)
        _check_masks(self.masks, len(boxes))

    @property
    def ignored(self) -> np.ndarray:
        """[n]: difficult or crowd."""
        return self.difficult | self.crowd  # type: ignore[operator]  # filled in above

    def where(self, chosen: np.ndarray) -> "Truth":
        """The objects that `chosen`, bool [n], is true for."""
        arrays = {
            name: getattr(self, name)[chosen] for name in ("boxes", "classes", "difficult", "crowd", "area")
        }
        keypoints = None if self.keypoints is None else self.keypoints[chosen]
        return Truth(**arrays, masks=_chosen(self.masks, chosen), keypoints=keypoints)


@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in one image: boxes [n, 4] xyxy pixels, scores [n], classes [n] from 0, and perhaps masks in the
    size of the image."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: Sequence[RLE] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float64).reshape(-1, 4)
        scores, classes = np.asarray(self.scores, np.float64), np.asarray(self.classes, np.int64)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores.reshape(-1))
        object.__setattr__(self, "classes", classes.reshape(-1))
        if not len(boxes) == self.scores.size == self.classes.size:
            raise ValueError(f"{len(boxes)} boxes, {scores.size} scores and {classes.size} classes")
        _check_masks(self.masks, len(boxes))

    def of_class(self, index: int) -> "Detections":
        chosen = self.classes == index
        masks = _chosen(self.masks, chosen)
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen], masks)


def _chosen(masks: Sequence[RLE] | None, chosen: np.ndarray) -> list[RLE] | None:
    return None if masks is None else [masks[i] for i in np.flatnonzero(chosen).tolist()]


def _check_masks(masks: Sequence[RLE] | None, count: int) -> None:
    if masks is not None and len(masks) != count:
        raise ValueError(f"{count} boxes but {len(masks)} masks")


def unpad(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> list[Detections]:
    """The padded output of a detector, [N, K, 4], [N, K], [N, K] and [N], as one `Detections` per image."""
    boxes, scores, classes = np.asarray(boxes), np.asarray(scores), np.asarray(classes)
    return [
        Detections(boxes[i, :n], scores[i, :n], classes[i, :n])
        for i, n in enumerate(np.asarray(counts).tolist())
    ]


def overlaps(
    found: np.ndarray, real: np.ndarray, crowd: np.ndarray | None = None, pixels: str = "continuous"
) -> np.ndarray:
    """IoU [n, m] of boxes [n, 4] and [m, 4], xyxy, in double precision.

    Against a crowd region it is the intersection over the detection's own area (COCO). With
    `pixels="inclusive"`, x2 and y2 are the last pixel inside the box, as in Pascal VOC's files: a box is
    x2 - x1 + 1 wide.
    """
    if not len(found) or not len(real):
        return np.zeros((len(found), len(real)))
    flags = np.zeros(len(real)) if crowd is None else crowd
    extra = {"continuous": 0.0, "inclusive": 1.0}[pixels]

    def xywh(boxes: np.ndarray) -> np.ndarray:
        boxes = np.asarray(boxes, np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + extra], axis=1)

    return mask.iou(xywh(found), xywh(real), flags.astype(np.uint8).tolist())


def check_same_images(truths: Sequence[Truth], detections: Sequence[Detections]) -> None:
    """Raises ValueError if they are not of equally many images."""
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images with truth but {len(detections)} with detections")
