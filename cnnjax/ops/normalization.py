"""Batch normalization as plain array operations, with few passes over memory in both directions."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

_LANES = 4  # parts of the height that are added first
_BLOCKS = 128  # of places whose sums are taken apart

Terms = Callable[..., tuple[Array, ...]]


def channel_sums(terms: Terms, *arrays: Array) -> list[Array]:
    """Sums over all axes but the last of each of `terms(*arrays)`, elementwise in arrays [N, ..., C]: each [C].

    Compiled for a CPU in a form of its own, three to five times as fast. XLA:CPU makes slow windowed reductions of a
    long sum, and stores what is summed when it is a product.
    """
    return lax.platform_dependent(
        *arrays, cpu=functools.partial(_sums_by_products, terms), default=functools.partial(_sums, terms)
    )


def _sums(terms: Terms, *arrays: Array) -> list[Array]:
    return [jnp.sum(x, axis=tuple(range(x.ndim - 1))) for x in terms(*arrays)]


def _sums_by_products(terms: Terms, *arrays: Array) -> list[Array]:
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
    return sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalizes x [N, ..., C] by the statistics of this batch (Ioffe & Szegedy 2015, algorithm 1).

    Mean and (biased) variance come from one pass over x - s, where s is one of its places: as E[(x - s)^2] -
    E[x - s]^2, which keeps its digits where the mean is far above the deviation.

    Returns:
      scale * (x - mean) / sqrt(var + epsilon) + bias, and mean and var, both [C]. The latter are for running
      statistics: no gradient flows through them.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple:
    count = x.size // x.shape[-1]
    sample = x.reshape(-1, x.shape[-1])[0]

    def moments(x: Array) -> tuple[Array, Array]:
        centred = _minus(x, sample)
        return centred, centred * centred

    total, squares = channel_sums(moments, x)
    offset = total / count
    mean = sample + offset
    var = jnp.maximum(squares / count - offset * offset, 0)
    rstd = lax.rsqrt(var + epsilon)
    y = normalize(x, mean, rstd * scale, bias)
    return (y, mean, var), (x, scale, mean, rstd)


def _backward(epsilon: float, saved: tuple, gradients: tuple) -> tuple[Array, Array, Array]:
    x, scale, mean, rstd = saved
    dy = gradients[0]
    count = x.size // x.shape[-1]
    dbias, products = channel_sums(lambda dy, x: (dy, dy * _minus(x, mean)), dy, x)
    dscale = products * rstd
    # dx = rstd * scale * (dy - dbias / count - normalized x * dscale / count), as one line in x - mean and dy.
    factor = rstd * scale
    slope = -factor * rstd * dscale / count
    shift = -factor * dbias / count
    axes = (None,) * (x.ndim - 1)
    # The last operation has two large operands: see ops/materialize.py.
    return (factor[axes] * dy + shift[axes]) + slope[axes] * _minus(x, mean), dscale, dbias


batch_norm.defvjp(_forward, _backward)


def normalize(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """(x - mean) * factor + bias along the last axis of x [..., C]."""
    axes = (None,) * (x.ndim - 1)
    return _minus(x, mean) * factor[axes] + bias[axes]


def _minus(x: Array, vector: Array) -> Array:
    """x [..., C] less vector [C]."""
    return x - vector[(None,) * (x.ndim - 1)]
