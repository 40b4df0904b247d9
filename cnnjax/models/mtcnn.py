"""The three networks of MT-CNN (Zhang et al. 2016), which find faces and five points of each from coarse to fine.

Layers have the names, and the order of their weights, of the released networks, which come from MATLAB: a map is
flattened by columns before the first fully connected layer.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import ceil_padding, conv, flatten, max_pool, stage


class PReLU(nn.Module):
    """max(x, 0) + alpha min(x, 0), with an alpha for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        alpha = self.param("alpha", nn.initializers.constant(0.25), (x.shape[-1],))
        slope = alpha.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


class PNet(nn.Module):
    """[N, H, W, 3] -> [N, (H - 1) // 2 - 4, (W - 1) // 2 - 4, 6]: of each window of 12x12, every two pixels, the
    logits of "no face" and "face" and the corrections of its box. 6,632 parameters.

    With `sizes` [N, 2], the images fill only so many rows and columns of their frames from the top left; the outputs
    of windows inside are those of the images alone.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False, sizes: Array | None = None) -> Array:
        x = _conv(self, "1", x, 10)
        if sizes is not None:  # an incomplete pool at the end of an image sees nothing beyond it
            x = jnp.where(_inside(x.shape[1], x.shape[2], sizes - 2), x, -jnp.inf)
        x = _pool(self, "1", x, 2)
        if sizes is not None:
            x = jnp.where(jnp.isfinite(x), x, jnp.zeros((), x.dtype))
        x = _conv(self, "3", _conv(self, "2", x, 16), 32)
        heads = [conv(n, 1, dtype=self.dtype, name=f"conv4_{i}")(x) for i, n in ((1, 2), (2, 4))]
        return stage(self, "output", jnp.concatenate(heads, axis=-1))


class RNet(nn.Module):
    """[N, 24, 24, 3] -> [N, 6]: logits of "no face" and "face", corrections of the box. 100,178 parameters."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = _pool(self, "1", _conv(self, "1", x, 28), 3)
        x = _pool(self, "2", _conv(self, "2", x, 48), 3)
        x = _dense(self, "4", _by_columns(_conv(self, "3", x, 64, 2)), 128)
        return _heads(self, "5", x, (2, 4))


class ONet(nn.Module):
    """[N, 48, 48, 3] -> [N, 16]: as R-Net, then x of five points (eyes, nose, corners of the mouth), then their y, as
    shares of the box. 389,040 parameters."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = _pool(self, "1", _conv(self, "1", x, 32), 3)
        x = _pool(self, "2", _conv(self, "2", x, 64), 3)
        x = _pool(self, "3", _conv(self, "3", x, 64), 2)
        x = _dense(self, "5", _by_columns(_conv(self, "4", x, 128, 2)), 256)
        return _heads(self, "6", x, (2, 4, 10))


def _conv(net: nn.Module, number: str, x: Array, features: int, kernel: int = 3) -> Array:
    layer = conv(features, kernel, padding=0, dtype=net.dtype, name=f"conv{number}")
    return stage(net, f"act{number}", PReLU(name=f"prelu{number}")(layer(x)))


def _dense(net: nn.Module, number: str, x: Array, features: int) -> Array:
    layer = nn.Dense(features, dtype=net.dtype, name=f"dense{number}")
    return stage(net, f"act{number}", PReLU(name=f"prelu{number}")(layer(x)))


def _heads(net: nn.Module, number: str, x: Array, sizes: tuple[int, ...]) -> Array:
    layers = [nn.Dense(n, dtype=net.dtype, name=f"dense{number}_{i}") for i, n in enumerate(sizes, start=1)]
    return stage(net, "output", jnp.concatenate([layer(x) for layer in layers], axis=-1))


def _pool(net: nn.Module, number: str, x: Array, window: int) -> Array:
    return stage(net, f"pool{number}", max_pool(x, window, 2, ceil_padding(x, window, 2)))


def _by_columns(x: Array) -> Array:
    return flatten(x.transpose(0, 2, 1, 3))


def _inside(height: int, width: int, sizes: Array) -> Array:
    """[N, height, width, 1]: whether a place is one of the first sizes[n] rows and columns."""
    rows = jnp.arange(height).reshape(1, -1, 1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(width).reshape(1, 1, -1, 1) < sizes[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns
