"""The columns of multi-column deep neural networks (Ciresan et al. 2012, arXiv 1202.2745).

A multi-column network is the average of the probabilities of several such columns, each trained on images
that were preprocessed differently. The column for MNIST and all sizes of the traffic-sign column are
confirmed by text or several ports; the columns for CIFAR-10 and Chinese characters are written after
secondary descriptions that could not be checked against the paper.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    ceil_padding,
    class_scores,
    conv,
    flatten,
    max_pool,
    stage,
)

# Feature maps, kernel and pool of each stage; the paper writes the first as 20C4-MP2-40C5-MP3.
MNIST = ((20, 4, 2), (40, 5, 3))
GTSRB = ((100, 7, 2), (150, 4, 2), (250, 4, 2))
CIFAR10 = ((300, 3, 2), (300, 2, 2), (300, 3, 2), (300, 2, 2))
CHINESE = ((100, 3, 2), (200, 2, 2), (300, 2, 2), (400, 2, 2))


class Column(nn.Module):
    """One column: unpadded convolutions with max pooling, tanh, fully connected layers.

    `convs` holds (feature maps, kernel, pool) of each stage. Pools keep incomplete windows, which only
    matters for the CIFAR-10 column: 30, 15, 14, 7, 5, 3, 2, 1 pixels. MNIST, 29x29 images: 76,040 parameters.
    Stages: conv1, pool1, conv2, ..., fc1, (fc2), logits.
    """

    num_outputs: int | None = 10
    convs: tuple[tuple[int, int, int], ...] = MNIST
    hidden: tuple[int, ...] = (150,)
    act: Activation = jnp.tanh
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        init = nn.initializers.lecun_normal()  # tanh is not a rectifier
        for i, (features, kernel, window) in enumerate(self.convs, start=1):
            layer = conv(features, kernel, padding=0, kernel_init=init, dtype=self.dtype, name=f"conv{i}")
            x = activate(self, f"conv{i}", layer(x))
            x = stage(self, f"pool{i}", self.pool(x, window, window, ceil_padding(x, window, window)))
        x = flatten(x)
        for i, features in enumerate(self.hidden, start=1):
            x = activate(self, f"fc{i}", nn.Dense(features, dtype=self.dtype, name=f"fc{i}")(x))
        return class_scores(self, x)
