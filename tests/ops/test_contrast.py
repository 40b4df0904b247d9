import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cnnjax.ops import contrast


def grey(shape, seed=0, low=0, high=256) -> np.ndarray:
    """uint8 pixels [H, W] that are no noise: neighbours are alike."""
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, 2)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return (low + smooth * (high - 1 - low)).astype(np.uint8)


def shares(pixels) -> jnp.ndarray:
    return jnp.asarray(pixels, jnp.float32)[..., None] / 255


def test_adjusting_saturates_one_percent_at_each_end():
    image = grey((40, 50), low=60, high=170)
    values = np.sort(image.ravel().astype(np.float64))
    low, high = values[int(0.01 * values.size)], values[int(np.ceil(0.99 * values.size)) - 1]
    found = np.asarray(contrast.adjust(shares(image)))[..., 0]
    np.testing.assert_allclose(found, np.clip((image - low) / (high - low), 0, 1), atol=1e-6)
    assert np.mean(image < low) <= 0.01 and np.mean(image > high) <= 0.01


def test_a_constant_picture_stays_as_it_is():
    for function in (contrast.adjust, contrast.sharpen):
        found = np.asarray(function(jnp.full((2, 12, 12, 1), 0.5)))
        np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_equalized_grey_is_the_share_of_darker_pixels():
    image = grey((31, 20), seed=1)
    expected = np.searchsorted(np.sort(image.ravel()), image, side="right") / image.size
    np.testing.assert_allclose(contrast.equalize(shares(image))[..., 0], expected, atol=1e-6)


def test_colours_are_equalized_in_lab_as_scikit_image_does():
    """Frozen from scikit-image 0.26: rgb2lab, cumulative counts of L, between which L is interpolated, lab2rgb."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(30, 160, (6, 7, 3)).astype(np.uint8)
    found = np.asarray(contrast.equalize(jnp.asarray(rgb, jnp.float32) / 255))
    np.testing.assert_allclose(found.sum(), 58.66554556, rtol=1e-5)
    np.testing.assert_allclose(found[0, 0], [0.72783606, 0.78730009, 0.38216675], atol=1e-4)
    np.testing.assert_allclose(found[5, 6], [0.74541799, 1.0, 0.59745373], atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 48), (96, 128), (45, 37)])
def test_adaptive_equalization_is_opencvs(shape):
    opencv = pytest.importorskip("cv2", reason="needs opencv-python-headless<5, to compare with")
    image = grey(shape, seed=2, low=40, high=200)
    expected = opencv.createCLAHE(2.56, (8, 8)).apply(image) / 255
    np.testing.assert_allclose(contrast.equalize_adaptively(shares(image))[..., 0], expected, atol=1.01 / 255)


def test_sharpening_is_a_difference_of_two_filters_of_scipy():
    image = grey((20, 24), seed=3, low=80, high=170) / 255.0
    narrow, wide = (ndimage.gaussian_filter(image, s, radius=2, mode="nearest") for s in (0.5, 1.0))
    found = contrast.sharpen(jnp.asarray(image[..., None], jnp.float32))[..., 0]
    np.testing.assert_allclose(found, 0.5 + narrow - wide, atol=1e-5)


@pytest.mark.parametrize("width", [10, 14, 20])
def test_a_digit_is_as_wide_as_pillow_makes_its_box(width):
    image = np.zeros((28, 28), np.uint8)
    image[5:24, 9:22] = grey((19, 13), seed=4, low=30)
    box = Image.fromarray(image[:, 9:22].astype(np.float32), "F")
    expected = np.zeros((28, 28), np.float32)
    begin = (28 - width) // 2
    expected[:, begin : begin + width] = box.resize((width, 28), Image.Resampling.BILINEAR)
    found = np.asarray(contrast.fit_width(shares(image), width))[..., 0] * 255
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    columns = np.flatnonzero(found.max(axis=0) > 0)
    assert (columns[0], columns[-1] + 1) == (begin, begin + width)


def test_an_empty_picture_has_no_width_to_change():
    np.testing.assert_array_equal(contrast.fit_width(jnp.zeros((28, 28, 1)), 10), 0)


@pytest.mark.parametrize("name", contrast.CONTRASTS)
def test_each_picture_of_a_batch_is_changed_alone_and_has_a_gradient(name):
    change = contrast.CONTRASTS[name]
    images = jnp.asarray(np.random.default_rng(6).integers(20, 200, (3, 16, 16, 3)), jnp.float32) / 255
    together = jax.jit(change)(images)
    assert together.shape == images.shape and together.dtype == images.dtype
    assert 0 <= float(together.min()) and float(together.max()) <= 1
    np.testing.assert_allclose(together[1], change(images[1]), atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(change(x) ** 2))(images)
    assert np.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 0
