"""Labelled images that tensorflow-datasets has prepared, left on disk until a batch needs them."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cnnjax.config import ConfigError, Data
from cnnjax.data import cache, images
from cnnjax.data.dataset import Split
from cnnjax.data.stream import StreamedImages
from cnnjax.data.tfds.builder import quiet


class PreparedImages:
    """The image files of a split, in its order. Goes to other processes by pickle."""

    def __init__(self, folder: Path, split: str):
        self._folder, self._split = folder, split
        self._open()

    def _open(self) -> None:
        with quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(str(self._folder))
            decoders = {"image": tfds.decode.SkipDecoding()}
            self._source: Any = builder.as_data_source(self._split, decoders=decoders)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_split": self._split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        with self._lock:
            return self._source[index]["image"]


def splits(sources: dict[str, Any], info: Any, data: Data, channels: int, folder: Path) -> dict[str, Split]:
    """The splits of these sources, whose labels are read once and kept in `folder`.

    Raises ConfigError if images differ in size and data.image_size is not set.
    """
    counts = {name: min(data.limit or len(source), len(source)) for name, source in sources.items()}

    def build() -> cache.Arrays:
        logging.info("reading the labels of %s: once, then they are kept", info.full_name)
        return {
            name: np.fromiter((sources[name][i]["label"] for i in range(count)), np.int32, count)
            for name, count in counts.items()
        }

    files = sorted(
        [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in Path(info.data_dir).iterdir()
    )
    labels = cache.load_or_build(
        folder, f"{info.full_name}-labels", {"counts": counts, "files": files}, build
    )
    found: dict[str, Split] = {}
    for name, count in counts.items():
        encoded, where = PreparedImages(Path(info.data_dir), name), f"{name} of {info.full_name}"
        if data.image_size:
            shape: tuple[int, ...] = (data.image_size, data.image_size, channels)
        elif data.stream_crop:
            raise ConfigError(f"data.stream_crop of data.name={data.name!r}: set data.image_size")
        else:
            shape = images.decode(encoded[0], where, data, channels).shape
        pixels: Any = StreamedImages(encoded, np.arange(count), data, shape, where)
        found[name] = {"image": pixels, "label": labels[name]}
    return found
