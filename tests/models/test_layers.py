"""Pooling and normalization against torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import layers
from cnnjax.ops.lrn import local_response_norm

torch = pytest.importorskip("torch", reason="the reference is torch")


def images(height, width, channels=5):
    return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)


def to_torch(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def from_torch(x):
    return x.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(7, 8), (9, 10), (5, 6), (3, 4), (112, 111)])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (3, 3)])
def test_ceil_mode_is_torch_s(size, window, stride):
    x = images(*size)
    ours = layers.max_pool(jnp.asarray(x), window, stride, layers.ceil_padding(x, window, stride))
    theirs = torch.nn.functional.max_pool2d(to_torch(x), window, stride, ceil_mode=True)
    np.testing.assert_array_equal(ours, from_torch(theirs))


@pytest.mark.parametrize("size", [(7, 7), (14, 13), (3, 2), (1, 1), (8, 30)])
@pytest.mark.parametrize("out", [1, 4, 7])
def test_adaptive_pool_is_torch_s(size, out):
    x = images(*size)
    theirs = torch.nn.functional.adaptive_avg_pool2d(to_torch(x), out)
    ours = layers.adaptive_avg_pool(jnp.asarray(x), out)
    np.testing.assert_allclose(ours, from_torch(theirs), rtol=1e-5, atol=1e-6 * np.abs(x).max())


def test_pool_padding_is_torch_s():
    x = images(8, 7)
    theirs = torch.nn.functional.max_pool2d(to_torch(x), 3, 2, padding=1)
    np.testing.assert_array_equal(layers.max_pool(jnp.asarray(x), 3, 2, 1), from_torch(theirs))
    theirs = torch.nn.functional.avg_pool2d(to_torch(x), 3, 2, padding=1)
    np.testing.assert_allclose(layers.avg_pool(jnp.asarray(x), 3, 2, 1), from_torch(theirs), atol=1e-6)


@pytest.mark.parametrize(
    ("radius", "bias", "alpha", "beta"), [(2, 2.0, 1e-2, 0.75), (5, 2.0, 1e-1, 0.5), (1, 1.0, 1e-4, 0.75)]
)
def test_local_response_norm_is_torch_s_with_alpha_times_size(radius, bias, alpha, beta):
    x = 10 * images(3, 4, channels=16)
    size = 2 * radius + 1
    theirs = torch.nn.functional.local_response_norm(to_torch(x), size, alpha * size, beta, bias)
    ours = local_response_norm(jnp.asarray(x), radius, bias, alpha, beta)
    np.testing.assert_allclose(ours, from_torch(theirs), rtol=1e-5)


def test_inception5h_norm_differs_from_lucent_s():
    """(size 11, alpha 0.0011, beta 0.5, k 2) is TensorFlow's (radius 5, alpha 1e-4, beta 0.5, bias 2)."""
    from cnnjax.models.googlenet import inception5h_lrn

    x = 100 * np.abs(images(3, 4, channels=64))
    right = torch.nn.functional.local_response_norm(to_torch(x), 11, 0.0011, 0.5, 2.0)
    np.testing.assert_allclose(inception5h_lrn(jnp.asarray(x)), from_torch(right), rtol=1e-5)
    wrong = torch.nn.functional.local_response_norm(to_torch(x), 9, 1e-4, 0.5, 1.0)
    ratio = from_torch(wrong) / np.asarray(inception5h_lrn(jnp.asarray(x)))
    assert ratio.min() > 1.3
