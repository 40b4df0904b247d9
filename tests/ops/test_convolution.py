"""Convolutions as matrix products over patches, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.models.layers import conv
from cnnjax.ops.convolution import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")


def program(platform, function, *arguments):
    """What is handed to the compiler of a platform, whether it is here or not."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    "size, channels, kernel, strides, padding",
    [
        ((1, 1), 3, (3, 3), (1, 1), "SAME"),
        ((2, 2), 3, (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((2, 5), 2, (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((4, 2), 2, (3, 5), (1, 1), ((0, 2), (3, 1))),
        ((9, 8), 1, (5, 3), (1, 2), "SAME"),
        ((9, 8), 1, (4, 4), (3, 1), "VALID"),
    ],
)
def test_patches_equal_xla_forward_and_backward(size, channels, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, channels)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((*kernel, channels, 4)), jnp.float32)

    def ours(x, w):
        return conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)

    def xla(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)

    y, back = jax.vjp(ours, x, w)
    expected, expected_back = jax.vjp(xla, x, w)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    g = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    for actual, wanted in zip(back(g), expected_back(g), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)
    assert "stablehlo.convolution" not in program("cpu", jax.grad(lambda w: jnp.sum(ours(x, w) ** 2)), w)
    for other in ("cuda", "tpu"):
        assert "stablehlo.convolution" in program(other, ours, x, w)
        assert "stablehlo.dot_general" not in program(other, ours, x, w)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((1, 8, 8, 2), {}),
        ((1, 2, 2, 4), {"feature_group_count": 2}),
        ((1, 2, 2, 4), {"kernel_dilation": (2, 2)}),
    ],
)
def test_everything_else_stays_a_convolution(shape, options):
    layer = conv(4, **options)
    x = jnp.ones(shape)
    assert "stablehlo.convolution" in program("cpu", layer.apply, layer.init(jax.random.key(0), x), x)
