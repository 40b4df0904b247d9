"""No fully connected layers: Network in Network (Lin et al. 2014), All-CNN (Springenberg et al. 2015)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    avg_pool,
    ceil_padding,
    conv,
    global_avg_pool,
    max_pool,
    stage,
)

# Each stage: kernel, stride, padding of its first convolution, then the channels of it and its 1x1 layers.
NIN_CIFAR = ((5, 1, 2, (192, 160, 96)), (5, 1, 2, (192, 192, 192)), (3, 1, 1, (192, 192)))
TINY_NIN = ((5, 1, 2, (16, 16, 16)), (3, 1, 1, (16, 16, 16)), (3, 1, 1, (16, 16)))
NIN_IMAGENET: dict[str, Any] = {
    "stages": (
        (11, 4, 0, (96, 96, 96)),
        (5, 1, 2, (256, 256, 256)),
        (3, 1, 1, (384, 384, 384)),
        (3, 1, 1, (1024, 1024)),
    ),
    "pools": ("max", "max", "max"),
}


class NetworkInNetwork(nn.Module):
    """NIN: after each convolution two 1x1 convolutions, and the mean of the last maps as class scores.

    966,986 parameters for CIFAR-10. Stages: conv1, cccp1_1, cccp1_2, pool1, conv2, ...; the last 1x1
    convolution, "cccp<n>_2", has one map per class. `pools` follow each stage but the last.
    """

    num_outputs: int = 10
    stages: tuple[tuple[int, int, int, tuple[int, ...]], ...] = NIN_CIFAR
    pools: tuple[str, ...] = ("max", "average")
    dropout: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, dtype=self.dtype)
        for i, (kernel, stride, padding, features) in enumerate(self.stages, start=1):
            last = i == len(self.stages)
            x = activate(self, f"conv{i}", conv_(features[0], kernel, stride, padding, name=f"conv{i}")(x))
            x = activate(self, f"cccp{i}_1", conv_(features[1], 1, name=f"cccp{i}_1")(x))
            if last:
                x = activate(self, f"cccp{i}_2", conv_(self.num_outputs, 1, name="output")(x))
            else:
                x = activate(self, f"cccp{i}_2", conv_(features[2], 1, name=f"cccp{i}_2")(x))
                pool = self.pool if self.pools[i - 1] == "max" else avg_pool
                x = stage(self, f"pool{i}", pool(x, 3, 2, ceil_padding(x, 3, 2)))
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return stage(self, "logits", global_avg_pool(x))


class AllCNN(nn.Module):
    """All-CNN-C: strided convolutions in place of pools. 1,369,738 parameters.

    Stages: conv1 to conv9 (conv3 and conv6 have stride 2, conv7 no padding, conv9 one map per class), logits.
    Dropout: a fifth of the image, half after each strided convolution.
    """

    num_outputs: int = 10
    features: tuple[int, int] = (96, 192)
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        small, large = self.features
        # Output channels, kernel, stride and padding.
        convs = [
            (small, 3, 1, 1), (small, 3, 1, 1), (small, 3, 2, 1),
            (large, 3, 1, 1), (large, 3, 1, 1), (large, 3, 2, 1),
            (large, 3, 1, 0), (large, 1, 1, 0), (self.num_outputs, 1, 1, 0),
        ]  # fmt: skip
        x = nn.Dropout(0.2, deterministic=not train)(x)
        for i, (features, kernel, stride, padding) in enumerate(convs, start=1):
            name = "output" if i == len(convs) else f"conv{i}"
            layer = conv(features, kernel, stride, padding, dtype=self.dtype, name=name)
            x = activate(self, f"conv{i}", layer(x))
            if stride == 2:
                x = nn.Dropout(0.5, deterministic=not train)(x)
        return stage(self, "logits", global_avg_pool(x))
