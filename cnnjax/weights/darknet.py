"""darknet's .weights files: a header, then the numbers of all layers in the order of the network, without names."""

import dataclasses
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import CFG_FILE, ConfigError
from cnnjax.models import MODELS, Model, create_model
from cnnjax.models.darknet import Darknet53, YoloV3, YoloV3Tiny, layers_in_order
from cnnjax.models.darknet_network import DarknetNetwork
from cnnjax.models.parts import shapes_of

SUFFIX = ".weights"
_ORDER = (("norm", "bias"), ("norm", "scale"), ("norm", "mean"), ("norm", "var"), ("conv", "bias"), ("conv", "kernel"))  # fmt: skip
_DENSE = (("bias",), ("kernel",))
_TRACED = (416, 416, 3)  # any size of image has the same weights

Variables = Mapping[str, Any]
Path_ = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself. seen: images of the training so far."""

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def format(self) -> str:
        """Since version 0.2 `seen` has 64 bits, 32 before."""
        wide = 10 * self.major + self.minor >= 2 and max(self.major, self.minor) < 1000
        return "<iiiq" if wide else "<iiii"

    def pack(self) -> bytes:
        return struct.pack(self.format, self.major, self.minor, self.revision, self.seen)


def is_darknet(path: str | os.PathLike) -> bool:
    """By the ending of its name."""
    return Path(path).suffix == SUFFIX


def is_darknet_model(model: Model) -> bool:
    """Whether it is one of darknet's networks, whose images are put into the frame by darknet."""
    return isinstance(model, DarknetNetwork | Darknet53 | YoloV3 | YoloV3Tiny)


def input_size(model: Model) -> tuple[int, int]:
    """Height and width of the images that a network's configuration names; of the published ones without: 416 for
    detectors, 256 for classifiers."""
    if isinstance(model, DarknetNetwork):
        return model.network.net.height, model.network.net.width
    return (416, 416) if hasattr(model, "heads") else (256, 256)


def load_darknet(path: str | os.PathLike, model: Model, variables: Variables) -> dict[str, Any]:
    """`variables` of a darknet model, arrays or shapes, with every number from a .weights file, float32.

    Raises ConfigError if the file does not end exactly after the last of them, and names what it does fit; and for
    numbers that are not finite.
    """
    _, numbers = read_numbers(path)
    template = flax.traverse_util.flatten_dict(dict(variables))
    leaves = leaves_in_order(model, template)
    needed = sum(template[leaf].size for leaf in leaves)
    if len(numbers) != needed:
        raise ConfigError(
            f"{path} holds {len(numbers):,} numbers, the network takes {needed:,}: {_fitting(path, len(numbers))}"
        )
    loaded, start = {}, 0
    for leaf in leaves:
        shape = template[leaf].shape
        part = numbers[start : start + template[leaf].size]
        start += len(part)
        if not np.isfinite(part).all():
            raise ConfigError(f"{path}: {'/'.join(leaf[1:])} holds values that are not finite")
        loaded[leaf] = jnp.asarray(_from_file(part, shape))
    return flax.traverse_util.unflatten_dict(loaded)


def save_darknet(path: str | os.PathLike, model: Model, variables: Variables, seen: int = 0) -> None:
    """Writes what `load_darknet` and darknet itself read, with a header of version 0.2.

    Raises ConfigError if darknet has no such layers, or the file cannot be written.
    """
    values = flax.traverse_util.flatten_dict(dict(variables))
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(Header(seen=seen).pack())
            for leaf in leaves_in_order(model, values):
                file.write(_to_file(np.asarray(values[leaf], np.float32)).astype("<f4").tobytes())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error})") from error


def read_numbers(path: str | os.PathLike) -> tuple[Header, np.ndarray]:
    """The header and all numbers after it. Raises ConfigError if the file is too short to hold a header, or its end is
    not that of a number, or its connected layers are transposed, as those of darknet's first versions are."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if len(content) < 16:
        raise ConfigError(f"{path}: {len(content)} bytes are too few for the header of a darknet file")
    header = Header(*struct.unpack_from("<iii", content))
    if max(header.major, header.minor) > 1000:
        raise ConfigError(f"{path}: files with transposed connected layers (version > 1000) are not read")
    if min(header.major, header.minor, header.revision) < 0:
        raise ConfigError(f"{path}: version {header.major}.{header.minor} is none of darknet's")
    size = struct.calcsize(header.format)
    if len(content) < size or (len(content) - size) % 4:
        raise ConfigError(
            f"{path}: {len(content):,} bytes are no header of {size} and whole numbers: is it damaged?"
        )
    seen = struct.unpack_from(header.format, content)[-1]
    return dataclasses.replace(header, seen=seen), np.frombuffer(content, "<f4", offset=size)


def leaves_in_order(model: Model, leaves: Mapping[Path_, Any]) -> list[Path_]:
    """The variables of a model in the order of darknet's files: of each layer the bias, of a normalized one the scale,
    mean and variance, then the weights."""
    found = []
    for layer in layers_in_order(model, _TRACED):
        for end in (*_ORDER, *_DENSE):
            kind = "batch_stats" if end[-1] in ("mean", "var") else "params"
            if (leaf := (kind, *layer, *end)) in leaves:
                found.append(leaf)
    if len(found) != len(leaves):
        raise ConfigError("darknet's files hold convolutional and connected layers; this model has others")
    return found


def count_numbers(model: Model) -> int:
    """How many a file of the model holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model, _TRACED)))


def _from_file(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """out, in, height, width -> height, width, in, out; out, in -> in, out."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return part.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)
    return part.reshape(shape[::-1]).T if len(shape) == 2 else part


def _to_file(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def _fitting(path: str | os.PathLike, count: int) -> str:
    """Which networks take so many numbers: those of the table, and configurations beside the file."""
    names = [name for name in MODELS if name.startswith(("darknet", "yolov3"))]
    names += [f"{CFG_FILE}{cfg}" for cfg in sorted(Path(path).parent.glob("*.cfg"))]
    fit = []
    for name in names:
        try:
            if count_numbers(create_model(name)) == count:
                fit.append(name)
        except ConfigError:
            continue
    return f"it is for {' or '.join(fit)}" if fit else "it is of another network, or damaged"
