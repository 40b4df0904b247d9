"""Integral images: sums over rectangles in four look-ups (Viola & Jones 2001, section 2.1)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.jit
def integral_image(images: Array) -> Array:
    """Sums of all pixels above and left of each corner, with a first row and column of zeros.

    Args:
      images: [..., H, W] integers.

    Returns:
      [..., H + 1, W + 1] int32. Sums beyond 32 bits wrap around, yet the sum over any rectangle is right as long as it
      fits in 32 bits itself.
    """
    sums = jnp.cumsum(jnp.cumsum(images.astype(jnp.int32), axis=-2), axis=-1)
    return jnp.pad(sums, [(0, 0)] * (images.ndim - 2) + [(1, 0), (1, 0)])


def integral_on_host(image: np.ndarray) -> np.ndarray:
    """`integral_image` of one image [H, W] in NumPy and int64: images of a pyramid have a size each, and would be a
    compilation each."""
    sums = np.zeros((image.shape[0] + 1, image.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(image, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    return sums
