"""The networks of the CIFAR-10 speed runs (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498)."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    activate,
    batch_norm,
    conv,
    is_watched,
    max_pool,
    normalize_and_activate,
    stage,
)
from cnnjax.ops.convolution import conv_general_dilated, sum_of_taps
from cnnjax.ops.materialize import materialize
from cnnjax.ops.recompute import computed_again

gelu = partial(nn.gelu, approximate=False)


def uniform_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, bound: float = 0.0) -> Array:
    """Evenly from -bound to bound; by default within 1 / sqrt(fan in), as torch does."""
    bound = bound or math.prod(shape[:-1]) ** -0.5
    # Drawn flat: XLA's CPU compiler needs seconds for a draw of four axes.
    return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)


# Standard deviation 1.
unit_init = partial(uniform_init, bound=3**0.5)


def dirac_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A kernel [H, W, I, O] whose first I filters pass their channel on; the others are uniform."""
    row, column, channel, output = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(4))
    passing = (row == shape[0] // 2) & (column == shape[1] // 2) & (channel == output)
    return jnp.where(output < shape[2], passing.astype(dtype), uniform_init(key, shape, dtype))


class Whitening(nn.Module):
    """A 2x2 convolution to 24 channels whose kernel comes from the data (`whiten`), not from gradients.

    The kernel lives in "batch_stats", since it is a statistic of the images; only the bias is learned. It begins as
    a convolution's does in torch, evenly within 1 / sqrt(fan in) (`uniform_bias`), or at 0.
    """

    uniform_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, act: Activation | None = None) -> Array:
        """With `act` what that makes of it, which costs a GPU least as one operation."""
        channels = x.shape[-1]
        shape = (2, 2, channels, 8 * channels)
        kernel = self.variable("batch_stats", "kernel", lambda: uniform_init(self.make_rng("params"), shape))
        bound = math.prod(shape[:-1]) ** -0.5
        begin = partial(uniform_init, bound=bound) if self.uniform_bias else nn.initializers.zeros
        bias = self.param("bias", begin, shape[-1:])

        def whitened(convolve: Callable[[Array, Array], Array], *args: Array) -> Array:
            x, kernel, bias = (a.astype(self.dtype) for a in args)
            y = convolve(x, kernel) + bias[None, None, None]
            return act(y) if act else y

        general = partial(
            conv_general_dilated,
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        form = computed_again(partial(whitened, general), on_gpu=partial(whitened, sum_of_taps))
        return form(x.astype(self.dtype), kernel.value, bias)


class AirbenchBlock(nn.Module):
    """A convolution that widens, 2x2 max pooling, and one more convolution, or two with a shortcut over them."""

    features: int
    convs: int
    act: Activation
    norm: Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_ = partial(conv, self.features, 3, use_bias=False, kernel_init=dirac_init, dtype=self.dtype)
        x = stage(self, "pool", max_pool(conv_(name="conv1")(x)))
        x = normalize_and_activate(self, "act1", self.norm(train, name="bn1"), x)
        y = normalize_and_activate(self, "act2", self.norm(train, name="bn2"), conv_(name="conv2")(x))
        if self.convs == 2:
            return y
        y = x + self.norm(train, name="bn3")(conv_(name="conv3")(y))
        return activate(self, "act3", y)


class Airbench(nn.Module):
    """The network of airbench94: 8 layers, 1,971,352 learned parameters, 236 MFLOP per image.

    With `convs` 3 and wider blocks it is airbench96's. Takes normalized 32x32x3 images; call `whiten` on fresh
    variables before training. Stages: whiten, stage1 to stage3, max_pool, logits, and inside the blocks pool,
    act1, act2 (block1/pool). Normalization has a bias and no scale. The whitening's bias begins evenly within
    1 / sqrt(12), as in airbench94_muon, or at 0, as in airbench95 and 96 (`uniform_bias`). The head begins with a
    deviation of 1 and its outputs are divided by the number of its inputs; or, with `logit_scale`, as torch's layers do
    and they are multiplied by that, as in airbench95 and 96.
    """

    num_outputs: int | None = 10
    widths: tuple[int, int, int] = (64, 256, 256)
    convs: int = 2
    bn_momentum: float = 0.6
    uniform_bias: bool = True
    logit_scale: float = 0.0
    act: Activation = gelu
    norm: Norm = batch_norm
    dtype: jnp.dtype = jnp.float32

    def initialize_from(self, variables: Mapping[str, Any], images: Array) -> dict[str, Any]:
        """The initial variables as the first training images [N, H, W, C], normalized, determine them."""
        return whiten(variables, images)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = partial(self.norm, momentum=self.bn_momentum, epsilon=1e-12, use_scale=False)
        whitening = Whitening(self.uniform_bias, self.dtype, name="whitening")
        if is_watched(self, "whiten"):
            x = activate(self, "whiten", whitening(x))
        else:
            x = stage(self, "whiten", materialize(whitening(x, self.act)))
        for i, features in enumerate(self.widths, start=1):
            block = AirbenchBlock(features, self.convs, self.act, norm, self.dtype, name=f"block{i}")
            x = stage(self, f"stage{i}", block(x, train))
        x = stage(self, "max_pool", jnp.max(x, axis=(1, 2)))
        if self.num_outputs is None:
            return x
        init = uniform_init if self.logit_scale else unit_init
        head = nn.Dense(self.num_outputs, use_bias=False, kernel_init=init, dtype=self.dtype, name="output")
        return stage(self, "logits", head(x) * (self.logit_scale or 1 / x.shape[-1]))


def whiten(variables: Mapping[str, Any], images: Array, epsilon: float = 5e-4) -> dict[str, Any]:
    """The variables with the whitening kernel of `images` [N, H, W, C], normalized as the model gets them.

    Filters are the eigenvectors of the (uncentred) covariance of 2x2 patches, each divided by
    sqrt(eigenvalue + epsilon), strongest first, and their negatives: every patch component has variance about
    1. A few thousand images are enough (airbench: 5000).
    """
    channels = images.shape[-1]
    corners = [
        images[:, i : images.shape[1] - 1 + i, j : images.shape[2] - 1 + j] for i in (0, 1) for j in (0, 1)
    ]
    patches = jnp.concatenate(corners, axis=-1).reshape(-1, 4 * channels).astype(jnp.float32)
    covariance = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    eigenvalues, eigenvectors = jnp.linalg.eigh(covariance)
    filters = eigenvectors[:, ::-1] / jnp.sqrt(eigenvalues[::-1] + epsilon)[None]
    kernel = jnp.concatenate([filters, -filters], axis=1).reshape(2, 2, channels, 8 * channels)
    stats = variables["batch_stats"]
    return {**variables, "batch_stats": {**stats, "whitening": {**stats["whitening"], "kernel": kernel}}}
