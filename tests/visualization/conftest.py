"""Two small networks that the tests of this folder look at."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnnjax.models.classic import LeNet5
from cnnjax.models.layers import Activation, Pool, conv, flatten, max_pool, stage
from cnnjax.network import Network, Preprocessing


class Tiny(nn.Module):
    """Two convolutions with overlapping pooling between them, for any image size."""

    num_outputs: int = 5
    act: Activation = nn.relu
    pool: Pool = max_pool

    @nn.compact
    def __call__(self, x, train=False):
        x = stage(self, "conv1", self.act(conv(6, 3, padding=0, name="c1")(x)))
        x = stage(self, "pool1", self.pool(x, 3, 2))
        x = stage(self, "conv2_pre_relu", conv(8, 3, padding=0, name="c2")(x))
        x = stage(self, "conv2", self.act(x))
        return stage(self, "logits", nn.Dense(self.num_outputs, name="out")(jnp.mean(x, axis=(1, 2))))


class Linear(nn.Module):
    """Softmax regression: whatever attribution finds is known."""

    num_outputs: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        return stage(self, "logits", nn.Dense(self.num_outputs, name="out")(flatten(x)))


@pytest.fixture(scope="session")
def tiny():
    model = Tiny()
    variables = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 16, 16, 3)))
    return Network(
        model,
        variables,
        (16, 16, 3),
        Preprocessing((0.5,), (0.25,)),
        classes=("ant", "bee", "cat", "dog", "elk"),
    )


@pytest.fixture(scope="session")
def linear():
    model = Linear()
    variables = jax.jit(model.init)(jax.random.key(2), jnp.zeros((1, 6, 6, 1)))
    return Network(model, variables, (6, 6, 1))


@pytest.fixture(scope="session")
def digits():
    """uint8 [1797, 28, 28, 1] and labels: scikit-learn's digits, enlarged."""
    data = load_digits()
    images = [Image.fromarray((image * 15.9375).astype(np.uint8)) for image in data.images]
    resized = [np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(resized)[..., None], data.target


@pytest.fixture(scope="session")
def lenet(digits):
    """LeNet-5 that knows the first 1,400 digits."""
    images, labels = digits
    model = LeNet5()
    network = Network(
        model,
        jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1))),
        (28, 28, 1),
        Preprocessing((0.3,), (0.35,)),
    )
    optimizer = optax.adam(2e-3)

    def loss(variables, images, labels):
        logits = model.apply(variables, network.preprocessing(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(variables, state, images, labels):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats with int32 counts
            updates, state = optimizer.update(jax.grad(loss)(variables, images, labels), state)
        return optax.apply_updates(variables, updates), state

    variables, state = network.variables, optimizer.init(network.variables)
    for seed in range(150):
        batch = np.random.default_rng(seed).integers(0, 1400, 64)
        variables, state = step(variables, state, images[batch], labels[batch])
    return Network(model, variables, network.image_shape, network.preprocessing)
