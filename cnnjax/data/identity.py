"""What a checkpoint remembers of the data it was trained on, by which they are known again when they have moved."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnjax.data.dataset import Dataset
from cnnjax.data.sources import folder_of

_LOOKED_AT = 64  # training images; streamed ones are decoded for it
_TARGETS = ("label", "boxes", "classes", "valid")
_TOLERANCE = 1.0  # grey levels: what decoders of other versions make of the same file differs by less


def is_moved(there: str, here: str) -> bool:
    """Whether two values of data.name are one kind of data in two folders, such as folder:/a and folder:/b."""
    folders = folder_of(there), folder_of(here)
    return all(folders) and there != here and there.partition(":")[0] == here.partition(":")[0]


def describe(dataset: Dataset) -> dict[str, Any]:
    """As JSON: how many examples there are, the CRC-32 of the training targets, the mean of each of the first images."""
    crc = 0
    for name in _TARGETS:
        if name in dataset.train:
            crc = zlib.crc32(np.ascontiguousarray(dataset.train[name]).tobytes(), crc)
    images = np.asarray(dataset.train["image"][:_LOOKED_AT])
    return {
        "train": len(dataset.train["image"]),
        "test": len(dataset.test["image"]),
        "targets": crc,
        "means": [round(float(mean), 3) for mean in images.mean(axis=(1, 2, 3))],
    }


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing in which two descriptions differ, in words; "" where they are of the same data."""
    for split, name in (("train", "training"), ("test", "evaluated")):
        if there[split] != here[split]:
            return f"{there[split]:,} {name} examples there, {here[split]:,} here"
    if there["targets"] != here["targets"]:
        return "the labels or boxes of the training examples are others, or in another order"
    pairs = zip(there["means"], here["means"], strict=True)
    for number, (old, new) in enumerate(pairs, start=1):
        if abs(old - new) > _TOLERANCE:
            return f"training image {number} is another one"
    return ""
