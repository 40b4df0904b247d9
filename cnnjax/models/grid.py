"""Networks whose output is a grid: the lecture's sliding window, and detectors that see the image once."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    batch_norm,
    class_scores,
    conv,
    flatten,
    fully_connected,
    max_pool,
    stage,
)

leaky_relu = partial(nn.leaky_relu, negative_slope=0.1)

# YOLOv1's convolutions as (features, kernel, stride), a 2x2 pool between groups (Redmon et al. 2016, figure 3).
YOLOV1 = (
    ((64, 7, 2),),
    ((192, 3, 1),),
    ((128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1)),
    (*((256, 1, 1), (512, 3, 1)) * 4, (512, 1, 1), (1024, 3, 1)),
    (*((512, 1, 1), (1024, 3, 1)) * 2, (1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)),
)


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


class GridNet(nn.Module):
    """A compact detector: [N, H, W, 3] -> [N, H / s, W / s, num_outputs] with s = 2^len(widths).

    Each stage halves the image by a 3x3 convolution of stride 2 and adds residual blocks of a 1x1 and a 3x3
    convolution, as Darknet-53 does (Redmon & Farhadi 2018); a 3x3 and a 1x1 convolution make the output. Batch
    norm and leaky ReLU throughout. Stages: down1, block1_1, ..., head, logits.
    """

    num_outputs: int | None = 9
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (0, 1, 2, 2)
    act: Activation = leaky_relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layer = partial(self._layer, train)
        for i, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            x = stage(self, f"down{i}", layer(f"down{i}", x, width, 3, 2))
            for j in range(1, blocks + 1):
                name = f"block{i}_{j}"
                inner = layer(f"{name}_a", x, width // 2, 1)
                x = stage(self, name, x + layer(f"{name}_b", inner, width, 3))
        x = stage(self, "head", layer("head", x, self.widths[-1], 3))
        if self.num_outputs is None:
            return x
        return stage(self, "logits", conv(self.num_outputs, 1, dtype=self.dtype, name="output")(x))

    def _layer(self, train: bool, name: str, x: Array, features: int, kernel: int, stride: int = 1) -> Array:
        """Convolution, batch norm, activation."""
        layer = conv(
            features, kernel, stride, kernel // 2, use_bias=False, dtype=self.dtype, name=f"{name}_conv"
        )
        return self.act(batch_norm(train, dtype=self.dtype, name=f"{name}_norm")(layer(x)))


class Localizer(nn.Module):
    """A `GridNet` of stride 8 and, of each channel of its map, what is there and where: one vector for the image.

    "What" are the channel's maximum and mean; "where" is the mean position under a softmax over its map (Finn et
    al. 2016, deep spatial autoencoders): a box follows from points on the object, wherever that is. Fully
    connected layers on the flattened map have to learn every place by itself.
    """

    num_outputs: int | None = 9
    features: int = 128
    act: Activation = leaky_relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        trunk = GridNet(
            self.features, widths=(32, 64, 96), blocks=(1, 2, 2), act=self.act, dtype=self.dtype, name="trunk"
        )
        x = trunk(x, train)
        points = stage(self, "points", spatial_softmax(x, temperature=1 / 3))
        x = jnp.concatenate([jnp.max(x, axis=(1, 2)), jnp.mean(x, axis=(1, 2)), points], axis=-1)
        x = nn.Dense(128, dtype=self.dtype, name="fc1")(x)
        x = stage(self, "fc1_act", self.act(x))
        return class_scores(self, x)


def spatial_softmax(x: Array, temperature: float = 1.0) -> Array:
    """Maps [N, H, W, C] -> [N, 2 C]: for each channel the mean x, then y, in shares of the size, under its softmax."""
    height, width = x.shape[1:3]
    weights = nn.softmax(x / temperature, axis=(1, 2))
    columns = (jnp.arange(width, dtype=x.dtype) + 0.5) / width
    rows = (jnp.arange(height, dtype=x.dtype) + 0.5) / height
    across = jnp.einsum("nhwc,w->nc", weights, columns, precision="highest")
    down = jnp.einsum("nhwc,h->nc", weights, rows, precision="highest")
    return jnp.concatenate([across, down], axis=-1)


class YoloV1(nn.Module):
    """YOLO (Redmon et al. 2016, figure 3): 448x448x3 -> 7x7x30. 24 convolutions, 2 fully connected layers, no
    batch norm, dropout of 0.5 between the latter. 271,703,550 parameters.

    The authors' configuration file is another network: batch norm, a locally connected layer, three predictors.
    """

    num_outputs: int = 30
    grid: int = 7
    act: Activation = leaky_relu
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        number = 0
        for i, layers in enumerate(YOLOV1, start=1):
            for features, kernel, stride in layers:
                number += 1
                name = f"conv{number}"
                x = conv(features, kernel, stride, kernel // 2, dtype=self.dtype, name=name)(x)
                x = stage(self, name, self.act(stage(self, f"{name}_pre_relu", x)))
            if i < len(YOLOV1):
                x = stage(self, f"pool{i}", self.pool(x))
        x = nn.Dense(4096, dtype=self.dtype, name="fc1")(flatten(x))
        x = stage(self, "fc1", self.act(stage(self, "fc1_pre_relu", x)))
        x = nn.Dropout(0.5, deterministic=not train, name="dropout")(x)
        x = nn.Dense(self.grid**2 * self.num_outputs, dtype=self.dtype, name="output")(x)
        return stage(self, "logits", x.reshape(-1, self.grid, self.grid, self.num_outputs))
