"""Networks whose output is a grid: the lecture's sliding window, and detectors that see the image once."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import Activation, Pool, conv, fully_connected, max_pool, stage


class SlidingWindow(nn.Module):
    """The lecture's window classifier for 14x14x3 images: 5x5 conv, 2x2 max pool, FC 400, FC 400, FC 4.

    With `dense` it takes larger images and gives the outputs of every 14x14 window at stride 2 in one pass:
    28x28x3 -> 24x24x16 -> 12x12x16 -> 8x8x400 -> 8x8x400 -> 8x8x4 (Sermanet et al. 2014, section 3.5).
    """

    num_outputs: int = 4
    act: Activation = nn.relu
    pool: Pool = max_pool
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        fc = partial(fully_connected, dense=self.dense, dtype=self.dtype)
        x = stage(self, "conv1", self.act(conv(16, 5, padding=0, dtype=self.dtype, name="c1")(x)))
        x = stage(self, "pool1", self.pool(x))
        x = stage(self, "fc1", self.act(fc(x, 400, window=5, name="f1")))
        x = stage(self, "fc2", self.act(fc(x, 400, name="f2")))
        return stage(self, "logits", fc(x, self.num_outputs, name="output"))
