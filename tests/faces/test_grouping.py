import numpy as np
import pytest

from cnnjax.faces.grouping import group_rectangles


def test_means_by_hand():
    rectangles = [[0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 20, 20], [0, 1, 11, 11], [52, 50, 20, 20]]
    boxes, counts = group_rectangles(np.array(rectangles), 1)
    assert boxes.tolist() == [[0, 0, 10, 10], [51, 50, 20, 20]] and counts.tolist() == [3, 2]
    assert group_rectangles(np.array(rectangles), 2)[1].tolist() == [3]


def test_similarity_is_passed_on():
    """The first and the last differ by 4 pixels, more than .2 * 10, yet what lies between connects them."""
    chain = np.array([[0, 0, 10, 10], [2, 0, 10, 10], [4, 0, 10, 10]])
    assert group_rectangles(chain, 2)[1].tolist() == [3]
    assert len(group_rectangles(chain[[0, 2]], 1)[0]) == 0


def test_a_box_in_a_better_one_goes():
    small, large = [[20, 20, 10, 10]] * 3, [[0, 0, 60, 60]] * 5
    assert group_rectangles(np.array(small + large), 1)[0].tolist() == [[0, 0, 60, 60]]
    assert len(group_rectangles(np.array(small + large[:3]), 1)[0]) == 2


def test_without_neighbors_all_stay():
    boxes, counts = group_rectangles(np.array([[0, 0, 9, 9]] * 3), 0)
    assert len(boxes) == 3 and counts.tolist() == [1, 1, 1]
    assert group_rectangles(np.zeros((0, 4)), 3)[0].shape == (0, 4)


@pytest.mark.parametrize("neighbors", [1, 2, 4])
def test_opencv_groups_alike(neighbors, opencv):
    rng = np.random.default_rng(neighbors)
    centres = rng.integers(0, 300, (12, 2))
    for _ in range(20):
        chosen = rng.integers(0, 12, 80)
        sides = rng.integers(20, 60, 12)[chosen] + rng.integers(-3, 4, 80)
        corners = centres[chosen] + rng.integers(-4, 5, (80, 2))
        rectangles = np.column_stack([corners, sides, sides])
        expected, weights = opencv.groupRectangles(rectangles.tolist(), neighbors, 0.2)
        boxes, counts = group_rectangles(rectangles, neighbors)
        found = sorted([*box, count] for box, count in zip(boxes.tolist(), counts.tolist(), strict=True))
        assert found == sorted(
            [*box, n]
            for box, n in zip(np.asarray(expected).tolist(), np.ravel(weights).tolist(), strict=True)
        )
