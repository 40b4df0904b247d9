"""Precision, recall and average precision as Pascal VOC defines them; COCO's are in coco.py."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnnjax.detection.results import Detections, Truth, check_same_images, overlaps

RULES = ("voc2007", "voc2010", "coco")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One class's detections over all images, best first, without those that matched an ignored object.

    scores [n]; correct [n] bool; num_objects counts those that are not difficult.
    """

    scores: np.ndarray
    correct: np.ndarray
    num_objects: int

    @property
    def precision(self) -> np.ndarray:
        """[n]: share of the first k detections that are correct."""
        return np.cumsum(self.correct) / np.arange(1, len(self.correct) + 1)

    @property
    def recall(self) -> np.ndarray:
        """[n]: share of the objects found by the first k detections; NaN without objects."""
        return np.cumsum(self.correct) / (self.num_objects or np.nan)

    def average_precision(self, rule: str = "voc2010") -> float:
        """Area under the curve once precision is made to fall; NaN without objects.

        "voc2007": mean over the 11 recalls 0, 0.1, ..., 1. "voc2010": the exact area, as of VOC 2010.
        "coco": mean over 101 recalls (of this curve; COCO's own matching differs, see coco.py).
        """
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: choose one of {', '.join(RULES)}")
        if not self.num_objects:
            return float("nan")
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        if rule == "voc2010":
            return float(np.sum(np.diff(recall) * falling[1:]))
        recall, falling = recall[1:-1], falling[1:-1]
        points = np.linspace(0, 1, 11 if rule == "voc2007" else 101)
        # Rounding decides whether 9 of 15 objects reach the recall 0.6; this does it as every Python program
        # whose numbers are published: linspace gives 0.6000000000000001, which is not reached.
        first = np.searchsorted(recall, points, side="left")
        return float(np.mean(np.append(falling, 0.0)[first]))


def best_f1(curves: Sequence[Curve]) -> tuple[float, float]:
    """The score from which on detections of all classes together have the best F1, and that F1.

    F1 = 2 correct / (detections + objects), the harmonic mean of precision and recall. The score lies halfway between
    the last detection to count and the next one. NaN and 0 if no detection is correct.
    """
    scores = np.concatenate([curve.scores for curve in curves])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    correct = np.cumsum(np.concatenate([curve.correct for curve in curves])[order])
    if not correct.size or not correct[-1]:
        return float("nan"), 0.0
    f1 = 2 * correct / (np.arange(1, len(scores) + 1) + sum(curve.num_objects for curve in curves))
    following = np.append(scores[1:], -np.inf)
    best = int(np.argmax(np.where(scores > following, f1, 0)))  # equal scores count together
    lower = scores[best] if best == len(scores) - 1 else following[best]
    return float((scores[best] + lower) / 2), float(f1[best])


@dataclasses.dataclass(frozen=True)
class VocResult:
    """Average precision as Pascal VOC computes it, in [0, 1]."""

    mean: float  # over the classes that have objects; NaN if none has
    per_class: np.ndarray  # [C], NaN where a class has no object
    curves: tuple[Curve, ...]


def precision_recall(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    class_index: int,
    iou_threshold: float = 0.5,
    pixels: str = "continuous",
) -> Curve:
    """Matches one class's detections as the VOC devkit does.

    Best score first (of equals: first image first), each detection is compared with the object of its image
    that it overlaps most. It is correct if the IoU reaches the threshold and that object was not taken before;
    a second hit is wrong even if another object is free. A hit on a difficult or crowd object does not count.

    `pixels`: the devkit's boxes are "inclusive" (results.overlaps). The project's readers turn VOC files into
    continuous boxes, for which "continuous" gives the devkit's numbers.
    """
    check_same_images(truths, detections)
    hits: list[tuple[float, bool]] = []
    num_objects = 0
    for truth, found in zip(truths, detections, strict=True):
        real = truth.classes == class_index
        found = found.of_class(class_index)
        ignored, crowd = truth.ignored[real], np.asarray(truth.crowd)[real]
        num_objects += int(np.sum(~ignored))
        table = overlaps(found.boxes, truth.boxes[real], crowd, pixels)
        taken = np.zeros(len(ignored), bool)
        for i in np.argsort(-found.scores, kind="stable"):
            j = int(np.argmax(table[i])) if len(taken) else -1
            if j < 0 or table[i, j] < iou_threshold:
                hits.append((found.scores[i], False))
            elif not ignored[j]:
                hits.append((found.scores[i], not taken[j]))
                taken[j] = True
    scores = np.array([score for score, _ in hits])
    correct = np.array([good for _, good in hits], bool)
    order = np.argsort(-scores, kind="stable")
    return Curve(scores[order], correct[order], num_objects)


def voc_evaluate(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    num_classes: int,
    iou_threshold: float = 0.5,
    rule: str = "voc2010",
    pixels: str = "continuous",
) -> VocResult:
    """Average precision of every class and their mean (Everingham et al. 2010, section 4.2)."""
    curves = tuple(
        precision_recall(truths, detections, index, iou_threshold, pixels) for index in range(num_classes)
    )
    per_class = np.array([curve.average_precision(rule) for curve in curves])
    return VocResult(mean_of_known(per_class), per_class, curves)


def mean_of_known(values: Sequence[float] | np.ndarray) -> float:
    """Of what is not NaN; NaN if everything is."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
