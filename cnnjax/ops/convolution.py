"""Convolution with other arithmetic where XLA:CPU's own is slow."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnjax.ops import onednn


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **kwargs: Any,
) -> Array:
    """As lax.conv_general_dilated; compiled for a CPU, NHWC convolutions may be oneDNN's (`onednn.used`), and three cases
    are written otherwise.

    For an image [H, W] smaller than the kernel, where XLA:CPU takes a hundred times as long (3x3 on 2x2 with 512
    channels, batch 128: 1.7 s and 20 ms), and for one channel (28x28 to 32: 10.5 ms forward and for the weights,
    and 3.3 ms), one matrix product over patches. With more channels the copy of the patches costs more than it saves.
    For depthwise kernels in float32 the sum of the shifted images, each times its tap (3x3 on 72x96 with 48 channels,
    batch 8: 3 ms where XLA:CPU takes 69, with gradients 14 and 222).
    """
    strides, (height, width) = tuple(window_strides), lhs.shape[1:3]
    small = height < rhs.shape[0] or width < rhs.shape[1]

    def convolve(lhs: Array, rhs: Array) -> Array:
        return lax.conv_general_dilated(lhs, rhs, strides, padding, **kwargs)

    depthwise = _depthwise(lhs, rhs, **kwargs)
    if not (depthwise or _plain(lhs, rhs, **kwargs)):
        return convolve(lhs, rhs)
    pads = padding
    if isinstance(pads, str):
        pads = lax.padtype_to_pads((height, width), rhs.shape[:2], strides, pads)
    pads = tuple((low, high) for low, high in pads)
    if depthwise:
        over_shifts = functools.partial(_over_shifts, strides=strides, padding=pads)
        return lax.platform_dependent(lhs, rhs, cpu=over_shifts, default=convolve)
    if small or rhs.shape[2] == 1:
        over_patches = functools.partial(
            _over_patches, strides=strides, padding=pads, precision=kwargs.get("precision")
        )
        return lax.platform_dependent(lhs, rhs, cpu=over_patches, default=convolve)
    if onednn.suits(lhs, rhs, strides, pads):
        return onednn.convolve(lhs, rhs, strides, pads)
    return convolve(lhs, rhs)


def doubled(x: Array, kernel: Array) -> Array:
    """A transposed convolution of stride 2: [N, H, W, I] and [k, k, O, I], as torch has it, -> [N, 2 H, 2 W, O]; k is even.

    Compiled for a CPU it is a matrix product whose taps are added where they overlap: XLA:CPU takes thirty times as long
    for the gradient of the dilated convolution (64 maps of 14x14, 256 channels, k 2: 3.3 s).
    """
    size = kernel.shape[0]

    def dilated(x: Array, kernel: Array) -> Array:
        pads = [(size // 2, size // 2)] * 2
        return lax.conv_transpose(x, kernel, (2, 2), pads, transpose_kernel=True)

    return lax.platform_dependent(x, kernel, cpu=_overlapping_taps, default=dilated)


def _overlapping_taps(x: Array, kernel: Array) -> Array:
    """Pixel i gives tap 2 p + q to pixel 2 (i + p) + q of the result, of which the first and last k / 2 - 1 are cut off."""
    (count, height, width, _), (size, _, features, _) = x.shape, kernel.shape
    blocks = size // 2
    taps = jnp.einsum("nhwi,aboi->nhawbo", x, kernel)
    total = jnp.zeros((count, height + blocks - 1, 2, width + blocks - 1, 2, features), taps.dtype)
    for row in range(blocks):
        for column in range(blocks):
            part = taps[:, :, 2 * row : 2 * row + 2, :, 2 * column : 2 * column + 2]
            rows, columns = (row, blocks - 1 - row), (column, blocks - 1 - column)
            total = total + jnp.pad(part, ((0, 0), rows, (0, 0), columns, (0, 0), (0, 0)))
    whole = total.reshape(count, 2 * (height + blocks - 1), 2 * (width + blocks - 1), features)
    return whole[:, blocks - 1 : blocks - 1 + 2 * height, blocks - 1 : blocks - 1 + 2 * width]


def sum_of_taps(lhs: Array, rhs: Array) -> Array:
    """The convolution without padding of lhs [N, H, W, I] with rhs [h, w, I, O], computed in float32 one tap at a time.

    For a handful of taps and input channels. A GPU's tensor cores would multiply padding most of the time; this is one
    elementwise kernel, together with what comes after it.
    """
    rows, columns = (n - k + 1 for n, k in zip(lhs.shape[1:3], rhs.shape[:2], strict=True))
    images, kernel = lhs.astype(jnp.float32), rhs.astype(jnp.float32)
    total = jnp.zeros((), jnp.float32)
    for i in range(rhs.shape[0]):
        for j in range(rhs.shape[1]):
            for k in range(rhs.shape[2]):
                part = images[:, i : i + rows, j : j + columns, k : k + 1]
                total = total + part * kernel[i, j, k][None, None, None]
    return total.astype(lhs.dtype)


def _over_patches(
    lhs: Array, rhs: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], precision: Any
) -> Array:
    """The convolution of lhs [N, H, W, I] with rhs [h, w, I, O] as one product of patches and kernel."""
    patches = jnp.concatenate(list(_shifted(_padded(lhs, padding), rhs, strides)), axis=-1)
    return _product(patches, rhs.reshape(-1, rhs.shape[-1]), precision)


def _sum_of_shifts(lhs: Array, rhs: Array, strides: onednn.Strides, padding: onednn.Pads) -> Array:
    """The depthwise convolution of lhs [N, H, W, C] with rhs [h, w, 1, C], one elementwise product for each tap."""
    seen, taps = _shifted(_padded(lhs, padding), rhs, strides), rhs.reshape(-1, 1, 1, 1, rhs.shape[-1])
    return sum((part * tap for part, tap in zip(seen, taps, strict=True)), jnp.zeros((), lhs.dtype))


_over_shifts = jax.custom_vjp(_sum_of_shifts, nondiff_argnums=(2, 3))


def _over_shifts_forward(
    lhs: Array, rhs: Array, strides: onednn.Strides, padding: onednn.Pads
) -> tuple[Array, tuple[Array, Array]]:
    return _over_shifts(lhs, rhs, strides, padding), (lhs, rhs)


def _over_shifts_backward(
    strides: onednn.Strides, padding: onednn.Pads, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    lhs, rhs = saved
    (of_images,) = jax.vjp(lambda lhs: _sum_of_shifts(lhs, rhs, strides, padding), lhs)[1](g)
    padded, (height, width) = _padded(lhs, padding), rhs.shape[:2]

    # By itself XLA:CPU would go through all of both images once for each tap; this goes through them row by row.
    def with_row(row: Array, sums: list[Array]) -> list[Array]:
        of_row = lax.dynamic_slice_in_dim(g, row, 1, axis=1)
        rows = lax.dynamic_slice_in_dim(padded, row * strides[0], height, axis=1)
        seen = _shifted(rows, rhs, strides)
        return [total + part * of_row for total, part in zip(sums, seen, strict=True)]

    nothing = jnp.zeros((g.shape[0], 1, *g.shape[2:]), g.dtype)
    sums = lax.fori_loop(0, g.shape[1], with_row, [nothing] * (height * width))
    return of_images, jnp.stack([total.sum((0, 1, 2)) for total in sums]).reshape(rhs.shape)


_over_shifts.defvjp(_over_shifts_forward, _over_shifts_backward)


def _padded(images: Array, padding: Sequence[tuple[int, int]]) -> Array:
    return jnp.pad(images, ((0, 0), *padding, (0, 0)))


def _shifted(padded: Array, rhs: Array, strides: Sequence[int]) -> Iterator[Array]:
    """What each tap [i, j] of rhs [h, w, ...], row by row, sees of images [N, H, W, I] at all places of the output."""
    for i in range(rhs.shape[0]):
        for j in range(rhs.shape[1]):
            ends = (padded.shape[1] - rhs.shape[0] + i + 1, padded.shape[2] - rhs.shape[1] + j + 1)
            yield padded[:, i : ends[0] : strides[0], j : ends[1] : strides[1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(patches: Array, kernel: Array, precision: Any) -> Array:
    """Patches [N, H, W, T] times a kernel [T, O]."""
    return lax.dot_general(patches, kernel, (((3,), (0,)), ((), ())), precision=precision)


def _product_forward(patches: Array, kernel: Array, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    return _product(patches, kernel, precision), (patches, kernel)


def _product_backward(precision: Any, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # By itself XLA:CPU would compute the kernel's gradient over three axes, all that g comes from fused into it.
    patches, kernel = saved
    rows, of_rows = patches.reshape(-1, patches.shape[-1]), g.reshape(-1, g.shape[-1])
    of_kernel = lax.dot_general(rows, of_rows, (((0,), (0,)), ((), ())), precision=precision)
    return lax.dot_general(g, kernel, (((3,), (1,)), ((), ())), precision=precision), of_kernel


_product.defvjp(_product_forward, _product_backward)


def _plain(lhs: Array, rhs: Array, **kwargs: Any) -> bool:
    """Two axes of the image, neither groups nor dilation."""
    return _undilated(lhs, **kwargs) and lhs.shape[3] == rhs.shape[2]


def _depthwise(lhs: Array, rhs: Array, **kwargs: Any) -> bool:
    """Two axes of the image, each of several channels alone, in float32 and without dilation."""
    alone = lhs.shape[-1] == rhs.shape[-1] == kwargs.get("feature_group_count", 1) > 1
    return _undilated(lhs, **kwargs) and alone and lhs.dtype == rhs.dtype == jnp.float32


def _undilated(lhs: Array, **kwargs: Any) -> bool:
    dilation = (*(kwargs.get("lhs_dilation") or ()), *(kwargs.get("rhs_dilation") or ()))
    return lhs.ndim == 4 and all(d == 1 for d in dilation)
