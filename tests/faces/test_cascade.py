import dataclasses

import numpy as np
import pytest
from xml_cascades import BAD, GOOD

from cnnjax.config import ConfigError
from cnnjax.faces.cascade import read_cascade, write_cascade
from cnnjax.faces.haar import feature_values
from cnnjax.faces.scan import Scan, all_windows, detect, make_pyramid, stage_margins


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.xml").write_text(GOOD)
    return read_cascade(tmp_path / "small.xml")


def test_tables_of_a_file(small):
    assert small.size == (4, 4) and small.trees.tolist() == [1, 2]
    assert small.feature.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert small.left.tolist() == [[0, 0], [0, 0], [0, -1]] and small.right.tolist() == [
        [-1, 0],
        [-1, 0],
        [1, -2],
    ]
    assert small.leaf.tolist() == [[-1, 1, 0], [3, -4, 0], [5, 6, 7]]
    assert small.features.weights.tolist() == [[-1, 2, 0], [-1, 3, 0]]


def test_stage_sums_by_hand(small):
    """Below brighter than above: stage 0 gives 1. Middle darker, equal, brighter: the stump of stage 1 gives 3 -4 -4; its
    tree's first node goes left below 9, to leaf 5."""
    windows = np.full((3, 4, 4), 50, np.uint8)
    windows[:, 2:] = 250
    windows[0, :, 1], windows[2, :, 1] = 0, 255
    values = feature_values(small.features, windows)
    assert np.all(values[0] > 0.25) and np.sign(values[1]).tolist() == [-1, 0, 1]
    margins = stage_margins(small, windows)
    np.testing.assert_allclose(margins, [[0.5, 3 + 5 + 2], [0.5, -4 + 5 + 2], [0.5, -4 + 5 + 2]])
    high = dataclasses.replace(small, threshold=np.where(small.threshold == 9, -9, small.threshold))
    np.testing.assert_allclose(stage_margins(high, windows)[:, 1], [3 + 6 + 2, -4 + 7 + 2, -4 + 7 + 2])


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name, tmp_path):
    change, words = BAD[name]
    path = tmp_path / "bad.xml"
    path.write_text(change(GOOD))
    with pytest.raises(ConfigError, match=words) as caught:
        read_cascade(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_cascade(tmp_path / "none.xml")


def test_written_and_read_it_is_the_same(small, tmp_path):
    write_cascade(small, tmp_path / "again.xml")
    again = read_cascade(tmp_path / "again.xml")
    for field in dataclasses.fields(small)[1:]:
        np.testing.assert_array_equal(getattr(again, field.name), getattr(small, field.name))
    np.testing.assert_array_equal(again.features.rectangles, small.features.rectangles)


def test_the_first_stages(small):
    assert small.first(1).trees.tolist() == [1] and len(small.first(1).leaf) == 1


def test_an_image_smaller_than_a_window_is_one_line(small):
    with pytest.raises(
        ConfigError, match="an image of 3x9 pixels is smaller than the cascade's window of 4x4"
    ):
        detect(small, np.zeros((9, 3), np.uint8))
    with pytest.raises(ConfigError, match="grey images"):
        detect(small, np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ConfigError, match="above 1"):
        detect(small, np.zeros((9, 9), np.uint8), factor=1.0)


def test_sizes_that_leave_no_window_find_nothing(small):
    boxes, counts = detect(small, np.zeros((9, 9), np.uint8), least=20)
    assert boxes.shape == (0, 4) and counts.shape == (0,)


def test_a_flat_image_finds_nothing(small):
    boxes, counts = detect(small, np.full((40, 40), 128, np.uint8), neighbors=0)
    assert len(boxes) == 0 and len(counts) == 0


def test_windows_after_a_failing_one_are_passed_over(small):
    """The scan from left to right, by hand: with failures F and passes P, a look after a failing one is left out."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 30)).astype(np.uint8)
    levels = make_pyramid(image, small.size, 1.5)
    windows = all_windows(levels, small.size)
    scan = Scan([level.image for level in levels], small.size)
    dense = set(scan.passing(small.first(1), windows, skip=False)[0].tolist())
    contrast = scan.deviations(windows) / 4 > 10
    expected, row, skip = [], None, False
    for index in range(len(windows)):
        here = (windows.level[index], windows.y[index])
        skip = skip and here == row
        row = here
        if skip:
            skip = False
        elif index in dense:
            expected.append(index)
        else:
            skip = bool(contrast[index])
    assert scan.passing(small.first(1), windows)[0].tolist() == expected
    assert 0 < len(expected) < len(dense)
