"""Networks with DropConnect (Wan et al. 2013): weights, not units, are dropped at random.

The layer follows the authors' description. The sizes of the networks around it are written after secondary
descriptions that could not be checked against the paper.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

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
SAMPLES = 64


class DropConnect(nn.Module):
    """A fully connected layer with its activation. Training draws a mask of the weights for each example.

    Training: act((M * W) x + b), each entry of M one with probability 1 - `rate`; needs the rng "dropout".
    Evaluation: the mean activation over the masks, where the sum of many masked weights is taken as normal,
    N(p W x + b, p (1 - p) (W * W) (x * x)) with p = 1 - rate (section 3.2 of the paper). Instead of random
    samples of it, 64 quantiles are averaged, so that evaluation is deterministic.

    Per-example masks take batch * inputs * features values: keep it to the small layers that it was made for.
    """

    features: int
    rate: float = 0.5
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
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
        mean = keep * (x @ kernel) + bias[None]
        spread = jnp.sqrt(keep * self.rate * (jnp.square(x) @ jnp.square(kernel)))
        quantiles = jax.scipy.special.ndtri((jnp.arange(SAMPLES, dtype=jnp.float32) + 0.5) / SAMPLES).astype(
            self.dtype
        )
        return jnp.mean(self.act(mean[None] + quantiles[:, None, None] * spread[None]), axis=0)


class DropConnectMLP(nn.Module):
    """784-800-800-10 for MNIST, both hidden layers with DropConnect. Stages: fc1, fc2, logits."""

    num_outputs: int | None = 10
    hidden: tuple[int, ...] = (800, 800)
    rate: float = 0.5
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = flatten(x)
        for i, features in enumerate(self.hidden, start=1):
            layer = DropConnect(features, self.rate, self.act, self.dtype, name=f"fc{i}")
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
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, features in enumerate(self.features, start=1):
            x = activate(self, f"conv{i}", conv(features, 5, dtype=self.dtype, name=f"conv{i}")(x))
            x = stage(self, f"pool{i}", self.pool(x))
        layer = DropConnect(self.hidden, self.rate, self.act, self.dtype, name="fc1")
        x = stage(self, "fc1", layer(flatten(x), train))
        return class_scores(self, x)


class DropConnectLocal(nn.Module):
    """Two convolutions, two locally connected layers and one DropConnect layer, for 24x24 crops of CIFAR-10.

    The extractor is cuda-convnet's "layers-conv-local-11pct"; 128 DropConnect units follow it (512 for SVHN).
    Stages: conv1, pool1, norm1, conv2, norm2, pool2, local3, local4, fc1, logits.
    """

    num_outputs: int | None = 10
    features: tuple[int, int, int, int] = (64, 64, 64, 32)
    hidden: int = 128
    rate: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    lrn: Activation = cuda_convnet_lrn
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        local = partial(
            nn.ConvLocal, kernel_size=(3, 3), padding="SAME", kernel_init=he_init, dtype=self.dtype
        )
        f = self.features
        x = activate(self, "conv1", conv(f[0], 5, dtype=self.dtype, name="conv1")(x))
        x = stage(self, "pool1", self.pool(x, 3, 2, "SAME"))
        x = stage(self, "norm1", self.lrn(x))
        x = activate(self, "conv2", conv(f[1], 5, dtype=self.dtype, name="conv2")(x))
        x = stage(self, "norm2", self.lrn(x))
        x = stage(self, "pool2", self.pool(x, 3, 2, "SAME"))
        x = activate(self, "local3", local(f[2], name="local3")(x))
        x = activate(self, "local4", local(f[3], name="local4")(x))
        layer = DropConnect(self.hidden, self.rate, self.act, self.dtype, name="fc1")
        x = stage(self, "fc1", layer(flatten(x), train))
        return class_scores(self, x)
