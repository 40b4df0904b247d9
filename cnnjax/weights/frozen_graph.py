"""Constants of a frozen TensorFlow graph (.pb), read without TensorFlow.

The file is one protocol buffer, GraphDef. A message is a sequence of fields: a key, number * 8 + wire type, and a
value, which is a varint (type 0), 8 bytes (1), as many bytes as a varint before them says (2), or 4 bytes (5).
Only what leads to the constants is read: GraphDef.node = 1; NodeDef.name = 1, .op = 2, .attr = 5, a map whose
entries have key = 1 and value = 2; AttrValue.tensor = 8; TensorProto.dtype = 1, .tensor_shape = 2,
.tensor_content = 4, .float_val = 5; TensorShapeProto.dim = 2; Dim.size = 1.
"""

import math
from collections.abc import Iterator

import numpy as np

_FLOAT = 1  # DataType.DT_FLOAT
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def read_constants(content: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of all Const nodes by name; other types, such as shapes, are passed over.

    Raises ValueError if the bytes are no graph, or a tensor has not as many values as its shape says.
    """
    constants: dict[str, np.ndarray] = {}
    for node in _messages(content, 1):
        if _texts(node, 2) != ["Const"]:
            continue
        (name,) = _texts(node, 1)
        for entry in _messages(node, 5):
            if _texts(entry, 1) == ["value"]:
                for value in _messages(entry, 2):
                    for tensor in _messages(value, 8):
                        if list(_values(tensor, 1, _VARINT)) == [_FLOAT]:
                            constants[name] = _tensor(name, tensor)
    return constants


def _tensor(name: str, message: bytes) -> np.ndarray:
    shape = tuple(
        size
        for dims in _messages(message, 2)
        for dim in _messages(dims, 2)
        for size in _values(dim, 1, _VARINT)
    )
    raw = b"".join(_messages(message, 4)) or b"".join(_messages(message, 5))  # content, or packed float_val
    raw = raw or b"".join(_values(message, 5, _FOUR_BYTES))  # not packed
    count = math.prod(shape)
    if len(raw) != 4 * count:
        raise ValueError(f"{name} of shape {shape} has {len(raw)} bytes instead of {4 * count}")
    return np.frombuffer(raw, "<f4").reshape(shape)


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    return (value for value in _values(message, number, _BYTES))


def _texts(message: bytes, number: int) -> list[str]:
    return [value.decode() for value in _messages(message, number)]


def _values(message: bytes, number: int, wire: int) -> Iterator:
    """The values of the fields of this number and wire type: int, or bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind, size = key & 7, {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(key & 7, 0)
        if kind not in (_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES) or key < 8:
            raise ValueError(f"no protocol buffer: field {key >> 3} of wire type {kind}")
        value: int | bytes
        if kind in (_VARINT, _BYTES):
            size, position = _varint(message, position)
            value = size
        if kind != _VARINT:
            value = message[position : position + size]
            position += size
        if position > len(message):
            raise ValueError("it ends in the middle of a value")
        if key == number << 3 | wire:
            yield value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """The number whose groups of seven bits, the lowest first, begin here, and the position behind it."""
    number = 0
    for index in range(10):
        if position + index >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[position + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            return number, position + index + 1
    raise ValueError("no protocol buffer: a number of more than ten bytes")
