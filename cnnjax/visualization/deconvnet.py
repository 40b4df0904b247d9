"""What made a feature map respond: its strongest activations projected back to pixels (Zeiler & Fergus 2014).

Their deconvnet undoes a network layer by layer: unpool with the switches of the forward pass, rectify, convolve with
the transposed filters. That is the gradient of the same network in which the ReLU's gradient is replaced by
max(g, 0), seeded with the activation itself: the gradient of max pooling goes where the maximum was, which are the
switches (overlapping windows add), and the gradient of a convolution is the transposed convolution.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.network import Network
from cnnjax.visualization.addresses import parse_address, with_relu
from cnnjax.visualization.batches import map_batches, to_float
from cnnjax.visualization.receptive_field import receptive_fields
from cnnjax.visualization.relu_rules import deconv


@dataclasses.dataclass(frozen=True)
class Strongest:
    """The images that excite channels most, strongest first; all fields are [channels, count].

    values: the activation. images: index of the image. y, x: position in the layer (0 in a vector).
    """

    values: np.ndarray
    images: np.ndarray
    y: np.ndarray
    x: np.ndarray


def strongest_activations(
    network: Network,
    images: np.ndarray,
    layer: str,
    channels: Sequence[int],
    count: int = 9,
    batch_size: int = 64,
) -> Strongest:
    """The `count` images with the largest activation of each channel, each at its strongest position.

    images: [N, H, W, C], uint8 or floats in [0, 1].
    """
    for channel in channels:
        parse_address(network, f"{layer}:{channel}")
    chosen = jnp.asarray(channels, jnp.int32)
    values, places = map_batches(lambda batch: _strongest(network, layer, chosen, batch), images, batch_size)
    order = np.argsort(-values, axis=0, kind="stable")[:count].T
    width = network.layers()[layer][1] if len(network.layers()[layer]) == 3 else 1
    place = np.take_along_axis(places.T, order, axis=1)
    return Strongest(np.take_along_axis(values.T, order, axis=1), order, place // width, place % width)


def project(
    network: Network, images: Any, layer: str, channels: Sequence[int], positions: np.ndarray
) -> np.ndarray:
    """The deconvnet: one neuron of each image projected back to its pixels.

    images: [K, H, W, C], uint8 or floats in [0, 1]; channels: K; positions: [K, 2] (y, x).
    Returns [K, H, W, C], signed. Raises ConfigError if the model's ReLUs cannot be replaced.
    """
    indices = jnp.concatenate(
        [jnp.asarray(positions, jnp.int32), jnp.asarray(channels, jnp.int32)[:, None]], axis=1
    )
    return np.asarray(_project(with_relu(network, deconv), to_float(images), layer, indices))


def patches(pictures: Any, boxes: np.ndarray) -> np.ndarray:
    """Parts of pictures [K, H, W, C], or of projections: boxes [K, 4], xyxy in pixels, from `receptive_fields`.

    Returns [K, h, w, C] of the size of the largest box; what the border of a picture cut off is NaN.
    """
    pictures = np.asarray(pictures, np.float32)
    height, width = (int((boxes[:, i + 2] - boxes[:, i]).max()) for i in (1, 0))
    result = np.full((len(pictures), height, width, pictures.shape[-1]), np.nan, np.float32)
    for patch, picture, (left, top, right, bottom) in zip(result, pictures, boxes, strict=True):
        # A box cut off by the top or left border keeps its place at the other end of the patch.
        y = height - (bottom - top) if top == 0 else 0
        x = width - (right - left) if left == 0 else 0
        patch[y : y + bottom - top, x : x + right - left] = picture[top:bottom, left:right]
    return result


def evolution(
    history: Sequence[Network], images: np.ndarray, layer: str, channels: Sequence[int]
) -> np.ndarray:
    """How features develop (their Fig. 4): the strongest activation of each channel over the images, projected.

    history: the network as it was at several times. Returns [len(history), channels, h, w, C], signed, of the size
    of what a neuron of the layer sees; what lies outside an image is NaN.
    """
    projections, boxes = [], []
    for network in history:
        best = strongest_activations(network, images, layer, channels, count=1)
        positions = np.concatenate([best.y, best.x], axis=1)
        projections.append(project(network, images[best.images[:, 0]], layer, channels, positions))
        boxes.append(receptive_fields(network, layer, positions))
    cut = patches(np.concatenate(projections), np.concatenate(boxes))
    return cut.reshape(len(history), len(channels), *cut.shape[1:])


@functools.partial(jax.jit, static_argnames="layer")
def _strongest(network: Network, layer: str, channels: Array, images: Array) -> tuple[Array, Array]:
    """Largest activation and its place, [N, channels]."""
    activation = jnp.take(network.stages(images)[layer], channels, axis=-1)
    flat = activation.reshape(activation.shape[0], -1, activation.shape[-1])
    return jnp.max(flat, axis=1), jnp.argmax(flat, axis=1)


@functools.partial(jax.jit, static_argnames="layer")
def _project(network: Network, images: Array, layer: str, indices: Array) -> Array:
    def activation(images: Array) -> Array:
        return network.stages(images)[layer]

    values, pull_back = jax.vjp(activation, images)
    y, x, channel = indices.T
    index: Any = (jnp.arange(images.shape[0]), y, x, channel) if values.ndim == 4 else None
    index = index or (jnp.arange(images.shape[0]), channel)
    return pull_back(jnp.zeros_like(values).at[index].set(values[index]))[0]
