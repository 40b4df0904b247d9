"""darknet's configuration files (.cfg), read into dataclasses.

A file is a list of sections: [net], then one for each layer, which are numbered from 0. What changes what a network
computes is read, or refused by section and line; what says how darknet trains it is passed over.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cnnjax.config import ConfigError

_LARGEST = 100_000  # of a size, a stride or a number of features


@dataclasses.dataclass(frozen=True)
class Net:
    """What enters: pixels and channels."""

    height: int
    width: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution, batch normalization where it is `normalized`, and an activation of ACTIVATIONS."""

    features: int
    kernel: int
    stride: int
    padding: int
    groups: int
    normalized: bool
    activation: str


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """The sum of the layer before it and of others."""

    sources: tuple[int, ...]
    activation: str


@dataclasses.dataclass(frozen=True)
class Route:
    """Layers side by side; of each only the `group`-th of `groups` equal parts of its channels."""

    sources: tuple[int, ...]
    groups: int
    group: int


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """The largest of each window; `padding` is that of both sides together."""

    size: int
    stride: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Upsample:
    """Every value `factor` x `factor` times."""

    factor: int


@dataclasses.dataclass(frozen=True)
class Dropout:
    """In training, each value is zero with probability `rate`."""

    rate: float


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """The mean over the whole map."""


@dataclasses.dataclass(frozen=True)
class Softmax:
    """The end of a classifier."""


@dataclasses.dataclass(frozen=True)
class Yolo:
    """A scale of a detector: `mask` are its anchors, by number, of all `anchors` (width, height) in pixels."""

    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    classes: int
    scale_x_y: float
    new_coords: bool
    ignore_iou: float


Layer = Convolution | Shortcut | Route | MaxPool | Upsample | Dropout | AvgPool | Softmax | Yolo


@dataclasses.dataclass(frozen=True)
class Network:
    """net: what enters. layers, and features: the channels of what each of them gives."""

    net: Net
    layers: tuple[Layer, ...]
    features: tuple[int, ...]

    @property
    def yolos(self) -> tuple[Yolo, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, Yolo))


ACTIVATIONS = ("linear", "leaky", "mish", "swish", "logistic", "relu")

# Options of training and of speed, without effect on what a network computes. Of [net] and [yolo] all others, too.
_PASSED_OVER = {
    "convolutional": {"flipped", "stopbackward", "learning_rate", "dontload", "dontloadscales"},
    "dropout": {"dropblock", "dropblock_size_rel", "dropblock_size_abs"},
    "softmax": {"groups", "temperature", "noloss"},
}


def read_cfg(path: str | os.PathLike) -> Network:
    """The network of a .cfg file. Raises ConfigError, one line that names the section and its line in the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a darknet configuration: {error}") from error
    return parse_cfg(text, str(path))


def parse_cfg(text: str, name: str = "cfg") -> Network:
    """The same of a text; `name` stands in errors."""
    sections = _sections(text, name)
    if not sections or sections[0].kind not in ("net", "network"):
        raise ConfigError(f"{name}: the first section must be [net], and is {_called(sections)}")
    head, *rest = sections
    net = Net(*(head.whole(key) for key in ("height", "width", "channels")))
    layers: list[Layer] = []
    features: list[int] = []
    for section in rest:
        reader = _READERS.get(section.kind)
        if reader is None:
            section.refuse(f"this section is not known; known are {', '.join(_READERS)}")
        layer = reader(section, len(layers))
        section.refuse_others()
        features.append(_features(section, layer, [*features], net.channels))
        layers.append(layer)
    if not layers:
        raise ConfigError(f"{name}: there is no layer after [net]")
    _check_heads(name, [layer for layer in layers if isinstance(layer, Yolo)])
    return Network(net, tuple(layers), tuple(features))


class _Section:
    """A section as it stands in the file; what is read of it is taken out."""

    def __init__(self, file: str, kind: str, line: int):
        self.file, self.kind, self.line = file, kind, line
        self.options: dict[str, tuple[str, int]] = {}

    def refuse(self, why: str, line: int = 0) -> NoReturn:
        raise ConfigError(f"{self.file}, line {line or self.line}, [{self.kind}]: {why}")

    def take(self, key: str, default: str | None = None) -> tuple[str, int]:
        """The text of an option and its line; refused if it is not there and has no default."""
        if key not in self.options and default is None:
            self.refuse(f"{key} is missing")
        return self.options.pop(key, (default or "", self.line))

    def whole(self, key: str, default: str | None = None, least: int = 1, most: int = _LARGEST) -> int:
        text, line = self.take(key, default)
        if not re.fullmatch(r"[+-]?\d{1,9}", text):
            self.refuse(f"{key}={text} is no whole number", line)
        if not least <= int(text) <= most:
            self.refuse(f"{key}={text} must be {least:,} to {most:,}", line)
        return int(text)

    def number(self, key: str, default: str) -> float:
        text, line = self.take(key, default)
        return self._number(key, text, line)

    def numbers(self, key: str, default: str | None = None) -> tuple[tuple[float, ...], int]:
        text, line = self.take(key, default)
        parts = [part.strip() for part in text.strip().rstrip(",").split(",")]
        return tuple(self._number(key, part, line) for part in parts), line

    def layers(self, key: str, here: int) -> tuple[int, ...]:
        """Earlier layers: numbers from 0, or negative ones counted back from this layer."""
        values, line = self.numbers(key)
        found = tuple(int(value) if value >= 0 else here + int(value) for value in values)
        for value, source in zip(values, found, strict=True):
            if value != int(value) or not 0 <= source < here:
                self.refuse(f"{key}={value:g} is no earlier layer of layer {here}", line)
        return found

    def one_of(self, key: str, choices: tuple[str, ...], default: str) -> str:
        text, line = self.take(key, default)
        if text not in choices:
            self.refuse(f"{key}={text} is not known; known are {', '.join(choices)}", line)
        return text

    def refuse_others(self) -> None:
        """Refuses options that were not read, but those that change nothing."""
        if self.kind == "yolo":
            return
        for key, (value, line) in self.options.items():
            if key not in _PASSED_OVER.get(self.kind, ()):
                self.refuse(f"{key}={value} is not known here", line)

    def _number(self, key: str, text: str, line: int) -> float:
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) or abs(float(text)) > _LARGEST:
            self.refuse(f"{key}: {text!r} is no number from -{_LARGEST:,} to {_LARGEST:,}", line)
        return float(text)


def _sections(text: str, name: str) -> list[_Section]:
    sections: list[_Section] = []
    for number, whole in enumerate(text.splitlines(), start=1):
        line = re.split(r"[#;]", whole, maxsplit=1)[0].strip()
        if not line:
            continue
        if match := re.fullmatch(r"\[\s*(\w+)\s*\]", line):
            kind = {"conv": "convolutional", "max": "maxpool", "avg": "avgpool"}.get(match[1], match[1])
            sections.append(_Section(name, kind, number))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or not sections:
            raise ConfigError(f"{name}, line {number}: {line[:60]!r} is neither [section] nor option=value")
        sections[-1].options[key] = (value, number)
    return sections


def _convolution(section: _Section, here: int) -> Convolution:
    kernel = section.whole("size", "1", most=999)
    same = section.whole("pad", "0", least=0, most=1)
    padding = section.whole("padding", "0", least=0, most=999)
    stride = section.whole("stride", "1", most=999)
    for key in ("stride_x", "stride_y"):
        if section.whole(key, str(stride)) != stride:
            section.refuse("stride_x and stride_y that differ cannot be built")
    for key, plain in (("dilation", "1"), ("antialiasing", "0"), ("binary", "0"), ("xnor", "0")):
        if section.whole(key, plain, least=0) != int(plain):
            section.refuse(f"{key} cannot be built")
    return Convolution(
        features=section.whole("filters", "1"),
        kernel=kernel,
        stride=stride,
        padding=kernel // 2 if same else padding,
        groups=section.whole("groups", "1"),
        normalized=bool(section.whole("batch_normalize", "0", least=0, most=1)),
        activation=section.one_of("activation", ACTIVATIONS, "logistic"),  # darknet's own default
    )


def _shortcut(section: _Section, here: int) -> Shortcut:
    section.one_of("weights_type", ("none",), "none")
    section.take("weights_normalization", "none")
    return Shortcut(section.layers("from", here), section.one_of("activation", ACTIVATIONS, "linear"))


def _route(section: _Section, here: int) -> Route:
    groups = section.whole("groups", "1")
    return Route(section.layers("layers", here), groups, section.whole("group_id", "0", 0, groups - 1))


def _max_pool(section: _Section, here: int) -> MaxPool:
    stride = section.whole("stride", "1", most=999)
    size = section.whole("size", str(stride), most=999)
    for key in ("maxpool_depth", "antialiasing"):
        if section.whole(key, "0", least=0):
            section.refuse(f"{key} cannot be built")
    return MaxPool(size, stride, section.whole("padding", str(size - 1), least=0, most=999))


def _upsample(section: _Section, here: int) -> Upsample:
    if section.number("scale", "1") != 1:
        section.refuse("a scale other than 1 cannot be built")
    return Upsample(section.whole("stride", "2", most=99))


def _dropout(section: _Section, here: int) -> Dropout:
    rate = section.number("probability", ".5")
    if not 0 <= rate < 1:
        section.refuse(f"probability={rate:g} must be at least 0 and below 1")
    return Dropout(rate)


def _yolo(section: _Section, here: int) -> Yolo:
    flat, line = section.numbers("anchors")
    total = section.whole("num", "1", most=999)
    if len(flat) != 2 * total or min(flat) <= 0:
        section.refuse(f"num={total} anchors need {2 * total} positive numbers, not {len(flat)}", line)
    mask, line = section.numbers("mask", ",".join(map(str, range(total))))
    if any(index != int(index) or not 0 <= index < total for index in mask):
        section.refuse(f"mask must name anchors 0 to {total - 1}", line)
    return Yolo(
        anchors=tuple(zip(flat[::2], flat[1::2], strict=True)),
        mask=tuple(map(int, mask)),
        classes=section.whole("classes", "20"),
        scale_x_y=section.number("scale_x_y", "1"),
        new_coords=bool(section.whole("new_coords", "0", least=0, most=1)),
        ignore_iou=section.number("ignore_thresh", ".5"),
    )


_READERS: dict[str, Callable[[_Section, int], Layer]] = {
    "convolutional": _convolution,
    "shortcut": _shortcut,
    "route": _route,
    "maxpool": _max_pool,
    "upsample": _upsample,
    "dropout": _dropout,
    "avgpool": lambda section, here: AvgPool(),
    "softmax": lambda section, here: Softmax(),
    "yolo": _yolo,
}


def _features(section: _Section, layer: Layer, before: list[int], channels: int) -> int:
    """Channels of what a layer gives, after layers with these. Refuses what does not fit together."""
    last = before[-1] if before else channels
    if isinstance(layer, Convolution):
        if last % layer.groups or layer.features % layer.groups:
            section.refuse(
                f"groups={layer.groups} do not divide {last} channels into filters={layer.features}"
            )
        return layer.features
    if isinstance(layer, Route):
        parts = [before[source] for source in layer.sources]
        if any(part % layer.groups for part in parts):
            section.refuse(f"groups={layer.groups} do not divide {parts} channels")
        return sum(parts) // layer.groups
    if isinstance(layer, Shortcut) and any(before[source] != last for source in layer.sources):
        section.refuse(f"layers of {last} and {[before[source] for source in layer.sources]} channels")
    if isinstance(layer, Yolo) and last != len(layer.mask) * (5 + layer.classes):
        section.refuse(
            f"{len(layer.mask)} anchors with classes={layer.classes} need filters="
            f"{len(layer.mask) * (5 + layer.classes)} in the layer before, which has {last}"
        )
    return last


def _check_heads(name: str, yolos: list[Yolo]) -> None:
    for what in ("anchors", "classes"):
        if len({getattr(yolo, what) for yolo in yolos}) > 1:
            raise ConfigError(f"{name}: the [yolo] sections must agree on their {what}")


def _called(sections: list[_Section]) -> str:
    return f"[{sections[0].kind}] in line {sections[0].line}" if sections else "missing"
