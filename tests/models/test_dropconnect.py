"""DropConnect against plain numpy and against many explicit masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.models.dropconnect import DropConnect


def layer_and_data(inputs=200, features=6, batch=3, **fields):
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(0, 0.1, (inputs, features)), jnp.float32),
        "bias": jnp.asarray(rng.normal(0, 0.2, features), jnp.float32),
    }
    x = jnp.asarray(rng.normal(0.1, 1, (batch, inputs)), jnp.float32)
    return DropConnect(features, **fields), {"params": params}, x


def test_training_drops_weights_of_each_example_on_its_own():
    layer, variables, _ = layer_and_data(inputs=1, features=4000, act=lambda x: x)
    variables["params"]["bias"] = jnp.zeros(4000)
    y = layer.apply(variables, jnp.ones((2, 1)), train=True, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(y != 0)
    np.testing.assert_array_equal(y, np.where(kept, variables["params"]["kernel"], 0))
    assert abs(kept.mean() - 0.5) < 0.02  # two standard deviations are 0.011
    assert abs((kept[0] == kept[1]).mean() - 0.5) < 0.04


def test_evaluation_is_the_mean_over_masks():
    layer, variables, x = layer_and_data(rate=0.3)
    train = jax.jit(lambda key: layer.apply(variables, x, train=True, rngs={"dropout": key}))
    samples = np.stack([train(key) for key in jax.random.split(jax.random.key(1), 4000)])
    difference = {
        name: np.abs(layer.clone(inference=name).apply(variables, x) - samples.mean(0))
        for name in ("gaussian", "masks", "weights")
    }
    assert (difference["gaussian"] < 4 * samples.std(0) / np.sqrt(4000) + 0.01).all()
    assert (difference["masks"] < 4 * samples.std(0) * np.sqrt(1 / 256 + 1 / 4000)).all()
    # Scaling the weights alone, as for dropout, is another number: the activation is not linear.
    assert difference["weights"].max() > 0.05
    scaled = np.maximum(0.7 * x @ variables["params"]["kernel"] + variables["params"]["bias"][None], 0)
    np.testing.assert_allclose(layer.clone(inference="weights").apply(variables, x), scaled, atol=1e-5)


def test_the_window_is_the_central_square():
    whole = create_model("tiny_dropconnect", options=("inference=masks",))
    window = create_model("tiny_dropconnect", options=("inference=masks", "window=8"))
    x = jax.random.normal(jax.random.key(0), (2, 13, 12, 3))
    variables = whole.init(jax.random.key(1), x[:, :8, :8])
    # of 13 rows as of 12
    np.testing.assert_array_equal(window.apply(variables, x), whole.apply(variables, x[:, 2:10, 2:10]))


def test_what_cannot_be_meant_is_one_line():
    layer, variables, x = layer_and_data()
    with pytest.raises(ConfigError, match="inference='mean': choose one of gaussian, masks, weights"):
        layer.clone(inference="mean").apply(variables, x)
    with pytest.raises(ConfigError, match="window=9 is larger than images of 8x12"):
        create_model("tiny_dropconnect", options=("window=9",)).init(
            jax.random.key(0), jnp.zeros((1, 8, 12, 3))
        )


def test_evaluation_of_a_rectifier_is_its_gaussian_mean():
    """E max(u, 0) = m Phi(m / s) + s phi(m / s)."""
    from scipy.stats import norm

    layer, variables, x = layer_and_data()
    kernel, bias = np.float64(variables["params"]["kernel"]), np.float64(variables["params"]["bias"])
    mean = 0.5 * np.float64(x) @ kernel + bias
    spread = np.sqrt(0.25 * np.float64(x) ** 2 @ kernel**2)
    expected = mean * norm.cdf(mean / spread) + spread * norm.pdf(mean / spread)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=0.01 * expected.max())
