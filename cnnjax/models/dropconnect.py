"""Networks with DropConnect (Wan et al. 2013): weights, not units, are dropped at random.

The layer follows the authors' description. The sizes of the networks around it are written after secondary
descriptions that could not be checked against the paper.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    class_scores,
    conv,
    flatten,
    he_init,
    max_pool,
    stage,
)
from cnnjax.ops.lrn import local_response_norm

# cuda-convnet's "layers-conv-local-11pct": size 9, alpha 0.001 (divided by the size), beta 0.75.
cuda_convnet_lrn = partial(local_response_norm, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)
# Quantiles of the standard normal distribution: as many equally likely samples.
QUANTILES = 64
MASKS = 256  # of inference "masks"
INFERENCE = ("gaussian", "masks", "weights")


class DropConnect(nn.Module):
    """A fully connected layer with its activation. Training draws a mask of the weights for each example.

    Training: act((M * W) x + b), each entry of M one with probability p = 1 - `rate`; needs the rng "dropout".
    Evaluation, which draws nothing at random, is as `inference` says:

    - "gaussian": the mean activation over the masks, where the sum of many masked weights is taken as normal,
      N(p W x + b, p (1 - p) (W * W) (x * x)) (section 3.2 of the paper). Instead of random samples of it 64 quantiles
      are averaged.
    - "masks": the mean activation over 256 masks, always the same ones, which all examples share. What "gaussian"
      approximates, at 256 times the price of a layer.
    - "weights": act(p W x + b), as dropout does it; wrong by as much as the activation is not linear.

    Per-example masks take batch * inputs * features values: keep it to the small layers that it was made for.
    """

    features: int
    rate: float = 0.5
    act: Activation = nn.relu
    inference: str = "gaussian"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        if self.inference not in INFERENCE:
            raise ConfigError(f"inference={self.inference!r}: choose one of {', '.join(INFERENCE)}")
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", he_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(
            self.dtype
        )
        x, keep = x.astype(self.dtype), 1 - self.rate
        if train:
            mask = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0], *shape))
            masked = jnp.where(mask, kernel[None], 0)
            return self.act(jnp.einsum("ni,nio->no", x, masked) + bias[None])
        if self.inference == "masks":
            return self._over_masks(x, kernel, bias)
        mean = keep * (x @ kernel) + bias[None]
        if self.inference == "weights":
            return self.act(mean)
        spread = jnp.sqrt(keep * self.rate * (jnp.square(x) @ jnp.square(kernel)))
        quantiles = jax.scipy.special.ndtri(
            (jnp.arange(QUANTILES, dtype=jnp.float32) + 0.5) / QUANTILES
        ).astype(self.dtype)
        return jnp.mean(self.act(mean[None] + quantiles[:, None, None] * spread[None]), axis=0)

    def _over_masks(self, x: Array, kernel: Array, bias: Array) -> Array:
        def add(total: Array, key: Array) -> tuple[Array, None]:
            mask = jax.random.bernoulli(key, 1 - self.rate, kernel.shape)
            return total + self.act(x @ jnp.where(mask, kernel, 0) + bias[None]), None

        zero = jnp.zeros((x.shape[0], self.features), self.dtype)
        return jax.lax.scan(add, zero, jax.random.split(jax.random.key(0), MASKS))[0] / MASKS


class DropConnectMLP(nn.Module):
    """784-800-800-10 for MNIST, both hidden layers with DropConnect. Stages: fc1, fc2, logits."""

    num_outputs: int | None = 10
    hidden: tuple[int, ...] = (800, 800)
    rate: float = 0.5
    act: Activation = nn.relu
    inference: str = "gaussian"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = flatten(x)
        for i, features in enumerate(self.hidden, start=1):
            layer = DropConnect(features, self.rate, self.act, self.inference, self.dtype, name=f"fc{i}")
            x = stage(self, f"fc{i}", layer(x, train))
        return class_scores(self, x)


class DropConnectCNN(nn.Module):
    """Two 5x5 convolutions with pools and one DropConnect layer: for MNIST 32 and 64 maps and 150 units.

    Stages: conv1, pool1, conv2, pool2, fc1, logits.
    """

    num_outputs: int | None = 10
    features: tuple[int, int] = (32, 64)
    hidden: int = 150
    rate: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    inference: str = "gaussian"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, features in enumerate(self.features, start=1):
            x = activate(self, f"conv{i}", conv(features, 5, dtype=self.dtype, name=f"conv{i}")(x))
            x = stage(self, f"pool{i}", self.pool(x))
        layer = DropConnect(self.hidden, self.rate, self.act, self.inference, self.dtype, name="fc1")
        x = stage(self, "fc1", layer(flatten(x), train))
        return class_scores(self, x)


class DropConnectLocal(nn.Module):
    """Two convolutions, two locally connected layers and one DropConnect layer, for 24x24 crops of CIFAR-10.

    The extractor is cuda-convnet's "layers-conv-local-11pct"; 128 DropConnect units follow it (512 for SVHN).
    It looks at the central square of `window` pixels, 0: at all. Of 32x32 images that are shifted by up to 4 pixels
    (augment.crop) a window of 24 is a random crop, as the authors have it. Stages: conv1, pool1, norm1, conv2, norm2,
    pool2, local3, local4, fc1, logits.
    """

    num_outputs: int | None = 10
    features: tuple[int, int, int, int] = (64, 64, 64, 32)
    hidden: int = 128
    rate: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    lrn: Activation = cuda_convnet_lrn
    window: int = 0
    inference: str = "gaussian"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        local = partial(
            nn.ConvLocal, kernel_size=(3, 3), padding="SAME", kernel_init=he_init, dtype=self.dtype
        )
        f = self.features
        x = _centre(x, self.window) if self.window else x
        x = activate(self, "conv1", conv(f[0], 5, dtype=self.dtype, name="conv1")(x))
        x = stage(self, "pool1", self.pool(x, 3, 2, "SAME"))
        x = stage(self, "norm1", self.lrn(x))
        x = activate(self, "conv2", conv(f[1], 5, dtype=self.dtype, name="conv2")(x))
        x = stage(self, "norm2", self.lrn(x))
        x = stage(self, "pool2", self.pool(x, 3, 2, "SAME"))
        x = activate(self, "local3", local(f[2], name="local3")(x))
        x = activate(self, "local4", local(f[3], name="local4")(x))
        layer = DropConnect(self.hidden, self.rate, self.act, self.inference, self.dtype, name="fc1")
        x = stage(self, "fc1", layer(flatten(x), train))
        return class_scores(self, x)


def _centre(x: Array, side: int) -> Array:
    """The central square of images [N, H, W, C]. Raises ConfigError if they are smaller."""
    margins = [(length - side) // 2 for length in x.shape[1:3]]
    if min(margins) < 0:
        raise ConfigError(f"window={side} is larger than images of {x.shape[1]}x{x.shape[2]}")
    return x[:, margins[0] : margins[0] + side, margins[1] : margins[1] + side]
