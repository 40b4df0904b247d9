"""Local response normalization across channels."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def local_response_norm(x: Array, radius: int, bias: float, alpha: float, beta: float) -> Array:
    """x / (bias + alpha * sum of x^2 over channels c - radius to c + radius) ^ beta, channels last.

    The formula of Krizhevsky et al. 2012, section 3.3, and of TensorFlow. Caffe and torch divide alpha by the
    number of channels in the window, size = 2 * radius + 1: their alpha is `size` times this one.
    """
    exact = x.astype(jnp.float32)
    window = (1,) * (x.ndim - 1) + (2 * radius + 1,)
    padding = ((0, 0),) * (x.ndim - 1) + ((radius, radius),)
    total = lax.reduce_window(jnp.square(exact), np.float32(0), lax.add, window, (1,) * x.ndim, padding)
    return (exact * (bias + alpha * total) ** -beta).astype(x.dtype)
