"""Folders of images with boxes as tools lay them out, such as those of Pascal VOC, COCO and YOLO.

A format is a tuple of layouts: functions that return how to read the splits of a folder, or nothing if it is not laid
out so. The first that returns something is taken.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError, Data, frame_of
from cnnjax.data import images
from cnnjax.data.dataset import Dataset, join, of_the_first
from cnnjax.data.examples import Columns
from cnnjax.data.formats import folders
from cnnjax.data.formats.annotations import (
    Annotations,
    Readers,
    at_most,
    describe_lost,
    keep_classes,
    leave_out_missing,
    padded,
    tell_problems,
)
from cnnjax.data.formats.records import Raw, RawDataset
from cnnjax.data.splits import role

Layout = Callable[[Path], Readers]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder holds: "train", "test", which is evaluated, and "validation" beside it if there is one."""

    splits: dict[str, Annotations]
    validation: str  # the split on which thresholds are chosen, or ""
    note: str


def read(layouts: Sequence[Layout], data: Data, folder: Path) -> Dataset:
    """A folder in one of the layouts, letterboxed into data.image_size x (data.image_width or image_size), or put there as
    darknet does if data.resize says so.

    Mistakes in annotations are logged; the note of the dataset counts them. Raises ConfigError as `read_splits` does.
    """
    from cnnjax.data.letterbox import load_detection  # imports jax, which other sources do without

    if not data.image_size:
        raise ConfigError(
            f"data.name={data.name!r} needs --data.image_size, the height of the frame in pixels"
        )
    found = read_splits(layouts, data, folder)
    how = data.resize if data.resize in images.FRAMING else "letterbox"
    room, limit = _room(found), data.limit
    kept = {
        name: dataclasses.replace(one, images=one.images[: limit or None])
        for name, one in found.splits.items()
    }
    fewer = of_the_first(limit, [len(one.images) for one in found.splits.values()])
    targets = {name: padded(one.images, room, one.keypoints) for name, one in kept.items()}
    targets["train"], left_out = at_most(targets["train"], data.max_objects)
    splits = {
        name: Columns(
            load_detection(annotations, frame_of(data), how=how, targets=targets[name]),
            files=[annotations.folder / image.path for image in annotations.images],
        )
        for name, annotations in kept.items()
    }
    return Dataset(
        data.name,
        splits["train"],
        splits["test"],
        found.splits["train"].classes,
        join(left_out, found.note, fewer),
        splits.get(found.validation),
    )


@contextlib.contextmanager
def files(layouts: Sequence[Layout], data: Data, folder: Path) -> Iterator[RawDataset]:
    """The same images as they are in their files, for mode=prepare."""
    found = read_splits(layouts, data, folder)
    splits = {name: _raw(annotations, _room(found)) for name, annotations in found.splits.items()}
    note = join(f"prepared from {folder}", found.note)
    yield RawDataset(found.splits["train"].classes, splits, note, found.validation)


def _raw(annotations: Annotations, room: int) -> Raw:
    def contents() -> Iterator[tuple[str, bytes]]:
        for image in annotations.images:
            path = annotations.folder / image.path
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from error

    targets = padded(annotations.images, room, annotations.keypoints)
    return Raw(contents(), targets, len(annotations.images))


def _room(found: Found) -> int:
    """As many objects as the fullest image of any split has."""
    return max(len(truth.boxes) for split in found.splits.values() for truth in split.truths)


def read_splits(layouts: Sequence[Layout], data: Data, folder: Path) -> Found:
    """The annotations of the splits. data.split names the one to evaluate, else it is test, else val; without these a
    seeded random fifth of the images is held out (folders.hold_out). Mistakes in annotations are logged.

    Raises ConfigError for a folder without annotations in a known layout, without a training split or the wanted
    one, and for splits with different classes or without an image that can be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"data.name={data.name!r}: no folder {folder}")
    readers = _readers(layouts, data.name, folder)
    names = _names(readers, data.split, folder)
    said = {what: True for what in ("masks", "keypoints") if getattr(data, what)}
    if said and not data.name.startswith("coco:"):
        what = next(iter(said))
        raise ConfigError(f"data.{what}: {data.name!r} has no {what}; coco:PATH has")
    read = {name: leave_out_missing(readers[name](**said)) for name in dict.fromkeys(names.values())}
    for split in read.values():
        if split.classes != read[names["train"]].classes:
            both = f"{read[names['train']].classes} and {split.classes}"
            raise ConfigError(f"{folder}: the splits have different classes: {both}")
        if not split.images:
            lost = describe_lost(split.problems, 0, 0)
            why = f": {lost or 'mistakes'}; the first: {split.problems[0]}" if split.problems else ""
            raise ConfigError(f"{split.folder}: no images with annotations that can be read{why}")
    if data.keep:
        read = {name: keep_classes(split, data.keep) for name, split in read.items()}
    problems = [problem for split in read.values() for problem in split.problems]
    images = [image for split in read.values() for image in split.images]
    note = tell_problems(problems, sum(len(image.truth.boxes) for image in images), len(images))
    if data.masks and (crowds := sum(int(np.asarray(image.truth.crowd).sum()) for image in images)):
        note = join(f"crowd regions, which are not learned: {crowds:,}", note)
    splits = {split: read[name] for split, name in names.items()}
    validation = "validation" if "validation" in splits else ""
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(splits["train"], data.name)
        held = f"{len(splits['test'].images):,} images of {folder} held out for the test"
        print(f"{held}: a random fifth, the same each time", file=sys.stderr, flush=True)
        note = join(held, note)
    if "test" not in names or role(names["test"]) == "val":
        validation = "test"
    return Found(splits, validation, note)


def _readers(layouts: Sequence[Layout], name: str, folder: Path) -> Readers:
    """How to read each split of a folder."""
    for found in layouts:
        if readers := found(folder):
            return readers
    known = " ".join(found.__doc__ or "" for found in layouts)
    kind = name.partition(":")[0]
    raise ConfigError(f"{folder}: no {kind} annotations in a layout that is known. {known}")


def _names(readers: Readers, wanted: str, folder: Path) -> dict[str, str]:
    """Which of the splits are "train", "test" and "validation"; of these only the first must be there."""

    def of(split: str) -> str | None:
        return next((name for name in sorted(readers, key=len) if role(name) == split), None)

    train, test, val = of("train"), of("test"), of("val")
    if train is None and test is None and val is None and len(readers) == 1:
        train = next(iter(readers))  # all there is, whatever it is called
    if train is None:
        raise ConfigError(f"{folder}: no training split, but {', '.join(sorted(readers))}")
    names = {"train": train}
    if wanted:
        begun = [name for name in sorted(readers, key=len) if name.startswith(wanted)]
        chosen = wanted if wanted in readers else of(role(wanted)) if role(wanted) else None
        chosen = chosen or next(iter(begun), train if wanted == "train" else None)
        if chosen is None:
            raise ConfigError(
                f"data.split={wanted!r}: {folder} has {', '.join(sorted(readers)) or 'no splits'}"
            )
        names["test"] = chosen
    elif test or val:
        names["test"] = test or val or ""
    if val and names.get("test") != val and role(names.get("test", "")) == "test":
        names["validation"] = val
    return names


def _hold_out(annotations: Annotations, name: str) -> tuple[Annotations, Annotations]:
    """All but a fixed random fifth of the images, and that fifth."""
    images = folders.Files(list(annotations.images), np.zeros(len(annotations.images), np.int32))
    kept, held = folders.hold_out(images, name)
    return (
        dataclasses.replace(annotations, images=tuple(kept.paths)),
        dataclasses.replace(annotations, images=tuple(held.paths), problems=()),
    )
