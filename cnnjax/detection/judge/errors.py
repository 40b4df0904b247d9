"""What a detector gets wrong: a confusion matrix, and the error analysis of the YOLO paper."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnnjax.detection.results import Detections, Truth, check_same_images, overlaps

KINDS = ("correct", "localization", "similar", "other", "background")


def confusion_matrix(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    num_classes: int,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.25,
) -> np.ndarray:
    """[C + 1, C + 1] counts: row = real class, column = detected class; the last of each is the background.

    Whatever their classes, pairs of at least `iou_threshold` are matched one to one, largest IoU first. An
    object left over is (its class, background), a detection left over (background, its class), also in an
    image without objects. What matches a difficult or crowd object is left out.
    """
    check_same_images(truths, detections)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for truth, found in zip(truths, detections, strict=True):
        sure = found.scores >= score_threshold
        boxes, classes = found.boxes[sure], found.classes[sure]
        table = overlaps(boxes, truth.boxes, np.asarray(truth.crowd))
        object_free, detection_free = np.ones(len(truth.boxes), bool), np.ones(len(boxes), bool)
        # Objects that count come first: an ignored one takes only what no other object wants.
        order = np.lexsort((-table.ravel(), np.broadcast_to(truth.ignored, table.shape).ravel()))
        for flat in order:
            i, j = divmod(int(flat), table.shape[1])
            if table[i, j] < iou_threshold or not detection_free[i]:
                continue
            if truth.ignored[j]:
                detection_free[i] = False
            elif object_free[j]:
                object_free[j] = detection_free[i] = False
                matrix[truth.classes[j], classes[i]] += 1
        matrix[:, -1] += np.bincount(truth.classes[object_free & ~truth.ignored], minlength=num_classes + 1)
        matrix[-1] += np.bincount(classes[detection_free], minlength=num_classes + 1)
    return matrix


@dataclasses.dataclass(frozen=True)
class ErrorAnalysis:
    """What detections are, of each of the KINDS."""

    shares: dict[str, float]  # of each kind among all detections looked at
    counts: np.ndarray  # [C, 5] in the order of KINDS


def error_analysis(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    num_classes: int,
    similar: Sequence[Sequence[int]] = (),
) -> ErrorAnalysis:
    """Sorts each class's N best detections into five kinds, N its number of objects (Redmon et al. 2016, 4.2).

    correct: right class, IoU > 0.5. localization: right class, 0.1 < IoU <= 0.5, or an object found a second
    time. similar: a class of the same group of `similar`, IoU > 0.1. other: any other class, IoU > 0.1.
    background: nothing with IoU > 0.1. Difficult and crowd objects, and what overlaps them most, are left out.
    """
    check_same_images(truths, detections)
    group = {index: number for number, members in enumerate(similar) for index in members}
    counts = np.zeros((num_classes, len(KINDS)), np.int64)
    for index in range(num_classes):
        wanted = sum(int(np.sum((t.classes == index) & ~t.ignored)) for t in truths)
        kinds: list[tuple[float, int]] = []
        for truth, found in zip(truths, detections, strict=True):
            found = found.of_class(index)
            table = overlaps(found.boxes, truth.boxes, np.asarray(truth.crowd))
            alike = np.array([c != index and group.get(c, -1) == group.get(index, -2) for c in truth.classes])
            taken = np.zeros(len(truth.boxes), bool)
            for i in np.argsort(-found.scores, kind="stable"):
                kind = _kind(table[i], truth, index, alike, taken)
                if kind is not None:
                    kinds.append((found.scores[i], KINDS.index(kind)))
        kinds.sort(key=lambda pair: -pair[0])
        for _, kind_index in kinds[:wanted]:
            counts[index, kind_index] += 1
    total = max(1, int(counts.sum()))
    shares = {kind: float(counts[:, k].sum() / total) for k, kind in enumerate(KINDS)}
    return ErrorAnalysis(shares, counts)


def _kind(overlap: np.ndarray, truth: Truth, index: int, alike: np.ndarray, taken: np.ndarray) -> str | None:
    """Of one detection; None if it is left out. Marks the object it finds in `taken`."""
    if not len(overlap) or overlap.max() <= 0.1:
        return "background"
    if truth.ignored[int(np.argmax(overlap))]:
        return None
    right = np.where((truth.classes == index) & ~truth.ignored, overlap, 0)
    best = int(np.argmax(right))
    if right[best] > 0.5 and not taken[best]:
        taken[best] = True
        return "correct"
    if right[best] > 0.1:
        return "localization"
    return "similar" if np.any(alike & (overlap > 0.1)) else "other"
