"""Batch normalization as plain array operations, with few passes over memory in both directions."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax


def channel_sums(*arrays: Array) -> list[Array]:
    """The sum over all axes but the last of each array: [N, ..., C] -> [C].

    First over the examples, which walks memory in order, then over places: on CPU several times faster than in
    one go. Sums of products have to be products of arrays that exist, or the compiler makes them twice.
    """
    rows = [jnp.sum(x.reshape(x.shape[0], -1), axis=0) for x in arrays]
    return [jnp.sum(r.reshape(-1, x.shape[-1]), axis=0) for r, x in zip(rows, arrays, strict=True)]


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
    centred = _minus(x, sample)
    total, squares = channel_sums(centred, centred * centred)
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
    centred = _minus(x, mean)
    dbias, products = channel_sums(dy, dy * centred)
    dscale = products * rstd
    # dx = rstd * scale * (dy - dbias / count - normalized x * dscale / count), as one line in x - mean and dy.
    factor = rstd * scale
    slope = -factor * rstd * dscale / count
    shift = -factor * dbias / count
    axes = (None,) * (x.ndim - 1)
    # The last operation has two large operands: see ops/materialize.py.
    return (factor[axes] * dy + shift[axes]) + slope[axes] * centred, dscale, dbias


batch_norm.defvjp(_forward, _backward)


def normalize(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    """(x - mean) * factor + bias along the last axis of x [..., C]."""
    axes = (None,) * (x.ndim - 1)
    return _minus(x, mean) * factor[axes] + bias[axes]


def _minus(x: Array, vector: Array) -> Array:
    """x [..., C] less vector [C]."""
    return x - vector[(None,) * (x.ndim - 1)]
