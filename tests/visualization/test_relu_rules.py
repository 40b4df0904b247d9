"""Ways back through a ReLU, on numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.visualization.relu_rules import RULES, redirected

X = np.asarray([[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]], np.float32)
G = np.asarray([[1.0, -1.0, 1.0, 1.0, -1.0, 0.0]], np.float32)


def backward(rule, x=X, g=G):
    value, pull_back = jax.vjp(rule, jnp.asarray(x))
    np.testing.assert_array_equal(value, np.maximum(x, 0))
    return pull_back(jnp.asarray(g))[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", [0, 0, 0, 1, -1, 0]),
        ("guided", [0, 0, 0, 1, 0, 0]),
        ("deconv", [1, 0, 1, 1, 0, 0]),
        ("open", [1, -1, 1, 1, -1, 0]),
    ],
)
def test_rules(name, expected):
    np.testing.assert_array_equal(backward(RULES[name])[0], expected)
    batched = jax.jit(jax.vmap(lambda x, g: jax.vjp(RULES[name], x)[1](g)[0]))(X, G)
    np.testing.assert_array_equal(batched[0], expected)


def test_plain_is_the_derivative():
    np.testing.assert_array_equal(backward(RULES["plain"]), backward(jax.nn.relu))


def test_redirected_helps_an_example_that_would_get_nothing():
    x = np.asarray([[-1.0, -2.0, -3.0], [-1.0, 2.0, 3.0]], np.float32)
    g = np.asarray([[-1.0, 1.0, -2.0], [-1.0, 1.0, -2.0]], np.float32)
    helped = [[-1, 0, -2], [0, 1, -2]]  # not where descent would push the input further down
    plain = [[0, 0, 0], [0, 1, -2]]
    for step, expected in [(0, helped), (16, helped), (17, plain)]:
        np.testing.assert_array_equal(backward(lambda x, s=step: redirected(x, jnp.int32(s)), x, g), expected)


def test_redirected_step_may_be_traced():
    def slope(step):
        return jax.grad(lambda x: -jnp.sum(redirected(x, step)))(jnp.full((1, 2), -1.0))

    steps = jax.jit(jax.vmap(slope))(jnp.asarray([3, 30]))
    np.testing.assert_array_equal(steps[:, 0], [[-1, -1], [0, 0]])
