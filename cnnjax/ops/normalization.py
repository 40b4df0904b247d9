"""Batch normalization as plain array operations, with few passes over memory in both directions."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_LANES = 4  # parts of the height that are added first
_BLOCKS = 128  # of places whose sums are taken apart

Terms = Callable[..., tuple[Array, ...]]


def channel_sums(terms: Terms, *arrays: Array) -> tuple[Array, Array]:
    """Sums over all axes but the last of both of `terms(*arrays)`, elementwise in arrays [N, ..., C]: each [C].

    Compiled for a CPU in a form of its own, three to five times as fast: XLA:CPU makes slow windowed reductions of a
    long sum, and stores what is summed when it is a product. For a GPU the two are one complex sum: of two, XLA stores
    what both are computed from as soon as that is more than a few operations, and finishes each in a kernel, and
    between devices in an exchange, of its own.
    """
    return lax.platform_dependent(
        *arrays,
        cpu=functools.partial(_sums_by_products, terms),
        tpu=functools.partial(_sums, terms),
        default=functools.partial(_complex_sum, terms),
    )


def _sums(terms: Terms, *arrays: Array) -> tuple[Array, Array]:
    first, second = (jnp.sum(x, axis=tuple(range(x.ndim - 1))) for x in terms(*arrays))
    return first, second


def _complex_sum(terms: Terms, *arrays: Array) -> tuple[Array, Array]:
    pairs = lax.complex(*terms(*arrays))
    total = jnp.sum(pairs, axis=tuple(range(pairs.ndim - 1)))
    return total.real, total.imag


def _sums_by_products(terms: Terms, *arrays: Array) -> tuple[Array, Array]:
    """Parts of the height are added, in one vectorized loop that stores no term; a product with ones does the rest.

    Not parts of the batch, which devices share. The product is over [places, C]: in [N, the rest] the loop would have
    to divide to find its channel. It is taken in blocks, for one would add all places one after another, with their
    rounding errors.
    """
    channels = arrays[0].shape[-1]
    height = arrays[0].shape[1] if arrays[0].ndim > 2 else 1
    parts = math.gcd(height, _LANES)
    if parts == 1:
        pieces = [terms(*arrays)]
    else:
        strips = zip(*(jnp.split(x, parts, axis=1) for x in arrays), strict=True)
        pieces = [terms(*strip) for strip in strips]
    sums = []
    for term in zip(*pieces, strict=True):
        rows = functools.reduce(jnp.add, term).reshape(-1, channels)
        blocks = rows.reshape(math.gcd(rows.shape[0], _BLOCKS), -1, channels)
        ones = jnp.ones(blocks.shape[:2], rows.dtype)
        by_block = lax.dot_general(ones, blocks, (((1,), (1,)), ((0,), (0,))), precision="highest")
        sums.append(jnp.sum(by_block, axis=0))
    return sums[0], sums[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalizes x [N, ..., C] by the statistics of this batch (Ioffe & Szegedy 2015, algorithm 1).

    Mean and (biased) variance come from one pass over x - s, where s is one of its places: as E[(x - s)^2] -
    E[x - s]^2, which keeps its digits where the mean is far above the deviation.

    Returns:
      scale * (x - mean) / sqrt(var + epsilon) + bias, and mean and var, both [C], in the precision of scale, in which
      all is computed. The latter are for running statistics: no gradient flows through them.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple:
    mean, var = _moments(x, scale.dtype)
    rstd = lax.rsqrt(var + epsilon)
    y = normalize(x.astype(scale.dtype), mean, rstd * scale, bias)
    return (y, mean, var), (x, scale, mean, rstd)


def _backward(epsilon: float, saved: tuple, gradients: tuple) -> tuple[Array, Array, Array]:
    x, scale, mean, rstd = saved
    wide, dy = x.astype(scale.dtype), gradients[0]
    sums = channel_sums(lambda dy, x: (dy, dy * _minus(x, mean)), dy, wide)
    dx, dscale, dbias = _input_gradient(wide, dy, scale, mean, rstd, *sums)
    return dx.astype(x.dtype), dscale, dbias


batch_norm.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def activated_batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, act: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """`act(batch_norm(x))`, elementwise and in the precision of x, and mean and var, float32.

    Compiled for accelerators its gradient reads nothing but x and the gradient of what came out, once for the sums and
    once for the input's: what costs more than to read it twice, such as the GELU of a convolution's output, is computed
    anew. On CPUs, where arithmetic is what costs, the derivative of `act` is kept.
    """
    return _activated_forward(x, scale, bias, epsilon, act)[0]


def _activated_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, act: Callable[[Array], Array]
) -> tuple:
    mean, var = _moments(x, scale.dtype)
    rstd = lax.rsqrt(var + epsilon)
    wide = normalize(x.astype(scale.dtype), mean, rstd * scale, bias)
    y, pull_back = jax.vjp(act, wide.astype(x.dtype))
    # Not the bias itself, which may be overwritten before the gradient's last pass: XLA would copy it.
    offset = bias - mean * rstd * scale
    return (y, mean, var), (x, scale, mean, rstd, offset, pull_back)


def _activated_backward(
    epsilon: float, act: Callable[[Array], Array], saved: tuple, gradients: tuple
) -> tuple[Array, Array, Array]:
    x, scale, mean, rstd, offset, pull_back = saved

    def of_input(x: Array, dy: Array, sums: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        dx, dscale, dbias = _input_gradient(x.astype(scale.dtype), dy, scale, mean, rstd, *sums)
        return dx.astype(x.dtype), dscale, dbias

    def kept(x: Array, g: Array, pull_back: Callable[[Array], tuple[Array]]) -> tuple[Array, Array, Array]:
        dy = pull_back(g)[0].astype(scale.dtype)
        return of_input(x, dy, channel_sums(lambda dy, x: (dy, dy * _minus(x, mean)), dy, x.astype(dy.dtype)))

    def anew(x: Array, g: Array, _: Any) -> tuple[Array, Array, Array]:
        def before(x: Array, g: Array) -> Array:
            axes = (None,) * (x.ndim - 1)
            y = x.astype(scale.dtype) * (rstd * scale)[axes] + offset[axes]
            y = y.astype(x.dtype)
            return jax.vjp(act, y)[1](g)[0].astype(scale.dtype)

        def terms(x: Array, g: Array) -> tuple[Array, Array]:
            dy = before(x, g)
            return dy, dy * _minus(x.astype(dy.dtype), mean)

        # The barriers keep XLA from seeing that the three passes have something in common, which it would store.
        x, g = lax.optimization_barrier((x, g))
        sums = channel_sums(terms, x, g)
        x, g = lax.optimization_barrier((x, g))
        return of_input(x, before(x, g), sums)

    return lax.platform_dependent(x, gradients[0], pull_back, cpu=kept, default=anew)


activated_batch_norm.defvjp(_activated_forward, _activated_backward)


def _moments(x: Array, dtype: Any) -> tuple[Array, Array]:
    """Mean and biased variance [C] of x [N, ..., C] in one pass, as `batch_norm` says."""
    count = x.size // x.shape[-1]
    sample = x.reshape(-1, x.shape[-1])[0].astype(dtype)

    def moments(x: Array) -> tuple[Array, Array]:
        centred = _minus(x, sample)
        return centred, centred * centred

    total, squares = channel_sums(moments, x.astype(dtype))
    offset = total / count
    return sample + offset, jnp.maximum(squares / count - offset * offset, 0)


def _input_gradient(
    x: Array, dy: Array, scale: Array, mean: Array, rstd: Array, dbias: Array, products: Array
) -> tuple[Array, Array, Array]:
    """The gradients for x, scale and bias, given that of what came out, dy, and the sums of dy and of dy (x - mean)."""
    count = x.size // x.shape[-1]
    dscale = products * rstd
    # dx = rstd * scale * (dy - dbias / count - normalized x * dscale / count), as one line in x - mean and dy.
    factor = rstd * scale
    slope = -factor * rstd * dscale / count
    shift = -factor * dbias / count
    axes = (None,) * (x.ndim - 1)
    # The last operation has two large operands: see ops/materialize.py.
    return (factor[axes] * dy + shift[axes]) + slope[axes] * _minus(x, mean), dscale, dbias


def normalize(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """(x - mean) * factor + bias along the last axis of x [..., C]."""
    axes = (None,) * (x.ndim - 1)
    return _minus(x, mean) * factor[axes] + bias[axes]


def _minus(x: Array, vector: Array) -> Array:
    """x [..., C] less vector [C]."""
    return x - vector[(None,) * (x.ndim - 1)]
