"""Tables (csv) whose rows are images: a number from 0 to 255 for each pixel, with the labels beside or within."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data.dataset import Dataset, Split, first, hold_out, resized
from cnnjax.data.splits import TEST_SHARE

# The letters of AHCD (El-Sawy et al. 2017), whose labels count from 1.
ARABIC = (
    "alef", "beh", "teh", "theh", "jeem", "hah", "khah", "dal", "thal", "reh", "zain", "seen", "sheen", "sad",
    "dad", "tah", "zah", "ain", "ghain", "feh", "qaf", "kaf", "lam", "meem", "noon", "heh", "waw", "yeh",
)  # fmt: skip
LABEL = "label"  # a column of that name, in tables with a line of names


def read(data: Data, folder: Path) -> Dataset:
    """Grey square images of `folder`/*train*.csv and *test*.csv, rows of pixels from left to right, then downwards.

    The labels are whole numbers in a column called label, or in a file of its own with "label" in its name, in the same
    order; the classes are called after them. Without a test file a fixed stratified fifth is the test split.

    Raises:
      ConfigError: no such files, a row of another width, a width that is no square, other numbers of images and
        labels, values that are not whole numbers from 0 to 255.
    """
    train, test = _split(folder, "train", data.name), _split(folder, "test", data.name)
    if train is None:
        raise ConfigError(f"data.name={data.name!r}: {folder} has no .csv with 'train' in its name")
    numbers = np.unique(np.concatenate([split["label"] for split in (train, test) if split]))
    return _dataset(data, train, test, tuple(map(str, numbers)), numbers)


def read_ahcd(data: Data, folder: Path) -> Dataset:
    """The Arabic characters of AHCD: as `read`, but pixels go down the columns first, and labels are from 1 to 28."""
    train, test = _split(folder, "train", data.name), _split(folder, "test", data.name)
    if train is None or test is None:
        raise ConfigError(
            f"data.name={data.name!r}: {folder} needs .csv of images and labels, of train and test"
        )
    train, test = (
        {"image": split["image"].transpose(0, 2, 1, 3), "label": split["label"]} for split in (train, test)
    )
    return _dataset(data, train, test, ARABIC, np.arange(1, 29))


def _dataset(
    data: Data, train: Split, test: Split | None, classes: Sequence[str], numbers: np.ndarray
) -> Dataset:
    def numbered(split: Split) -> Split:
        label = np.searchsorted(numbers, split["label"])
        if not np.array_equal(numbers[np.minimum(label, len(numbers) - 1)], split["label"]):
            raise ConfigError(
                f"data.name={data.name!r}: labels from {split['label'].min()} to {split['label'].max()}, "
                f"not from {numbers[0]} to {numbers[-1]}"
            )
        return {"image": np.ascontiguousarray(split["image"]), "label": label.astype(np.int32)}

    train = numbered(train)
    whole = Dataset(data.name, train, numbered(test) if test else train, tuple(classes))  # type: ignore[arg-type]
    if not test:
        held = hold_out(whole, TEST_SHARE)
        whole = Dataset(data.name, held.train, held.test, whole.classes, "a fifth held out for the test")
    return resized(first(whole, data.limit), data)


def _split(folder: Path, word: str, name: str) -> Split | None:
    """The images and labels (as they are numbered there) of the files with this word in their names; None without."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".csv" and word in p.name.lower())
    if not files:
        return None
    labels = [p for p in files if LABEL in p.name.lower()]
    tables = [p for p in files if p not in labels]
    if len(tables) != 1 or len(labels) > 1:
        raise ConfigError(
            f"data.name={name!r}: {folder} has {len(tables)} tables of {word}ing images and {len(labels)} of "
            "their labels, not one of each"
        )
    names, values = _table(tables[0])
    if labels:
        _, column = _table(labels[0])
        if column.shape != (len(values), 1):
            raise ConfigError(
                f"{labels[0]}: {column.shape[0]} x {column.shape[1]} labels for {len(values)} images"
            )
        label, pixels = column[:, 0], values
    elif LABEL in names:
        at = names.index(LABEL)
        label, pixels = values[:, at], np.delete(values, at, axis=1)
    else:
        raise ConfigError(f"{tables[0]}: no column called {LABEL}, and no file of labels beside it")
    side = round(pixels.shape[1] ** 0.5)
    if side * side != pixels.shape[1]:
        raise ConfigError(f"{tables[0]}: rows of {pixels.shape[1]} pixels are no square images")
    if len(pixels) and not 0 <= pixels.min() <= pixels.max() <= 255:
        raise ConfigError(f"{tables[0]}: pixels from {pixels.min()} to {pixels.max()}, not from 0 to 255")
    return {"image": pixels.astype(np.uint8).reshape(-1, side, side, 1), "label": label}


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    """The names of the columns, if the first line has some, and int64 [rows, columns]."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [cell.strip().strip('"').lower() for cell in file.readline().split(",")]
            if any(map(_is_number, names)):  # a line of values, maybe wrong ones
                names = []
                file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of an empty file
                values = np.loadtxt(file, np.int64, delimiter=",", ndmin=2, comments=None)
    except (OSError, ValueError) as error:  # a row of another width; a cell that is no whole number
        raise ConfigError(f"{path}: {str(error).splitlines()[0].rstrip('.')}") from error
    if not len(values):
        raise ConfigError(f"{path}: no images in it")
    if names and len(names) != values.shape[1]:
        raise ConfigError(f"{path}: {len(names)} names for {values.shape[1]} columns")
    return names, values


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
