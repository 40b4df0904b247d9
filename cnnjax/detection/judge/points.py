"""How good predicted points are: NME and CED of faces, PCK and PCKh of bodies, COCO's OKS.

Points are [N, K, 2], x and y in pixels; `visible` [N, K] says which of them exist to be judged. Undefined values are
NaN: those of an image without visible points, or whose normalizer is 0.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax.config import ConfigError
from cnnjax.detection.judge.coco import coco_index, mean_of_found

RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)  # of the 68 points of a face
OUTER_CORNERS = (36, 45)
FAILURE = 0.1  # an NME above it counts as a failure, the custom of 300-W
HEAD_SHARE = 0.6  # of the diagonal of MPII's head box: its head size

# COCO's 17 joints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_SIGMAS = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089]
)  # fmt: skip


class Rates(NamedTuple):
    """Shares of correct points: over all visible ones, and per joint [K]; NaN where there is none."""

    mean: float
    joints: np.ndarray


def point_errors(predicted: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Distances in pixels, [N, K], of points [N, K, 2]. Raises ConfigError if their shapes differ."""
    if predicted.shape != real.shape or real.ndim != 3 or real.shape[-1] != 2:
        raise ConfigError(f"points of shape {predicted.shape} cannot be compared with those of {real.shape}")
    difference = np.asarray(predicted, np.float64) - np.asarray(real, np.float64)
    return np.hypot(difference[..., 0], difference[..., 1])


def outer_eye_distance(points: np.ndarray) -> np.ndarray:
    """Between the outer corners of the eyes of 68 points, [N]: 300-W's normalizer ("inter-ocular")."""
    corners = _faces(points)[:, OUTER_CORNERS]
    return np.hypot(*(corners[:, 1] - corners[:, 0]).T)


def inter_pupil_distance(points: np.ndarray) -> np.ndarray:
    """Between the centres of the eyes' six points each, [N]: smaller than `outer_eye_distance`, so NME is larger."""
    faces = _faces(points)
    return np.hypot(*(faces[:, LEFT_EYE].mean(axis=1) - faces[:, RIGHT_EYE].mean(axis=1)).T)


def nme(errors: np.ndarray, visible: np.ndarray, normalizer: np.ndarray) -> np.ndarray:
    """Normalized mean error of each image, [N]: the mean of its visible errors [N, K] over its normalizer [N]."""
    count = visible.sum(axis=1)
    total = np.where(visible, errors, 0.0).sum(axis=1)
    return _divide(total, count * normalizer)


def nme_outer_eyes(predicted: np.ndarray, real: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """NME of each of N faces of 68 points by the distance of the outer eye corners: what 300-W tables give."""
    return nme(point_errors(predicted, real), visible, outer_eye_distance(real))


def nme_inter_pupil(predicted: np.ndarray, real: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """NME of each of N faces of 68 points by the distance of the pupils; never to be compared with the other."""
    return nme(point_errors(predicted, real), visible, inter_pupil_distance(real))


def cumulative_errors(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The curve of cumulative error (CED): the share of the images [N] with at most each of the errors `limits`.

    An undefined value counts as above every limit.
    """
    ordered = np.sort(np.where(np.isnan(values), np.inf, values))
    return np.searchsorted(ordered, limits, side="right") / max(len(values), 1)


def failure_rate(values: np.ndarray, threshold: float = FAILURE) -> float:
    """The share of the images [N] whose error is above the threshold."""
    return float(1.0 - cumulative_errors(values, np.array([threshold]))[0]) if len(values) else float("nan")


def area_under_curve(values: np.ndarray, threshold: float = FAILURE) -> float:
    """The area under the CED from 0 to the threshold, over the threshold: exact, 1 is best."""
    if not len(values):
        return float("nan")
    below = np.where(np.isnan(values), threshold, np.minimum(values, threshold))
    return float(np.mean(threshold - below) / threshold)


def pck(errors: np.ndarray, visible: np.ndarray, normalizer: np.ndarray, share: float) -> Rates:
    """Percentage of correct keypoints, as a share: errors [N, K] of at most `share` times the normalizer [N].

    Images whose normalizer is 0 or NaN are left out. Yang & Ramanan 2013; `share` is 0.2 of the torso for LSP.
    """
    judged = visible & (normalizer > 0)[:, None]
    right = judged & (errors <= share * normalizer[:, None])
    return Rates(float(_divide(right.sum(), judged.sum())), _divide(right.sum(axis=0), judged.sum(axis=0)))


def pckh(errors: np.ndarray, visible: np.ndarray, head_boxes: np.ndarray, share: float = 0.5) -> Rates:
    """MPII's measure: PCK by the head size, 0.6 times the diagonal of the head's box [N, 4] xyxy."""
    return pck(errors, visible, head_size(head_boxes), share)


def head_size(head_boxes: np.ndarray) -> np.ndarray:
    """MPII's head size [N] in pixels of head boxes [N, 4] xyxy."""
    sides = np.asarray(head_boxes, np.float64)[:, 2:] - np.asarray(head_boxes, np.float64)[:, :2]
    return HEAD_SHARE * np.hypot(sides[:, 0], sides[:, 1])


def torso_size(points: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """Distance [N] of two joints: of LSP, left shoulder and right hip, which can be 0 in a photograph."""
    return np.hypot(*(points[:, pair[1]] - points[:, pair[0]]).astype(np.float64).T)


def oks(
    predicted: np.ndarray, real: np.ndarray, visible: np.ndarray, area: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """Object keypoint similarity of N pairs of poses: the mean of exp(-d^2 / (2 area (2 sigma)^2)) over the visible
    joints. `area` [N] of the person in square pixels, `sigmas` [K] (COCO_SIGMAS)."""
    spread = 2.0 * np.asarray(area, np.float64)[:, None] * (2.0 * sigmas) ** 2
    similar = np.exp(-(point_errors(predicted, real) ** 2) / (spread + np.spacing(1)))
    return _divide(np.where(visible, similar, 0.0).sum(axis=1), visible.sum(axis=1))


@dataclasses.dataclass(frozen=True)
class Poses:
    """The M poses of one image: points [M, K, 2]. Of real ones, visible [M, K], area [M], boxes [M, 4] xyxy and crowd
    [M]; of found ones, scores [M]."""

    points: np.ndarray
    visible: np.ndarray | None = None
    area: np.ndarray | None = None
    boxes: np.ndarray | None = None
    crowd: np.ndarray | None = None
    scores: np.ndarray | None = None


def keypoint_average_precision(
    truths: Sequence[Poses], found: Sequence[Poses], sigmas: np.ndarray = COCO_SIGMAS
) -> dict[str, float]:
    """COCO's ten numbers for keypoints by pycocotools: AP and AR by OKS, at most 20 poses per image.

    NaN where there is no pose to find. Raises ConfigError if the images differ in number.
    """
    if len(truths) != len(found):
        raise ConfigError(f"{len(truths)} images with real poses and {len(found)} with found ones")
    images = [{"id": i + 1} for i in range(len(truths))]
    real = [entry for i, poses in enumerate(truths) for entry in _real_entries(i + 1, poses)]
    said = [entry for i, poses in enumerate(found) for entry in _found_entries(i + 1, poses)]
    judge = COCOeval(_index(images, real), _index(images, said), "keypoints")
    judge.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    # precision: [10 thresholds, 101 recalls, 1 class, 3 areas, 1 limit]; recall: without the 101.
    precision, recall = judge.eval["precision"][:, :, 0, :, 0], judge.eval["recall"][:, 0, :, 0]
    table = {}
    for name, values in (("ap", precision), ("ar", recall)):
        table[name] = mean_of_found(values[..., 0])
        table[f"{name}50"], table[f"{name}75"] = (
            mean_of_found(values[0, ..., 0]),
            mean_of_found(values[5, ..., 0]),
        )
        table[f"{name}_medium"], table[f"{name}_large"] = (
            mean_of_found(values[..., 1]),
            mean_of_found(values[..., 2]),
        )
    return table


def _real_entries(image: int, poses: Poses) -> list[dict[str, Any]]:
    assert poses.visible is not None and poses.area is not None
    crowd = np.zeros(len(poses.points), bool) if poses.crowd is None else poses.crowd
    boxes = poses.boxes if poses.boxes is not None else _around(poses.points, poses.visible)
    entries = []
    for i, (points, visible) in enumerate(zip(poses.points, poses.visible, strict=True)):
        entry = _entry(image, np.where(visible[:, None], points, 0.0), 2.0 * visible, boxes[i])
        more = {"area": float(poses.area[i]), "iscrowd": int(crowd[i]), "num_keypoints": int(visible.sum())}
        entries.append(entry | more)
    return entries


def _found_entries(image: int, poses: Poses) -> list[dict[str, Any]]:
    assert poses.scores is not None
    everything = np.ones(poses.points.shape[:2], bool)
    entries = []
    for points, score, box in zip(poses.points, poses.scores, _around(poses.points, everything), strict=True):
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        entry = _entry(image, points, np.full(len(points), 2.0), box)
        entries.append(entry | {"area": area, "score": float(score)})
    return entries


def _entry(image: int, points: np.ndarray, flags: np.ndarray, box: np.ndarray) -> dict[str, Any]:
    keypoints = np.concatenate([points, flags[:, None]], axis=1)
    x1, y1, x2, y2 = (float(v) for v in box)
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": keypoints.astype(np.float64).reshape(-1).tolist(),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }


def _around(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Boxes [M, 4] xyxy around the visible points [M, K, 2]; zeros where there are none."""
    some = np.any(visible, axis=1, keepdims=True)
    low = np.where(visible[..., None], points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(visible[..., None], points, -np.inf).max(axis=1, initial=-np.inf)
    return np.concatenate([np.where(some, low, 0.0), np.where(some, high, 0.0)], axis=1)


def _index(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> COCO:
    numbered = [{**entry, "id": i} for i, entry in enumerate(annotations, start=1)]
    return coco_index(images, [{"id": 1, "name": "person"}], numbered)


def _faces(points: np.ndarray) -> np.ndarray:
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise ConfigError(f"the eyes of a face are known of 68 points, not of {points.shape[1:]}")
    return np.asarray(points, np.float64)


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0 or NaN."""
    total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
    return np.divide(total, count, out=np.full(np.broadcast(total, count).shape, np.nan), where=count > 0)
