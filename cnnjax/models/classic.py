"""The first networks of the lecture: from softmax regression to LeNet-5."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import Activation, Pool, conv, fully_connected, max_pool, stage


class LeNet5(nn.Module):
    """LeNet-5 as it is built today (LeCun et al. 1998): dense C3, max pooling, ReLU. 61,706 parameters.

    Takes 28x28x1 (padded by two, as LeCun did) or 32x32x1 images. With `dense` it takes larger images, unpadded,
    and gives the outputs of every 32x32 window at stride 4 (see ops/dense.py).
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
