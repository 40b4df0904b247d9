import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import keypoints


def test_keypoints_lie_in_the_cells_of_their_box():
    points = jnp.array(
        [[10, 20, 1], [29.9, 20, 2], [30, 60, 1], [20, 40, 1], [9.9, 30, 1], [31, 30, 1], [20, 40, 0]],
        jnp.float32,
    )
    cells, counts = keypoints.keypoint_cells(points, jnp.array([10.0, 20, 30, 60]), 4)
    assert_array_equal(counts, [True, True, True, True, False, False, False])
    # Row and column: the corner; the last column; the lower right corner itself; the middle.
    assert_array_equal(cells[:4], [0, 3, 15, 10])


def test_the_loss_is_the_cross_entropy_of_counted_keypoints_of_positive_regions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 3, 3, 2)).astype(np.float32)
    points = jnp.array([[[1.0, 1, 1], [5, 5, 1]], [[1, 1, 0], [8, 2, 1]]])[None].repeat(2, axis=0)
    boxes = jnp.broadcast_to(jnp.array([0.0, 0, 9, 9]), (2, 2, 4))
    positive = jnp.array([[True, True], [True, False]])
    total, count = keypoints.keypoint_loss(jnp.asarray(logits), points, boxes, positive)
    assert_array_equal(count, [3, 2])

    def wrong(image, region, row, column, point):
        map_ = logits[image, region, :, :, point].astype(np.float64)
        return np.log(np.exp(map_).sum()) - map_[row, column]

    both = [wrong(i, 0, 0, 0, 0) + wrong(i, 0, 1, 1, 1) for i in range(2)]
    assert_allclose(total, [both[0] + wrong(0, 1, 0, 2, 1), both[1]], rtol=1e-5)


@pytest.mark.parametrize("box", [(3.0, 5.0, 33.2, 30.7), (0.0, 0, 0.4, 90.1)])
def test_keypoints_are_found_where_torch_finds_them(box):
    torch = pytest.importorskip("torch", reason="the reference is torch")

    maps = np.random.default_rng(2).normal(size=(6, 6, 5)).astype(np.float32)
    found, scores = keypoints.find_keypoints(maps, np.array(box))
    extent = [max(box[2] - box[0], 1), max(box[3] - box[1], 1)]
    width, height = (int(np.ceil(side)) for side in extent)
    large = torch.nn.functional.interpolate(
        torch.tensor(maps).permute(2, 0, 1)[None], size=(height, width), mode="bicubic", align_corners=False
    )[0].numpy()
    for point in range(5):
        row, column = np.unravel_index(large[point].argmax(), (height, width))
        expected = [
            box[0] + (column + 0.5) * extent[0] / width,
            box[1] + (row + 0.5) * extent[1] / height,
        ]
        assert_allclose(found[point], expected, rtol=1e-6)
        assert_allclose(scores[point], large[point].max(), rtol=1e-5)


def test_on_the_device_peaks_are_those_of_the_host_where_a_box_has_as_many_pixels():
    size = 6 * keypoints.ENLARGED
    maps = np.random.default_rng(3).normal(size=(2, 6, 6, 4)).astype(np.float32)
    boxes = np.array([[3.0, 5, 3 + size, 5 + size], [0.5, 2, 0.5 + size, 2 + size]], np.float32)
    found = keypoints.keypoint_peaks(jnp.asarray(maps), jnp.asarray(boxes))
    for i in range(2):
        assert_allclose(found[i], keypoints.find_keypoints(maps[i], boxes[i])[0], rtol=1e-6)
