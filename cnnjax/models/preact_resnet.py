"""Residual networks with pre-activation (He et al. 2016, "Identity mappings"); wide ones (Zagoruyko 2016)."""

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
    batch_norm,
    class_scores,
    conv,
    depth_rates,
    global_avg_pool,
    leave_out,
    max_pool,
    stage,
)


class PreActBlock(nn.Module):
    """Normalization and activation before each convolution: two of 3x3, or 1x1, 3x3 and 1x1 if `bottleneck`.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    features: int
    stride: int
    bottleneck: bool
    dropout: float
    act: Activation
    norm: Norm
    dtype: jnp.dtype
    left_out: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        f = self.features
        # Output channels, kernel and stride of the convolutions.
        convs = (
            [(f, 1, 1), (f, 3, self.stride), (4 * f, 1, 1)]
            if self.bottleneck
            else [(f, 3, self.stride), (f, 3, 1)]
        )
        y = x
        for i, (features, kernel, stride) in enumerate(convs, start=1):
            y = activate(self, f"relu{i}", self.norm(train, name=f"bn{i}")(y))
            if i == 1 and (x.shape[-1] != convs[-1][0] or self.stride != 1):
                shortcut = partial(conv, use_bias=False, dtype=self.dtype, name="shortcut")
                x = shortcut(convs[-1][0], 1, self.stride, padding=0)(y)
            if i == len(convs):
                y = nn.Dropout(self.dropout, deterministic=not train)(y)
            layer = conv(
                features, kernel, stride, kernel // 2, use_bias=False, dtype=self.dtype, name=f"conv{i}"
            )
            y = layer(y)
        return stage(self, "sum", x + leave_out(y, self.left_out, train))


class PreActResNet(nn.Module):
    """Residual stages of `features` channels, four times as many with `bottleneck`; layers normalize first.

    Stages: conv1, (pool1), stage1, stage2, ..., relu (the last activation), avg_pool, logits, and inside each
    block relu1, relu2, (relu3), sum. The sums, and so the stages, are not rectified. With `small_images`, for
    CIFAR, the first convolution is 3x3 with stride 1 and there is no pool1.

    Dropout, which the wide networks may have, is before the last convolution of a block. With `stochastic_depth`, blocks are left out in
    training, the last with this probability, those before it less often in proportion (Huang et al. 2016).
    """

    num_outputs: int | None = 1000
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    features: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    small_images: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    act: Activation = nn.relu
    norm: Norm = batch_norm
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype, name="conv1")
        if self.small_images:
            x = stage(self, "conv1", conv_(16, 3, padding=1)(x))
        else:
            x = conv_(self.features[0], 7, 2, padding=3)(x)
            x = activate(self, "conv1", self.norm(train, name="bn1")(x))
            x = stage(self, "pool1", self.pool(x, 3, 2, 1))
        rates = depth_rates(self.stochastic_depth, self.stage_sizes)
        for i, (stage_rates, features) in enumerate(zip(rates, self.features, strict=True), start=1):
            for j, rate in enumerate(stage_rates, start=1):
                block = PreActBlock(
                    features=features,
                    stride=2 if i > 1 and j == 1 else 1,
                    bottleneck=self.bottleneck,
                    dropout=self.dropout,
                    act=self.act,
                    norm=self.norm,
                    dtype=self.dtype,
                    left_out=rate,
                    name=f"block{i}_{j}",
                )
                x = block(x, train)
            x = stage(self, f"stage{i}", x)
        x = activate(self, "relu", self.norm(train, name="bn")(x))
        x = stage(self, "avg_pool", global_avg_pool(x))
        return class_scores(self, x)


def cifar_preact_resnet(blocks: int, widen: int = 1, num_outputs: int = 10, **kwargs: Any) -> PreActResNet:
    """Three stages of `blocks` for 32x32 images: WRN-d-k has (d - 4) / 6 blocks, k times as wide.

    WRN-28-10 has 36,479,194 parameters. The paper's depths 110 and 164 have 18 blocks, 164 with bottlenecks.
    """
    kwargs = {"features": (16 * widen, 32 * widen, 64 * widen), **kwargs}
    return PreActResNet(num_outputs=num_outputs, stage_sizes=(blocks,) * 3, small_images=True, **kwargs)
