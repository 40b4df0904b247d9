"""Pooling against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.pooling import max_pool_2x2


@pytest.mark.parametrize("height, width", [(4, 6), (5, 6), (7, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_with_many_ties(height, width, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 2, (3, height, width, 4)), dtype)
    weights = jnp.asarray(rng.standard_normal((3, height // 2, width // 2, 4)), dtype)

    def value_and_gradient(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(pool(x) * weights)))(x)

    xla = lambda x: nn.max_pool(x, (2, 2), (2, 2))  # noqa: E731
    np.testing.assert_array_equal(max_pool_2x2(x), xla(x))
    assert max_pool_2x2(x).dtype == dtype
    (_, actual), (_, expected) = value_and_gradient(max_pool_2x2), value_and_gradient(xla)
    np.testing.assert_array_equal(actual, expected)


def test_a_tie_gives_the_gradient_to_the_first():
    gradient = jax.grad(lambda x: jnp.sum(max_pool_2x2(x)))(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])
