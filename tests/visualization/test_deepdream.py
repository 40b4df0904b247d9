"""DeepDream: tiles, octaves, guides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.visualization.deepdream import deepdream, guide, tiled_gradient
from cnnjax.visualization.objectives import layer


@pytest.fixture(scope="module")
def photograph():
    return np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)


def test_one_tile_is_the_gradient_of_the_picture(tiny, photograph):
    expected = jax.grad(lambda x: layer("conv2")(tiny.stages(x[None])))(jnp.asarray(photograph))
    np.testing.assert_allclose(tiled_gradient(tiny, layer("conv2"), photograph, (0, 0)), expected, atol=1e-6)


def test_a_shift_moves_the_seams_and_nothing_else(tiny, photograph):
    """The gradient of the shifted picture, shifted back."""
    rolled = np.roll(photograph, (5, 3), axis=(0, 1))
    expected = np.roll(tiled_gradient(tiny, layer("conv2"), rolled, (0, 0)), (-5, -3), axis=(0, 1))
    np.testing.assert_allclose(tiled_gradient(tiny, layer("conv2"), photograph, (5, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(16, 40), (21, 33), (7, 9)])
def test_pictures_of_any_size_are_covered_by_tiles(tiny, size):
    picture = np.random.default_rng(1).random((*size, 3)).astype(np.float32)
    slope = tiled_gradient(tiny, layer("conv1"), picture, (0, 0))
    assert slope.shape == picture.shape
    first = np.pad(picture, ((0, 16), (0, 16), (0, 0)), mode="wrap")[:16, :16]  # a small picture is repeated
    expected = jax.grad(lambda x: layer("conv1")(tiny.stages(x[None])))(jnp.asarray(first))
    height, width = min(size[0], 16), min(size[1], 16)
    np.testing.assert_allclose(slope[:height, :width], expected[:height, :width], atol=1e-6)


def test_a_dream_sees_more_than_the_photograph(tiny, photograph):
    pictures = deepdream(tiny, photograph, "conv2", key=jax.random.key(0), octaves=2, iterations=4)
    assert [picture.shape for picture in pictures] == [(11, 11, 3), (16, 16, 3)]
    seen = [float(layer("conv2")(tiny.stages(x[None]))) for x in (photograph, pictures[-1])]
    assert seen[1] > 1.05 * seen[0]
    assert pictures[-1].min() >= 0 and pictures[-1].max() <= 1
    assert 0.001 < np.abs(pictures[-1] - photograph).mean() < 0.2


def test_a_dream_is_reproducible(tiny, photograph):
    options = dict(octaves=2, iterations=2)
    first, second, other = (
        deepdream(tiny, photograph, "conv2", key=jax.random.key(seed), **options)[-1] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


def test_a_guide_sends_back_its_best_features(tiny, photograph):
    """The caffe rule: the gradient at the layer is, per position, the guide's feature with the largest product."""
    other = np.random.default_rng(5).random((16, 16, 3)).astype(np.float32)
    features = np.asarray(tiny.stages(other[None])["conv2"]).reshape(-1, 8)
    values, pull_back = jax.vjp(lambda x: tiny.stages(x[None])["conv2"], jnp.asarray(photograph))
    best = (np.asarray(values).reshape(-1, 8) @ features.T).argmax(axis=1)
    (expected,) = pull_back(jnp.asarray(features[best].reshape(values.shape)))
    slope = tiled_gradient(tiny, guide(tiny, other, "conv2"), photograph, (0, 0))
    np.testing.assert_allclose(slope, expected, atol=1e-5 * np.abs(expected).max())


def test_a_layer_that_is_not_there(tiny, photograph):
    with pytest.raises(ConfigError, match="did you mean conv2"):
        deepdream(tiny, photograph, "conv22", key=jax.random.key(0))
