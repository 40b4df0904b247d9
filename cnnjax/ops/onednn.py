"""Convolutions by oneDNN's kernels, which jaxlib holds for CPUs and which are faster than XLA's own.

They are reached by a custom call that jaxlib does not document, so it is tried before it is used, and nothing depends on
it. A program that has one cannot be kept in the compilation cache: it pays where a program is used for minutes.
"""

import contextlib
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnjax.runtime import platform

TARGET = "__onednn$convolution"
_SINCE, _BEFORE = (
    (0, 10),
    (0, 13),
)  # jaxlib's versions in which it was tried; oneDNN's refusal would end the process
_NHWC = ("NHWC", "HWIO", "NHWC")
_FEWEST_PLACES = (
    1024  # of all outputs of a batch: with fewer, the kernel's reordering takes longer than it saves
)
Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

_used = False


@contextlib.contextmanager
def used() -> Iterator[None]:
    """What is traced within computes its float32 convolutions so; for programs of one device, and where `available`."""
    global _used
    before, _used = _used, True
    try:
        yield
    finally:
        _used = before


@functools.cache
def available() -> bool:
    """Whether this jaxlib has the call, tried with a small convolution; not to be asked while something is traced."""
    # JAX would complain at each compilation.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*bad_alloc")
    if not _SINCE <= platform.jaxlib_version() < _BEFORE:
        return False
    images, kernel = jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 8))
    pads = ((1, 1), (1, 1))
    try:
        result = jax.jit(lambda x, k: _call(x, k, (1, 1), pads))(images, kernel)
        return bool(result[0, 1, 1, 0] == 72 and result[0, 0, 0, 0] == 32)
    except Exception:  # an unknown target fails in whatever way the compiler does
        return False


def suits(lhs: Array, rhs: Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]) -> bool:
    """Whether `convolve` is wanted for images [N, H, W, I] and a kernel [h, w, I, O], without groups or dilation."""
    if not (_used and lhs.dtype == rhs.dtype == jnp.float32):
        return False
    if any(
        min(pad) < 0 or of < stride for pad, of, stride in zip(pads, lhs.shape[1:3], strides, strict=True)
    ):
        return False
    return lhs.shape[0] * math.prod(_places(lhs, rhs, strides, pads)) >= _FEWEST_PLACES


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(lhs: Array, rhs: Array, strides: Strides, pads: Pads) -> Array:
    """The convolution of images [N, H, W, I] with a kernel [h, w, I, O], compiled for a CPU by oneDNN, else by XLA."""
    return lax.platform_dependent(lhs, rhs, cpu=_for_batches(strides, pads), default=_xla(strides, pads))


def _forward(lhs: Array, rhs: Array, strides: Strides, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return convolve(lhs, rhs, strides, pads), (lhs, rhs)


def _backward(strides: Strides, pads: Pads, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """The kernel's gradient is XLA's, beside which nothing that oneDNN's forward convolutions can do is faster."""
    lhs, rhs = saved
    xla = _xla(strides, pads)

    def by_xla(g: Array, rhs: Array) -> Array:
        return jax.vjp(lambda lhs: xla(lhs, rhs), lhs)[1](g)[0]

    by_phases = functools.partial(_of_images, size=lhs.shape[1:3], strides=strides, pads=pads)
    of_images = lax.platform_dependent(g, rhs, cpu=by_phases, default=by_xla)
    (of_kernel,) = jax.vjp(lambda rhs: xla(lhs, rhs), rhs)[1](g)
    return of_images, of_kernel


class _Phase(NamedTuple):
    """One axis of the pixels stride * i + phase: the taps that meet them, in the order of the places of g that these come
    from; and how g is padded, and cut before, at both ends."""

    taps: tuple[int, ...]
    pads: tuple[int, int]
    cut: tuple[int, int]


def _phase(phase: int, size: int, places: int, window: int, stride: int, pad: tuple[int, int]) -> _Phase:
    """Of `size` pixels those of one phase: tap stride * j + phase + pad of the window meets i from place i - j of g."""
    offset = phase + pad[0]
    least, most = -(offset // stride), (window - 1 - offset) // stride  # j
    taps = tuple(stride * j + offset for j in range(most, least - 1, -1))
    ends = (most, _rounded_up(size - phase, stride) - least - places)
    return _Phase(taps, (max(ends[0], 0), max(ends[1], 0)), (min(ends[0], 0), min(ends[1], 0)))


def _of_images(g: Array, rhs: Array, size: tuple[int, ...], strides: Strides, pads: Pads) -> Array:
    """The images' gradient [N, *size, I] from that of the result, g.

    Pixels whose places have the same remainder by the stride, in both axes, meet the same taps: each such phase is a
    convolution of stride 1 with these, where XLA's own multiplies the zeros between the places of g, too.
    """
    axes = zip(size, g.shape[1:3], rhs.shape[:2], strides, pads, strict=True)
    rows, columns = ([_phase(phase, *axis) for phase in range(axis[3])] for axis in axes)
    height, width = (_rounded_up(pixels, stride) for pixels, stride in zip(size, strides, strict=True))

    def computed(row: _Phase, column: _Phase) -> Array:
        if not (row.taps and column.taps):
            return jnp.zeros((len(g), height, width, rhs.shape[2]), g.dtype)
        kernel = rhs[np.array(row.taps)][:, np.array(column.taps)].swapaxes(2, 3)
        cuts = ((0, 0, 0), (*row.cut, 0), (*column.cut, 0), (0, 0, 0))
        cut = lax.pad(g, jnp.zeros((), g.dtype), cuts)
        found = _for_batches((1, 1), (row.pads, column.pads))(cut, kernel)
        missing = ((0, 0), (0, height - found.shape[1]), (0, width - found.shape[2]), (0, 0))
        return jnp.pad(found, missing)

    each = [jnp.stack([computed(row, column) for column in columns], axis=3) for row in rows]
    pixels = jnp.stack(each, axis=2).reshape(len(g), height * strides[0], width * strides[1], -1)
    return pixels[:, : size[0], : size[1]]


def _rounded_up(number: int, by: int) -> int:
    return -(-number // by)


convolve.defvjp(_forward, _backward)


def _xla(strides: Strides, pads: Pads) -> Any:
    return functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=pads, dimension_numbers=_NHWC
    )


def _places(
    lhs: Array, rhs: Array, strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Height and width of the result."""
    height, width = (
        (size + sum(pad) - window) // stride + 1
        for size, pad, window, stride in zip(lhs.shape[1:3], pads, rhs.shape[:2], strides, strict=True)
    )
    return height, width


def _for_batches(strides: Strides, pads: Pads) -> Callable[[Array, Array], Array]:
    """`_call` that jax.vmap makes one larger batch of, or where the kernel is mapped too, as many calls."""

    @jax.custom_batching.custom_vmap
    def call(lhs: Array, rhs: Array) -> Array:
        return _call(lhs, rhs, strides, pads)

    @call.def_vmap
    def mapped(size: int, is_mapped: Sequence[bool], lhs: Array, rhs: Array) -> tuple[Array, bool]:
        if not is_mapped[1]:
            merged = call(lhs.reshape(-1, *lhs.shape[2:]), rhs)
            return merged.reshape(size, -1, *merged.shape[1:]), True
        each = [call(lhs[i] if is_mapped[0] else lhs, rhs[i]) for i in range(size)]
        return jnp.stack(each), True

    return call


def _call(lhs: Array, rhs: Array, strides: Strides, pads: Pads) -> Array:
    """oneDNN's kernel; its fields are those of XLA's OneDnnConvolutionConfig."""
    images = {"dims": "4", "data": {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}}
    kernel = {"input_feature_dim": "2", "output_feature_dim": "3", "spatial_dims": ["0", "1"]}
    window = {
        "size": _texts(rhs.shape[:2]),
        "pad_left": _texts([low for low, _ in pads]),
        "pad_right": _texts([high for _, high in pads]),
        "strides": _texts(strides),
        "window_dilations": ["1", "1"],
    }
    config = {
        "dims": "4",
        "input": images,
        "kernel": {"dims": "4", "filter": {**kernel, "shape": _texts(rhs.shape)}},
        "output": images,
        "window": window,
        "feature_groups": "1",
    }
    shape = (lhs.shape[0], *_places(lhs, rhs, strides, pads), rhs.shape[3])
    call = jax.ffi.ffi_call(
        TARGET,
        jax.ShapeDtypeStruct(shape, lhs.dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_conv_config": config}),
        vmap_method="sequential",
    )
    return call(lhs, rhs)


def _texts(numbers: Sequence[int]) -> list[str]:
    return [str(int(number)) for number in numbers]
