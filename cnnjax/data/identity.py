"""What a checkpoint remembers of the data it was trained on, by which they are known again when they have moved."""

import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnjax.data.dataset import Dataset
from cnnjax.data.sources import parse

_LOOKED_AT = 64  # training images; streamed ones are decoded for it
_FIRST = (
    "label",
    "boxes",
    "classes",
    "valid",
)  # in the order of earlier versions, whose checkpoints are known again
_BESIDE = ("image", "ignored", "area", "size")  # not learned from
_TOLERANCE = 1.0  # grey levels: what decoders of other versions make of the same file differs by less


def is_moved(there: str, here: str) -> bool:
    """Whether two values of data.name are one kind of data in two folders, such as folder:/a and folder:/b."""
    pairs = list(itertools.zip_longest(parse(there), parse(here)))
    same_kinds = all(one and other and one.kind == other.kind for one, other in pairs)
    return there != here and same_kinds and all(one.path or one.name == other.name for one, other in pairs)


def describe(dataset: Dataset) -> dict[str, Any]:
    """As JSON: how many examples there are, the CRC-32 of the training targets, the mean of each of the first images."""
    crc = 0
    beside = {*_BESIDE, *(("masks",) if "runs" in dataset.train else ())}  # which are what they come from
    for name in (*_FIRST, *sorted(set(dataset.train) - {*_FIRST, *beside})):
        values = dataset.train.get(name)
        if isinstance(values, np.ndarray):
            crc = zlib.crc32(np.ascontiguousarray(values).tobytes(), crc)
    images = dataset.train["image"]  # which may be large: one at a time
    means = [float(np.mean(images[i])) for i in range(min(_LOOKED_AT, len(images)))]
    return {
        "train": len(dataset.train["image"]),
        "test": len(dataset.test["image"]),
        "targets": crc,
        "means": [round(mean, 3) for mean in means],
    }


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing in which two descriptions differ, in words; "" where they are of the same data."""
    for split, name in (("train", "training"), ("test", "evaluated")):
        if there[split] != here[split]:
            return f"{there[split]:,} {name} examples there, {here[split]:,} here"
    if there["targets"] != here["targets"]:
        return "the labels, boxes or points of the training examples are others, or in another order"
    pairs = zip(there["means"], here["means"], strict=True)
    for number, (old, new) in enumerate(pairs, start=1):
        if abs(old - new) > _TOLERANCE:
            return f"training image {number} is another one"
    return ""
