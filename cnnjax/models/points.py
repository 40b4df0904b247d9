"""Networks that place points: by a fully connected layer, and by heatmaps."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Doubling,
    Trunk,
    batch_norm,
    class_scores,
    conv,
    flatten,
    max_pool,
    stage,
)


class PointNet(nn.Module):
    """Convolutions of 3x3 with batch norm and a pool after each, a fully connected layer, and the points.

    With 64x64 pixels of grey and 137 outputs, 745,001 parameters. Stages: conv1, pool1, ..., fc1, logits.
    """

    num_outputs: int | None = 137
    widths: tuple[int, ...] = (32, 64, 96, 128)
    hidden: int = 256
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, width in enumerate(self.widths, start=1):
            y = conv(width, 3, use_bias=False, dtype=self.dtype, name=f"conv{i}")(x)
            y = batch_norm(train, dtype=self.dtype, name=f"norm{i}")(y)
            x = stage(self, f"pool{i}", max_pool(stage(self, f"act{i}", self.act(y)), 2))
        x = nn.Dense(self.hidden, dtype=self.dtype, name="fc1")(flatten(x))
        return class_scores(self, stage(self, "fc1_act", self.act(x)))


class HeatmapNet(nn.Module):
    """A trunk, deconvolutions of 4x4 that double the map, and a map for each joint: [N, H, W, C] -> [N, h, w, K].

    Xiao, Wu & Wei 2018, "Simple baselines for human pose estimation": a ResNet, three deconvolutions of 256 channels,
    maps of a quarter of the image. Stages: those of the trunk below "trunk", deconv1, ..., logits.

    Args:
      trunk: makes the model below, as those of the table, with `num_outputs` None; `trunk_stage` names its last map.
    """

    trunk: Callable[..., nn.Module]
    trunk_stage: str
    num_outputs: int = 17
    widths: tuple[int, ...] = (256, 256, 256)
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        # Without a parent, for the trunk names its model.
        below = Trunk(self.trunk(num_outputs=None, dtype=self.dtype, parent=None), name="trunk")
        x = below(x, train)[self.trunk_stage]
        for i, width in enumerate(self.widths, start=1):
            layer = Doubling(
                width, 4, as_torch=False, use_bias=False, dtype=self.dtype, name=f"deconv{i}",
                kernel_init=nn.initializers.normal(0.001),
            )  # fmt: skip
            y = batch_norm(train, dtype=self.dtype, name=f"deconv{i}_norm")(layer(x))
            x = stage(self, f"deconv{i}", self.act(y))
        head = partial(nn.Conv, kernel_init=nn.initializers.normal(0.001), dtype=self.dtype)
        return stage(self, "logits", head(self.num_outputs, (1, 1), name="output")(x))
