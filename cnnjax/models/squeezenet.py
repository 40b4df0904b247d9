"""SqueezeNet (Iandola et al. 2016): few parameters, no fully connected layer."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    ceil_padding,
    conv,
    global_avg_pool,
    max_pool,
    stage,
)

# Squeeze and expand channels (of the 1x1 and of the 3x3 filters each) of fire2 to fire9.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 (1,248,424 parameters), or 1.1 (1,235,496) with its smaller and earlier-pooled stem.

    A fire module squeezes the channels by 1x1 filters and expands them by 1x1 and 3x3 filters side by side.
    Stages: conv1, pool1, fire2_squeeze, fire2, ..., fire9, conv10, logits; a pool is named after the layer
    before it. The authors' Caffe model pads conv10 by one and takes 227x227 images: `conv10_padding`.
    """

    num_outputs: int | None = 1000
    stem: tuple[int, int] = (96, 7)
    fires: tuple[tuple[int, int], ...] = FIRES
    pool_after: tuple[int, ...] = (1, 4, 8)
    conv10_padding: int = 0
    dropout: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, dtype=self.dtype)
        features, kernel = self.stem
        x = activate(self, "conv1", conv_(features, kernel, 2, padding=0, name="conv1")(x))
        for i, (squeeze, expand) in enumerate(self.fires, start=2):
            if i - 1 in self.pool_after:
                x = stage(self, f"pool{i - 1}", self.pool(x, 3, 2, ceil_padding(x, 3, 2)))
            x = activate(self, f"fire{i}_squeeze", conv_(squeeze, 1, name=f"fire{i}_squeeze1x1")(x))
            one = conv_(expand, 1, name=f"fire{i}_expand1x1")(x)
            three = conv_(expand, 3, padding=1, name=f"fire{i}_expand3x3")(x)
            x = activate(self, f"fire{i}", jnp.concatenate([one, three], axis=-1))
        if self.num_outputs is None:
            return x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        conv10 = conv_(
            self.num_outputs, 1, padding=self.conv10_padding, kernel_init=_small_init, name="output"
        )
        x = activate(self, "conv10", conv10(x))
        return stage(self, "logits", global_avg_pool(x))


def _small_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Normal values of deviation 0.01, as the authors draw those of conv10: a ReLU comes after it, and beneath larger
    ones a class whose scores begin below zero everywhere never learns."""
    return 0.01 * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
