"""A photograph pulled toward a label (Inceptionism, Mordvintsev et al. 2015).

The weights stay fixed; an error at the output is sent back to the pixels, which move against it. Two errors:

logits   delta = logits - onehot, the gradient of 1/2 |logits - onehot|^2. It asks for a logit of 1 and zeros
         elsewhere, so the probability of the label cannot come to much more than e / (e + classes - 1).
softmax  delta = softmax(logits) - onehot, the gradient of the cross-entropy. It asks for probability 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.network import Network
from cnnjax.visualization.addresses import class_index
from cnnjax.visualization.batches import to_float
from cnnjax.visualization.parameterizations import natural
from cnnjax.visualization.transforms import Transform, for_objects

# (logits [N, classes], label) -> [N, classes]
Delta = Callable[[Array, Any], Array]


def logits_delta(logits: Array, label: Any) -> Array:
    """logits - onehot, [N, classes]."""
    return logits - _onehot(logits, label)


def softmax_delta(logits: Array, label: Any) -> Array:
    """softmax(logits) - onehot, [N, classes]."""
    return jax.nn.softmax(logits) - _onehot(logits, label)


DELTAS: dict[str, Delta] = {"logits": logits_delta, "softmax": softmax_delta}


def _onehot(logits: Array, label: Any) -> Array:
    return jax.nn.one_hot(label, logits.shape[-1])[None]


@dataclasses.dataclass(frozen=True)
class Interrogation:
    """frames: after so many updates, [H, W, C] in [0, 1]. probabilities: of the label, before each update and last."""

    frames: dict[int, np.ndarray]
    probabilities: np.ndarray

    @property
    def image(self) -> np.ndarray:
        return self.frames[max(self.frames)]


def interrogate(
    network: Network,
    image: Any,
    label: int | str,
    *,
    key: Array,
    delta: str = "softmax",
    steps: Sequence[int] = (0, 16, 48, 128),
    step_size: float = 1 / 255,
    decay: float = 1.0,
    transform: Transform | None = None,
) -> Interrogation:
    """Changes the pixels of an image [H, W, C], uint8 or in [0, 1], until the network sees the label in it.

    delta: which error is sent back: "logits" or "softmax".
    steps: numbers of updates after which a frame is kept.
    step_size: mean change of a pixel per step. decay: the change is divided by frequency^decay, so that shapes
    appear rather than noise that only the network sees; 0 is the plain gradient.
    transform: random changes before each step; by default those of `for_objects`.
    """
    if delta not in DELTAS:
        raise ConfigError(f"delta={delta!r}: choose one of {', '.join(DELTAS)}")
    target = class_index(network, label)
    picture = to_float(image)[None]
    if picture.shape[1:] != network.image_shape:
        raise ConfigError(f"the image is {picture.shape[1:]}, the network takes {network.image_shape}")
    transform = transform or for_objects(network.image_shape)
    frames, probabilities = {}, []
    for step in range(max(steps) + 1):
        if step in steps:
            frames[step] = np.asarray(picture[0])
        moved, probability = _update(
            network, picture, target, jax.random.fold_in(key, step), delta, step_size, decay, transform
        )
        probabilities.append(probability)
        picture = moved
    return Interrogation(frames, np.asarray(jax.device_get(probabilities)))


@functools.partial(jax.jit, static_argnames=("delta", "decay", "transform"))
def _update(
    network: Network,
    picture: Array,
    target: Any,
    key: Array,
    delta: str,
    step_size: float,
    decay: float,
    transform: Transform,
) -> tuple[Array, Array]:
    """The picture after one step, and the probability of the target before it."""
    probability = jax.nn.softmax(network.logits(picture))[0, target]
    logits, pull_back = jax.vjp(lambda picture: network.logits(transform(key, picture, 0.0)), picture)
    (slope,) = pull_back(DELTAS[delta](logits, target))
    slope = natural(slope, decay)
    slope = slope / (jnp.mean(jnp.abs(slope)) + 1e-12)
    return jnp.clip(picture - step_size * slope, 0.0, 1.0), probability
