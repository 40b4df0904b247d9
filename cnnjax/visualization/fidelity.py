"""Whether an attribution is right: what happens when the pixels it names are removed (Petsiuk et al. 2018)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.network import Network
from cnnjax.visualization.batches import to_float


def deletion_curve(
    network: Network, images: Any, labels: Any, maps: np.ndarray, steps: int = 10, baseline: float = 0.0
) -> np.ndarray:
    """Probability of the class while pixels are set to the baseline, the most important first. [N, steps + 1].

    maps: [N, H, W] or [N, H, W, C], whose mean over channels orders the pixels. A good map has a small area.
    """
    images = to_float(images)
    return _curve(network, images, jnp.full_like(images, baseline), labels, maps, steps)


def insertion_curve(
    network: Network, images: Any, labels: Any, maps: np.ndarray, steps: int = 10, baseline: float = 0.0
) -> np.ndarray:
    """Probability of the class while pixels appear on the baseline, the most important first. [N, steps + 1].

    A good map has a large area.
    """
    images = to_float(images)
    return _curve(network, jnp.full_like(images, baseline), images, labels, maps, steps)


def area(curve: np.ndarray) -> np.ndarray:
    """Area under curves [..., steps + 1] over a width of 1, by trapezoids."""
    return np.mean((curve[..., :-1] + curve[..., 1:]) / 2, axis=-1)


def _curve(
    network: Network, start: Array, end: Array, labels: Any, maps: np.ndarray, steps: int
) -> np.ndarray:
    count, height, width, _ = start.shape
    maps = np.asarray(maps)
    importance = maps.mean(axis=-1) if maps.ndim == 4 else maps
    rank = np.argsort(np.argsort(-importance.reshape(count, -1), axis=1, kind="stable"), axis=1)
    ranks = jnp.asarray(rank.reshape(count, height, width, 1))
    labels = jnp.atleast_1d(jnp.asarray(labels)).astype(jnp.int32)
    limits = np.linspace(0, height * width, steps + 1).astype(np.int32)
    scores = [_score(network, jnp.where(ranks < limit, end, start), labels) for limit in limits]
    return np.stack([np.asarray(score) for score in scores], axis=1)


@jax.jit
def _score(network: Network, images: Array, labels: Array) -> Array:
    return jnp.take_along_axis(jax.nn.softmax(network.logits(images)), labels[:, None], axis=1)[:, 0]
