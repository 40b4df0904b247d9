"""What a picture should make large: pure functions of a network's stages, with the algebra of numbers.

    channel("mixed4a", 11) - 0.25 * total_variation()
    sum(class_logit(i) for i in (207, 208)) / 2

Every objective is maximized; the penalties (total_variation, l1, l2, blur, diversity's similarity) are positive and
have to be subtracted. The definitions are those of lucid (Olah et al. 2017) unless said otherwise. `stages` holds
[N, H, W, C] or [N, F] arrays, and the picture itself, in [0, 1], under "image".

An objective is a pytree: channels, weights and vectors are leaves, layers are not. So objectives of one form, such
as all channels of a layer, can be stacked and rendered by one compiled program.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Union

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.network import IMAGE, Network, Stages
from cnnjax.visualization.addresses import LOGITS, PROBABILITY, parse_address

Operand = Union["Objective", float, Array]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["operands"], meta_fields=["function", "layers"]
)
@dataclasses.dataclass(frozen=True)
class Objective:
    """A scalar function of the stages: `function(stages, *layers, *operands)`."""

    function: Callable[..., Array]
    layers: tuple[str, ...] = ()
    operands: tuple[Any, ...] = ()

    def __call__(self, stages: Stages) -> Array:
        return self.function(stages, *self.layers, *self.operands)

    def __add__(self, other: Operand) -> "Objective":
        return Objective(_add, operands=(self, other))

    def __radd__(self, other: Operand) -> "Objective":  # so that sum(objectives) works
        return Objective(_add, operands=(other, self))

    def __mul__(self, other: Operand) -> "Objective":
        return Objective(_multiply, operands=(self, other))

    def __rmul__(self, other: Operand) -> "Objective":
        return Objective(_multiply, operands=(other, self))

    def __neg__(self) -> "Objective":
        return -1.0 * self

    def __sub__(self, other: Operand) -> "Objective":
        return self + -1.0 * other

    def __rsub__(self, other: Operand) -> "Objective":
        return other + -1.0 * self

    def __truediv__(self, number: float) -> "Objective":
        return (1.0 / number) * self

    def __str__(self) -> str:
        sign = {_add: " + ", _multiply: " * "}.get(self.function)
        if sign:
            return f"({sign.join(str(operand) for operand in self.operands)})"
        shown = (
            f"array{o.shape}" if getattr(o, "shape", ()) else str(o) for o in self.operands if o is not None
        )
        return f"{self.function.__name__.strip('_')}({', '.join((*self.layers, *shown))})"

    def check(self, network: Network) -> "Objective":
        """Returns itself; raises ConfigError if the network lacks a layer, channel or position it names."""
        for operand in self.operands:
            if isinstance(operand, Objective):
                operand.check(network)
        for layer in self.layers:
            if layer != IMAGE:
                index = self.function in (_channel, _neuron, _class_logit, _class_probability)
                position = self.operands[1] if self.function is _neuron else None
                channel = f":{int(self.operands[0])}" if index else ""
                parse_address(network, f"{layer}{channel}" + ("@{},{}".format(*position) if position else ""))
        return self


def parse(network: Network, address: str) -> Objective:
    """The objective an address stands for: a layer, a channel, a neuron, a class logit or probability.

    Raises ConfigError for an address that the network does not have.
    """
    parsed = parse_address(network, address)
    if parsed.layer == PROBABILITY:
        assert parsed.channel is not None
        return class_probability(parsed.channel)
    if parsed.channel is None:
        return layer(parsed.layer)
    if parsed.position is not None:
        return neuron(parsed.layer, parsed.channel, parsed.position)
    return class_logit(parsed.channel) if parsed.layer == LOGITS else channel(parsed.layer, parsed.channel)


def neuron(layer: str, channel: int, position: tuple[int, int] | None = None) -> Objective:
    """Mean over the batch of a[:, y, x, channel]; the centre, (H // 2, W // 2), if no position is given."""
    return Objective(_neuron, (layer,), (channel, position))


def channel(layer: str, channel: int) -> Objective:
    """Mean over batch and positions of a[..., channel]."""
    return Objective(_channel, (layer,), (channel,))


def layer(layer: str) -> Objective:
    """Mean of a^2 over everything: DeepDream."""
    return Objective(_layer, (layer,))


def direction(layer: str, vector: Array, power: float = 0.0) -> Objective:
    """Mean over batch and positions of <a, v> max(0.1, cos(a, v))^power. vector: [C]."""
    return Objective(_direction, (layer,), (jnp.asarray(vector, jnp.float32), float(power)))


def class_logit(index: int) -> Objective:
    """Sum over the batch of the pre-softmax output of a class."""
    return Objective(_class_logit, (LOGITS,), (index,))


def class_probability(index: int) -> Objective:
    """Sum over the batch of the softmax output of a class."""
    return Objective(_class_probability, (LOGITS,), (index,))


def diversity(layer: str) -> Objective:
    """How alike the pictures of a batch are: subtract it.

    sum over i != j of <G_i, G_j> / N, where G_i is the Gram matrix of picture i, of unit norm.
    """
    return Objective(_diversity, (layer,))


def alignment(layer: str) -> Objective:
    """How close pictures i and i + d of a batch are: -mean (a_i - a_i+d)^2 / 2^d, summed over i and d = 1 to 4."""
    return Objective(_alignment, (layer,))


def total_variation() -> Objective:
    """sum |dx| + sum |dy| of the pictures: subtract it."""
    return Objective(_total_variation, (IMAGE,))


def l1(constant: float = 0.5) -> Objective:
    """sum |x - constant| of the pictures: subtract it."""
    return Objective(_l1, (IMAGE,), (constant,))


def l2(constant: float = 0.5) -> Objective:
    """sqrt(1e-6 + sum (x - constant)^2) of the pictures: subtract it."""
    return Objective(_l2, (IMAGE,), (constant,))


def blur() -> Objective:
    """0.5 sum (x - blurred x)^2 of the pictures, the blurred one held fixed: subtract it."""
    return Objective(_blur, (IMAGE,))


def guided(layer: str, guide: Array) -> Objective:
    """Guided DeepDream: sum over positions of the largest dot product with a feature of the guide. guide: [K, C]."""
    return Objective(_guided, (layer,), (jnp.asarray(guide, jnp.float32),))


def stack(objectives: Sequence[Objective]) -> Objective:
    """One objective whose leaves have a leading axis, for vmap. Raises ConfigError if their forms differ."""
    if len({jax.tree.structure(o) for o in objectives}) != 1:
        raise ConfigError(
            "objectives that are rendered together must have one form, such as channels of one layer"
        )
    return jax.tree.map(lambda *leaves: jnp.stack([_strong(leaf) for leaf in leaves]), *objectives)


def _strong(leaf: Any) -> Array:
    return jnp.asarray(
        leaf, jnp.int32 if isinstance(leaf, int) else jnp.float32 if isinstance(leaf, float) else None
    )


def _value(operand: Operand, stages: Stages) -> Array:
    return operand(stages) if isinstance(operand, Objective) else jnp.asarray(operand, jnp.float32)


def _add(stages: Stages, a: Operand, b: Operand) -> Array:
    return operator.add(_value(a, stages), _value(b, stages))


def _multiply(stages: Stages, a: Operand, b: Operand) -> Array:
    return operator.mul(_value(a, stages), _value(b, stages))


def _read(stages: Stages, name: str) -> Array:
    return stages[name].astype(jnp.float32)


def _at(array: Array, channel: Any) -> Array:
    return jax.lax.dynamic_index_in_dim(array, channel, axis=-1, keepdims=False)


def _neuron(stages: Stages, layer: str, channel: Any, position: Any) -> Array:
    a = _at(_read(stages, layer), channel)
    if a.ndim == 1:
        return jnp.mean(a)
    y, x = (a.shape[1] // 2, a.shape[2] // 2) if position is None else position
    return jnp.mean(a[:, y, x])


def _channel(stages: Stages, layer: str, channel: Any) -> Array:
    return jnp.mean(_at(_read(stages, layer), channel))


def _layer(stages: Stages, layer: str) -> Array:
    return jnp.mean(jnp.square(_read(stages, layer)))


def _direction(stages: Stages, layer: str, vector: Array, power: Any) -> Array:
    a = _read(stages, layer)
    dot = jnp.tensordot(a, vector, axes=1)
    cosine = dot / (1e-4 + _norm(a)) / (1e-4 + _norm(vector))
    return jnp.mean(dot * jnp.maximum(cosine, 0.1) ** power)


def _norm(a: Array) -> Array:
    """Norm over the last axis, whose gradient at zero is zero."""
    square = jnp.sum(jnp.square(a), axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _class_logit(stages: Stages, layer: str, index: Any) -> Array:
    return jnp.sum(_at(_read(stages, layer), index))


def _class_probability(stages: Stages, layer: str, index: Any) -> Array:
    return jnp.sum(_at(jax.nn.softmax(_read(stages, layer)), index))


def _diversity(stages: Stages, layer: str) -> Array:
    a = _read(stages, layer)
    features = a.reshape(a.shape[0], -1, a.shape[-1])
    gram = jnp.einsum("npc,npd->ncd", features, features)
    square = jnp.sum(jnp.square(gram), axis=(1, 2), keepdims=True)
    unit = gram * jax.lax.rsqrt(jnp.maximum(square, 1e-10))
    similarity = jnp.einsum("icd,jcd->ij", unit, unit)
    return (jnp.sum(similarity) - jnp.trace(similarity)) / a.shape[0]


def _alignment(stages: Stages, layer: str) -> Array:
    a = _read(stages, layer)
    axes = tuple(range(1, a.ndim))
    distances = [jnp.sum(jnp.mean(jnp.square(a[:-d] - a[d:]), axis=axes)) / 2.0**d for d in (1, 2, 3, 4)]
    return -sum(distances, start=jnp.zeros(()))


def _total_variation(stages: Stages, name: str) -> Array:
    x = _read(stages, name)
    return jnp.sum(jnp.abs(jnp.diff(x, axis=1))) + jnp.sum(jnp.abs(jnp.diff(x, axis=2)))


def _l1(stages: Stages, name: str, constant: Any) -> Array:
    return jnp.sum(jnp.abs(_read(stages, name) - constant))


def _l2(stages: Stages, name: str, constant: Any) -> Array:
    return jnp.sqrt(1e-6 + jnp.sum(jnp.square(_read(stages, name) - constant)))


def _blur(stages: Stages, name: str) -> Array:
    x = _read(stages, name)
    return 0.5 * jnp.sum(jnp.square(x - jax.lax.stop_gradient(blur3(x))))


def blur3(images: Array) -> Array:
    """Weighted mean of 3x3 neighbours inside the picture: the pixel itself 1, the others 1/2. [N, H, W, C]."""

    def window(x: Array) -> Array:
        box = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        return 0.5 * (box + x)

    return window(images) / window(jnp.ones_like(images))


def _guided(stages: Stages, layer: str, guide: Array) -> Array:
    return jnp.sum(jnp.max(jnp.tensordot(_read(stages, layer), guide.T, axes=1), axis=-1))
