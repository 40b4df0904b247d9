"""The network that a darknet configuration file describes."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.config import CFG_FILE, ConfigError
from cnnjax.detection.multiscale import Head
from cnnjax.models.darknet import DarknetConv, darknet_max_pool, darknet_norm, upsample
from cnnjax.models.darknet_cfg import (
    AvgPool,
    Convolution,
    Dropout,
    Layer,
    MaxPool,
    Network,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
    read_cfg,
)
from cnnjax.models.grid import leaky_relu
from cnnjax.models.layers import Activation, Norm, global_avg_pool, stage

ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "leaky": leaky_relu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),  # Misra 2019
    "swish": nn.silu,
    "logistic": nn.sigmoid,
    "relu": nn.relu,
}


class DarknetNetwork(nn.Module):
    """A network of a .cfg file: images [N, H, W, C] -> the maps before its [yolo] sections, in their order, each
    [N, rows, columns, A (5 + classes)]; or, without such a section, what the last layer gives: a classifier's logits
    [N, outputs]. Any size of image that the strides allow; that of the file is its own.

    Stages and variables are called after darknet's numbers of layers: layer0, layer1, ...
    """

    network: Network
    num_outputs: int
    norm: Norm = darknet_norm
    dtype: jnp.dtype = jnp.float32

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        return self.network.yolos[0].anchors if self.network.yolos else ()

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(Head(yolo.mask, yolo.scale_x_y, yolo.new_coords) for yolo in self.network.yolos)

    @property
    def num_classes(self) -> int:
        return self.network.yolos[0].classes if self.network.yolos else self.num_outputs

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, ...] | Array:
        values: list[Array] = []
        outputs: list[Array] = []
        for index, layer in enumerate(self.network.layers):
            if isinstance(layer, Yolo):
                outputs.append(x)
            try:
                x = self._layer(index, layer, x, values, train)
            except _DoesNotFit as error:
                raise ConfigError(f"layer {index} of the darknet network: {error}") from error
            if not isinstance(layer, Yolo | Softmax | Dropout):
                x = stage(self, f"layer{index}", x)
            values.append(x)
        if outputs:
            return tuple(outputs)
        return x.reshape(x.shape[0], -1)

    def _layer(self, index: int, layer: Layer, x: Array, values: list[Array], train: bool) -> Array:
        match layer:
            case Convolution():
                return DarknetConv(
                    layer.features,
                    layer.kernel,
                    layer.stride,
                    layer.padding,
                    layer.groups,
                    self.norm if layer.normalized else None,
                    ACTIVATIONS[layer.activation],
                    self.dtype,
                    name=f"layer{index}",
                )(x, train)
            case Shortcut():
                for other in _alike([x, *(values[source] for source in layer.sources)])[1:]:
                    x = x + other
                return ACTIVATIONS[layer.activation](x)
            case Route():
                parts = [
                    jnp.split(values[source], layer.groups, axis=-1)[layer.group] for source in layer.sources
                ]
                return jnp.concatenate(_alike(parts), axis=-1)
            case MaxPool():
                return darknet_max_pool(x, layer.size, layer.stride, layer.padding)
            case Upsample():
                return upsample(x, layer.factor)
            case Dropout():
                return nn.Dropout(layer.rate, deterministic=not train, name=f"layer{index}")(x)
            case AvgPool():
                return global_avg_pool(x)[:, None, None]
            case Yolo() | Softmax():
                return x


def create_darknet(name: str) -> Callable[..., DarknetNetwork]:
    """The constructor of the model darknet:FILE.cfg, as those of the table; reads the file."""
    path = name.removeprefix(CFG_FILE)
    network = read_cfg(path)
    if network.yolos:
        first = next(i for i, layer in enumerate(network.layers) if isinstance(layer, Yolo))
        outputs = network.features[first]
    else:
        outputs = network.features[-1]

    def create(num_outputs: int | None = None, dtype: jnp.dtype = jnp.float32) -> DarknetNetwork:
        if num_outputs not in (None, outputs):
            raise ConfigError(_another_width(path, network, outputs, num_outputs))
        return DarknetNetwork(network, outputs, dtype=dtype)

    return create


def _another_width(path: str, network: Network, outputs: int, wanted: int | None) -> str:
    if not network.yolos or wanted is None:
        return f"{path}: its last layer has filters={outputs}; the data need {wanted}"
    yolo = network.yolos[0]
    each, rest = divmod(wanted, len(yolo.mask))
    classes = each - 5
    if rest or classes < 1:
        return (
            f"{path}: its [yolo] sections have {outputs} outputs, for boxes; {wanted} are wanted: "
            "--experiment=coco_yolov3 and others of task=multiscale_detection find boxes"
        )
    return (
        f"{path}: its [yolo] sections have classes={yolo.classes}, the data {classes}: set classes={classes} there "
        f"and filters={wanted} in the section before each"
    )


class _DoesNotFit(ValueError):
    """Layers that cannot be put together."""


def _alike(maps: list[Array]) -> list[Array]:
    """The maps, if they have the same height and width."""
    sizes = {f"{x.shape[1]}x{x.shape[2]}" for x in maps}
    if len(sizes) > 1:
        raise _DoesNotFit(f"its inputs have different sizes, {' and '.join(sorted(sizes))}")
    return maps
