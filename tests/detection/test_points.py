import numpy as np
import pytest
from numpy.testing import assert_allclose
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnjax.config import ConfigError
from cnnjax.detection.judge import points
from cnnjax.detection.judge.points import Poses


def face(distance):
    """68 points whose outer eye corners lie `distance` apart, and whose pupils 0.6 of that."""
    real = np.zeros((1, 68, 2))
    real[0, 36:42, 0] = distance * np.array([0, 0.1, 0.2, 0.6, 0.2, 0.1])
    real[0, 42:48, 0] = distance * np.array([0.4, 0.8, 0.9, 1.0, 0.9, 0.8])
    return real


def test_an_error_of_3_and_4_pixels_at_an_eye_distance_of_60_is_a_twelfth():
    real = face(60.0)
    visible = np.ones((1, 68), bool)
    assert_allclose(points.nme_outer_eyes(real + [3, 4], real, visible), [0.0833333], atol=1e-7)
    assert_allclose(points.inter_pupil_distance(real), [36.0])
    assert_allclose(points.nme_inter_pupil(real + [3, 4], real, visible), [5 / 36])


def test_points_that_are_not_visible_do_not_count():
    real = face(60.0)
    wrong = real + np.where(np.arange(68)[None, :, None] < 34, 3.0, 1e6)
    visible = np.arange(68)[None] < 34
    assert_allclose(points.nme_outer_eyes(wrong, real, visible), [np.sqrt(18) / 60])


def test_a_face_without_points_or_eyes_has_no_nme():
    real = np.concatenate([face(60.0), face(0.0)])
    visible = np.array([[False] * 68, [True] * 68])
    values = points.nme_outer_eyes(real + 1, real, visible)
    assert np.isnan(values).all()


def test_other_counts_of_points_have_no_eyes():
    with pytest.raises(ConfigError, match="68 points, not of .5, 2."):
        points.outer_eye_distance(np.zeros((1, 5, 2)))
    with pytest.raises(ConfigError, match="cannot be compared"):
        points.point_errors(np.zeros((1, 5, 2)), np.zeros((1, 4, 2)))


def test_the_curve_of_cumulative_errors():
    values = np.array([0.02, 0.04, 0.1, 0.2, np.nan])
    assert_allclose(
        points.cumulative_errors(values, np.array([0.0, 0.02, 0.05, 0.1, 1.0])), [0, 0.2, 0.4, 0.6, 0.8]
    )
    assert_allclose(points.failure_rate(values), 0.4)
    # The curve is a staircase: 0.08, 0.06 and 0 wide steps of a fifth, over 0.1.
    assert_allclose(points.area_under_curve(values), (0.08 + 0.06) / 5 / 0.1)
    fine = np.linspace(0, 0.1, 100_001)
    assert_allclose(
        np.mean(points.cumulative_errors(values, fine)), points.area_under_curve(values), atol=1e-4
    )
    assert np.isnan(points.failure_rate(np.array([])))


def test_errors_on_the_threshold_are_correct():
    # Torsos of 50 and 100 pixels, errors of exactly 10, just over 10, and exactly 20 among 28 joints.
    real = np.zeros((2, 14, 2))
    real[0, 9], real[0, 2] = (30, 40), (0, 0)
    real[1, 9], real[1, 2] = (60, 80), (0, 0)
    found = real.copy()
    found[0, 0] += (6, 8)
    found[0, 1] += (6, 8.01)
    found[1, 0] += (12, 16)
    torso = points.torso_size(real, (9, 2))
    assert_allclose(torso, [50, 100])
    rates = points.pck(points.point_errors(found, real), np.ones((2, 14), bool), torso, 0.2)
    assert_allclose(rates.mean, 27 / 28)
    assert_allclose(rates.joints, [1, 0.5] + [1] * 12)
    below = points.pck(points.point_errors(found, real), np.ones((2, 14), bool), torso, 0.2 * (1 - 1e-9))
    assert_allclose(below.mean, 25 / 28)


def test_a_torso_without_length_is_left_out():
    errors = np.array([[1.0, 50.0], [0.0, 0.0]])
    rates = points.pck(errors, np.array([[True, True], [True, True]]), np.array([100.0, 0.0]), 0.2)
    assert_allclose(rates.mean, 0.5)
    nothing = points.pck(errors, np.zeros((2, 2), bool), np.array([100.0, 0.0]), 0.2)
    assert np.isnan(nothing.mean) and np.isnan(nothing.joints).all()


def test_pckh_by_the_diagonal_of_the_head():
    head = np.array([[10.0, 10, 40, 50]])  # diagonal 50, head size 30
    assert_allclose(points.head_size(head), [30])
    errors, visible = np.array([[15.0, 15.1, 3.0, 99.0]]), np.array([[True, True, True, False]])
    assert_allclose(points.pckh(errors, visible, head).mean, 2 / 3)
    assert_allclose(points.pckh(errors, visible, head, 0.1).mean, 1 / 3)


def test_oks_by_hand():
    real = np.zeros((1, 17, 2))
    visible = np.ones((1, 17), bool)
    value = points.oks(real + [4, 0], real, visible, np.array([5000.0]), points.COCO_SIGMAS)
    assert_allclose(value, [0.8417861], atol=1e-7)
    only_nose = visible & (np.arange(17) == 0)
    expected = np.exp(-16 / (2 * 5000 * (2 * 0.026) ** 2))
    assert_allclose(
        points.oks(real + [4, 0], real, only_nose, np.array([5000.0]), points.COCO_SIGMAS), [expected]
    )


def people(seed):
    """Images with up to three people, and what a detector says: some near, some far, some twice, none at all."""
    draw = np.random.default_rng(seed)
    truths, found = [], []
    for image in range(12):
        count = image % 4
        size = draw.uniform(30, 300, (count, 1, 1))
        real = draw.uniform(0, 1, (count, 17, 2)) * size + draw.uniform(0, 200, (count, 1, 2))
        visible = draw.random((count, 17)) < 0.7
        area = size[:, 0, 0] ** 2 * 0.5
        truths.append(Poses(real, visible, area, crowd=draw.random(count) < 0.1))
        said = np.concatenate([real + draw.normal(0, 0.05, real.shape) * size, real[:1] + 40])
        found.append(Poses(said, scores=draw.random(len(said))))
    return truths, found


def reference(truths, found):
    """pycocotools on files as COCO has them."""
    images, real, said = [], [], []
    for i, (truth, poses) in enumerate(zip(truths, found, strict=True), start=1):
        images.append({"id": i, "width": 999, "height": 999})
        for k, (xy, v) in enumerate(zip(truth.points, truth.visible, strict=True)):
            flags = np.where(v, 2, 0)
            keypoints = np.concatenate([xy * v[:, None], flags[:, None]], axis=1).reshape(-1).tolist()
            shown = xy[v] if v.any() else np.zeros((1, 2))
            low, size = shown.min(0), np.ptp(shown, axis=0)
            real.append({"id": len(real) + 1, "image_id": i, "category_id": 1, "keypoints": keypoints,
                         "num_keypoints": int(v.sum()), "area": float(truth.area[k]),
                         "iscrowd": int(truth.crowd[k]), "bbox": [*low.tolist(), *size.tolist()]})  # fmt: skip
        for xy, score in zip(poses.points, poses.scores, strict=True):
            keypoints = np.concatenate([xy, np.full((17, 1), 1.0)], axis=1).reshape(-1).tolist()
            said.append({"image_id": i, "category_id": 1, "keypoints": keypoints, "score": float(score)})
    truth = COCO()
    truth.dataset = {"images": images, "annotations": real, "categories": [{"id": 1, "name": "person"}]}
    truth.createIndex()
    judge = COCOeval(truth, truth.loadRes(said), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


def test_average_precision_of_keypoints_is_that_of_the_files():
    truths, found = people(0)
    table = points.keypoint_average_precision(truths, found)
    assert_allclose(list(table.values()), reference(truths, found), atol=1e-12)
    assert 0.2 < table["ap"] < 0.95


def test_without_people_or_predictions():
    nobody = Poses(np.zeros((0, 17, 2)), np.zeros((0, 17), bool), np.zeros(0))
    silence = Poses(np.zeros((0, 17, 2)), scores=np.zeros(0))
    assert np.isnan(points.keypoint_average_precision([nobody], [silence])["ap"])
    truths, _ = people(1)
    assert points.keypoint_average_precision(truths, [silence] * 12)["ap"] == 0
    with pytest.raises(ConfigError, match="12 images with real poses and 1 with found ones"):
        points.keypoint_average_precision(truths, [silence])
