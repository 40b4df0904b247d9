"""Squeeze-and-excitation networks (Hu et al. 2018): SE-ResNets and SENet-154."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    Pool,
    activate,
    batch_norm,
    ceil_padding,
    class_scores,
    conv,
    depth_rates,
    global_avg_pool,
    he_init,
    leave_out,
    max_pool,
    stage,
)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate between 0 and 1 that is computed from the means of all channels."""

    reduction: int
    act: Activation
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=he_init, dtype=self.dtype)
        gate = stage(self, "squeeze", global_avg_pool(x))
        gate = activate(self, "reduce", dense(channels // self.reduction, name="fc1")(gate))
        gate = stage(self, "gate", nn.sigmoid(dense(channels, name="fc2")(gate)))
        return x * gate[:, None, None, :]


class SEBottleneck(nn.Module):
    """A bottleneck whose last convolution is gated before the sum.

    Plain, it is that of the first ResNet, stride in the first 1x1 convolution. `wide` is SENet-154's: 64
    groups, twice the channels inside, stride in the 3x3 convolution, and a 3x3 shortcut where it has a
    stride.
    """

    features: int
    stride: int
    wide: bool
    reduction: int
    act: Activation
    norm: Norm
    dtype: jnp.dtype
    left_out: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype)
        norm = partial(self.norm, train)
        out = 4 * self.features
        inner = out if self.wide else self.features
        groups = min(64, self.features) if self.wide else 1
        first, second = (1, self.stride) if self.wide else (self.stride, 1)
        y = conv_(2 * self.features if self.wide else self.features, 1, first, padding=0, name="conv1")(x)
        y = activate(self, "relu1", norm(name="bn1")(y))
        y = conv_(inner, 3, second, padding=1, feature_group_count=groups, name="conv2")(y)
        y = activate(self, "relu2", norm(name="bn2")(y))
        y = norm(name="bn3")(conv_(out, 1, padding=0, name="conv3")(y))
        y = SqueezeExcite(self.reduction, self.act, self.dtype, name="se")(y)
        if x.shape != y.shape:
            kernel = 3 if self.wide and self.stride > 1 else 1
            x = norm(name="shortcut_bn")(conv_(out, kernel, self.stride, kernel // 2, name="shortcut")(x))
        return activate(self, "sum", x + leave_out(y, self.left_out, train))


class SENet(nn.Module):
    """SE-ResNet-50 (28,088,024 parameters), 101, 152 and, if `wide`, SENet-154 (115,088,984).

    SENet-154 also begins with three 3x3 convolutions and drops out a fifth of the features at the end.
    Stages: conv1, pool1, stage1 to stage4, avg_pool, logits; in each block relu1, relu2, sum and se/squeeze,
    se/reduce, se/gate. With `stochastic_depth`, blocks are left out in
    training, the last with this probability, those before it less often in proportion (Huang et al. 2016).
    """

    num_outputs: int | None = 1000
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    wide: bool = False
    reduction: int = 16
    stochastic_depth: float = 0.0
    act: Activation = nn.relu
    norm: Norm = batch_norm
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        # Output channels, kernel and stride of the first convolutions.
        w = self.width
        stem = [(w, 3, 2), (w, 3, 1), (2 * w, 3, 1)] if self.wide else [(w, 7, 2)]
        for i, (features, kernel, stride) in enumerate(stem, start=1):
            layer = conv(
                features, kernel, stride, kernel // 2, use_bias=False, dtype=self.dtype, name=f"conv{i}"
            )
            x = activate(self, f"conv{i}", self.norm(train, name=f"bn{i}")(layer(x)))
        x = stage(self, "pool1", self.pool(x, 3, 2, ceil_padding(x, 3, 2)))
        rates = depth_rates(self.stochastic_depth, self.stage_sizes)
        for i, stage_rates in enumerate(rates, start=1):
            for j, rate in enumerate(stage_rates, start=1):
                block = SEBottleneck(
                    features=w * 2 ** (i - 1),
                    stride=2 if i > 1 and j == 1 else 1,
                    wide=self.wide,
                    reduction=self.reduction,
                    act=self.act,
                    norm=self.norm,
                    dtype=self.dtype,
                    left_out=rate,
                    name=f"block{i}_{j}",
                )
                x = block(x, train)
            x = stage(self, f"stage{i}", x)
        x = stage(self, "avg_pool", global_avg_pool(x))
        x = nn.Dropout(0.2 if self.wide else 0.0, deterministic=not train)(x)
        return class_scores(self, x)
