"""The first networks of the lecture: from softmax regression to small convolutional networks."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    class_scores,
    conv,
    flatten,
    fully_connected,
    he_init,
    max_pool,
    stage,
)

# Convolutions of each stage as (features, kernel); a 2x2 pool follows every stage.
TWO_STAGE = (((32, 5),), ((32, 5),))
TOY_CNN = (((32, 5),), ((16, 5),), ((32, 5),), ((64, 5),))
WORKED_EXAMPLE = (((10, 3), (10, 3)), ((5, 3), (20, 3)), ((10, 3), (20, 5)))
MNIST_CNN = (((32, 3),), ((64, 3),))
MNIST_FAST = (((24, 5),), ((32, 3),))  # of tuomaso/train_mnist_fast


class MLP(nn.Module):
    """Fully connected layers on the flattened image; without hidden layers it is softmax regression.

    28x28x1 images, 10 classes: 7,850 parameters without hidden layers, 669,706 with two of 512.
    """

    num_outputs: int | None = 10
    hidden: tuple[int, ...] = (512, 512)
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = flatten(x)
        for i, features in enumerate(self.hidden, start=1):
            fc = nn.Dense(features, kernel_init=he_init, dtype=self.dtype, name=f"fc{i}")
            x = activate(self, f"fc{i}", fc(x))
        return class_scores(self, x)


class LocalNet(nn.Module):
    """One locally connected layer, a convolution with its own filters at every place, then classes."""

    num_outputs: int = 10
    features: int = 8
    kernel: int = 5
    act: Activation = nn.relu
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        local = nn.ConvLocal(
            self.features,
            (self.kernel, self.kernel),
            padding="SAME",
            kernel_init=he_init,
            dtype=self.dtype,
            name="local1",
        )
        x = activate(self, "local1", local(x))
        x = stage(self, "pool1", self.pool(x))
        return stage(self, "logits", nn.Dense(self.num_outputs, dtype=self.dtype, name="output")(flatten(x)))


class LeNet5(nn.Module):
    """LeNet-5 as it is built today (LeCun et al. 1998): dense C3, max pooling, ReLU. 61,706 parameters.

    Takes 28x28x1 (padded by two, as LeCun did) or 32x32x1 images. With `dense` it takes larger images,
    unpadded, and gives the outputs of every 32x32 window at stride 4 (see ops/dense.py).
    """

    num_outputs: int = 10
    act: Activation = nn.relu
    pool: Pool = max_pool
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        fc = partial(fully_connected, dense=self.dense, dtype=self.dtype)
        x = conv(6, 5, padding=2 if x.shape[1] == 28 and not self.dense else 0, dtype=self.dtype, name="c1")(
            x
        )
        x = stage(self, "conv1", self.act(x))
        x = stage(self, "pool1", self.pool(x))
        x = conv(16, 5, padding=0, dtype=self.dtype, name="c3")(x)
        x = stage(self, "conv2", self.act(x))
        x = stage(self, "pool2", self.pool(x))
        x = stage(self, "fc1", self.act(fc(x, 120, window=5, name="f5")))
        x = stage(self, "fc2", self.act(fc(x, 84, name="f6")))
        return stage(self, "logits", fc(x, self.num_outputs, name="output"))


class ConvNet(nn.Module):
    """The building block of the lecture, repeated: convolutions, a pool; fully connected layers at the end.

    `convs` gives each stage's convolutions as (features, kernel). They are padded by (kernel - 1) / 2, which
    keeps the size, unless `padding` is VALID, and a pool halves it. Stages are conv1, pool1, conv2, ... or, where a stage has several
    convolutions, conv1_1, conv1_2, pool1, ...
    """

    num_outputs: int | None = 10
    convs: tuple[tuple[tuple[int, int], ...], ...] = TWO_STAGE
    hidden: tuple[int, ...] = ()
    padding: str = "SAME"
    kernel_init: Any = he_init
    act: Activation = nn.relu
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, padding=self.padding, kernel_init=self.kernel_init, dtype=self.dtype)
        for i, layers in enumerate(self.convs, start=1):
            for j, (features, kernel) in enumerate(layers, start=1):
                name = f"conv{i}_{j}" if len(layers) > 1 else f"conv{i}"
                x = activate(self, name, conv_(features, kernel, name=name)(x))
            x = stage(self, f"pool{i}", self.pool(x))
        x = flatten(x)
        for i, width in enumerate(self.hidden, start=1):
            fc = nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=f"fc{i}")
            x = activate(self, f"fc{i}", fc(x))
        return class_scores(self, x)
