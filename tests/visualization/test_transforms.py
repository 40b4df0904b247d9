"""Random changes of a picture, against scipy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnnjax.visualization.transforms import STANDARD, Affine, affine, none

IMAGES = np.random.default_rng(0).random((2, 9, 9, 3)).astype(np.float32)


def test_nothing_changes_nothing():
    np.testing.assert_array_equal(none(jax.random.key(0), IMAGES, 0.0), IMAGES)
    np.testing.assert_allclose(affine(jnp.asarray(IMAGES), jnp.zeros(2), 1.0, 0.0), IMAGES, atol=1e-6)
    still = Affine(0.0, 0.0, 0.0)(jax.random.key(0), jnp.asarray(IMAGES))
    np.testing.assert_allclose(still, IMAGES, atol=1e-6)


def test_shift_moves_down_and_right_and_fills_with_grey():
    moved = affine(jnp.asarray(IMAGES), jnp.asarray([2.0, 1.0]), 1.0, 0.0)
    np.testing.assert_allclose(moved[:, 2:, 1:], IMAGES[:, :-2, :-1], atol=1e-6)
    np.testing.assert_allclose(moved[:, :2], 0.5, atol=1e-6)
    np.testing.assert_allclose(moved[:, :, :1], 0.5, atol=1e-6)


def test_a_quarter_turn_is_numpy_s():
    turned = affine(jnp.asarray(IMAGES), jnp.zeros(2), 1.0, np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(IMAGES, -1, axes=(1, 2)), atol=1e-5)


def test_zoom_and_rotation_are_scipy_s():
    zoom, angle, shift = 1.3, 0.4, np.asarray([1.5, -0.5])
    matrix = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = np.asarray([4.0, 4.0])
    expected = ndimage.affine_transform(
        IMAGES[0, :, :, 1], matrix, centre - matrix @ (centre + shift), order=1, cval=0.5
    )
    result = affine(jnp.asarray(IMAGES), jnp.asarray(shift, jnp.float32), zoom, angle)
    inside = (slice(2, -2), slice(2, -2))  # at the border scipy does not blend with the fill value
    np.testing.assert_allclose(result[0, :, :, 1][inside], expected[inside], atol=1e-5)


def test_views_are_reproducible_differ_and_keep_their_range():
    images = jnp.asarray(np.random.default_rng(0).random((1, 32, 32, 3)), jnp.float32)
    views = [STANDARD(jax.random.key(seed), images, 0.5) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(views[0], views[1])
    assert np.abs(views[0] - views[2]).max() > 0.1
    assert all(v.shape == images.shape and v.min() >= 0 and v.max() <= 1 for v in views)


@pytest.mark.parametrize("seed", range(3))
def test_jitter_is_at_most_what_it_says(seed):
    images = np.full((1, 64, 64, 1), 0.5, np.float32)
    images[0, 32, 32] = 1
    view = Affine(jitter=0.1, scale=0.0, rotate=0.0)(jax.random.key(seed), jnp.asarray(images))
    y, x = np.argwhere(np.asarray(view)[0, :, :, 0] > 0.9)[0]
    assert abs(y - 32) <= 6 and abs(x - 32) <= 6
