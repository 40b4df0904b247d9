"""One row of the table of bad inputs, and the files that many rows begin from."""

import dataclasses
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Make = Callable[[Path], Any]

PREPARE = "--mode=prepare --data.name=folder:in --output=out"


def nothing(folder: Path) -> None:
    """The command line alone is the bad input."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line in a folder that holds what `make` wrote there.

    `expect` is a part of the one line that the command must end with, or several with " ... " between them; or, where a right result is documented,
    a check that is given the folder and what was said. Such results are written below `out`, `run` or `new` only.
    """

    name: str
    flags: str
    expect: str | Callable[[Path, Any], None]
    make: Make = nothing
    run: bool = False  # a copy of a small trained run lies in the folder `run`


# Three colours side by side over a fourth: every rotation and reflection looks different.
PATTERN = np.array(
    [[[250, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]]] + [[[90, 90, 90]] * 4] * 3, np.uint8
)


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(content, format, **options)
    return content.getvalue()


def colour(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    return encode(Image.new("RGB", size, (value, 255 - value, 40)))


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header claims a size; what it holds are 100 zero bytes."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def among_others(content: bytes | Callable[[], bytes], name: str = "odd.png") -> Make:
    """`content` as an image of two classes, three more of which are as they should be."""

    def make(folder: Path) -> None:
        write(folder / "in/a" / name, content() if callable(content) else content)
        write(folder / "in/a/plain.png", colour(10))
        write(folder / "in/b/1.png", colour(20))
        write(folder / "in/b/2.png", colour(30))

    return make


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
