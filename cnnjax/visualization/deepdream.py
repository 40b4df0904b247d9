"""DeepDream (Mordvintsev et al. 2015): a picture changed until a network sees more of what it already sees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.network import Network
from cnnjax.visualization.addresses import activations, parse_address
from cnnjax.visualization.batches import map_batches, to_float
from cnnjax.visualization.objectives import Objective, guided, parse
from cnnjax.visualization.parameterizations import natural


def deepdream(
    network: Network,
    image: Any,
    objective: Objective | str,
    *,
    key: Array,
    octaves: int = 4,
    octave_scale: float = 1.4,
    iterations: int = 10,
    step_size: float = 1.5 / 255,
    decay: float = 0.0,
) -> list[np.ndarray]:
    """Climbs an objective from an image, from coarse to fine. Returns the picture of each octave; the last is full size.

    image: [H, W, C], uint8 or floats in [0, 1], of any size: gradients are computed on tiles of the network's image
    shape, after a random shift that moves the seams. The picture is a torus: what leaves at one side enters at the
    other. A layer's address as objective is classic DeepDream; see `guide` for guided dreams.

    Defaults are those of google/deepdream: a step is step_size * g / mean |g|, then clipped to [0, 1].
    decay: divides the gradient's waves by their frequency^decay first, which gives shapes instead of fine noise.
    """
    objective = (parse(network, objective) if isinstance(objective, str) else objective).check(network)
    original = np.asarray(to_float(image))
    sizes = [tuple(max(round(s / octave_scale**i), 1) for s in original.shape[:2]) for i in range(octaves)]
    detail = np.zeros((*sizes[-1], original.shape[2]), np.float32)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    pictures = []
    for size in reversed(sizes):
        base = _resize(original, size)
        picture = base + _resize(detail, size)
        for _ in range(iterations):
            shift = tuple(int(generator.integers(length)) for length in size)
            slope = tiled_gradient(network, objective, picture, shift)
            slope = np.asarray(natural(jnp.asarray(slope)[None], decay))[0]
            picture = np.clip(picture + step_size * slope / (np.abs(slope).mean() + 1e-12), 0, 1)
        detail = picture - base
        pictures.append(picture)
    return pictures


def guide(network: Network, image: Any, layer: str) -> Objective:
    """An objective for a dream in the features of another image [H, W, C] of the network's image shape.

    Each position is drawn to the guide's feature that it matches best.
    """
    features = activations(network, to_float(image)[None], parse_address(network, layer).layer)
    return guided(layer, features.reshape(-1, features.shape[-1]))


def _resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.image.resize(jnp.asarray(image), (*size, image.shape[2]), "bilinear"))


def tiled_gradient(
    network: Network, objective: Objective, picture: np.ndarray, shift: tuple[int, ...]
) -> np.ndarray:
    """The gradient of an objective at a picture [H, W, C] of any size, by tiles of the network's size.

    The borders of the tiles are moved by `shift` (y, x), so that over many steps they fall everywhere.
    """
    height, width, channels = picture.shape
    tile_h, tile_w, _ = network.image_shape
    rows, columns = -(-height // tile_h), -(-width // tile_w)
    rolled = np.roll(picture, shift, axis=(0, 1))
    padded = np.pad(rolled, ((0, rows * tile_h - height), (0, columns * tile_w - width), (0, 0)), mode="wrap")
    tiles = padded.reshape(rows, tile_h, columns, tile_w, channels).swapaxes(1, 2)
    slopes = map_batches(
        lambda batch: _gradients(network, objective, batch),
        tiles.reshape(-1, *network.image_shape),
        batch_size=8,
    )
    slope = slopes.reshape(tiles.shape).swapaxes(1, 2).reshape(padded.shape)[:height, :width]
    return np.roll(slope, tuple(-s for s in shift), axis=(0, 1))


@jax.jit
def _gradients(network: Network, objective: Objective, tiles: Array) -> Array:
    return jax.vmap(jax.grad(lambda tile: objective(network.stages(tile[None]))))(tiles)
