"""A classifier of windows as one convolution over a larger image (Sermanet et al. 2014, OverFeat, section 3.5).

A fully connected layer on an h x w map is a VALID h x w convolution whose kernel is the weight matrix, reshaped;
the fully connected layers after it are 1 x 1 convolutions. A model says how by a field `dense: bool` and by
`layers.fully_connected`, to whose first use it gives the size of its last map (LeNet-5 `window=5`, AlexNet 6,
VGG 7); names are shared, so that conversion is reshaping.

One pass equals every window evaluated alone only if nothing sees the border of a window: VALID convolutions, no
padding in pooling, no pooling over the whole map. So it is for the lecture's network, LeNet-5, and AlexNet, ZFNet
and VGG with `padded=False`. The published AlexNet and VGG pad. They convert too, and one window gives exactly
what the network gives; but the windows of a larger image see their neighbours where the network was trained on
zeros. That is what the VGG paper calls dense evaluation (section 3.2), and more context for every window, not an
error of rounding: `check_dense_equivalence` measures it. An output is then that of the unpadded network on its
whole receptive field, 404 pixels instead of 224 for VGG16, as long as that lies inside the image.
"""

import bisect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError

# A linen module; `Any`, because only cnnjax/models knows linen.
Module = Any


class Windows(NamedTuple):
    """Which part of an image an output sees: output (i, j) the pixels from (i, j) * stride on, `size` of them.

    Both are (height, width) in pixels.
    """

    size: tuple[int, int]
    stride: tuple[int, int]

    def boxes(self, rows: int, columns: int) -> Array:
        """[rows, columns, 4] xyxy pixels."""
        y, x = jnp.meshgrid(
            jnp.arange(rows) * self.stride[0], jnp.arange(columns) * self.stride[1], indexing="ij"
        )
        corners = jnp.stack([x, y, x + self.size[1], y + self.size[0]], axis=-1)
        return corners.astype(jnp.float32)


def to_dense(model: Module, variables: Any, window: tuple[int, int, int]) -> tuple[Module, Any, Windows]:
    """The convolutional form of a classifier of images of shape `window` (height, width, channels).

    Returns the model and the variables to `apply` to larger images, whose output is [N, rows, columns, outputs],
    and which window each output sees. Only shapes of weights change.

    Raises ConfigError if the model has no dense form or was trained on another window.
    """
    if not hasattr(model, "dense"):
        raise ConfigError(f"{type(model).__name__} has no convolutional form: it lacks the field dense")
    dense = model.clone(dense=True)
    shapes = jax.eval_shape(dense.init, jax.random.key(0), jnp.zeros((1, *window)))

    def reshape(weights: Array, shape: jax.ShapeDtypeStruct) -> Array:
        if weights.size != shape.size:
            raise ConfigError(
                f"{type(model).__name__} was not trained on windows of {window[0]}x{window[1]}x{window[2]}: "
                f"weights of shape {weights.shape} do not fit {shape.shape}"
            )
        return weights.reshape(shape.shape)

    variables = {**variables, "params": jax.tree.map(reshape, variables["params"], shapes["params"])}
    return dense, variables, Windows(window[:2], _stride(dense, variables, window))


def check_dense_equivalence(
    model: Module, variables: Any, image: Array, window: tuple[int, int, int]
) -> float:
    """The largest difference between one pass over `image` [H, W, C] and every window evaluated alone.

    Rounding is near 1e-6 of the outputs' size; more means that the model sees the border of its window.
    """
    dense, dense_variables, windows = to_dense(model, variables, window)
    once = jax.jit(dense.apply)(dense_variables, image[None])[0]
    worst = 0.0
    apply = jax.jit(model.apply)
    for i in range(once.shape[0]):
        for j in range(once.shape[1]):
            y, x = i * windows.stride[0], j * windows.stride[1]
            alone = apply(variables, image[None, y : y + window[0], x : x + window[1]])[0]
            worst = max(worst, float(jnp.max(jnp.abs(alone - once[i, j]))))
    return worst


def _stride(dense: Module, variables: Any, window: tuple[int, int, int]) -> tuple[int, int]:
    """How many more pixels it takes from the second to the third row, and column, of outputs.

    To the second it may take fewer: AlexNet's first convolution leaves some of 224 pixels unseen.
    """
    height, width, channels = window

    def outputs(h: int, w: int) -> tuple[int, ...]:
        return jax.eval_shape(dense.apply, variables, jnp.zeros((1, h, w, channels))).shape

    if outputs(height, width)[1:3] != (1, 1):
        raise ConfigError(
            f"{type(dense).__name__} gives {outputs(height, width)[1:3]} outputs for one window"
        )

    def pixels(count: int, axis: int) -> int:
        def enough(more: int) -> bool:
            return outputs(height + more * (axis == 0), width + more * (axis == 1))[1 + axis] >= count

        return bisect.bisect_left(range(2 * max(height, width)), True, key=enough)

    return pixels(3, 0) - pixels(2, 0), pixels(3, 1) - pixels(2, 1)
