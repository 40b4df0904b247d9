"""DenseNets (Huang et al. 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    Pool,
    activate,
    avg_pool,
    batch_norm,
    class_scores,
    conv,
    global_avg_pool,
    max_pool,
    stage,
)

# Layers in each dense block: table 1 of the paper. 161 also has growth 48 and 96 channels in the stem.
DENSENET121 = (6, 12, 24, 16)
DENSENET169 = (6, 12, 32, 32)
DENSENET201 = (6, 12, 48, 32)
DENSENET264 = (6, 12, 64, 48)
DENSENET161 = (6, 12, 36, 24)


class DenseLayer(nn.Module):
    """Returns `growth` new channels, by way of a 1x1 convolution to four times as many if `bottleneck` (B)."""

    growth: int
    bottleneck: bool
    dropout: float
    act: Activation
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = activate(self, "relu1", self.norm(train, name="norm1")(x))
        if self.bottleneck:
            x = drop(conv_(4 * self.growth, 1, padding=0, name="conv1")(x))
            x = activate(self, "relu2", self.norm(train, name="norm2")(x))
        return stage(self, "new", drop(conv_(self.growth, 3, padding=1, name="conv2")(x)))


class DenseNet(nn.Module):
    """Blocks of layers that see all earlier maps of their block. DenseNet-121 has 7,978,856 parameters.

    `compression` is the share of channels that a transition keeps (the paper's C: one half). With
    `small_images`, for CIFAR, the first convolution is 3x3 with stride 1, without normalization and pool0.

    Stages: conv0, (pool0), block1, transition1, block2, ..., norm5 (norm4 with three blocks; after its ReLU),
    avg_pool, logits, and inside each layer (block1_layer1) relu1, relu2 and new, the channels that it adds.
    """

    num_outputs: int | None = 1000
    blocks: tuple[int, ...] = DENSENET121
    growth: int = 32
    stem: int = 64
    bottleneck: bool = True
    compression: float = 0.5
    small_images: bool = False
    dropout: float = 0.0
    act: Activation = nn.relu
    norm: Norm = batch_norm
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype)
        if self.small_images:
            x = stage(self, "conv0", conv_(self.stem, 3, padding=1, name="conv0")(x))
        else:
            x = conv_(self.stem, 7, 2, padding=3, name="conv0")(x)
            x = activate(self, "conv0", self.norm(train, name="norm0")(x))
            x = stage(self, "pool0", self.pool(x, 3, 2, 1))
        for i, layers in enumerate(self.blocks, start=1):
            for j in range(1, layers + 1):
                layer = DenseLayer(
                    self.growth,
                    self.bottleneck,
                    self.dropout,
                    self.act,
                    self.norm,
                    self.dtype,
                    name=f"block{i}_layer{j}",
                )
                x = jnp.concatenate([x, layer(x, train)], axis=-1)
            x = stage(self, f"block{i}", x)
            if i < len(self.blocks):
                x = activate(self, f"transition{i}_relu", self.norm(train, name=f"transition{i}_norm")(x))
                x = conv_(int(x.shape[-1] * self.compression), 1, padding=0, name=f"transition{i}_conv")(x)
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
                x = stage(self, f"transition{i}", avg_pool(x))
        name = f"norm{len(self.blocks) + 1}"
        x = activate(self, name, self.norm(train, name=name)(x))
        x = stage(self, "avg_pool", global_avg_pool(x))
        return class_scores(self, x)


def cifar_densenet(
    layers: int, growth: int, bc: bool = True, num_outputs: int = 10, **kwargs: Any
) -> DenseNet:
    """Three blocks of `layers` for 32x32 images: depth 6 * layers + 4 with bottleneck and compression (`bc`).

    Without, the depth is 3 * layers + 4 and the stem has 16 channels. DenseNet-BC-100-12 has 769,162
    parameters.
    """
    return DenseNet(
        num_outputs=num_outputs,
        blocks=(layers,) * 3,
        growth=growth,
        stem=2 * growth if bc else 16,
        bottleneck=bc,
        compression=0.5 if bc else 1.0,
        small_images=True,
        **kwargs,
    )
