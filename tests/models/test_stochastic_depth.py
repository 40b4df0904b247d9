"""Stochastic depth: whole blocks are left out in training, by the rates of the paper, and never in evaluation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.models.layers import depth_rates, leave_out

RESNETS = {
    "resnet18": ("width=4", "stage_sizes=1/1"),
    "tiny_se_resnet": (),
    "resnet20": ("blocks=1",),
    "preact_resnet110": ("stage_sizes=1/1", "features=4/8"),
}


def test_rates_rise_evenly_to_that_of_the_last_block():
    """Equation 4 of the paper: block l of L survives with 1 - l / L (1 - p_L)."""
    rates = depth_rates(0.5, (3, 4, 6, 3))
    assert [len(of) for of in rates] == [3, 4, 6, 3]
    assert_allclose(sum(rates, []), [0.5 * block / 16 for block in range(1, 17)])
    assert depth_rates(0.0, (2, 1)) == [[0, 0], [0]]


@pytest.mark.parametrize("rate", [-0.1, 1.0, 3.0])
def test_what_is_no_probability_is_refused(rate):
    with pytest.raises(ConfigError, match="stochastic_depth=.*: a probability"):
        depth_rates(rate, (2, 2))


class Block(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x, train):
        return leave_out(x, self.rate, train)


def test_examples_keep_all_of_a_block_or_nothing():
    x = jnp.ones((4000, 2, 3, 2))
    result = np.asarray(Block(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)}))
    assert (result.reshape(4000, -1) == result[:, :1, 0, 0]).all()
    assert_allclose(np.unique(result), [0, 1 / 0.7], rtol=1e-6)
    assert 0.27 < (result[:, 0, 0, 0] == 0).mean() < 0.33
    assert_array_equal(Block(0.3).apply({}, x, False), x)


@pytest.mark.parametrize("name", RESNETS)
def test_a_network_has_other_depths_in_training_and_the_same_in_evaluation(name):
    plain = create_model(name, 3, options=RESNETS[name])
    deep = create_model(name, 3, options=(*RESNETS[name], "stochastic_depth=0.5"))
    x = jnp.tile(jax.random.normal(jax.random.key(1), (1, 16, 16, 3)), (6, 1, 1, 1))
    variables = jax.jit(plain.init)(jax.random.key(0, impl="rbg"), x)
    assert jax.tree.structure(jax.eval_shape(deep.init, jax.random.key(0), x)) == jax.tree.structure(
        variables
    )
    answer = jax.jit(functools.partial(plain.apply, train=False))(variables, x)
    assert_array_equal(jax.jit(functools.partial(deep.apply, train=False))(variables, x), answer)

    @jax.jit
    def scores(key):
        return deep.apply(variables, x, True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    first = np.asarray(scores(jax.random.key(1)))
    assert_array_equal(scores(jax.random.key(1)), first)
    assert (scores(jax.random.key(2)) != first).any()
    # The same image six times: at least two of its scores are of networks of different depth.
    assert len(np.unique(first.round(3), axis=0)) > 1
