"""A folder of image files, one folder per class inside it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.splits import stratified_split

EVALUATED = ("test", "val", "valid", "validation")  # the first of these folders that exists
_TEST_SHARE = 0.2  # of all images, where there is none
_ORDER_SEED = 0


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files and the class of each, an index into the names of the classes."""

    paths: list[Any]  # Path; of an archive's members PurePosixPath
    labels: np.ndarray  # int32 [N]


def read(folder: Path, data: Data) -> Dataset:
    """Images of `folder`/train/CLASS and `folder`/test/CLASS (or val, valid, validation), or of `folder`/CLASS.

    Without a test folder a fixed stratified fifth of the images is the test split. Files are taken in one
    fixed shuffled order, so that `data.limit` meets all classes. Class names are the folders' names in
    alphabetical order; images may lie in folders below theirs; hidden files and those that do not end like
    images are passed over. Images stay grey only if all of them are.

    Raises:
      ConfigError: no such folder, no class folders, one without images, a file that is no image, or images
        of several sizes and no data.image_size.
    """
    train, test, classes, note = list_splits(folder, data.name)
    train, test = (_first(part, data) for part in (train, test))
    channels = 1 if all([images.check_header(path) for path in train.paths + test.paths]) else 3
    return Dataset(
        data.name, _read(train, data, channels, "train"), _read(test, data, channels, "test"), classes, note
    )


def read_evaluated(
    folder: Path, data: Data, channels: int, everything: bool
) -> tuple[Split, tuple[str, ...]]:
    """The test split of `read` and its classes, without decoding the rest.

    With `everything` no training split is assumed: where there is no test folder, all images are taken, and the
    classes are those that occur. Raises ConfigError as `read` does.
    """
    if everything:
        _check_folder(folder, data.name)
        has_train = (folder / "train").is_dir()
        part = next((name for name in EVALUATED if has_train and (folder / name).is_dir()), "")
        root = folder / (part or "train") if has_train else folder
        classes = tuple(child.name for child in _children(root))
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
    has_train = (folder / "train").is_dir()
    train_folder = folder / "train" if has_train else folder
    classes = tuple(child.name for child in _children(train_folder))
    if not classes:
        raise ConfigError(f"data.name={name!r}: {train_folder} has no folders of images, one per class")
    if len(classes) == 1:
        raise ConfigError(f"data.name={name!r}: {train_folder} has one class only, {classes[0]}")

    train = _list(train_folder, classes)
    test_name = next((name for name in EVALUATED if has_train and (folder / name).is_dir()), "")
    if test_name:
        test = _list(folder / test_name, classes)
        note = f"images of {folder}, evaluated on {test_name}"
    else:
        train, test = hold_out(train, name)
        note = f"images of {folder}, {len(test.paths):,} of them held out for the test"
    return train, test, classes, note


def hold_out(files: Files, name: str) -> tuple[Files, Files]:
    """All but a stratified fifth of the files, and that fifth: the test split where there is none."""
    try:
        kept, held = stratified_split(files.labels, max(1, round(_TEST_SHARE * len(files.labels))))
    except ValueError as error:
        raise ConfigError(f"data.name={name!r}: {error}") from error
    return take(files, kept), take(files, held)


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


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
        files = sorted(
            path
            for path in child.rglob("*")
            if path.suffix.lower() in images.SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(child).parts)
        )
        if not files:
            raise ConfigError(f"{child} has no images ({', '.join(sorted(images.SUFFIXES))})")
        paths += files
        labels += [classes.index(child.name)] * len(files)
    return Files(paths, np.array(labels, np.int32))


def take(files: Files, index: np.ndarray) -> Files:
    return Files([files.paths[i] for i in index], files.labels[index])


def order(count: int) -> np.ndarray:
    """The fixed shuffled order in which files are taken."""
    return np.random.Generator(np.random.Philox(_ORDER_SEED)).permutation(count)


def _read(files: Files, data: Data, channels: int, name: str) -> Split:
    def read_one(index: int) -> np.ndarray:
        path = files.paths[index]
        return images.decode(path, str(path), data, channels)

    return {"image": images.stack(read_one, len(files.paths), f"reading {name}"), "label": files.labels}
