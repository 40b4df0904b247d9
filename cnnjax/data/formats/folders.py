"""A folder of image files, one folder per class inside it."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images, listing
from cnnjax.data.dataset import Dataset, some
from cnnjax.data.examples import Columns
from cnnjax.data.splits import EVALUATED, NAMES, TEST_SHARE, order, stratified_split


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files and the class of each, an index into the names of the classes."""

    paths: list[Any]  # Path; of an archive's members PurePosixPath
    labels: np.ndarray  # int32 [N]


class Inside(NamedTuple):
    """What a folder holds."""

    folders: frozenset[str]  # their names
    images: bool  # whether images lie directly in it


def read(data: Data, folder: Path) -> Dataset:
    """Images of `folder`/train/CLASS and `folder`/test/CLASS, or of `folder`/CLASS.

    Splits may have any of the names splits.NAMES, in any case, of the evaluated ones the first of EVALUATED. Without a test folder a fixed stratified
    fifth of the images is the test split. Files are taken in one fixed shuffled order, so that `data.limit` meets
    all classes. Class names are the folders' names in alphabetical order; images may lie in folders below theirs;
    hidden files and those that do not end like images are passed over. Images stay grey only if all of them are.

    Raises:
      ConfigError: no such folder, no class folders, one without images, folders that are splits rather than classes,
        a file that is no image, or images of several sizes and no data.image_size.
    """
    train, test, classes, note = list_splits(folder, data.name)
    train, test = (_first(part, data) for part in (train, test))
    grey = map(images.check_header, train.paths + test.paths)
    # All are looked into, and damaged ones told, unless only some are asked for.
    channels = 1 if all(grey if images.is_on_demand() else list(grey)) else 3
    return Dataset(
        data.name, _read(train, data, channels, "train"), _read(test, data, channels, "test"), classes, note
    )


def read_evaluated(
    data: Data, folder: Path, channels: int, everything: bool
) -> tuple[Columns, tuple[str, ...]]:
    """The test split of `read` and its classes, without decoding the rest.

    With `everything` no training split is assumed: where there is no test folder, all images are taken, and the
    classes are those that occur. Raises ConfigError as `read` does.
    """
    if everything:
        _check_folder(folder, data.name)
        training, part = split_folders(_look_into(folder), str(folder))
        root = folder / (part or training)
        classes = _classes(root)
        files = _list(root, classes)
    else:
        _, files, classes, _ = list_splits(folder, data.name)
    files = _first(files, data)
    for path in files.paths:
        images.check_header(path)
    return _read(files, data, channels, "test"), classes


def _first(files: Files, data: Data) -> Files:
    """In the fixed order, as many as `data.limit` allows."""
    return take(files, order(len(files.paths))[: data.limit or None])


def _check_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"data.name={name!r}: {folder} is not a folder")


def list_splits(folder: Path, name: str) -> tuple[Files, Files, tuple[str, ...], str]:
    """The training and the test files of a folder, its classes, and a note; raises ConfigError like `read`."""
    _check_folder(folder, name)
    training, evaluated = split_folders(_look_into(folder), str(folder))
    train_folder = folder / training
    classes = _classes(train_folder)
    if not classes:
        raise ConfigError(f"data.name={name!r}: {train_folder} has no folders of images, one per class")
    if len(classes) == 1:
        raise ConfigError(f"data.name={name!r}: {train_folder} has one class only, {classes[0]}")

    train = _list(train_folder, classes)
    if evaluated:
        test = _list(folder / evaluated, classes)
        note = f"images of {folder}, evaluated on {evaluated}"
    else:
        train, test = hold_out(train, name)
        note = f"images of {folder}, {len(test.paths):,} of them held out for the test"
    return train, test, classes, note


def hold_out(files: Files, name: str) -> tuple[Files, Files]:
    """All but a stratified fifth of the files, and that fifth: the test split where there is none."""
    try:
        kept, held = stratified_split(files.labels, max(1, round(TEST_SHARE * len(files.labels))))
    except ValueError as error:
        raise ConfigError(f"data.name={name!r}: {error}") from error
    return take(files, kept), take(files, held)


def split_folders(inside: Mapping[str, Inside], title: str) -> tuple[str, str]:
    """The names of the folders of the training and of the evaluated split; "" for one that there is not.

    A folder for training holds folders: one of images, called train, is a class among others.

    Args:
      inside: what each folder holds, by its name.
    Raises:
      ConfigError: several folders are one split, or all are called like splits and none is for training.
    """
    training = _called(NAMES["train"], [name for name in inside if inside[name].folders])
    if not training and inside and len(_called([*NAMES["train"], *EVALUATED], inside)) == len(inside):
        raise ConfigError(
            f"{title}: {', '.join(inside)} are named like splits, not classes, and none is called train and holds "
            "folders of images, one per class"
        )
    evaluated = [_called([word], inside) for word in EVALUATED] if training else []
    for names in (training, *evaluated):
        if len(names) > 1:
            raise ConfigError(f"{title}: {' and '.join(names)} are the same split: leave one")
    return "".join(training), next((names[0] for names in evaluated if names), "")


def _called(words: Sequence[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower() in words]


def refuse_splits(inside: Mapping[str, Inside], title: str) -> None:
    """Raises ConfigError if these are no classes: all hold folders of the same names, and no images beside them.

    One name, such as "images", tells nothing.
    """
    alike = {one.folders for one in inside.values()}
    names = sorted(*alike) if len(alike) == 1 and len(inside) > 1 else []
    if len(names) > 1 and not any(one.images for one in inside.values()):
        raise ConfigError(
            f"{title}: {', '.join(sorted(inside))} all hold the folders {some(names)}: they look like splits, not "
            "classes; call them train and test"
        )


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in one with a folder of images per class."""
    inside = _look_into(folder)
    refuse_splits(inside, str(folder))
    return tuple(inside)


def _look_into(folder: Path) -> dict[str, Inside]:
    """What each of the folders in this one holds, by their sorted names."""
    return {child.name: _inside(child) for child in _children(folder)}


def _inside(folder: Path) -> Inside:
    entries = _visible(folder)
    inside = frozenset(entry.name for entry in entries if entry.is_dir())
    return Inside(inside, any(entry.name not in inside and listing.is_image(entry.name) for entry in entries))


def _children(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((e for e in entries if not listing.is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error
    for entry in found:
        if entry.is_symlink():
            listing.refuse_dangling(Path(entry.path))
    return found


def _list(folder: Path, classes: tuple[str, ...]) -> Files:
    """The image files below `folder`, whose own folders must be some of the classes."""
    paths: list[Path] = []
    labels: list[int] = []
    children = _children(folder)
    if not children:
        raise ConfigError(f"{folder} has no folders of images, one per class")
    for child in children:
        if child.name not in classes:
            raise ConfigError(
                f"{child}: no class of that name in the training split, which has {', '.join(classes)}"
            )
        files = listing.list_files(child)
        if not files:
            raise ConfigError(f"{child} has no images ({', '.join(sorted(listing.SUFFIXES))})")
        paths += files
        labels += [classes.index(child.name)] * len(files)
    return Files(paths, np.array(labels, np.int32))


def take(files: Files, index: np.ndarray) -> Files:
    """Some of the files, by number [n]."""
    return Files([files.paths[i] for i in index], files.labels[index])


def _read(files: Files, data: Data, channels: int, name: str) -> Columns:
    def read_one(index: int) -> np.ndarray:
        path = files.paths[index]
        return images.decode(path, str(path), data, channels)

    pixels = images.column(read_one, len(files.paths), f"reading {name}")
    return Columns({"image": pixels, "label": files.labels}, files=files.paths)
