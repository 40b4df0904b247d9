import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.faces.haar import TYPES, all_features, contrast, corner_matrix, feature_values
from cnnjax.faces.integral import integral_image, integral_on_host


def test_integral_image_by_hand():
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    expected = [[0, 0, 0, 0], [0, 1, 3, 6], [0, 5, 12, 21]]
    assert integral_image(jnp.asarray(image)).tolist() == expected
    assert integral_on_host(image).tolist() == expected


def test_sums_that_wrap_around_leave_rectangles_right():
    image = np.random.default_rng(0).integers(0, 1 << 24, (64, 64))
    integral = np.asarray(integral_image(jnp.asarray(image, jnp.int32)))
    assert integral_on_host(image)[-1, -1] > 2**31
    four = integral[50, 40] - integral[47, 40] - integral[50, 33] + integral[47, 33]
    assert four == image[47:50, 33:40].sum()


def test_a_batch_of_images_is_the_images():
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 5, 4))
    found = np.asarray(integral_image(jnp.asarray(images, jnp.int32)))
    np.testing.assert_array_equal(found[1, 2], integral_on_host(images[1, 2]))


@pytest.mark.parametrize(("size", "count"), [((24, 24), 162_336), ((20, 20), 78_460)])
def test_number_of_features(size, count):
    assert len(all_features(size)) == count


def test_number_of_features_of_each_type_in_24x24():
    counts = {name: len(all_features((24, 24), (name,))) for name in TYPES}
    assert list(counts.values()) == [43_200, 43_200, 27_600, 27_600, 20_736]


def test_features_are_all_different():
    features = all_features((8, 6))
    assert len(np.unique(corner_matrix(features), axis=0)) == len(features)


def test_values_are_the_sums_of_pixels():
    rng = np.random.default_rng(2)
    features = all_features((24, 24))[rng.integers(0, 162_336, 300)]
    windows = rng.integers(0, 256, (5, 24, 24)).astype(np.uint8)
    values = feature_values(features, windows, normalize=False)
    deviation = np.array([484 * window[1:-1, 1:-1].std() for window in windows.astype(np.float64)])
    for index in range(len(features)):
        expected = np.zeros(5)
        for (x, y, w, h), weight in zip(features.rectangles[index], features.weights[index], strict=True):
            expected += weight * windows[:, y : y + h, x : x + w].sum((1, 2), dtype=np.int64)
        np.testing.assert_array_equal(values[index], expected)
    np.testing.assert_allclose(feature_values(features, windows), values / deviation, rtol=1e-5)


def test_a_constant_window_has_no_value():
    windows = np.full((2, 24, 24), 255, np.uint8)
    assert not feature_values(all_features((24, 24))[::1000], windows).any()


def test_contrast_is_exact_at_the_extremes():
    half = np.zeros((1, 24, 24), np.uint8)
    half[:, :12] = 255
    found = contrast(jnp.asarray(np.concatenate([half, 255 - half, np.full_like(half, 255)])))
    np.testing.assert_allclose(found, [484 * 127.5, 484 * 127.5, 0], rtol=1e-6)


def test_of_the_paper_s_types():
    """Brighter below than above, and a bright middle: positive. By hand."""
    above = all_features((2, 2), ("two above",))
    three = all_features((3, 1), ("three beside",))
    window = np.array([[[1, 2], [30, 40]]], np.uint8)
    whole = np.flatnonzero(above.rectangles[:, 0, 2] == 2)
    assert feature_values(above[whole], window, normalize=False).tolist() == [[-73 + 2 * 70]]
    assert feature_values(three, np.array([[[1, 9, 2]]], np.uint8), normalize=False).tolist() == [[-12 + 27]]


def test_windows_of_another_size_are_refused():
    with pytest.raises(ValueError, match="features of"):
        feature_values(all_features((8, 8)), np.zeros((1, 24, 24), np.uint8))
