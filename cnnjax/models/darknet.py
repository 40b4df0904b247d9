"""Darknet-53 and the detectors on it: YOLOv3, YOLOv3-SPP and YOLOv3-tiny (Redmon & Farhadi 2018).

The detectors return one map for each of their scales, [N, rows, columns, A (5 + C)], coarsest first.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnjax.detection.multiscale import Head
from cnnjax.models.grid import leaky_relu
from cnnjax.models.layers import (
    Activation,
    BatchNorm,
    Norm,
    Padding,
    class_scores,
    conv,
    global_avg_pool,
    max_pool,
    stage,
)
from cnnjax.ops import normalization

# (width, height) in pixels of the image that enters the network
COCO_ANCHORS = (
    (10, 13),
    (16, 30),
    (33, 23),
    (30, 61),
    (62, 45),
    (59, 119),
    (116, 90),
    (156, 198),
    (373, 326),
)
TINY_ANCHORS = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))


def _same(x: Array) -> Array:
    return x


class DarknetNorm(BatchNorm):
    """Batch normalization as darknet has it: the variance of a batch is the unbiased one, for the running statistics
    and in training itself, and the statistics keep a share of 0.99.

    Its CUDA code, with which the published weights were trained, divides by sqrt(var + 1e-5); its CPU code by
    sqrt(var) + 1e-6: with `cpu_form`, so do predictions here.
    """

    momentum: float = 0.99
    cpu_form: bool = False

    @nn.compact
    def __call__(self, x: Array, act: Activation | None = None) -> Array:
        act = act or _same
        shape = x.shape[-1:]
        bias = self.param("bias", nn.initializers.zeros, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        wide = x.astype(jnp.float32)
        if self.use_running_average:
            inverse = lax.rsqrt(var.value + self.epsilon)
            if self.cpu_form:
                inverse = 1 / (jnp.sqrt(var.value) + 1e-6)
            return act(normalization.normalize(wide, mean.value, inverse * scale, bias).astype(x.dtype))
        # sqrt(unbiased + epsilon) = sqrt(biased + epsilon / more) * sqrt(more)
        count = x.size // x.shape[-1]
        more = count / max(1, count - 1)
        y, batch_mean, batch_var = normalization.batch_norm(
            wide, scale * more**-0.5, bias, self.epsilon / more
        )
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            var.value = self.momentum * var.value + (1 - self.momentum) * batch_var * more
        return act(y.astype(x.dtype))


def darknet_norm(train: bool, **kwargs: Any) -> nn.Module:
    """Normalization of darknet's CUDA code; the other form: `partial(darknet_norm, cpu_form=True)`."""
    return DarknetNorm(use_running_average=not train, **kwargs)


class DarknetConv(nn.Module):
    """darknet's convolutional layer: convolution, batch norm or a bias, activation. Pads both sides equally."""

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    norm: Norm | None = darknet_norm
    act: Activation = leaky_relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        padding = self.kernel // 2 if self.padding is None else self.padding
        more = {"feature_group_count": self.groups, "use_bias": self.norm is None, "dtype": self.dtype}
        x = conv(self.features, self.kernel, self.stride, padding, **more, name="conv")(x)
        return self.act(x if self.norm is None else self.norm(train, dtype=self.dtype, name="norm")(x))


def darknet_max_pool(x: Array, window: int, stride: int, padding: int | None = None) -> Array:
    """darknet's max pool: `padding`, window - 1 by default, is how much -inf there is in all, of which the smaller half
    comes first. So a window of 2 with stride 1 keeps the size by a row at the bottom and a column at the right."""
    padding = window - 1 if padding is None else padding

    def ends(size: int) -> tuple[int, int]:
        count = (size + padding - window) // stride + 1
        low = padding // 2
        return low, max(0, (count - 1) * stride + window - low - size)

    pads: Padding = (ends(x.shape[1]), ends(x.shape[2]))
    return max_pool(x, window, stride, pads)


def upsample(x: Array, factor: int = 2) -> Array:
    """[N, H, W, C] -> [N, factor H, factor W, C]: every pixel repeated."""
    n, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (n, height, factor, width, factor, channels))
    return wide.reshape(n, height * factor, width * factor, channels)


class Darknet53(nn.Module):
    """The classifier of YOLOv3's paper, table 1: 41,609,928 parameters with 1,000 classes.

    Stages: conv1; down1, block1_1; down2, block2_1, block2_2; ... down5, block5_1 to block5_4, at strides 2 to 32;
    pooled, logits.
    """

    num_outputs: int | None = 1000
    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 8, 8, 4)
    norm: Norm = darknet_norm
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = _darknet53(self, x, train)[-1]
        if self.num_outputs is None:
            return x
        return class_scores(self, stage(self, "pooled", global_avg_pool(x)))


class YoloV3(nn.Module):
    """YOLOv3: boxes at strides 32, 16 and 8 on the trunk of Darknet-53. 61,949,149 parameters with 80 classes.

    With `spp` max pools of 5, 9 and 13 pixels stand in the coarsest head (He et al. 2015): 62,998,749. `width` and
    `blocks` are those of the trunk. Stages: those of the trunk; neck1_1 to neck1_6, logits1 (stride 32); lateral2,
    concat2, neck2_1 to neck2_6, logits2; and so for 3.
    """

    num_outputs: int = 255
    spp: bool = False
    width: int = 32
    blocks: tuple[int, ...] = (1, 2, 8, 8, 4)
    anchors: tuple[tuple[float, float], ...] = COCO_ANCHORS
    norm: Norm = darknet_norm
    dtype: jnp.dtype = jnp.float32

    @property
    def heads(self) -> tuple[Head, ...]:
        return heads_of(len(self.anchors), 3)

    @property
    def num_classes(self) -> int:
        return self.num_outputs // len(self.heads[0].mask) - 5

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, ...]:
        layer = partial(DarknetConv, norm=self.norm, dtype=self.dtype)
        ends = _darknet53(self, x, train)
        outputs, x = [], ends[-1]
        for i, end in enumerate(ends[:1:-1], start=1):
            features = self.width * 2 ** (5 - i)
            if i > 1:
                lateral = layer(features, 1, name=f"lateral{i}")(x, train)
                lateral = stage(self, f"lateral{i}", lateral)
                x = stage(self, f"concat{i}", jnp.concatenate([upsample(lateral), end], axis=-1))
            pooled = self.spp and i == 1
            for j in range(1, 6):
                if pooled and j == 4:
                    pools = [darknet_max_pool(x, window, 1) for window in (13, 9, 5)]
                    x = stage(self, "spp", jnp.concatenate([*pools, x], axis=-1))
                    x = stage(self, "spp_conv", layer(features, 1, name="spp_conv")(x, train))
                name = f"neck{i}_{j}"
                x = layer(features * (2 - j % 2), 1 + 2 * (1 - j % 2), name=name)(x, train)
                x = stage(self, name, x)
            wide = stage(self, f"neck{i}_6", layer(features * 2, name=f"neck{i}_6")(x, train))
            outputs.append(stage(self, f"logits{i}", _output(self, f"output{i}", wide, train)))
        return tuple(outputs)


class YoloV3Tiny(nn.Module):
    """YOLOv3-tiny: seven convolutions with pools between, boxes at strides 32 and 16; 8,852,366 parameters with 80
    classes. Stages: conv1, pool1, ..., conv7; neck1_1, neck1_2, logits1; lateral2, concat2, neck2_1, logits2."""

    num_outputs: int = 255
    width: int = 16
    anchors: tuple[tuple[float, float], ...] = TINY_ANCHORS
    norm: Norm = darknet_norm
    dtype: jnp.dtype = jnp.float32

    @property
    def heads(self) -> tuple[Head, ...]:
        return heads_of(len(self.anchors), 2)

    @property
    def num_classes(self) -> int:
        return self.num_outputs // len(self.heads[0].mask) - 5

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, ...]:
        layer = partial(DarknetConv, norm=self.norm, dtype=self.dtype)
        fine = x
        for i in range(1, 8):
            x = stage(self, f"conv{i}", layer(self.width * 2 ** (i - 1), name=f"conv{i}")(x, train))
            if i == 5:
                fine = x
            if i < 7:
                x = stage(self, f"pool{i}", darknet_max_pool(x, 2, 2 if i < 6 else 1))
        narrow = stage(self, "neck1_1", layer(self.width * 16, 1, name="neck1_1")(x, train))
        x = stage(self, "neck1_2", layer(self.width * 32, name="neck1_2")(narrow, train))
        coarse = stage(self, "logits1", _output(self, "output1", x, train))
        lateral = stage(self, "lateral2", layer(self.width * 8, 1, name="lateral2")(narrow, train))
        x = stage(self, "concat2", jnp.concatenate([upsample(lateral), fine], axis=-1))
        x = stage(self, "neck2_1", layer(self.width * 16, name="neck2_1")(x, train))
        return coarse, stage(self, "logits2", _output(self, "output2", x, train))


def _darknet53(module: Darknet53 | YoloV3, x: Array, train: bool) -> list[Array]:
    """The layers of Darknet-53 inside of a module; what its blocks end with, at strides 2 to 32."""
    layer = partial(DarknetConv, norm=module.norm, dtype=module.dtype)
    x = stage(module, "conv1", layer(module.width, name="conv1")(x, train))
    ends = []
    for i, blocks in enumerate(module.blocks, start=1):
        features = module.width * 2**i
        x = stage(module, f"down{i}", layer(features, stride=2, name=f"down{i}")(x, train))
        for j in range(1, blocks + 1):
            name = f"block{i}_{j}"
            inner = layer(features // 2, 1, name=f"{name}_a")(x, train)
            x = stage(module, name, x + layer(features, name=f"{name}_b")(inner, train))
        ends.append(x)
    return ends


def heads_of(num_anchors: int, scales: int) -> tuple[Head, ...]:
    """Anchors, smallest first, divided over scales, coarsest first."""
    each = num_anchors // scales
    ends = range(num_anchors, 0, -each)
    return tuple(Head(tuple(range(end - each, end))) for end in ends)


def layers_in_order(model: nn.Module, image_shape: tuple[int, ...]) -> list[tuple[str, ...]]:
    """Where the variables of darknet's convolutional and connected layers are, in the order in which a network of this
    module on images [H, W, C] computes them, which is the order of darknet's files."""
    found: list[tuple[str, ...]] = []

    def note(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, DarknetConv | nn.Dense) and context.method_name == "__call__":
            found.append(context.module.path)
        return next_function(*args, **kwargs)

    def run(x: Array) -> Any:
        with nn.intercept_methods(note):
            return model.init(jax.random.key(0), x)

    jax.eval_shape(run, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return found


def _output(module: YoloV3 | YoloV3Tiny, name: str, x: Array, train: bool) -> Array:
    layer = DarknetConv(module.num_outputs, 1, norm=None, act=_linear, dtype=module.dtype, name=name)
    return layer(x, train)


def _linear(x: Array) -> Array:
    return x
