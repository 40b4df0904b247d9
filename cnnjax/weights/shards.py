"""TensorFlow.js's weights: a manifest (json) that names tensors, and binary shards that hold them one after another.

A tensor is float32, or uint8 or uint16 with a scale and a minimum: value = number * scale + minimum.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"float32": "<f4", "uint8": "<u1", "uint16": "<u2"}


def read_shards(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a `*weights_manifest.json`, float32, by the names that it has for them.

    Shards lie beside the manifest. Raises ValueError if something of the manifest is missing or not understood, or if
    the shards are longer or shorter than it says; OSError if one cannot be read.
    """
    groups = json.loads(path.read_text(encoding="utf-8"))
    tensors: dict[str, np.ndarray] = {}
    for group in groups if isinstance(groups, list) else []:
        data = b"".join((path.parent / _beside(name)).read_bytes() for name in _entry(group, "paths"))
        offset = 0
        for weight in _entry(group, "weights"):
            name, shape = str(_entry(weight, "name")), _shape(weight)
            value, offset = _tensor(weight, name, shape, data, offset)
            tensors[name] = value
        if offset != len(data):
            raise ValueError(f"the shards have {len(data):,} bytes, the manifest tells of {offset:,}")
    if not tensors:
        raise ValueError("the manifest names no weights")
    return tensors


def named_by_layer(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as layer.w and layer.b; "a/conv/depthwise_filter" is a/conv_depthwise.w, [H, W, 1, outputs]."""
    leaves = {
        "filters": ".w",
        "weights": ".w",
        "pointwise_filter": ".w",
        "bias": ".b",
        "depthwise_filter": "_depthwise.w",
    }
    named = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition("/")
        if leaf not in leaves:
            raise ValueError(f"{name} is none of {', '.join(leaves)}")
        if leaf == "depthwise_filter":
            value = value.reshape(*value.shape[:2], 1, -1)
        named[f"{layer}{leaves[leaf]}"] = value
    return named


def _tensor(
    weight: Any, name: str, shape: tuple[int, ...], data: bytes, offset: int
) -> tuple[np.ndarray, int]:
    quantization = weight.get("quantization")
    stored = _entry(quantization, "dtype") if quantization else _entry(weight, "dtype")
    if stored not in _TYPES:
        raise ValueError(f"{name} is stored as {stored!r}, not {', '.join(_TYPES)}")
    dtype = np.dtype(_TYPES[stored])
    count = math.prod(shape)
    if offset + count * dtype.itemsize > len(data):
        raise ValueError(f"the shards end within {name}")
    value = np.frombuffer(data, dtype, count, offset).reshape(shape).astype(np.float32)
    if quantization:
        value = value * np.float32(_entry(quantization, "scale")) + np.float32(_entry(quantization, "min"))
    return value, offset + count * dtype.itemsize


def _entry(table: Any, name: str) -> Any:
    if not isinstance(table, dict) or name not in table:
        raise ValueError(f"the manifest lacks {name}")
    return table[name]


def _shape(weight: Any) -> tuple[int, ...]:
    shape = _entry(weight, "shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"the shape {shape!r} is no list of whole numbers")
    return tuple(shape)


def _beside(name: Any) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"the shard {name!r} is no file beside the manifest")
    return name
