"""WIDER FACE as it is published: photographs by event, and lists of their faces, as .mat or as text.

The text is a line with the image's path, one with the number of faces, and one for each face, of an image without faces
a line of zeros: x, y, width, height, blur, expression, illumination, invalid, occlusion, pose. Faces that are marked
invalid are difficult: they count neither as found nor as missed.
"""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data import images
from cnnjax.data.formats.annotations import (
    Annotations,
    ImageBuilder,
    Problem,
    Readers,
    build_all,
    inside_folder,
    read_text,
)

CLASSES = ("face",)
_INVALID = 7  # which of a face's numbers


class Listed(NamedTuple):
    """An image's path, x, y, width and height of its faces [n, 4], which are invalid [n], and where this is told."""

    name: str
    faces: np.ndarray
    invalid: np.ndarray
    place: str


def read_wider(pictures: Path, listed: Path) -> Annotations:
    """The images of a list, .mat or .txt, that are below `pictures`; how many are not, in a part of the data, is reported.

    Raises ConfigError for a file of another form.
    """
    problems: list[Problem] = []
    builders, missing = list[ImageBuilder](), list[str]()
    for image in _of_mat(listed) if listed.suffix == ".mat" else _of_text(listed):
        path = pictures / inside_folder(image.name, f"{listed}, {image.place}")
        if not path.is_file():
            missing.append(image.name)
            continue
        height, width = images.size(path, str(path))
        builder = ImageBuilder(image.name, width, height, str(listed), problems)
        for number, (face, invalid) in enumerate(zip(image.faces.tolist(), image.invalid, strict=True)):
            x, y, wide, high = face
            place = f"{image.place}, face {number + 1}"
            builder.add([x, y, x + wide, y + high], 0, place, difficult=bool(invalid))
        builders.append(builder)
    if missing:
        more = f", like {len(missing) - 1:,} more" if len(missing) > 1 else ""
        text = f"{pictures} has no such image{more}: left out"
        problems.append(Problem(missing[0], "", text, "image", "missing image", len(missing)))
    return Annotations(pictures, CLASSES, build_all(builders), tuple(problems))


def _of_text(listed: Path) -> Iterator[Listed]:
    lines, at = read_text(listed).splitlines(), 0
    while at < len(lines):
        name, place = lines[at].strip(), f"line {at + 1}"
        if not name:
            at += 1
            continue
        word = lines[at + 1].strip() if at + 1 < len(lines) else ""
        if not word.isdecimal():
            raise ConfigError(f"{listed}, line {at + 2}: {word[:40]!r} is no number of faces")
        count, first = int(word), at + 2
        at = first + max(1, count)  # of no faces one line tells
        if at > len(lines):
            raise ConfigError(f"{listed} is cut off: not all {count} faces of {name} are there")
        rows = [
            _numbers(line, f"{listed}, line {first + i + 1}")
            for i, line in enumerate(lines[first : first + count])
        ]
        faces = np.array([row[:4] for row in rows]).reshape(-1, 4)
        invalid = np.array([len(row) > _INVALID and row[_INVALID] != 0 for row in rows], bool)
        yield Listed(name, faces, invalid, place)


def _numbers(line: str, place: str) -> list[float]:
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        row = []
    if len(row) < 4:
        raise ConfigError(f"{place}: {line.strip()[:40]!r} does not begin with x, y, width and height")
    return row


def _of_mat(listed: Path) -> Iterator[Listed]:
    import scipy.io

    names = ("event_list", "file_list", "face_bbx_list", "invalid_label_list")
    try:
        found = scipy.io.loadmat(str(listed))
        columns = [found[name][:, 0] for name in names]
        for event, *parts in zip(*columns, strict=True):
            yield from _of_event(str(event[0]), *(part[:, 0] for part in parts))
    except Exception as error:  # damaged files make the reader raise almost anything
        text = f"{listed}: no list of WIDER FACE: {str(error)[:80] or type(error).__name__}"
        raise ConfigError(text) from error


def _of_event(
    event: str, files: Iterable[np.ndarray], faces: Iterable[np.ndarray], invalid: Iterable[np.ndarray]
) -> Iterator[Listed]:
    for file, boxes, flags in zip(files, faces, invalid, strict=True):
        name = f"{event}/{file[0]}.jpg"
        yield Listed(
            name, np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(flags).reshape(-1) != 0, name
        )


def as_published(folder: Path) -> Readers:
    """WIDER_train/images/ and WIDER_val/images/ beside wider_face_split/ with wider_face_train.mat, or
    wider_face_train_bbx_gt.txt, and those of val."""
    readers: Readers = {}
    for split in ("train", "val"):
        stem, pictures = (
            folder / "wider_face_split" / f"wider_face_{split}",
            folder / f"WIDER_{split}" / "images",
        )
        lists = [Path(f"{stem}{ending}") for ending in (".mat", "_bbx_gt.txt")]
        listed = next((path for path in lists if path.is_file()), None)
        if listed and pictures.is_dir():
            readers[split] = functools.partial(read_wider, pictures, listed)
    return readers


LAYOUTS = (as_published,)
