import numpy as np
from numpy.testing import assert_array_equal

from cnnjax.detection.judge.errors import KINDS, confusion_matrix, error_analysis
from cnnjax.detection.results import Detections, Truth

BOX = np.array([0.0, 0, 10, 10])
EMPTY = np.zeros((0, 4))


def at(x):
    return BOX + [x, 0, x, 0]


def test_confusion_matrix_by_hand():
    truths = [Truth(np.array([at(0), at(100), at(200)]), [0, 1, 1]), Truth(EMPTY, [])]
    detections = [
        # Right; wrong class; too far off (IoU 1/3); unsure.
        Detections(np.array([at(1), at(100), at(205), at(200)]), [0.9, 0.8, 0.7, 0.1], [0, 0, 1, 1]),
        Detections(at(0), [0.6], [1]),
    ]
    assert_array_equal(confusion_matrix(truths, detections, 2), [[1, 0, 0], [1, 0, 1], [0, 2, 0]])


def test_confusion_matrix_matches_the_largest_overlap_first():
    truths = [Truth(np.array([at(0), at(2)]), [0, 1])]
    detections = [Detections(np.array([at(2), at(0)]), [0.3, 0.9], [1, 0])]
    assert_array_equal(confusion_matrix(truths, detections, 2)[:2, :2], np.eye(2))


def test_confusion_matrix_leaves_out_ignored_objects():
    truths = [Truth(np.array([at(0), at(100)]), [0, 0], crowd=[True, False])]
    detections = [Detections(np.array([at(0), at(0), at(100)]), [0.9, 0.8, 0.7], [0, 0, 0])]
    assert_array_equal(confusion_matrix(truths, detections, 1), [[1, 0], [0, 0]])


def test_the_five_kinds_of_the_yolo_paper():
    # Classes: 0 and 1 alike, 2 another. Seven objects of class 0, so seven detections are looked at.
    real = [at(100 * i) for i in range(9)]
    truth = Truth(np.array(real), [0] * 7 + [1, 2])
    said = [
        (at(0), 0.99),  # correct
        (at(1), 0.98),  # the same object again: localization
        (at(105), 0.97),  # IoU 1/3: localization
        (at(700), 0.96),  # class 1 is alike: similar
        (at(800), 0.95),  # class 2: other
        (at(2000), 0.94),  # nothing there: background
        (at(209), 0.93),  # IoU 1/19: background
        (at(300), 0.92),  # correct, but the eighth of seven
    ]
    detections = Detections(np.array([b for b, _ in said]), [s for _, s in said], [0] * 8)
    result = error_analysis([truth], [detections], 3, similar=[(0, 1)])
    assert_array_equal(result.counts[0], [1, 2, 1, 1, 2])
    assert_array_equal(result.counts[1:], 0)
    assert list(result.shares) == list(KINDS) and abs(sum(result.shares.values()) - 1) < 1e-12
    alone = error_analysis([truth], [detections], 3)
    assert_array_equal(alone.counts[0], [1, 2, 0, 2, 2])


def test_ignored_objects_are_left_out_of_the_analysis():
    truth = Truth(np.array([at(0), at(100)]), [0, 0], difficult=[True, False])
    detections = Detections(np.array([at(0), at(100)]), [0.9, 0.8], [0, 0])
    assert_array_equal(error_analysis([truth], [detections], 1).counts, [[1, 0, 0, 0, 0]])


def test_images_without_anything():
    nothing = [Detections(EMPTY, [], [])]
    assert_array_equal(confusion_matrix([Truth(EMPTY, [])], nothing, 1), np.zeros((2, 2)))
    assert error_analysis([Truth(EMPTY, [])], nothing, 1).shares["correct"] == 0
