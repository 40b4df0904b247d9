"""oneDNN's convolutions against XLA's, and that nothing depends on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax.ops import onednn
from cnnjax.ops.convolution import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
needs_it = pytest.mark.skipif(not onednn.available(), reason="this jaxlib does not hold oneDNN's convolution")


def data(shape, kernel, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(shape), rng.standard_normal(kernel)
    return jnp.asarray(x, jnp.float32), jnp.asarray(w / np.sqrt(np.prod(kernel[:3])), jnp.float32)


def ours(strides, padding):
    def convolve(x, w):
        with onednn.used():
            return conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)

    return convolve


def xla(strides, padding):
    return lambda x, w: lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)


def lowered(function, *arguments, platform="cpu"):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@needs_it
@pytest.mark.parametrize(
    "shape, kernel, strides, padding",
    [
        ((2, 32, 32, 3), (3, 3, 3, 16), (1, 1), "SAME"),
        ((1, 64, 48, 5), (1, 1, 5, 7), (1, 1), "VALID"),
        ((3, 33, 31, 4), (5, 3, 4, 9), (1, 1), ((2, 2), (0, 1))),
        ((3, 40, 40, 4), (3, 3, 4, 8), (2, 2), "SAME"),
        ((2, 64, 64, 3), (7, 7, 3, 8), (2, 2), ((3, 3), (3, 3))),
        ((2, 90, 90, 3), (11, 11, 3, 8), (3, 4), ((2, 1), (2, 3))),
        ((2, 32, 32, 6), (2, 2, 6, 3), (1, 1), ((2, 3), (1, 0))),  # more padding than the kernel reaches
        ((1, 1100, 3, 2), (1, 3, 2, 1), (1, 1), "SAME"),
        ((4, 32, 32, 2), (1, 1, 2, 8), (2, 2), "SAME"),
    ],
)
def test_forward_and_both_gradients_equal_xlas(shape, kernel, strides, padding):
    x, w = data(shape, kernel)
    y, back = jax.jit(lambda x, w: jax.vjp(ours(strides, padding), x, w))(x, w)
    wanted, wanted_back = jax.vjp(xla(strides, padding), x, w)
    assert "__onednn$convolution" in lowered(ours(strides, padding), x, w)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    g = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), jnp.float32) / y.size
    for actual, right in zip(back(g), wanted_back(g), strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-5)


@needs_it
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_under_vmap(axes):
    x, w = data((3, 2, 24, 24, 4), (3, 3, 3, 4, 8))
    x, w = (a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True))

    def loss(convolve):
        return jax.vmap(jax.value_and_grad(lambda x, w: jnp.mean(convolve(x, w) ** 2), (0, 1)), in_axes=axes)(
            x, w
        )

    found, wanted = jax.jit(lambda: loss(ours((1, 1), "SAME")))(), loss(xla((1, 1), "SAME"))
    for actual, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-6)


@needs_it
def test_equal_bits_each_time():
    x, w = data((64, 16, 16, 32), (3, 3, 32, 32))
    program = jax.jit(jax.grad(lambda x, w: jnp.sum(ours((1, 1), "SAME")(x, w) ** 2), (0, 1)))
    first, second = program(x, w), program(x, w)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_it
def test_gpus_tpus_and_what_it_does_not_suit_are_computed_as_ever():
    x, w = data((2, 32, 32, 4), (3, 3, 4, 8))
    for platform in ("cuda", "tpu"):
        assert "onednn" not in lowered(ours((1, 1), "SAME"), x, w, platform=platform)
    half = (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    few = (x[:1, :8, :8], w)
    for arguments in (half, few):
        assert "onednn" not in lowered(ours((1, 1), "SAME"), *arguments)
    assert "onednn" not in lowered(ours((1, 1), ((-1, 1), (1, 1))), x, w)
    assert "onednn" not in lowered(xla((1, 1), "SAME"), x, w)


def test_without_the_call_xlas_are_used(monkeypatch):
    onednn.available.cache_clear()
    monkeypatch.setattr(onednn, "TARGET", "__nobody$convolution")
    assert not onednn.available()
    onednn.available.cache_clear()
    monkeypatch.setattr(onednn, "_BEFORE", (0, 10))
    assert not onednn.available()
    onednn.available.cache_clear()
