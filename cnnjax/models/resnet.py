"""ResNets for ImageNet (He et al. 2016, "Deep residual learning")."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

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

# Blocks in each of the four stages: table 1 of the paper.
RESNET18 = (2, 2, 2, 2)
RESNET34 = RESNET50 = (3, 4, 6, 3)
RESNET101 = (3, 4, 23, 3)
RESNET152 = (3, 8, 36, 3)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, a 1x1 convolution projects the shortcut (option B)."""

    features: int
    stride: int
    act: Activation
    norm: Norm
    dtype: jnp.dtype
    left_out: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype)
        norm = partial(self.norm, train)
        y = conv_(self.features, 3, self.stride, padding=1, name="conv1")(x)
        y = activate(self, "relu1", norm(name="bn1")(y))
        y = norm(name="bn2")(conv_(self.features, 3, padding=1, name="conv2")(y))
        if x.shape != y.shape:
            x = norm(name="shortcut_bn")(conv_(self.features, 1, self.stride, padding=0, name="shortcut")(x))
        return activate(self, "sum", x + leave_out(y, self.left_out, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the last has four times the channels.

    The stride is that of the 3x3 convolution ("v1.5", torchvision) or of the first 1x1 as in the paper.
    """

    features: int
    stride: int
    act: Activation
    norm: Norm
    dtype: jnp.dtype
    stride_first: bool = False
    left_out: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, use_bias=False, dtype=self.dtype)
        norm = partial(self.norm, train)
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = conv_(self.features, 1, first, padding=0, name="conv1")(x)
        y = activate(self, "relu1", norm(name="bn1")(y))
        y = conv_(self.features, 3, second, padding=1, name="conv2")(y)
        y = activate(self, "relu2", norm(name="bn2")(y))
        y = norm(name="bn3")(conv_(4 * self.features, 1, padding=0, name="conv3")(y))
        if x.shape != y.shape:
            x = norm(name="shortcut_bn")(
                conv_(4 * self.features, 1, self.stride, padding=0, name="shortcut")(x)
            )
        return activate(self, "sum", x + leave_out(y, self.left_out, train))


BottleneckV1 = partial(Bottleneck, stride_first=True)


class ResNet(nn.Module):
    """ResNet-18 to 152; ResNet-50 has 25,557,032 parameters.

    Stages: conv1, pool1, stage1 to stage4 (conv2_x to conv5_x of the paper), avg_pool, logits, and inside
    each block relu1, relu2 and sum: block3_1/sum is the first block of stage 3. With `small_images`, for
    CIFAR, the first convolution is 3x3 with stride 1 and there is no pool1. No gradient reaches the first `frozen` of
    conv1, stage1, ..., stage4. With `stochastic_depth`, blocks are left out in
    training, the last with this probability, those before it less often in proportion (Huang et al. 2016).
    """

    num_outputs: int | None = 1000
    stage_sizes: tuple[int, ...] = RESNET50
    block: Callable[..., BasicBlock | Bottleneck] = Bottleneck
    width: int = 64
    small_images: bool = False
    frozen: int = 0
    stochastic_depth: float = 0.0
    act: Activation = nn.relu
    norm: Norm = batch_norm
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        kernel, stride = (3, 1) if self.small_images else (7, 2)
        stem = conv(self.width, kernel, stride, kernel // 2, use_bias=False, dtype=self.dtype, name="conv1")
        x = activate(self, "conv1", self.norm(train, name="bn1")(stem(x)))
        if not self.small_images:
            x = stage(self, "pool1", self.pool(x, 3, 2, 1))
        x = lax.stop_gradient(x) if self.frozen > 0 else x
        rates = depth_rates(self.stochastic_depth, self.stage_sizes)
        for i, stage_rates in enumerate(rates, start=1):
            for j, rate in enumerate(stage_rates, start=1):
                block = self.block(
                    features=self.width * 2 ** (i - 1),
                    stride=2 if i > 1 and j == 1 else 1,
                    act=self.act,
                    norm=self.norm,
                    dtype=self.dtype,
                    left_out=rate,
                    name=f"block{i}_{j}",
                )
                x = block(x, train)
            x = stage(self, f"stage{i}", lax.stop_gradient(x) if self.frozen > i else x)
        x = stage(self, "avg_pool", global_avg_pool(x))
        return class_scores(self, x)
