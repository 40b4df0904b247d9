"""A photograph pulled toward a label, by two errors under their right names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.config import ConfigError
from cnnjax.visualization.interrogate import interrogate, logits_delta, softmax_delta
from cnnjax.visualization.transforms import none

LABEL = 3


def test_logits_minus_onehot_is_the_gradient_of_half_the_squared_distance(tiny):
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    onehot = jnp.eye(5)[LABEL]
    expected = jax.grad(lambda x: 0.5 * jnp.sum((tiny.logits(x)[0] - onehot) ** 2))(images)
    logits, pull_back = jax.vjp(tiny.logits, images)
    np.testing.assert_allclose(pull_back(logits_delta(logits, LABEL))[0], expected, rtol=1e-4, atol=1e-7)


def test_softmax_minus_onehot_is_the_gradient_of_the_cross_entropy(tiny):
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))

    def cross_entropy(images):
        return optax.softmax_cross_entropy_with_integer_labels(
            tiny.logits(images), jnp.asarray([LABEL])
        ).sum()

    expected = jax.grad(cross_entropy)(images)
    logits, pull_back = jax.vjp(tiny.logits, images)
    np.testing.assert_allclose(pull_back(softmax_delta(logits, LABEL))[0], expected, rtol=1e-4, atol=1e-7)


def test_a_trained_network_is_convinced(lenet, digits):
    images, labels = digits
    photograph = images[1500]
    target = (int(labels[1500]) + 1) % 10
    result = interrogate(lenet, photograph, target, key=jax.random.key(0), steps=(0, 40))
    assert list(result.frames) == [0, 40] and result.probabilities.shape == (41,)
    np.testing.assert_allclose(result.frames[0], photograph / 255, atol=1e-6)
    assert result.probabilities[0] < 0.1 and result.probabilities[-1] > 0.9
    claimed = jax.nn.softmax(lenet.logits(result.image[None]))[0, target]
    np.testing.assert_allclose(claimed, result.probabilities[-1], rtol=1e-3)


def test_logits_minus_onehot_asks_for_little_probability(lenet, digits):
    """At its minimum the logits are the one-hot vector: a probability of e / (e + 9)."""
    target = (int(digits[1][1500]) + 1) % 10
    options = dict(delta="logits", transform=none, decay=0.0, steps=(0, 150), step_size=0.5 / 255)
    result = interrogate(lenet, digits[0][1500], target, key=jax.random.key(0), **options)
    distance = [
        float(jnp.sum((lenet.logits(jnp.asarray(x)[None])[0] - jnp.eye(10)[target]) ** 2))
        for x in result.frames.values()
    ]
    assert distance[1] < 0.05 * distance[0]
    np.testing.assert_allclose(result.probabilities[-1], np.e / (np.e + 9), atol=0.12)


def test_mistakes_are_one_line(tiny):
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match="choose one of logits, softmax"):
        interrogate(tiny, image, "dog", key=jax.random.key(0), delta="sigmoid")
    with pytest.raises(ConfigError, match="did you mean dog"):
        interrogate(tiny, image, "dogg", key=jax.random.key(0))
    with pytest.raises(ConfigError, match=r"the image is \(8, 16, 3\)"):
        interrogate(tiny, image[:8], "dog", key=jax.random.key(0))
