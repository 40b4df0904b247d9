"""ResNets for 32x32 images (He et al. 2016, "Deep residual learning", section 4.2)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    activate,
    batch_norm,
    class_scores,
    conv,
    depth_rates,
    global_avg_pool,
    leave_out,
    stage,
)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Where the shape changes, the shortcut drops every second pixel and appends zero channels (option A of the
    paper, no parameters) or is a strided 1x1 convolution with normalization (option B).
    """

    features: int
    stride: int
    option: str
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
        if x.shape != y.shape and self.option == "B":
            x = norm(name="shortcut_bn")(conv_(self.features, 1, self.stride, padding=0, name="shortcut")(x))
        elif x.shape != y.shape:
            extra = self.features - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        return activate(self, "sum", x + leave_out(y, self.left_out, train))


class CifarResNet(nn.Module):
    """ResNet of depth 6 * `blocks` + 2: 3 stages of 16, 32 and 64 channels.

    ResNet-20 with option A has 269,722 parameters. Stages: conv1, stage1 to stage3, avg_pool, logits, and
    inside each block relu1 and sum (block2_1/sum is the first block of stage 2). With `stochastic_depth`, blocks are left out in
    training, the last with this probability, those before it less often in proportion (Huang et al. 2016).
    """

    num_outputs: int | None = 10
    blocks: int = 3
    option: str = "A"
    stochastic_depth: float = 0.0
    act: Activation = nn.relu
    norm: Norm = batch_norm
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = conv(16, 3, padding=1, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = activate(self, "conv1", self.norm(train, name="bn1")(x))
        rates = depth_rates(self.stochastic_depth, (self.blocks,) * 3)
        for i, (stage_rates, features) in enumerate(zip(rates, (16, 32, 64), strict=True), start=1):
            for j, rate in enumerate(stage_rates, start=1):
                stride = 2 if i > 1 and j == 1 else 1
                block = CifarBlock(
                    features,
                    stride,
                    self.option,
                    self.act,
                    self.norm,
                    self.dtype,
                    left_out=rate,
                    name=f"block{i}_{j}",
                )
                x = block(x, train)
            x = stage(self, f"stage{i}", x)
        x = stage(self, "avg_pool", global_avg_pool(x))
        return class_scores(self, x)
