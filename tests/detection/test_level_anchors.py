import json

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection.level_anchors import LevelAnchors

MAPS = ((32, 48), (16, 24), (8, 12), (4, 6), (2, 3))


def test_anchors_at_the_origin_are_those_of_torchvision():
    anchors = LevelAnchors()
    assert_array_equal(anchors.at_origin(0)[:, 2:], [[23, 11], [16, 16], [11, 23]])
    assert_array_equal(anchors.at_origin(1)[:, 2:], [[45, 23], [32, 32], [23, 45]])
    for level, (long, half) in enumerate([(91, 64), (181, 128), (362, 256)], start=2):
        short = {91: 45, 181: 91, 362: 181}[long]
        expected = [[long, short], [half, half], [short, long]]
        assert_array_equal(anchors.at_origin(level), np.concatenate([-np.array(expected), expected], axis=1))


def test_anchors_of_all_levels_are_those_of_torchvision(shared):
    expected = json.loads(shared("fixtures/maskrcnn_r50_fixture.json").read_text())["eval"]
    levels = LevelAnchors()(MAPS, (128, 192))
    assert [len(level) for level in levels] == [3 * rows * columns for rows, columns in MAPS]
    found = np.concatenate([np.asarray(level, np.float64) for level in levels])
    shape, total, absolute = expected["anchors"]
    assert list(found.shape) == shape
    assert_array_equal(found[:3], expected["anchors_first3"])
    assert (found.sum(), np.abs(found).sum()) == (total, absolute)


def test_places_come_row_by_row_at_multiples_of_the_stride():
    (level,) = LevelAnchors(sizes=(8.0,), ratios=(1.0, 4.0))([(2, 3)], (33, 48))
    centres = (np.asarray(level)[:, :2] + np.asarray(level)[:, 2:]) / 2
    assert_allclose(centres[::2], [[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]])
    assert_array_equal(centres[::2], centres[1::2])
    assert_array_equal(level[0], [-4, -4, 4, 4])
    assert_array_equal(level[1], [-2, -8, 2, 8])
