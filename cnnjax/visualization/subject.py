"""What the pages of a gallery are made from."""

import dataclasses
import functools
import shlex
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax import Array

from cnnjax.config import ConfigError, Visualize
from cnnjax.network import Network
from cnnjax.visualization.addresses import LOGITS, PROBABILITY, parse_address
from cnnjax.visualization.embeddings import features
from cnnjax.visualization.parameterizations import (
    Fourier,
    Maco,
    Parameterization,
    Pixels,
    magnitude_template,
)
from cnnjax.visualization.pictures import resize

_TEMPLATES = 500  # images whose waves MACO's magnitudes come from

# A step of training and the network as it was then, oldest first.
History = Sequence[tuple[int, Network]]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """images: uint8 [N, H, W, C]. labels: [N] integers."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network with the images to look at, and the options of a run.

    images: uint8 [N, H, W, C]. labels: [N] integers. command: what started the run, repeated under each picture.
    training: what the network learned from, if it is there and its labels are real.
    history: the network's checkpoints, read when a page needs them.
    guide: an image [H, W, C] of the network's image shape, whose features a dream imitates.
    """

    network: Network
    images: np.ndarray
    labels: np.ndarray
    options: Visualize
    command: str = ""
    training: Labelled | None = None
    history: Callable[[], History] = tuple
    guide: np.ndarray | None = None

    @property
    def key(self) -> Array:
        return jax.random.key(self.options.seed)

    @property
    def embedding(self) -> str:
        """The layer whose vectors stand for images: the last before the logits."""
        return self.hidden_layers(1000)[-1]

    @functools.cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        """The first images in several hidden layers, [N, F] each, and, under "logits", in the output."""
        names = dict.fromkeys([*self.hidden_layers(6), self.embedding, LOGITS])
        return features(self.network, self.images[: self.options.embedded], list(names))

    def canvas(self) -> Network:
        """The network at the size of rendered pictures."""
        size = self.options.size
        return self.network.at_size(size, size) if size else self.network

    def parameterization(self) -> Parameterization:
        """What pictures on the canvas are made of."""
        shape = self.canvas().image_shape
        if self.options.parameterization == "pixels":
            return Pixels(shape)
        if self.options.parameterization == "maco":
            images = [resize(image, *shape[:2]) for image in self.images[:_TEMPLATES]]
            return Maco(shape, magnitude_template(np.stack(images) / np.float32(255), shape))
        return Fourier(shape)

    def examples(self) -> np.ndarray:
        """Indices of a few images: the first of each class, then the second of each."""
        order = np.argsort(_occurrence(self.labels), kind="stable")
        return order[: self.options.images]

    def spatial_layers(self, count: int) -> list[str]:
        """Layers with positions: those asked for, or so many of all, from the first to the last."""
        layers = self.network.layers()
        if self.options.layer:
            asked = dict.fromkeys(
                parse_address(self.network, address).layer for address in self.options.layer
            )
            found = [name for name in asked if len(layers.get(name, ())) == 3]
            if not found:
                raise ConfigError(f"{', '.join(asked)}: this needs a layer with height and width")
            return found
        found = [name for name in _main(layers) if len(layers[name]) == 3]
        if not found:
            raise ConfigError("this needs a layer with height and width, and the network has none")
        return _spread(found, count)

    def hidden_layers(self, count: int) -> list[str]:
        """Layers before the logits: those asked for, or so many of all."""
        layers = self.network.layers()
        if self.options.layer:
            asked = dict.fromkeys(
                parse_address(self.network, address).layer for address in self.options.layer
            )
            return [name for name in asked if name not in (LOGITS, PROBABILITY)]
        return _spread([name for name in _main(layers) if name != LOGITS], count)

    def channels(self, layer: str) -> list[int]:
        """The channels of a layer that were asked for, or the first few."""
        asked = [parse_address(self.network, address) for address in self.options.layer]
        named = [a.channel for a in asked if a.layer == layer and a.channel is not None]
        total = self.network.layers()[layer][-1]
        return list(dict.fromkeys(named)) or list(range(min(self.options.channels, total)))

    def command_for(self, page: str, layer: str = "") -> str:
        """The command that makes one picture again."""
        if not self.command:
            return ""
        asked = f" --visualize.layer={shlex.quote(layer)}" if layer else ""
        return f"{self.command} --visualize.pages={page}{asked}"


def _occurrence(labels: np.ndarray) -> np.ndarray:
    """How many earlier labels are the same: [0, 0, 1] of [5, 3, 5]."""
    seen: dict[int, int] = {}
    result = np.zeros(len(labels), np.int64)
    for i, label in enumerate(np.asarray(labels).tolist()):
        result[i] = seen.get(label, 0)
        seen[label] = result[i] + 1
    return result


def _main(layers: dict[str, tuple[int, ...]]) -> list[str]:
    """The model's own stages: not those inside blocks, not pooled or pre-activation copies."""
    own = [n for n in layers if "/" not in n and "pool" not in n and not n.endswith("pre_relu")]
    return own or list(layers)


def _spread(names: list[str], count: int) -> list[str]:
    """At most so many of a list, from the first to the last."""
    if len(names) <= count:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]
