"""Pictures as functions of numbers: lucid's constants, photographs that can be reached, MACO's magnitudes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.config import ConfigError
from cnnjax.visualization.parameterizations import (
    RECORRELATE,
    Fourier,
    Maco,
    Pixels,
    from_color,
    magnitude_template,
    to_color,
)


def test_colour_constants():
    expected = [[0.562829, 0.194825, 0.043295], [0.584476, 0, -0.108236], [0.584476, -0.194825, 0.064942]]
    np.testing.assert_allclose(RECORRELATE, expected, atol=1e-6)
    np.testing.assert_allclose(to_color(jnp.asarray([1.0, 0, 0])), [0.562829, 0.584476, 0.584476], atol=1e-6)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(from_color(to_color(x)), x, atol=1e-5 * jnp.abs(x).max())


@pytest.mark.parametrize(("size", "scale"), [(128, 16384), (64, 4096), (224, 50176)])
def test_fourier_scale_at_the_lowest_frequencies(size, scale):
    values = Fourier((size, size, 3)).scale()
    assert values.shape == (size, size // 2 + 1)
    np.testing.assert_allclose([values[0, 0], values[0, 1], values[1, 0]], scale, rtol=1e-6)
    np.testing.assert_allclose(values[0, size // 2], 2 * size, rtol=1e-6)


@pytest.mark.parametrize(("size", "deviation"), [(64, 0.0026), (128, 0.0029), (224, 0.0030)])
def test_fourier_start_is_nearly_grey(size, deviation):
    parameterization = Fourier((size, size, 3))
    images = jax.jit(parameterization.image)(parameterization.init(jax.random.key(0), 8))
    assert images.shape == (8, size, size, 3)
    np.testing.assert_allclose(images.mean(), 0.5, atol=5e-4)
    np.testing.assert_allclose(images.std(), deviation, rtol=0.1)


def test_fourier_imaginary_part_of_the_mean_has_no_effect():
    parameterization = Fourier((8, 8, 3))
    parameters = parameterization.init(jax.random.key(0), 1)
    slope = jax.jit(jax.grad(lambda p: parameterization.image(p)[0, 1, 2, 0]))(parameters)
    np.testing.assert_array_equal(slope[1, 0, :, 0, 0], 0)
    assert np.all(slope[0, 0, :, 0, 0] != 0)


@pytest.mark.parametrize("shape", [(9, 7, 3), (8, 10, 1), (8, 8, 2)])
@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_encode_inverts_image(kind, shape):
    parameterization = kind(shape)
    images = np.random.default_rng(0).uniform(0.05, 0.95, (2, *shape)).astype(np.float32)
    np.testing.assert_allclose(parameterization.image(parameterization.encode(images)), images, atol=1e-5)


@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_a_photograph_can_be_reached(kind):
    """lucid's own test: mean error below 0.01 after Adam(0.05), here on a smooth synthetic photograph."""
    y, x = np.mgrid[0:32, 0:32] / 32
    photograph = np.stack([0.5 + 0.4 * np.sin(5 * x * y), 0.2 + 0.6 * (x > y), 0.9 - 0.7 * y], -1)
    photograph = jnp.asarray(photograph, jnp.float32)[None]
    parameterization = kind((32, 32, 3))
    optimizer = optax.adam(0.05)
    parameters = parameterization.init(jax.random.key(0), 1)

    @jax.jit
    def step(parameters, state):
        def error(parameters):
            return jnp.mean(jnp.abs(parameterization.image(parameters) - photograph))

        value, slope = jax.value_and_grad(error)(parameters)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return optax.apply_updates(parameters, updates), state, value

    state = optimizer.init(parameters)
    for _ in range(600):
        parameters, state, error = step(parameters, state)
    assert error < 0.01


@pytest.mark.parametrize("shape", [(12, 16, 3), (11, 15, 3), (8, 8, 1)])
def test_maco_keeps_the_magnitudes_of_its_photographs(shape):
    photographs = np.random.default_rng(0).random((4, *shape)).astype(np.float32)
    template = magnitude_template(photographs, shape)
    parameterization = Maco(shape, template)
    planes = jax.jit(parameterization.planes)(parameterization.init(jax.random.key(0), 2))
    magnitudes = np.abs(np.fft.rfft2(planes))
    np.testing.assert_allclose(magnitudes, np.broadcast_to(template, magnitudes.shape), rtol=1e-3, atol=2e-4)


def test_maco_template_is_the_mean_magnitude_in_decorrelated_colours():
    photographs = np.random.default_rng(0).random((3, 6, 6, 3)).astype(np.float32)
    decorrelated = photographs @ np.linalg.inv(RECORRELATE).T
    expected = np.abs(np.fft.rfft2(decorrelated.transpose(0, 3, 1, 2))).mean(axis=0)
    expected[:, 0, 0] = 0
    np.testing.assert_allclose(magnitude_template(photographs, (6, 6, 3)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="cannot give the magnitudes"):
        magnitude_template(photographs, (8, 8, 3))


def test_maco_moves_only_phases():
    shape = (8, 8, 3)
    template = magnitude_template(np.random.default_rng(0).random((2, *shape)).astype(np.float32), shape)
    parameterization = Maco(shape, template)
    parameters = parameterization.init(jax.random.key(0), 1)
    assert parameters.shape == (1, 3, 8, 5)
    slope = jax.jit(jax.grad(lambda p: parameterization.image(p)[0, 3, 3, 1]))(parameters)
    assert np.abs(slope).max() > 0
