"""Convolutions as matrix products over patches and as sums of shifted images, against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.models.layers import Doubling, conv
from cnnjax.ops.convolution import conv_general_dilated, doubled

NHWC = ("NHWC", "HWIO", "NHWC")


def program(platform, function, *arguments):
    """What is handed to the compiler of a platform, whether it is here or not."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    "size, channels, groups, kernel, strides, padding",
    [
        ((1, 1), 3, 1, (3, 3), (1, 1), "SAME"),
        ((2, 2), 3, 1, (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((2, 5), 2, 1, (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((4, 2), 2, 1, (3, 5), (1, 1), ((0, 2), (3, 1))),
        ((9, 8), 1, 1, (5, 3), (1, 2), "SAME"),
        ((9, 8), 1, 1, (4, 4), (3, 1), "VALID"),
        ((9, 8), 4, 4, (3, 3), (1, 1), "SAME"),
        ((9, 8), 4, 4, (5, 5), (2, 2), ((2, 2), (2, 2))),
        ((7, 8), 4, 4, (3, 2), (2, 3), "VALID"),
        ((2, 2), 4, 4, (3, 3), (1, 2), ((1, 1), (0, 3))),
    ],
)
def test_patches_and_shifts_equal_xla_forward_and_backward(size, channels, groups, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, channels)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((*kernel, channels // groups, 4)), jnp.float32)
    more = {"dimension_numbers": NHWC, "feature_group_count": groups}

    def ours(x, w):
        return conv_general_dilated(x, w, strides, padding, **more)

    def xla(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, **more)

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
        ((1, 8, 8, 2), {"feature_group_count": 2}),
        ((1, 8, 8, 4), {"feature_group_count": 4, "kernel_dilation": (2, 2)}),
        ((1, 8, 8, 4), {"feature_group_count": 4, "dtype": jnp.bfloat16}),
        ((1, 2, 2, 4), {"kernel_dilation": (2, 2)}),
    ],
)
def test_everything_else_stays_a_convolution(shape, options):
    layer = conv(4, **options)
    x = jnp.ones(shape)
    assert "stablehlo.convolution" in program("cpu", layer.apply, layer.init(jax.random.key(0), x), x)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_doubling_is_torchs_transposed_convolution(size, platform_form):
    torch = pytest.importorskip("torch", reason="compares with torch")
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 6, 4)).astype(np.float32)
    out, back = jax.jit(lambda x, k: jax.vjp(doubled, x, k))(x, kernel)
    inputs = [
        torch.from_numpy(a.transpose(p).copy()).requires_grad_()
        for a, p in ((x, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
    ]
    wanted = torch.nn.functional.conv_transpose2d(*inputs, stride=2, padding=size // 2 - 1)
    np.testing.assert_allclose(out, wanted.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    assert out.shape == (2, 10, 6, 6)
    (wanted**2).sum().backward()
    dx, dk = back(2 * out)
    np.testing.assert_allclose(dx, inputs[0].grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dk, inputs[1].grad.numpy().transpose(2, 3, 1, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_torch", [True, False])
def test_doubling_has_the_variables_and_values_of_linens_transposed_convolution(as_torch):
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    linen = nn.ConvTranspose(2, (4, 4), (2, 2), "SAME", transpose_kernel=as_torch)
    ours = Doubling(2, 4, as_torch=as_torch, kernel_init=nn.initializers.lecun_normal())
    variables = linen.init(jax.random.key(0), x)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, ours.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(variables, x), linen.apply(variables, x), rtol=1e-5, atol=1e-5)
