"""COCO's average precision and recall. pycocotools judges; this file hands it the data without its traps.

The traps: an annotation with id 0 counts as "unmatched"; an empty list of detections crashes; other limits than
1, 10, 100 detections give an AP of -1; undefined values are -1 (here NaN).
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax.detection.results import Detections, Truth, check_same_images
from cnnjax.detection.rle import RLE, rle_area

AREAS = ("all", "small", "medium", "large")  # below 32^2 pixels, below 96^2, above


@dataclasses.dataclass(frozen=True)
class CocoResult:
    """The twelve numbers of the COCO table, and per class. NaN where there is no object to find."""

    ap: float  # mean over IoU 0.50, 0.55, ..., 0.95
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float  # recall with 1 detection per image and class
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_ap: np.ndarray  # [C]
    class_ap50: np.ndarray  # [C]
    precision: np.ndarray  # [10 IoU thresholds, 101 recalls, C]; NaN where a class has no object

    def table(self) -> dict[str, float]:
        """The twelve numbers by name, in COCO's order."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:12]}


def coco_evaluate(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    num_classes: int,
    max_detections: int = 100,
    kind: str = "bbox",
) -> CocoResult:
    """COCO's table for boxes given as arrays, one `Truth` and one `Detections` per image.

    Difficult objects are ignored as crowd regions are: COCO knows no other way to ignore.
    `max_detections` per image and class; 100 is COCO's. kind: "bbox", or "segm", which compares masks; these must be
    there then.
    """
    check_same_images(truths, detections)
    real: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (truth, said) in enumerate(zip(truths, detections, strict=True), start=1):
        for i, box in enumerate(truth.boxes):
            entry = _annotation(len(real) + 1, image, truth.classes[i], box)
            entry["iscrowd"] = int(truth.ignored[i])
            entry["area"] = float(np.asarray(truth.area)[i])
            real.append(entry | _segmentation(kind, truth.masks, i))
        for i, box in enumerate(said.boxes):
            entry = _annotation(len(found) + 1, image, said.classes[i], box)
            entry["score"] = float(said.scores[i])
            found.append(entry | _segmentation(kind, said.masks, i))
            if kind == "segm":
                found[-1]["area"] = float(rle_area(found[-1]["segmentation"]))
    # pycocotools reads the size of an image before it sees that a mask has its own.
    images = [{"id": i + 1, "height": 0, "width": 0} for i in range(len(truths))]
    categories = [{"id": c + 1, "name": str(c)} for c in range(num_classes)]
    return coco_judge(
        coco_index(images, categories, real), coco_index(images, categories, found), kind, max_detections
    )


def coco_evaluate_files(
    annotations: dict[str, Any], results: list[dict[str, Any]], kind: str = "bbox"
) -> CocoResult:
    """COCO's table for the parsed json of an annotation file and of a result file in COCO's format.

    kind: "bbox" or "segm". Classes are ordered by category id.
    """
    shifted = [{**a, "id": i} for i, a in enumerate(annotations["annotations"], start=1)]
    truth = coco_index(annotations["images"], annotations["categories"], shifted)
    if not results:
        return coco_judge(truth, coco_index(annotations["images"], annotations["categories"], []), kind)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes([dict(r) for r in results])
    return coco_judge(truth, found, kind)


def coco_judge(truth: COCO, found: COCO, kind: str = "bbox", max_detections: int = 100) -> CocoResult:
    """Runs pycocotools. The means are taken here because its `summarize` is right for 100 detections only."""
    judge = COCOeval(truth, found, kind)
    judge.params.maxDets = [1, 10, max_detections]
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    # precision: [10 IoU thresholds, 101 recalls, classes, 4 areas, 3 limits]; recall: without the 101.
    precision, recall = judge.eval["precision"], judge.eval["recall"]
    thresholds = judge.params.iouThrs

    def ap(threshold: float | None = None, area: str = "all") -> float:
        rows = slice(None) if threshold is None else np.isclose(thresholds, threshold)
        return mean_of_found(precision[rows, :, :, AREAS.index(area), 2])

    def ar(limit: int = 2, area: str = "all") -> float:
        return mean_of_found(recall[:, :, AREAS.index(area), limit])

    overall = precision[:, :, :, 0, 2]
    return CocoResult(
        ap(), ap(0.5), ap(0.75), ap(area="small"), ap(area="medium"), ap(area="large"),
        ar(0), ar(1), ar(2), ar(area="small"), ar(area="medium"), ar(area="large"),
        class_ap=np.array([mean_of_found(overall[:, :, c]) for c in range(overall.shape[2])]),
        class_ap50=np.array([mean_of_found(overall[0, :, c]) for c in range(overall.shape[2])]),
        precision=np.where(overall < 0, np.nan, overall),
    )  # fmt: skip


def _annotation(number: int, image: int, class_index: int, box: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return {
        "id": number,
        "image_id": image,
        "category_id": int(class_index) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }


def _segmentation(kind: str, masks: Sequence[RLE] | None, number: int) -> dict[str, RLE]:
    if kind != "segm":
        return {}
    if masks is None:
        raise ValueError("masks are to be judged, but there are none")
    return {"segmentation": masks[number]}


def coco_index(images: list[dict], categories: list[dict], annotations: list[dict]) -> COCO:
    """A data set of COCO's format in memory, as pycocotools takes it; ids of annotations count from 1."""
    data = COCO()
    data.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        data.createIndex()
    return data


def mean_of_found(values: np.ndarray) -> float:
    """The mean of what pycocotools could measure, which is not -1; NaN of nothing."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
