"""What every model shares: named stages, normalization and pooling as the papers and torch define them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

Activation = Callable[[Array], Array]
Pool = Callable[..., Array]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


def stage(module: nn.Module, name: str, x: Array) -> Array:
    """Gives `x` the name under which the paper, and so the user, knows it; returns `x`.

    The value is stored in the collection "stages" when the caller makes that mutable, and costs nothing
    otherwise. If the variables hold a collection "perturbations" with this name, its value is added: the
    gradient with respect to a zero perturbation is the gradient with respect to this stage.

    A submodule with stages of its own must not have the same name as a stage of its parent.
    """
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name)
    if module.is_mutable_collection("stages") and not module.is_initializing():
        module.put_variable("stages", name, x)
    return x


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: Padding = 0) -> Array:
    """Max pooling, NHWC. `padding` counts pixels on each side (filled with -inf), or is "SAME"/"VALID"."""
    stride = stride or window
    return nn.max_pool(x, (window, window), (stride, stride), _pairs(padding))


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: Padding = 0) -> Array:
    """Average pooling, NHWC; padded zeros count, as in torch's default."""
    stride = stride or window
    return nn.avg_pool(x, (window, window), (stride, stride), _pairs(padding))


def global_avg_pool(x: Array) -> Array:
    """[N, H, W, C] -> [N, C]."""
    return jnp.mean(x, axis=(1, 2))


def flatten(x: Array) -> Array:
    """[N, ...] -> [N, features], in height, width, channel order."""
    return x.reshape(x.shape[0], -1)


def fully_connected(x: Array, features: int, *, dense: bool, window: int = 1, **kwargs: Any) -> Array:
    """A fully connected layer over the whole of `x`; with `dense`, the same layer as a convolution.

    [N, H, W, C] or [N, C] -> [N, features]. Dense, [N, H, W, C] -> [N, H - window + 1, W - window + 1, features]:
    each output sees window x window positions, the size of the map on which the layer was trained. The weights
    have the same names and, in height, width, channel order, the same values: see ops/dense.py.
    """
    if dense:
        return nn.Conv(features, (window, window), padding="VALID", **kwargs)(x)
    return nn.Dense(features, **kwargs)(flatten(x))


def conv(
    features: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    padding: Padding = "SAME",
    **kwargs: Any,
) -> nn.Conv:
    """A convolution, NHWC. An int `padding` pads both sides equally as torch does.

    "SAME" with stride 2 pads one side more than the other, which torch does not: give a number there.
    """
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv(features, size, strides=(stride, stride), padding=_pairs(padding), **kwargs)


def batch_norm(train: bool, **kwargs: Any) -> nn.BatchNorm:
    """Batch normalization with torch's defaults: epsilon 1e-5, running statistics keep a share of 0.9."""
    return nn.BatchNorm(use_running_average=not train, **{"momentum": 0.9, "epsilon": 1e-5, **kwargs})


def _pairs(padding: Padding) -> str | tuple[tuple[int, int], tuple[int, int]]:
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
