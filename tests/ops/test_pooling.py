"""Max pooling against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.layers import ceil_padding, max_pool


@pytest.mark.parametrize(
    "window, stride, padding", [(2, 2, 0), (3, 2, 0), (3, 1, 1), (3, 2, "SAME"), (2, 1, 0), (3, 2, "ceil")]
)
@pytest.mark.parametrize("height, width", [(4, 6), (7, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_with_many_ties(height, width, dtype, window, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 2, (3, height, width, 4)), dtype)
    padding = ceil_padding(x, window, stride) if padding == "ceil" else padding
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding

    def ours(x):
        return max_pool(x, window, stride, padding)

    def xla(x):
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    np.testing.assert_array_equal(ours(x), xla(x))
    assert ours(x).dtype == dtype
    weights = jnp.asarray(rng.integers(-8, 8, ours(x).shape), dtype)  # whole numbers: sums are exact

    def gradient(pool):
        return jax.jit(jax.grad(lambda x: jnp.sum(pool(x) * weights)))(x)

    np.testing.assert_array_equal(gradient(ours), gradient(xla))
    program = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(ours(x))))(x))
    assert "reduce_window" not in program and "select_and_scatter" not in program


def test_large_windows_and_images_that_vanish_are_left_to_xla():
    x = jnp.arange(64.0).reshape(1, 8, 8, 1)
    np.testing.assert_array_equal(max_pool(x, 4, 4), nn.max_pool(x, (4, 4), (4, 4)))
    assert max_pool(x[:, :2], 3, 2).shape == (1, 0, 3, 1)


@pytest.mark.parametrize("window, stride", [(2, 2), (3, 2)])
def test_a_tie_gives_the_gradient_to_the_first(window, stride):
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, window, stride)))(jnp.ones((1, window, window, 1)))
    expected = np.zeros((window, window))
    expected[0, 0] = 1
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)
