"""What a visualization looks at: a trained model with its preprocessing, and addresses of its parts."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.visualization.relu_rules import Rule, count_relus, is_relu

IMAGE = "image"  # the key of the picture itself among the stages
LOGITS = "logits"
PROBABILITY = "probability"

Stages = Mapping[str, Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["variables"],
    meta_fields=["model", "image_shape", "mean", "std", "channel_order", "classes"],
)
@dataclasses.dataclass(frozen=True)
class Network:
    """A trained model, and how pictures enter it. A pytree whose leaves are the variables.

    model: a module with `apply(variables, x, train=..., mutable=...)` whose layers are named by
      `cnnjax.models.layers.stage`, and with the fields `act` and `pool`.
    image_shape: height, width, channels of the pictures it is run on.
    mean, std: what preprocessing subtracts and divides by: of values in [0, 1], one per channel in the model's
      channel order, or one for all channels.
    channel_order: "rgb" or "bgr", what the model expects. Pictures are RGB (or grey) everywhere else.
    classes: names of the outputs, where known.
    """

    model: Any
    variables: Any
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.image_shape[2]):
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} values for images of {self.image_shape[2]} channels"
                )
        if self.channel_order not in ("rgb", "bgr"):
            raise ConfigError(f"channel_order={self.channel_order!r}: choose rgb or bgr")

    def preprocess(self, images: Array) -> Array:
        """[N, H, W, C] RGB or grey floats in [0, 1] -> what the model takes."""
        if self.channel_order == "bgr":
            images = images[..., ::-1]
        mean, std = (jnp.asarray(v, images.dtype)[None, None, None] for v in (self.mean, self.std))
        return (images - mean) / std

    def stages(self, images: Array, perturbations: Stages | None = None) -> dict[str, Array]:
        """Every named stage of the model on pictures in [0, 1], as "block/stage" -> [N, ...], and "image".

        Under jit, what is not used is not computed. `perturbations` are added to the stages they name: the
        gradient with respect to a zero perturbation is the gradient with respect to that stage.
        """
        _, stages = self._apply(self.preprocess(images), perturbations)
        return {IMAGE: images, **_flatten(stages)}

    def logits(self, images: Array) -> Array:
        """[N, classes], of pictures in [0, 1]."""
        return self._apply(self.preprocess(images), None)[0].astype(jnp.float32)

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (without the batch) of all stages in the order of the forward pass.

        Nothing is computed. Raises ConfigError if the model cannot take images of `image_shape`.
        """
        return dict(_layers(self.model, _structure(self.variables), self.image_shape))

    def at_size(self, height: int, width: int) -> "Network":
        """The same network run on larger or smaller pictures. Raises ConfigError if it cannot."""
        resized = dataclasses.replace(self, image_shape=(height, width, self.image_shape[2]))
        resized.layers()
        return resized

    def with_relu(self, rule: Rule) -> "Network":
        """The same network with another backward pass through its ReLUs (see relu_rules).

        Raises ConfigError if the model has no ReLU that can be replaced, or some that cannot.
        """
        replaced, missed = self.relus()
        if not replaced or missed:
            raise ConfigError(
                f"{type(self.model).__name__}: {replaced} ReLUs replaced, {missed} not: "
                "guided, deconv and redirected gradients need a model whose every ReLU is its field `act`"
            )
        return self.replace_act(rule)

    def relus(self) -> tuple[int, int]:
        """How many ReLUs follow the model's field `act`, and how many do not."""
        return _relus(self.model, _structure(self.variables), self.image_shape)

    def class_index(self, label: int | str) -> int:
        """The index of a class given by index or name. Raises ConfigError with the nearest names."""
        count = self._layer_shape(LOGITS)[-1]
        if isinstance(label, str) and not label.isdigit():
            if label in self.classes:
                return self.classes.index(label)
            if not self.classes:
                raise ConfigError(f"class {label!r}: this network has no class names, give 0 to {count - 1}")
            raise ConfigError(f"unknown class {label!r}; {_suggest(label, self.classes)}")
        if not 0 <= int(label) < count:
            raise ConfigError(f"class {label}: the network has classes 0 to {count - 1}")
        return int(label)

    def class_name(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else str(index)

    def address(self, text: str) -> "Address":
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
        shape = self._layer_shape(LOGITS if layer == PROBABILITY else layer)
        if channel is None:
            if layer == PROBABILITY:
                raise ConfigError("probability needs a class: probability:3")
            return Address(layer)
        if layer in (LOGITS, PROBABILITY) and len(shape) == 1:
            index = self.class_index(channel)
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

    def _layer_shape(self, layer: str) -> tuple[int, ...]:
        layers = self.layers()
        if layer not in layers:
            raise ConfigError(f"unknown layer {layer!r}; {_suggest(layer, tuple(layers))}")
        return layers[layer]

    def replace_act(self, act: Rule) -> "Network":
        return dataclasses.replace(self, model=self.model.clone(act=act))

    def _apply(self, x: Array, perturbations: Stages | None) -> tuple[Array, Any]:
        variables = dict(self.variables)
        if perturbations:
            variables["perturbations"] = _unflatten(perturbations)
        output, state = self.model.apply(variables, x, train=False, mutable=["stages"])
        if not state.get("stages"):
            raise ConfigError(
                f"{type(self.model).__name__} names no stages: call cnnjax.models.layers.stage(self, name, x) in it"
            )
        return output, state["stages"]


@dataclasses.dataclass(frozen=True)
class Address:
    """A layer, a channel of it, or one neuron of that channel."""

    layer: str
    channel: int | None = None
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        channel = "" if self.channel is None else f":{self.channel}"
        return self.layer + channel + ("" if self.position is None else "@{},{}".format(*self.position))


@functools.partial(jax.jit, static_argnames="layer")
def activations(network: Network, images: Array, layer: str) -> Array:
    """One stage of a network on pictures [N, H, W, C] in [0, 1], compiled."""
    return network.stages(images)[layer]


def _suggest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:60]) + (f", ... ({len(known)} in all)" if len(known) > 60 else "")
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"Known: {listed}"


def _structure(variables: Any) -> Any:
    """Shapes and types of the variables as one hashable value."""
    leaves, tree = jax.tree.flatten(variables)
    return tree, tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)


def _abstract(structure: Any) -> Any:
    tree, leaves = structure
    return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])


@functools.lru_cache(maxsize=64)
def _layers(model: Any, structure: Any, image_shape: tuple[int, int, int]) -> tuple:
    order: list[str] = []

    def forward(variables: Any, images: Array) -> Any:
        stages = Network(model, variables, image_shape).stages(images)
        order.extend(name for name in stages if name != IMAGE)  # pytrees sort their keys
        return stages

    height, width, _ = image_shape
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(forward, _abstract(structure), images)
    except ConfigError:
        raise
    except Exception as error:  # whatever a layer says about a shape that it cannot take
        raise ConfigError(
            f"{type(model).__name__} cannot be run on {height}x{width} images: {str(error).splitlines()[0]}"
        ) from error
    empty = [name for name in order if 0 in shapes[name].shape]
    if empty:
        raise ConfigError(f"images of {height}x{width} are too small: nothing is left at {empty[0]}")
    return tuple((name, shapes[name].shape[1:]) for name in order)


@functools.lru_cache(maxsize=64)
def _relus(model: Any, structure: Any, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    def count(model: Any) -> int:
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        return count_relus(
            lambda v, x: Network(model, v, image_shape).logits(x), _abstract(structure), images
        )

    total = count(model)
    if not is_relu(getattr(model, "act", None)):
        return 0, total
    missed = count(model.clone(act=lambda x: x))
    return total - missed, missed


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    flat: dict[str, Array] = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _unflatten(flat: Stages) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
