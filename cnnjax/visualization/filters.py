"""Learned filters as pictures, what they do to an image, and one filter that needs no learning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import ConfigError
from cnnjax.network import Network
from cnnjax.visualization.addresses import activations, parse_address
from cnnjax.visualization.batches import to_float

# Bright on the left and dark on the right gives a large value.
VERTICAL_EDGES = np.asarray([[1, 0, -1], [1, 0, -1], [1, 0, -1]], np.float32)


def first_filters(network: Network) -> np.ndarray:
    """The filters of the first convolution as pictures: [filters, h, w, 1 or 3] in [0, 1].

    Filters of colour images are shown in RGB. Each is scaled to its own largest weight; 0 is grey.
    Raises ConfigError if the network has no convolution that takes images.
    """
    channels = network.image_shape[2]
    for _, kernel in jax.tree_util.tree_leaves_with_path(network.variables["params"]):
        if kernel.ndim == 4 and kernel.shape[2] == channels:
            filters = np.moveaxis(np.asarray(kernel, np.float32), -1, 0)
            filters = filters[..., ::-1] if network.preprocessing.channel_order == "bgr" else filters
            largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
            return 0.5 + 0.5 * filters / np.maximum(largest, 1e-12)
    raise ConfigError(f"{type(network.model).__name__} has no convolution with {channels} input channels")


def feature_maps(network: Network, image: Any, layer: str, count: int = 32) -> np.ndarray:
    """The first `count` channels of a layer for one image [H, W, C]: [channels, h, w, 1] in [0, 1].

    All share one scale, from the smallest to the largest value, so that silent channels look silent.
    """
    shape = network.layers()[parse_address(network, layer).layer]
    if len(shape) != 3:
        raise ConfigError(f"{layer} is a vector, it has no maps")
    values = np.asarray(activations(network, to_float(image)[None], layer)[0, :, :, :count], np.float32)
    low, high = values.min(), values.max()
    return np.moveaxis((values - low) / max(high - low, 1e-12), -1, 0)[..., None]


def apply_filter(image: Any, kernel: np.ndarray = VERTICAL_EDGES) -> np.ndarray:
    """A fixed filter over a grey version of an image [H, W, C], as convolution layers do it: [H', W'], signed.

    Only where the whole kernel fits: H' = H - h + 1.
    """
    grey = jnp.mean(to_float(image), axis=-1)[None, :, :, None]
    weights = jnp.asarray(kernel, jnp.float32)[:, :, None, None]
    result = jax.lax.conv_general_dilated(
        grey, weights, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return np.asarray(result[0, :, :, 0])
