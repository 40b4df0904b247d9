"""A dataset of tensorflow-datasets by its builder: as it was prepared, or from its authors' archives."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.dataset import About, Dataset, Split, first, resized
from cnnjax.data.examples import Columns
from cnnjax.data.formats import archives
from cnnjax.data.formats.annotations import Problem, padded, tell_problems
from cnnjax.data.formats.records import Raw, RawDataset
from cnnjax.data.tfds import builder as tfds_builder
from cnnjax.data.tfds import download
from cnnjax.data.tfds import read as prepared
from cnnjax.data.tfds.boxes import Boxes, annotate, boxes_of

MNIST_LIKE = ("mnist", "fashion_mnist", "kmnist")
CIFAR = ("cifar10", "cifar100")


def about(builder: Any, data: Data, data_dir: Path) -> About:
    """What tensorflow-datasets says of its dataset."""
    features = builder.info.features
    entries = dict(features.items()) if hasattr(features, "items") else {}
    height, width, channels = getattr(entries.get("image"), "shape", None) or (0, 0, 3)
    names = getattr(entries.get("label"), "names", None) or ()
    return About((height or 0, width or 0, channels or 3), tuple(names))


def read(builder: Any, data: Data, data_dir: Path) -> Dataset:
    """What is prepared as array_record in `data_dir`, else what archives of its authors hold, found or downloaded.

    Raises ConfigError for what is in neither.
    """
    if prepared.is_prepared(builder):
        dataset = prepared.read(builder, data, data_dir)
    elif data.stream:
        raise ConfigError(
            f"data.stream of data.name={data.name!r}: {tfds_builder.not_prepared(data.name, data_dir, builder)}"
        )
    elif builder.name in (*MNIST_LIKE, "emnist", *CIFAR):
        dataset = resized(first(_published(builder, data.name, data_dir), data.limit), data)
    else:
        raise ConfigError(tfds_builder.not_prepared(data.name, data_dir, builder))
    return _upright(dataset) if builder.name == "emnist" else dataset


def read_evaluated(
    builder: Any, data: Data, data_dir: Path, channels: int, everything: bool
) -> tuple[Split, tuple[str, ...]] | None:
    """The test split of `read` and its classes alone; None where it is not to be had without the training split."""
    if builder.name == "emnist" or not prepared.is_prepared(builder):
        return None
    return prepared.read_evaluated(builder, data, data_dir)


@contextlib.contextmanager
def files(builder: Any, data: Data, data_dir: Path) -> Iterator[RawDataset]:
    """The encoded images and labels or boxes of what tensorflow-datasets has prepared, without its wrapping."""
    if not prepared.is_prepared(builder):
        raise ConfigError(tfds_builder.not_prepared(data.name, data_dir, builder))
    boxes = boxes_of(builder.info)
    if not boxes:
        prepared.check_features(builder.info)
    found, evaluated = prepared.open_sources(builder, boxes, data.split)
    if not evaluated or builder.name == "emnist":
        why = "has no labelled test split" if not evaluated else "holds its images mirrored"
        raise ConfigError(f"data.name={data.name!r} {why}: it cannot be prepared for streaming")

    def raw(name: str) -> Raw:
        return _annotated(found[name], name, boxes) if boxes else _labelled(found[name], name)

    classes = boxes.classes if boxes else tuple(builder.info.features["label"].names)
    splits = {"train": raw("train"), "test": raw(evaluated)}
    if evaluated == "test" and "validation" in found:
        splits["validation"] = raw("validation")
    validation = "validation" if "validation" in splits else "test" if evaluated == "validation" else ""
    note = f"{builder.info.full_name}, evaluated on its {evaluated} split"
    yield RawDataset(classes, splits, note, validation)


def _labelled(source: Any, name: str) -> Raw:
    labels = np.zeros(len(source), np.int32)  # known when the images have been read

    def contents() -> Iterator[tuple[str, bytes]]:
        for index in range(len(source)):
            record = source[index]
            labels[index] = record["label"]
            yield f"image {index} of {name}", record["image"]

    return Raw(contents(), {"label": labels}, len(source))


def _annotated(source: Any, name: str, boxes: Boxes) -> Raw:
    """Reads all records once for their boxes; their images are read again when they are copied."""
    problems: list[Problem] = []
    annotated = {}
    for index in range(len(source)):
        record, place = source[index], f"image {index} of {name}"
        found = annotate(record, place, images.size(record["image"], place), boxes, problems)
        if found is not None:
            annotated[index] = found
    kept = list(annotated.values())
    tell_problems(problems, sum(len(image.truth.boxes) for image in kept), len(kept))
    contents = ((image.path, source[index]["image"]) for index, image in annotated.items())
    return Raw(contents, padded(kept), len(kept))


def _published(builder: Any, name: str, data_dir: Path) -> Dataset:
    """The dataset from the archives of its authors."""
    paths = download.fetch(builder, data_dir)
    classes = tuple(builder.info.features["label"].names)
    note = f"{builder.info.full_name}, its authors' archives"
    if builder.name in MNIST_LIKE:
        train, test = archives.read_mnist(paths)
        return Dataset(name, Columns(train), Columns(test), classes, note)
    (path,) = paths.values()
    if builder.name == "emnist":
        config = builder.builder_config
        train, test = archives.read_emnist(path, config.name, config.train_examples, config.test_examples)
    else:
        train, test, classes = archives.read_cifar(path)
    return Dataset(name, Columns(train), Columns(test), classes, note)


def _upright(dataset: Dataset) -> Dataset:
    """EMNIST's files, and tensorflow-datasets after them, hold every image mirrored along its diagonal."""
    train, test = (
        split.replace(image=split["image"].swapaxes(1, 2).copy()) for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, train=train, test=test)
