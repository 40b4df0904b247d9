"""What is known of one image, whatever found it: one form for JSON, for COCO's files, and for drawing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.detection.rle import RLE, rle_area


@dataclasses.dataclass(frozen=True)
class Result:
    """Of an image of `height` x `width` pixels; what a task does not say is None.

    classes: names; numbers of classes are indices into them.
    top: the most probable classes of the whole image, best first, with their probabilities.
    boxes: [n, 4] xyxy in pixels, best first, with `scores` [n] and `labels` [n], numbers of classes, and where they are
    known with `masks`, n of them in the size of the image.
    points: [n, K, 2] x and y in pixels, called `point_names`: of each box, or without boxes of what the image shows, if
    it shows it.
    values: what a task without a form of its own says, as JSON can hold it.
    """

    height: int
    width: int
    classes: tuple[str, ...]
    top: tuple[tuple[int, float], ...] | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None
    masks: Sequence[RLE] | None = None
    points: np.ndarray | None = None
    point_names: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is written to JSON. Boxes are x, y, width, height, and masks RLE, as COCO has them."""
        found: dict[str, Any] = dict(self.values or {})
        if self.top is not None:
            # The index, too: classes may share a name, as ImageNet's two cranes do.
            top = [{"class": self.classes[i], "index": i, "probability": p} for i, p in self.top]
            found |= {"class": top[0]["class"], "index": top[0]["index"], "top": top}
        if self.boxes is not None:
            found |= {"width": self.width, "height": self.height, "detections": self._detections()}
        elif self.points is not None:
            found |= {
                "present": len(self.points) > 0,
                "points": self._named(self.points[0]) if len(self.points) else {},
            }
        return found

    def _named(self, points: np.ndarray) -> dict[str, list[float]]:
        return {
            name: [float(x), float(y)] for name, (x, y) in zip(self.point_names, points.tolist(), strict=True)
        }

    def _detections(self) -> list[dict[str, Any]]:
        assert self.boxes is not None and self.scores is not None and self.labels is not None
        boxes = [
            {
                "category_id": int(label),
                "category": self.classes[int(label)],
                "score": float(score),
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
            }
            for (x0, y0, x1, y1), score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]
        if self.points is not None:
            boxes = [box | {"points": self._named(one)} for box, one in zip(boxes, self.points, strict=True)]
        if self.masks is None:
            return boxes
        return [box | {"segmentation": mask} for box, mask in zip(boxes, self.masks, strict=True)]


def to_coco(files: Sequence[str], results: Sequence[Result], classes: Sequence[str]) -> dict[str, Any]:
    """Detections in images of these names as a data set in COCO's format, each with its score; ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (file, result) in enumerate(zip(files, results, strict=True), start=1):
        entry = {"file": file, **result.to_json()}
        images.append(coco_image(number, entry))
        annotations += coco_annotations(number, entry, len(annotations) + 1)
    return {"images": images, "annotations": annotations, "categories": coco_categories(classes)}


def coco_image(number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The image of this number, from what `Result.to_json` says of it and its "file"."""
    return {
        "id": number, "file_name": entry["file"], "width": entry["width"], "height": entry["height"],
    }  # fmt: skip


def coco_annotations(number: int, entry: Mapping[str, Any], first: int) -> list[dict[str, Any]]:
    """The detections in the image of this number; their ids begin with `first`."""
    annotations = []
    for i, found in enumerate(entry["detections"], start=first):
        annotation: dict[str, Any] = {"id": i, "image_id": number, "iscrowd": 0}
        annotation |= {"category_id": found["category_id"] + 1, "bbox": found["bbox"]}
        annotation |= {"area": found["bbox"][2] * found["bbox"][3], "score": found["score"]}
        if "segmentation" in found:
            mask = found["segmentation"]
            annotation |= {"segmentation": mask, "area": rle_area(mask)}
        if "points" in found:
            places = found["points"].values()
            annotation["num_keypoints"] = len(places)
            annotation["keypoints"] = [v for x, y in places for v in (x, y, 2)]
        annotations.append(annotation)
    return annotations


def coco_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """The categories of a COCO file; their ids count from 1."""
    return [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
