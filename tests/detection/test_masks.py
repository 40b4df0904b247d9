import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import masks, rle

ONES = np.zeros((28, 28), np.float32)
ONES[7:21, 7:21] = 1  # rows and columns 7 to 20


@pytest.mark.parametrize(
    ("box", "total", "pixels", "rows", "columns"),
    [
        ((10, 12, 38, 40), 208.8491, 225, (19, 33), (17, 31)),
        ((-5.5, 3.2, 20.9, 30.7), 183.00002, 196, None, None),
    ],
)
def test_a_mask_is_pasted_as_by_torchvision(box, total, pixels, rows, columns):
    pasted = masks.paste_mask(ONES, np.array(box), 64, 64)
    assert_allclose(pasted.sum(), total, rtol=1e-6)
    bits = masks.paste_masks(ONES[None], np.array([box]), 64, 64)[0]
    assert_array_equal(bits, pasted >= 0.5)
    assert bits.sum() == pixels
    if rows:
        found = np.argwhere(bits)
        assert_array_equal(found.min(0), [rows[0], columns[0]])
        assert_array_equal(found.max(0), [rows[1], columns[1]])


def test_a_box_outside_or_without_an_inside_pastes_what_is_there():
    assert masks.paste_mask(np.ones((4, 4)), np.array([70, 70, 90, 90]), 64, 64).sum() == 0
    dot = masks.paste_mask(np.ones((4, 4)), np.array([5.2, 5.2, 5.2, 5.2]), 8, 8)
    assert_array_equal(np.argwhere(dot), [[5, 5]])
    assert masks.paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 6).shape == (0, 5, 6)


SQUARE = np.zeros((1, 20, 20), bool)
SQUARE[0, 5:15, 5:15] = True
targets = jax.jit(masks.mask_targets, static_argnums=3)


def test_targets_are_those_of_torchvision_and_show_its_missing_half_pixel():
    found = targets(SQUARE, jnp.zeros(1, jnp.int32), jnp.array([[5.0, 5, 15, 15]]), 4)[0]
    expected = np.ones((4, 4))
    expected[3], expected[:, 3], expected[3, 3] = 0.8055556, 0.8055556, 0.6489199
    assert_allclose(found, expected, rtol=1e-6)


def target_by_hand(mask, box, size):
    """The definition, sample by sample."""
    height, width = mask.shape
    x0, y0, x1, y1 = (float(v) for v in box)
    tall, wide = max(y1 - y0, 1), max(x1 - x0, 1)
    down, across = int(np.ceil(tall / size)), int(np.ceil(wide / size))
    total = np.zeros((size, size))
    for i in range(size * down):
        for j in range(size * across):
            y = y0 + tall * (i + 0.5) / (size * down)
            x = x0 + wide * (j + 0.5) / (size * across)
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            up, left = min(int(y), height - 2), min(int(x), width - 2)
            corner = mask[up : up + 2, left : left + 2]
            value = np.array([1 - (y - up), y - up]) @ corner @ np.array([1 - (x - left), x - left])
            total[i // down, j // across] += value / (down * across)
    return total


def test_targets_are_their_definition_for_boxes_of_all_sizes():
    rng = np.random.default_rng(0)
    truth = rng.random((3, 30, 41)) < 0.5
    boxes = [[0, 0, 41, 30], [3.3, 4.1, 3.9, 4.5], [10.5, 2.2, 20.1, 29.9], [38, 27.5, 41, 30], [0, 8, 7, 15]]
    owners = np.array([0, 1, 2, 1, 2], np.int32)
    found = targets(truth, owners, jnp.array(boxes, jnp.float32), 7)
    for i, box in enumerate(boxes):
        assert_allclose(found[i], target_by_hand(truth[owners[i]], box, 7), atol=2e-5)


def test_runs_are_those_of_coco_there_and_back():
    rng = np.random.default_rng(0)
    mask = rng.random((9, 13)) < 0.3
    code = json.loads(json.dumps(rle.mask_to_rle(mask)))
    assert code["size"] == [9, 13]
    assert_array_equal(rle.rle_to_mask(code), mask)
    assert rle.rle_area(code) == mask.sum()
    # By hand: runs down the columns, beginning with zeros.
    crowd = {"size": [2, 3], "counts": [1, 2, 3]}
    assert_array_equal(rle.rle_to_mask(crowd), [[False, True, False], [True, False, False]])
    assert rle.rle_area(crowd) == 2


def test_polygons_fill_what_they_surround():
    mask = rle.polygons_to_mask([[1, 1, 5, 1, 5, 4, 1, 4], [8, 0, 10, 0, 10, 2, 8, 2]], 6, 12)
    expected = np.zeros((6, 12), bool)
    expected[1:4, 1:5], expected[0:2, 8:10] = True, True
    assert_array_equal(mask, expected)
