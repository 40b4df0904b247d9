"""AlexNet (Krizhevsky et al. 2012) and its successor ZFNet (Zeiler & Fergus 2014).

Fields that the three classes share: `grid` is the height and width of the last map for images of the size that the
network is for. With `dense` the network takes larger images and gives the outputs of every window of that size, at
stride 32 (see ops/dense.py). Across their borders windows then see their neighbours, where the network was
trained on zeros; `padded=False` leaves the zeros out, which shrinks the maps, and then each output is exactly that
of its window alone.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Pool,
    activate,
    adaptive_avg_pool,
    conv,
    fully_connected,
    he_init,
    max_pool,
    stage,
)
from cnnjax.ops.lrn import local_response_norm

# Krizhevsky et al. 2012, section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75.
alexnet_lrn = partial(local_response_norm, radius=2, bias=2.0, alpha=1e-4, beta=0.75)


class AlexNet(nn.Module):
    """AlexNet on 227x227 images: 60,965,224 parameters.

    conv2, conv4 and conv5 see half of the channels each (`groups`), as the two GPUs of 2012 made necessary;
    with groups=1 it has 62,378,344. Normalization comes before pooling, dropout of one half after fc6 and
    fc7.
    """

    num_outputs: int | None = 1000
    features: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    groups: int = 2
    dropout: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    lrn: Activation = alexnet_lrn
    grid: int = 6
    padded: bool = True
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_, pad = partial(conv, dtype=self.dtype), int(self.padded)
        halves = partial(conv_, feature_group_count=self.groups)
        f = self.features
        x = activate(self, "conv1", conv_(f[0], 11, 4, padding=0, name="conv1")(x))
        x = stage(self, "norm1", self.lrn(x))
        x = stage(self, "pool1", self.pool(x, 3, 2))
        x = activate(self, "conv2", halves(f[1], 5, padding=2 * pad, name="conv2")(x))
        x = stage(self, "norm2", self.lrn(x))
        x = stage(self, "pool2", self.pool(x, 3, 2))
        x = activate(self, "conv3", conv_(f[2], 3, padding=pad, name="conv3")(x))
        x = activate(self, "conv4", halves(f[3], 3, padding=pad, name="conv4")(x))
        x = activate(self, "conv5", halves(f[4], 3, padding=pad, name="conv5")(x))
        x = stage(self, "pool5", self.pool(x, 3, 2))
        return classifier(self, x, train)


class AlexNetOneTower(nn.Module):
    """AlexNet in one tower (Krizhevsky 2014, "One weird trick") as torchvision has it: 61,100,840 parameters.

    No normalization; the last map is averaged to 6x6, so that images of any size fit.
    """

    num_outputs: int | None = 1000
    features: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    hidden: int = 4096
    dropout: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    grid: int = 6
    padded: bool = True
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_, pad = partial(conv, dtype=self.dtype), int(self.padded)
        f = self.features
        x = activate(self, "conv1", conv_(f[0], 11, 4, padding=2 * pad, name="conv1")(x))
        x = stage(self, "pool1", self.pool(x, 3, 2))
        x = activate(self, "conv2", conv_(f[1], 5, padding=2 * pad, name="conv2")(x))
        x = stage(self, "pool2", self.pool(x, 3, 2))
        x = activate(self, "conv3", conv_(f[2], 3, padding=pad, name="conv3")(x))
        x = activate(self, "conv4", conv_(f[3], 3, padding=pad, name="conv4")(x))
        x = activate(self, "conv5", conv_(f[4], 3, padding=pad, name="conv5")(x))
        x = stage(self, "pool5", self.pool(x, 3, 2))
        return classifier(self, x if self.dense else adaptive_avg_pool(x, self.grid), train)


class ZFNet(nn.Module):
    """ZFNet on 224x224 images: 62,357,608 parameters.

    Smaller and denser first filters than AlexNet, no groups, and normalization after pooling (section 3.1 and
    figure 3 of the paper). features=(96, 256, 512, 1024, 512) is its wider form, 107,627,624 parameters.
    """

    num_outputs: int | None = 1000
    features: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    dropout: float = 0.5
    act: Activation = nn.relu
    pool: Pool = max_pool
    lrn: Activation = alexnet_lrn
    grid: int = 6
    padded: bool = True
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv_, pad = partial(conv, dtype=self.dtype), int(self.padded)
        f = self.features
        x = activate(self, "conv1", conv_(f[0], 7, 2, padding=pad, name="conv1")(x))
        x = stage(self, "pool1", self.pool(x, 3, 2, pad))
        x = stage(self, "norm1", self.lrn(x))
        x = activate(self, "conv2", conv_(f[1], 5, 2, padding=0, name="conv2")(x))
        x = stage(self, "pool2", self.pool(x, 3, 2, pad))
        x = stage(self, "norm2", self.lrn(x))
        x = activate(self, "conv3", conv_(f[2], 3, padding=pad, name="conv3")(x))
        x = activate(self, "conv4", conv_(f[3], 3, padding=pad, name="conv4")(x))
        x = activate(self, "conv5", conv_(f[4], 3, padding=pad, name="conv5")(x))
        x = stage(self, "pool5", self.pool(x, 3, 2))
        return classifier(self, x, train)


def classifier(net: AlexNet | AlexNetOneTower | ZFNet, x: Array, train: bool) -> Array:
    """fc6, fc7 and the class scores that all three share."""
    if net.num_outputs is None:
        return x
    fc = partial(fully_connected, dense=net.dense, dtype=net.dtype)
    x = activate(net, "fc6", fc(x, net.hidden, window=net.grid, kernel_init=he_init, name="fc6"))
    x = nn.Dropout(net.dropout, deterministic=not train)(x)
    x = activate(net, "fc7", fc(x, net.hidden, kernel_init=he_init, name="fc7"))
    x = nn.Dropout(net.dropout, deterministic=not train)(x)
    return stage(net, "logits", fc(x, net.num_outputs, name="output"))
