import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.detection.judge.voc import Curve, best_f1, precision_recall, voc_evaluate
from cnnjax.detection.results import Detections, Truth

BOX = np.array([10.0, 10, 50, 50])
FAR = BOX + 100


def truth(*boxes, classes=None, **kwargs):
    return Truth(np.array(boxes).reshape(-1, 4), classes or [0] * len(boxes), **kwargs)


def found(*pairs):
    return Detections(np.array([b for b, _ in pairs]), [s for _, s in pairs], [0] * len(pairs))


@pytest.fixture
def sample(shared):
    """7 images, 15 boxes, 24 detections, with known values of average precision."""
    truths, detections, part = {}, {}, None
    for line in shared("fixtures/voc_ap_sample2.txt").read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "#":
            part = (truths if words[1] == "groundtruths" else detections).setdefault(words[2], [])
        else:
            part.append([float(w) for w in words[1:]])
    assert (
        len(truths) == 7 and sum(map(len, truths.values())) == 15 and sum(map(len, detections.values())) == 24
    )

    def xyxy(rows):
        rows = np.array(rows).reshape(-1, 4)
        return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], 1)

    names = sorted(truths)
    said = [np.array(detections.get(n, [])).reshape(-1, 5) for n in names]
    return (
        [Truth(xyxy(truths[n]), np.zeros(len(truths[n]))) for n in names],
        [Detections(xyxy(rows[:, 1:]), rows[:, 0], np.zeros(len(rows))) for rows in said],
    )


@pytest.mark.parametrize(
    ("iou", "voc2007", "voc2010", "coco", "hits"),
    [
        (0.1, 0.3333333333, 0.3371980676, 0.3406514564, 9),
        (0.3, 0.2683982684, 0.2456866805, 0.2481602197, 7),
        (0.5, 0.0303030303, 0.0222222222, 0.0231023102, 1),
        (0.75, 0, 0, 0, 0),
    ],
)
def test_known_values_with_the_devkits_pixels(sample, iou, voc2007, voc2010, coco, hits):
    curve = precision_recall(*sample, 0, iou, pixels="inclusive")
    assert curve.correct.sum() == hits
    for rule, value in [("voc2007", voc2007), ("voc2010", voc2010), ("coco", coco)]:
        assert_allclose(curve.average_precision(rule), value, atol=1e-10)


@pytest.mark.parametrize(
    ("iou", "value", "hits"), [(0.1, 0.2801328502, 8), (0.3, 0.2253968254, 6), (0.5, 0.0222222222, 1)]
)
def test_known_values_with_continuous_pixels(sample, iou, value, hits):
    curve = precision_recall(*sample, 0, iou)
    assert curve.correct.sum() == hits
    assert_allclose(curve.average_precision("voc2010"), value, atol=1e-10)


def test_precision_and_recall_by_hand():
    curve = precision_recall([truth(BOX, FAR)], [found((BOX, 0.9), (BOX + 300, 0.8), (FAR, 0.7))], 0)
    assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    assert_allclose(curve.recall, [1 / 2, 1 / 2, 1])
    assert_allclose(curve.average_precision("voc2010"), 0.5 * 1 + 0.5 * 2 / 3)
    assert_allclose(curve.average_precision("voc2007"), (6 * 1 + 5 * 2 / 3) / 11)


def test_eleven_points_by_hand():
    # 1 of 2 objects found: recalls 0, 0.1, ..., 0.5 are reached with precision 1.
    curve = Curve(np.array([0.9]), np.ones(1, bool), 2)
    assert_allclose(curve.average_precision("voc2007"), 6 / 11)
    assert_allclose(curve.average_precision("coco"), 51 / 101)


def test_second_hit_is_wrong_even_if_another_object_is_free():
    near = BOX + [4, 0, 4, 0]
    curve = precision_recall([truth(BOX, near)], [found((BOX, 0.9), (BOX + [1, 0, 1, 0], 0.8))], 0)
    assert list(curve.correct) == [True, False]


def test_difficult_objects_are_neither_found_nor_missed():
    easy = precision_recall(
        [truth(BOX, FAR, difficult=[True, False])], [found((BOX, 0.9), (BOX, 0.8), (FAR, 0.7))], 0
    )
    assert list(easy.correct) == [True] and easy.num_objects == 1 and easy.average_precision() == 1


def test_iou_equal_to_the_threshold_is_a_hit():
    half = np.array([10.0, 10, 50, 30])
    assert precision_recall([truth(BOX)], [found((half, 0.9))], 0, 0.5).correct[0]
    assert not precision_recall([truth(BOX)], [found((half, 0.9))], 0, 0.51).correct[0]


def test_false_positives_on_images_without_objects_count():
    curve = precision_recall([truth(), truth(BOX)], [found((BOX, 0.9)), found((BOX, 0.8))], 0)
    assert_allclose(curve.average_precision(), 0.5)


def test_mean_is_over_classes_that_have_objects():
    truths = [Truth(np.array([BOX, FAR]), [0, 2])]
    said = [Detections(np.array([BOX, FAR, FAR]), [0.9, 0.8, 0.7], [0, 1, 0])]
    result = voc_evaluate(truths, said, num_classes=4)
    assert_allclose(result.per_class, [1, np.nan, 0, np.nan])
    assert result.mean == 0.5


def curve(scores, correct, objects):
    return Curve(np.array(scores, float), np.array(correct, bool), objects)


def test_the_best_f1_by_hand():
    # Together: 0.9 right, 0.8 right, 0.7 wrong, 0.6 right, 0.2 wrong; 4 objects. F1: 2/5, 4/6, 4/7, 6/8, 6/9.
    two = [curve([0.9, 0.7, 0.2], [1, 0, 0], 1), curve([0.8, 0.6], [1, 1], 3)]
    assert_allclose(best_f1(two), [0.4, 6 / 8])
    # Where the last one is the best there is no next one, and the score itself still counts.
    assert_allclose(best_f1([curve([0.9, 0.5], [1, 1], 2)]), [0.5, 1])


def test_equal_scores_are_counted_together():
    # Of the three at 0.5 one cannot be had without the others: F1 2/3, then 4/6.
    assert_allclose(best_f1([curve([0.9, 0.5, 0.5, 0.5], [1, 1, 0, 0], 2)]), [0.7, 2 / 3])


def test_no_correct_detection_has_no_best_score():
    for nothing in ([curve([], [], 3)], [curve([0.9], [0], 3)], [curve([0.9], [0], 0)]):
        score, f1 = best_f1(nothing)
        assert np.isnan(score) and f1 == 0


def test_nothing_at_all():
    assert np.isnan(voc_evaluate([], [], 3).mean)
    assert voc_evaluate([truth(BOX)], [found()], 1).mean == 0


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="1 images with truth but 2"):
        precision_recall([truth(BOX)], [found(), found()], 0)
    with pytest.raises(ValueError, match="2 boxes but 1 values of classes"):
        Truth(np.array([BOX, FAR]), [0])
    with pytest.raises(ValueError, match="1 boxes, 2 scores"):
        Detections(BOX, [0.1, 0.2], [0])
    with pytest.raises(ValueError, match="voc2007, voc2010, coco"):
        Curve(np.ones(1), np.ones(1, bool), 1).average_precision("voc2012")
