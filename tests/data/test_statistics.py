import numpy as np
import pytest

from cnnjax.data.statistics import channel_stats


@pytest.mark.parametrize("shape", [(50, 9, 7, 3), (300, 4, 4, 1)])
def test_equals_numpy_in_float64(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = channel_stats(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-13)
    assert all(type(value) is float for value in mean + std)


def test_many_images_are_counted_in_pieces():
    images = np.zeros((3, 2400, 2400, 1), np.uint8)  # more than one chunk
    images[1] = 255
    mean, std = channel_stats(images)
    assert mean == (pytest.approx(1 / 3, rel=1e-13),)
    assert std == (pytest.approx(np.sqrt(2) / 3, rel=1e-13),)


def test_a_constant_channel_has_no_spread():
    assert channel_stats(np.full((2, 3, 3, 1), 51, np.uint8)) == ((0.2,), (0.0,))
