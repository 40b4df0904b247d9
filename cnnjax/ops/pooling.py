"""Max pooling as plain array operations, whose gradient is no select-and-scatter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_NO_TAP, _NO_WINDOW = 254, 255  # places that no window has


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, window: int, stride: int) -> Array:
    """Max pooling without padding of images no smaller than the window: [N, H, W, C] -> [N, rows, columns, C].

    As XLA's own, of equal values the first takes the gradient, and rows and columns that fill no window are dropped.
    The gradient goes back by comparison with where each maximum was: on CPU ten times faster than XLA's.
    """
    return _forward(x, window, stride)[0]


def _forward(x: Array, window: int, stride: int) -> tuple[Array, tuple[Array, tuple[int, ...]]]:
    """The largest of each window and, saved for the gradient, which of its pixels, row by row, it is: uint8."""
    rows = _slices(x, 1, window, stride)
    best, *rest = (pixels for row in rows for pixels in _slices(row, 2, window, stride))
    place = jnp.zeros(best.shape, jnp.uint8)
    for i, value in enumerate(rest, start=1):
        place = jnp.where(value > best, jnp.uint8(i), place)
        best = jnp.maximum(best, value)
    return best, (place, x.shape)


def _slices(x: Array, axis: int, window: int, stride: int) -> list[Array]:
    """The first places of all windows along an axis, the second places, and so on."""
    end = (x.shape[axis] - window) // stride * stride + 1
    return [lax.slice_in_dim(x, i, end + i, stride, axis) for i in range(window)]


def _backward(
    window: int, stride: int, saved: tuple[Array, tuple[int, ...]], gradient: Array
) -> tuple[Array]:
    place, shape = saved
    by_blocks, by_taps = (
        functools.partial(f, shape=shape, window=window, stride=stride) for f in (_by_blocks, _by_taps)
    )
    if window <= stride:
        return (by_blocks(place, gradient),)
    return (lax.platform_dependent(place, gradient, cpu=by_blocks, default=by_taps),)


def _by_blocks(place: Array, gradient: Array, shape: tuple[int, ...], window: int, stride: int) -> Array:
    """The image is cut into blocks of stride x stride: its pixel (p, q) is tap (p + stride m, q + stride n) of the window
    that begins m blocks above and n to the left, and these are few.

    So all is one elementwise pass over the image in which nothing is asked of its borders, which would keep XLA:CPU from
    vector instructions (384 maps of 46x46x32, 3x3 with stride 2, on two cores: 30 ms and 142 with `_by_taps`). That goes
    for the rows and columns that fill no block, too: a pad at the end would be another pass, and XLA gives a convolution's
    two gradients that are made of it, on a GPU, one each.
    """
    count, height, width, channels = shape
    above = -(-window // stride) - 1
    rows, columns = -(-height // stride), -(-width // stride)
    ends = [
        (above, many - windows) for many, windows in zip((rows, columns), gradient.shape[1:3], strict=True)
    ]
    if any(map(any, ends)):
        around = ((0, 0), *ends, (0, 0))
        place = jnp.pad(place, around, constant_values=_NO_WINDOW)
        gradient = jnp.pad(gradient, around)
    zero = jnp.zeros((), gradient.dtype)
    total = zero
    for m in range(above + 1):
        for n in range(above + 1):
            low = (above - m, above - n)
            part = (slice(None), slice(low[0], low[0] + rows), None, slice(low[1], low[1] + columns), None)
            total = total + jnp.where(place[part] == _taps(window, stride, m, n), gradient[part], zero)
    whole = total.reshape(count, rows * stride, columns * stride, channels)
    return whole[:, :height, :width]


def _taps(window: int, stride: int, m: int, n: int) -> np.ndarray:
    """uint8 [1, 1, stride, 1, stride, 1]: what each pixel of a block is to the window m blocks above and n to the left."""
    down, right = (np.arange(stride) + stride * blocks for blocks in (m, n))
    inside = (down < window)[:, None] & (right < window)
    taps = np.where(inside, down[:, None] * window + right, _NO_TAP)
    return taps.astype(np.uint8).reshape(1, 1, stride, 1, stride, 1)


def _by_taps(place: Array, gradient: Array, shape: tuple[int, ...], window: int, stride: int) -> Array:
    """One tap of all windows after another.

    Where windows overlap, XLA:GPU makes this one in each of its readers, and stores that by blocks for them (ResNet-50,
    256 images: 88.0 and 88.6 GB a step).
    """
    zero = jnp.zeros((), gradient.dtype)
    total = jnp.zeros(shape, gradient.dtype)
    for tap in range(window**2):
        spread = [
            (low, size - low - (windows - 1) * stride - 1, stride - 1)
            for low, size, windows in zip(divmod(tap, window), shape[1:3], gradient.shape[1:3], strict=True)
        ]
        part = jnp.where(place == tap, gradient, zero)
        total = total + lax.pad(part, zero, [(0, 0, 0), *spread, (0, 0, 0)])
    return total


max_pool.defvjp(_forward, _backward)
