"""Which pixels decided: gradients, class activation maps and covered pictures.

`images` are [N, H, W, C], uint8 or floats in [0, 1], `labels` [N] the classes to explain, by their logits. Maps of
gradients are [N, H, W, C] and signed; the others are [N, H, W].
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.network import Network
from cnnjax.visualization.addresses import LOGITS, class_index, parse_address, with_relu
from cnnjax.visualization.batches import map_batches, to_float
from cnnjax.visualization.relu_rules import guided


def gradient(network: Network, images: Any, labels: Any) -> np.ndarray:
    """The gradient of the logit (Simonyan et al. 2014). [N, H, W, C]."""
    return np.asarray(_gradient(network, to_float(images), _labels(network, labels)))


def guided_backprop(network: Network, images: Any, labels: Any) -> np.ndarray:
    """The gradient with ReLUs that pass only positive gradients (Springenberg et al. 2015). [N, H, W, C].

    Raises ConfigError if the model's ReLUs cannot be replaced: the result would be the plain gradient.
    """
    return gradient(with_relu(network, guided), images, labels)


def integrated_gradients(
    network: Network, images: Any, labels: Any, steps: int = 50, baseline: float = 0.0
) -> np.ndarray:
    """The gradient averaged on the way from a uniform baseline, times the way (Sundararajan et al. 2017).

    Trapezoidal rule over `steps` points. Its sum over a picture is the logit minus that of the baseline, up to the
    error of the rule. [N, H, W, C].
    """
    if steps < 2:
        raise ConfigError(
            f"integrated gradients of {steps} steps: the rule needs 2 at least, the baseline and the picture"
        )
    images, labels = to_float(images), _labels(network, labels)
    way = images - baseline
    weights = np.full(steps, 1.0 / (steps - 1), np.float32)
    weights[[0, -1]] /= 2
    total = jnp.zeros_like(images)
    for share, weight in zip(np.linspace(0, 1, steps, dtype=np.float32), weights, strict=True):
        total += weight * _gradient(network, baseline + share * way, labels)
    return np.asarray(way * total)


def smooth_grad(
    network: Network, images: Any, labels: Any, key: Array, samples: int = 50, deviation: float = 0.2
) -> np.ndarray:
    """The gradient averaged over noisy copies (Smilkov et al. 2017). deviation: of values in [0, 1]. [N, H, W, C]."""
    images, labels = to_float(images), _labels(network, labels)
    total = jnp.zeros_like(images)
    for sample_key in jax.random.split(key, samples):
        total += _gradient(network, images + deviation * jax.random.normal(sample_key, images.shape), labels)
    return np.asarray(total / samples)


def grad_cam(network: Network, images: Any, labels: Any, layer: str) -> np.ndarray:
    """Channels of a convolutional layer, weighted by the mean of their gradients (Selvaraju et al. 2017). [N, H, W].

    ReLU of the weighted sum, resized to the picture.
    """
    activation, slope = _layer_gradient(
        _spatial(network, layer), to_float(images), _labels(network, labels), layer
    )
    weights = jnp.mean(slope, axis=(1, 2))
    return _resized(jnp.einsum("nhwc,nc->nhw", activation, weights, precision="highest"), network)


def grad_cam_plus_plus(network: Network, images: Any, labels: Any, layer: str) -> np.ndarray:
    """Grad-CAM whose gradients are weighted by position (Chattopadhay et al. 2018, equations 13 and 19). [N, H, W].

    Of exp(logit), without that factor, which scales the whole map; 1e-6 is added to the denominator of equation 19.
    """
    activation, slope = _layer_gradient(
        _spatial(network, layer), to_float(images), _labels(network, labels), layer
    )
    square, cube = slope**2, slope**3
    denominator = 2 * square + jnp.sum(activation, axis=(1, 2), keepdims=True) * cube + 1e-6
    alpha = jnp.where(slope != 0, square / denominator, 0.0)
    weights = jnp.sum(alpha * jax.nn.relu(slope), axis=(1, 2))
    return _resized(jnp.einsum("nhwc,nc->nhw", activation, weights, precision="highest"), network)


def occlusion(
    network: Network, images: Any, labels: Any, patch: int, stride: int, value: float = 0.5
) -> np.ndarray:
    """How much the probability falls when a grey square covers a pixel (Zeiler & Fergus 2014). [N, H, W].

    The fall is averaged over the squares that cover the pixel. patch, stride: of the square, in pixels.
    """
    images, labels = to_float(images), _labels(network, labels)
    corners = [
        (y, x)
        for y in _starts(images.shape[1], patch, stride)
        for x in _starts(images.shape[2], patch, stride)
    ]
    masks = np.ones((len(corners), *images.shape[1:3]), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + patch, x : x + patch] = False
    covered = (~masks).astype(np.float32)
    clean = np.asarray(_probability(network, images, labels))
    maps = []
    for i in range(images.shape[0]):
        scores = _masked_scores(network, images[i], labels[i], masks, value)
        maps.append(np.tensordot(clean[i] - scores, covered, axes=1) / np.maximum(covered.sum(axis=0), 1))
    return np.stack(maps)


def rise(
    network: Network,
    images: Any,
    labels: Any,
    key: Array,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
) -> np.ndarray:
    """The mean of random masks weighted by the probability of what they leave (RISE, Petsiuk et al. 2018). [N, H, W].

    Masks are smooth: the picture shows `cells` x `cells` squares of a grid that has one more each way and is shifted
    by less than a square; its values, 1 with probability `keep`, lie in their centres. Covered is black.
    """
    images, labels = to_float(images), _labels(network, labels)
    drawn = np.asarray(_random_masks(key, masks, cells, keep, images.shape[1:3]))
    maps = []
    for i in range(images.shape[0]):
        scores = _masked_scores(network, images[i], labels[i], drawn, 0.0)
        maps.append(np.tensordot(scores, drawn, axes=1) / (masks * keep))
    return np.stack(maps)


def _labels(network: Network, labels: Any) -> Array:
    """Int32 [N]; ConfigError for one that is no class of the network, of which XLA would take another."""
    numbers = np.atleast_1d(np.asarray(labels)).astype(np.int32)
    for label in numbers.tolist():
        class_index(network, label)
    return jnp.asarray(numbers)


def _spatial(network: Network, layer: str) -> Network:
    if len(network.layers()[parse_address(network, layer).layer]) != 3:
        raise ConfigError(f"class activation maps need a layer with height and width, {layer} is a vector")
    return network


def _picked(logits: Array, labels: Array) -> Array:
    return jnp.sum(jnp.take_along_axis(logits, labels[:, None], axis=1))


@jax.jit
def _gradient(network: Network, images: Array, labels: Array) -> Array:
    return jax.grad(lambda images: _picked(network.logits(images), labels))(images)


@jax.jit
def _probability(network: Network, images: Array, labels: Array) -> Array:
    return jnp.take_along_axis(jax.nn.softmax(network.logits(images)), labels[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames="layer")
def _layer_gradient(network: Network, images: Array, labels: Array, layer: str) -> tuple[Array, Array]:
    """The activation of a layer and the gradient of the logit with respect to it, [N, h, w, C]."""
    shape = jax.eval_shape(network.stages, images)[layer]

    def logit(delta: Array) -> tuple[Array, Array]:
        stages = network.stages(images, {layer: delta})
        return _picked(stages[LOGITS].astype(jnp.float32), labels), stages[layer]

    slope, activation = jax.grad(logit, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return activation.astype(jnp.float32), slope.astype(jnp.float32)


def _resized(maps: Array, network: Network) -> np.ndarray:
    shape = (maps.shape[0], *network.image_shape[:2])
    return np.asarray(jax.image.resize(jax.nn.relu(maps), shape, "bilinear"))


def _starts(length: int, patch: int, stride: int) -> list[int]:
    """Where windows begin; the last one ends at the border."""
    last = max(length - patch, 0)
    return sorted({*range(0, last, stride), last})


def _masked_scores(
    network: Network, image: Array, label: Array, masks: np.ndarray, value: float
) -> np.ndarray:
    """Probabilities of the class where [M, H, W] masks blend the picture with a uniform value."""

    def scores(batch: Array) -> Array:
        return _masked_probability(network, image, label, batch, value)

    return map_batches(scores, masks, batch_size=64)


@jax.jit
def _masked_probability(network: Network, image: Array, label: Array, masks: Array, value: Any) -> Array:
    kept = masks[..., None]
    pictures = kept * image[None] + (1 - kept) * value
    return jax.nn.softmax(network.logits(pictures))[:, label]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _random_masks(key: Array, count: int, cells: int, keep: float, size: tuple[int, int]) -> Array:
    grid_key, shift_key = jax.random.split(key)
    height, width = (-(-length // cells) for length in size)  # of a cell
    grid = jax.random.bernoulli(grid_key, keep, (count, cells + 1, cells + 1)).astype(jnp.float32)
    shape = (count, (cells + 1) * height, (cells + 1) * width)
    smooth = jnp.clip(jax.image.resize(grid, shape, "bilinear"), 0, 1)
    shifts = jax.random.randint(shift_key, (count, 2), 0, jnp.asarray([height, width])[None])
    return jax.vmap(lambda mask, shift: jax.lax.dynamic_slice(mask, (shift[0], shift[1]), size))(
        smooth, shifts
    )
