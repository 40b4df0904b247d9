"""The archives in which MNIST and its kin (idx) and CIFAR (binary) are published, parsed with numpy.

Every function raises ConfigError, naming the archive, if its contents are not what they should be.
"""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data.dataset import Split

_UNSIGNED_BYTE = 8  # idx: code of the type, in the third byte of the header
_CIFAR_IMAGE = 3 * 32 * 32


def read_mnist(paths: Mapping[str, Path]) -> tuple[Split, Split]:
    """The training and test split of MNIST, Fashion-MNIST or KMNIST from its four .gz files, by file name."""

    def read(name: str) -> np.ndarray:
        with _errors_name(paths[name]), gzip.open(paths[name]) as file:
            return read_idx(file)

    def split(part: str) -> Split:
        images = read(f"{part}-images-idx3-ubyte.gz")
        labels = read(name := f"{part}-labels-idx1-ubyte.gz")
        with _errors_name(paths[name]):
            return _labelled(images, labels)

    return split("train"), split("t10k")


def read_emnist(path: Path, config: str, num_train: int, num_test: int) -> tuple[Split, Split]:
    """One of EMNIST's sets (config: byclass, bymerge, balanced, letters, digits, mnist) from its zip file.

    Some files hold more examples than the paper has (letters: 124,800, not 88,800); as in
    tensorflow-datasets, only the first `num_train` and `num_test` count.
    """

    def read(part: str, count: int) -> Split:
        arrays = []
        for kind in ("images-idx3", "labels-idx1"):
            member = f"gzip/emnist-{config}-{part}-{kind}-ubyte.gz"
            with archive.open(member) as packed, gzip.open(packed) as file:
                arrays.append(read_idx(file)[:count])
        split = _labelled(*arrays)
        if len(split["label"]) < count:
            raise ValueError(f"{len(split['label'])} examples in the split {part}, not {count}")
        return split

    with _errors_name(path), zipfile.ZipFile(path) as archive:
        return read("train", num_train), read("test", num_test)


def read_cifar(path: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training split, test split and class names of CIFAR-10 or CIFAR-100 (fine labels), binary version."""
    with _errors_name(path), tarfile.open(path, "r:gz") as archive:
        files = {
            Path(member.name).name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member))
        }
        if "fine_label_names.txt" in files:
            parts, names, label_bytes = (["train.bin"], ["test.bin"]), "fine_label_names.txt", 2
        else:
            batches = [f"data_batch_{index}.bin" for index in range(1, 6)]
            parts, names, label_bytes = (batches, ["test_batch.bin"]), "batches.meta.txt", 1
        train, test = (
            read_cifar_records(b"".join(files[name] for name in part), label_bytes) for part in parts
        )
        return train, test, tuple(files[names].decode().split())


def read_idx(file: IO[bytes] | gzip.GzipFile) -> np.ndarray:
    """An idx file of unsigned bytes: two zero bytes, type code, number of axes, big-endian sizes, values.

    Raises ValueError if it is another file, or shorter or longer than its header says.
    """
    header = file.read(4)
    if len(header) < 4 or header[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise ValueError("not an idx file of unsigned bytes")
    shape = np.frombuffer(_exactly(file, 4 * header[3]), ">u4").astype(np.int64)
    values = np.frombuffer(_exactly(file, int(shape.prod())), np.uint8)
    if file.read(1):
        raise ValueError("longer than its header says")
    return values.reshape(shape)


def read_cifar_records(content: bytes, label_bytes: int) -> Split:
    """Records of `label_bytes` labels, the last of which is kept, and 3 x 32 x 32 values, channels first."""
    size = label_bytes + _CIFAR_IMAGE
    if not content or len(content) % size:
        raise ValueError(f"{len(content):,} bytes are not a whole number of {size:,}-byte records")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    image = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return {
        "image": np.ascontiguousarray(image),
        "label": records[:, label_bytes - 1].astype(np.int32),
    }


def _labelled(images: np.ndarray, labels: np.ndarray) -> Split:
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels of shape {labels.shape} for images of shape {images.shape}")
    return {"image": images[..., None], "label": labels.astype(np.int32)}


def _exactly(file: IO[bytes] | gzip.GzipFile, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise ValueError(f"ends after {len(content):,} of {count:,} bytes")
    return content


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ConfigError(f"{path}: a file is missing in it: {error}") from error
    except (ValueError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{path}: {error}") from error
