"""Addresses of the parts of a network that visualization looks at, and other backward passes through it."""

import dataclasses
import difflib
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.network import Network, abstract, structure
from cnnjax.visualization.relu_rules import Rule, count_relus, is_relu

LOGITS = "logits"
PROBABILITY = "probability"


@dataclasses.dataclass(frozen=True)
class Address:
    """A layer, a channel of it, or one neuron of that channel."""

    layer: str
    channel: int | None = None
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        channel = "" if self.channel is None else f":{self.channel}"
        return self.layer + channel + ("" if self.position is None else "@{},{}".format(*self.position))


def with_relu(network: Network, rule: Rule) -> Network:
    """The same network with another backward pass through its ReLUs (see relu_rules).

    Raises ConfigError if the model has no ReLU that can be replaced, or some that cannot.
    """
    replaced, missed = relus(network)
    if not replaced or missed:
        raise ConfigError(
            f"{type(network.model).__name__}: {replaced} ReLUs replaced, {missed} not: "
            "guided, deconv and redirected gradients need a model whose every ReLU is its field `act`"
        )
    return replace_act(network, rule)


def relus(network: Network) -> tuple[int, int]:
    """How many ReLUs follow the model's field `act`, and how many do not."""
    return _relus(network.model, structure(network.variables), network.image_shape)


def class_index(network: Network, label: int | str) -> int:
    """The index of a class given by index or name. Raises ConfigError with the nearest names."""
    count = _layer_shape(network, LOGITS)[-1]
    if isinstance(label, str) and not label.isdigit():
        if label in network.classes:
            return network.classes.index(label)
        if not network.classes:
            raise ConfigError(f"class {label!r}: this network has no class names, give 0 to {count - 1}")
        raise ConfigError(f"unknown class {label!r}; {_suggest(label, network.classes)}")
    if not 0 <= int(label) < count:
        raise ConfigError(f"class {label}: the network has classes 0 to {count - 1}")
    return int(label)


def name_of_class(network: Network, index: int) -> str:
    """Its name, or its number where names are not known."""
    return network.classes[index] if index < len(network.classes) else str(index)


def parse_address(network: Network, text: str) -> "Address":
    """Parses `layer`, `layer:channel`, `layer:channel@y,x`, `logits:class`, `probability:class`.

    A class is an index or a name. Raises ConfigError for a layer, channel, position or class that is not
    there, naming those that are.
    """
    match = re.fullmatch(r"([^:@]+)(?::([^@]+))?(?:@(\d+),(\d+))?", text.strip())
    if match is None or (match[3] and not match[2]):
        raise ConfigError(
            f"cannot read the address {text!r}: write layer, layer:channel, layer:channel@y,x, "
            "logits:class or probability:class"
        )
    layer, channel, *position = match.groups()
    shape = _layer_shape(network, LOGITS if layer == PROBABILITY else layer)
    if channel is None:
        if layer == PROBABILITY:
            raise ConfigError("probability needs a class: probability:3")
        return Address(layer)
    if layer in (LOGITS, PROBABILITY) and len(shape) == 1:
        index = class_index(network, channel)
    elif not channel.isdigit():
        raise ConfigError(f"{text}: channels of {layer} are numbers from 0 to {shape[-1] - 1}")
    else:
        index = int(channel)
    if index >= shape[-1]:
        raise ConfigError(f"{text}: {layer} has channels 0 to {shape[-1] - 1}")
    if position[0] is None:
        return Address(layer, index)
    if len(shape) != 3:
        raise ConfigError(f"{text}: {layer} is a vector of {shape[-1]}, it has no position")
    y, x = (int(p) for p in position)
    if y >= shape[0] or x >= shape[1]:
        raise ConfigError(f"{text}: {layer} has positions 0,0 to {shape[0] - 1},{shape[1] - 1}")
    return Address(layer, index, (y, x))


def _layer_shape(network: Network, layer: str) -> tuple[int, ...]:
    layers = network.layers()
    if layer not in layers:
        raise ConfigError(f"unknown layer {layer!r}; {_suggest(layer, tuple(layers))}")
    return layers[layer]


def replace_act(network: Network, act: Rule) -> Network:
    """The network with another activation in the place of its ReLUs."""
    return dataclasses.replace(network, model=network.model.clone(act=act))


@functools.partial(jax.jit, static_argnames="layer")
def activations(network: Network, images: Array, layer: str) -> Array:
    """One stage of a network on pictures [N, H, W, C] in [0, 1], compiled."""
    return network.stages(images)[layer]


def _suggest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:60]) + (f", ... ({len(known)} in all)" if len(known) > 60 else "")
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"Known: {listed}"


@functools.lru_cache(maxsize=64)
def _relus(model: Any, variables: Any, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    def count(model: Any) -> int:
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        return count_relus(lambda v, x: Network(model, v, image_shape).logits(x), abstract(variables), images)

    total = count(model)
    if not is_relu(getattr(model, "act", None)):
        return 0, total
    missed = count(model.clone(act=lambda x: x))
    return total - missed, missed
