"""Ground truth of object detection in memory, whatever file it came from, and the rules that boxes must obey.

A reader reports every box that breaks a rule, with its file and place, and does with it what the rule says:

  not finite                            skipped
  no inside (x2 <= x1 or y2 <= y1)      skipped
  no part inside the image              skipped
  partly outside                        clipped; reported if more than a pixel is cut off
  no class, or an unknown one           skipped
  not four numbers                      skipped

An image without boxes is a negative example; an image whose annotation cannot be read, or whose objects were all
skipped, is left out and reported: nobody knows that nothing is there.
"""

import collections
import dataclasses
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data.formats.points import mirror_of_names
from cnnjax.data.ragged import Ragged
from cnnjax.detection.results import Truth
from cnnjax.detection.rle import RLE

# Files round coordinates, so a box may end a fraction of a pixel beyond its image.
TOLERANCE = 1.0
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """A file with its size in pixels and what is in it."""

    path: str  # below the image folder, with forward slashes
    width: int
    height: int
    truth: Truth  # boxes xyxy in pixels of the image, float64


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation file, and what was done about it."""

    file: str
    place: str  # "line 12", or "annotations[3]" in json
    text: str
    lost: str = ""  # "object" or "image", if one was left out
    why: str = ""  # in two words, to be counted
    count: int = 1  # how many were left out

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.text}" if self.place else f"{self.file}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A data set for detection. Class indices are positions in `classes`."""

    folder: Path  # of the images
    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    problems: tuple[Problem, ...] = ()
    keypoints: tuple[str, ...] = ()  # names of those of each object, where they were read

    @property
    def truths(self) -> list[Truth]:
        return [image.truth for image in self.images]


# How to read each split that a folder has, by the name it has there; "" for a folder that is not split. Formats that have
# masks take `masks`, whether to read them, and those that have keypoints `keypoints`.
Readers = dict[str, Callable[..., Annotations]]


def describe_lost(problems: Sequence[Problem], objects: int, images: int) -> str:
    """How many were left out beside these objects and images that were kept, and why, in a line; "" if none were."""
    parts = []
    for kind, kept in (("object", objects), ("image", images)):
        reasons: collections.Counter[str] = collections.Counter()
        for problem in problems:
            if problem.lost == kind:
                reasons[problem.why] += problem.count
        if lost := reasons.total():
            why = ", ".join(f"{reason}: {number:,}" for reason, number in reasons.most_common())
            parts.append(f"{lost:,} of {lost + kept:,} {kind}s ({why})")
    return f"left out {' and '.join(parts)}" if parts else ""


def keep_classes(annotations: Annotations, names: Sequence[str]) -> Annotations:
    """The data set with objects of these classes only, which are numbered in this order; all images stay.

    Raises ConfigError if one of them is no class of the data set.
    """
    if unknown := [name for name in names if name not in annotations.classes]:
        raise ConfigError(
            f"data.keep: {annotations.folder} has no class {unknown[0]!r}, but {', '.join(annotations.classes)}"
        )
    number = np.full(len(annotations.classes), -1)
    number[[annotations.classes.index(name) for name in names]] = np.arange(len(names))

    def kept(image: AnnotatedImage) -> AnnotatedImage:
        truth = image.truth.where(number[image.truth.classes] >= 0)
        return dataclasses.replace(image, truth=dataclasses.replace(truth, classes=number[truth.classes]))

    return dataclasses.replace(annotations, classes=tuple(names), images=tuple(map(kept, annotations.images)))


def leave_out_missing(annotations: Annotations) -> Annotations:
    """The data set without the images that are listed and not there, which are one problem together."""
    missing = [image for image in annotations.images if not os.path.exists(annotations.folder / image.path)]
    if not missing:
        return annotations
    gone = {image.path for image in missing}
    more = f", like {len(missing) - 1:,} more of {len(annotations.images):,}" if len(missing) > 1 else ""
    first = str(annotations.folder / missing[0].path)
    problem = Problem(first, "", f"no such file{more}: left out", "image", "missing image", len(missing))
    return dataclasses.replace(
        annotations,
        images=tuple(image for image in annotations.images if image.path not in gone),
        problems=(*annotations.problems, problem),
    )


class ImageBuilder:
    """Collects the objects of one image and applies the rules."""

    def __init__(
        self, path: str, width: int, height: int, file: str, problems: list[Problem], masks: bool = False
    ):
        if width <= 0 or height <= 0:
            raise ValueError(f"image size {width}x{height}")
        self._image = (path, width, height)
        self._file, self._problems = file, problems
        self._masks: list[RLE] | None = [] if masks else None  # one for each row
        self._rows: list[tuple[list[float], int, bool, bool, float | None]] = []
        self._keypoints: list[np.ndarray] = []  # one for each row, or none
        self._skipped = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._image[2], self._image[1]

    def skip(self, place: str, text: str, why: str) -> None:
        """Reports an object that is left out."""
        self._skipped += 1
        self._problems.append(Problem(self._file, place, f"{text}: skipped", "object", why))

    def add(
        self,
        box: Sequence[float],
        class_index: int,
        place: str,
        difficult: bool = False,
        crowd: bool = False,
        area: float | None = None,
        mask: RLE | None = None,
        keypoints: np.ndarray | None = None,
    ) -> None:
        """One object: xyxy pixels; `area` if the file knows a better one than the box's; `mask` where masks are read, and
        `keypoints` [K, 3] where these are."""
        path, width, height = self._image
        shown = "[" + ", ".join(f"{v:g}" for v in box) + "]"
        x1, y1, x2, y2 = box
        if not all(math.isfinite(v) for v in box):
            return self.skip(place, f"box {shown} is not finite", "not finite")
        if x2 <= x1 or y2 <= y1:
            return self.skip(place, f"box {shown} has no inside", "no inside")
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            return self.skip(
                place, f"box {shown} is outside the image of {width}x{height}", "outside the image"
            )
        inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
        if max(abs(a - b) for a, b in zip(box, inside, strict=True)) > TOLERANCE:
            text = f"box {shown} reaches out of the image of {width}x{height}: clipped"
            self._problems.append(Problem(self._file, place, text))
        self._rows.append((inside, class_index, difficult, crowd, area))
        if self._masks is not None:
            assert mask is not None
            self._masks.append(mask)
        if keypoints is not None:
            self._keypoints.append(keypoints)

    def build(self) -> AnnotatedImage | None:
        """None, and a report, if there are objects and none of them can be used."""
        if self._skipped and not self._rows:
            text = f"image {self._image[0]}: none of its objects can be used ({self._skipped}): left out"
            self._problems.append(Problem(self._file, "", text, "image", "no object left"))
            return None
        boxes = np.array([row[0] for row in self._rows]).reshape(-1, 4)
        own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        given = [row[4] for row in self._rows]
        truth = Truth(
            boxes,
            np.array([row[1] for row in self._rows], np.int64),
            np.array([row[2] for row in self._rows], bool),
            np.array([row[3] for row in self._rows], bool),
            np.array([o if g is None else g for o, g in zip(own, given, strict=True)]),
            self._masks,
            np.stack(self._keypoints) if self._keypoints else None,
        )
        return AnnotatedImage(*self._image, truth)


def build_all(builders: Iterable[ImageBuilder]) -> tuple[AnnotatedImage, ...]:
    """The images that can be used."""
    return tuple(image for builder in builders if (image := builder.build()) is not None)


def padded(images: Sequence[AnnotatedImage], room: int = 0, keypoints: Sequence[str] = ()) -> dict[str, Any]:
    """The objects of N images as arrays.

    Args:
      room: M, room for the objects of an image; 0: as many as the fullest image has, and one at least.
      keypoints: names of the K keypoints of each object, where these were read.

    Returns:
      boxes: float64 [N, M, 4] xyxy pixels of the image; classes: int32 [N, M]; area: float64 [N, M] in pixels.
      valid: bool [N, M]. Crowd regions are not objects to learn and not valid; difficult objects are.
      ignored: bool [N, M], crowd or difficult: neither found nor missed in evaluation.
      size: int32 [N, 2], height and width of the image.
      runs, where masks were read: uint8 [N, M, L] as Ragged, the run-length code of each object's mask in the size of the
      image (rle.py), filled up with zeros.
      points, visible and flip_points where keypoints were read: float64 [N, M, K, 2] pixels of the image, bool [N, M, K]
      and int32 [N, K], as augment/kinds.py has them.

    Raises ConfigError if an image has more than `room` objects.
    """
    room = room or max((max(1, len(image.truth.boxes)) for image in images), default=0)
    shape = (len(images), room)
    arrays: dict[str, np.ndarray] = {
        "boxes": np.zeros((*shape, 4)),
        "classes": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
        "ignored": np.zeros(shape, bool),
        "area": np.zeros(shape),
        "size": np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
    }
    for i, image in enumerate(images):
        truth, n = image.truth, len(image.truth.boxes)
        if n > room:
            raise ConfigError(f"{image.path} has {n} boxes, and there is room for {room}")
        arrays["boxes"][i, :n] = truth.boxes
        arrays["classes"][i, :n] = truth.classes
        arrays["valid"][i, :n] = ~np.asarray(truth.crowd)
        arrays["ignored"][i, :n] = truth.ignored
        arrays["area"][i, :n] = truth.area
    return arrays | _runs(images, room) | _keypoints(images, room, keypoints)


def at_most(targets: Mapping[str, Any], most: int) -> tuple[dict[str, Any], str]:
    """What `padded` returns with room for `most` objects, the largest of each image, and a note that counts the others,
    if there are such; crowd regions are the first to go. 0: all of them."""
    there = targets["valid"] | targets["ignored"]
    lost = np.maximum(there.sum(axis=1) - most, 0)
    if not most or not lost.any():
        return dict(targets), ""
    rank = np.where(targets["valid"], targets["area"], np.where(there, 0, -1))
    order = np.sort(np.argsort(-rank, axis=1, kind="stable")[:, :most], axis=1)
    result = dict(targets)
    for name in ("boxes", "classes", "valid", "ignored", "area", "points", "visible"):
        if name in targets:
            values = targets[name]
            result[name] = np.take_along_axis(
                values, order.reshape(*order.shape, *(1,) * (values.ndim - 2)), axis=1
            )
    if "runs" in targets:
        runs = targets["runs"]
        result["runs"] = (runs if isinstance(runs, Ragged) else Ragged.of_array(runs)).pick(order)
    images = int((lost > 0).sum())
    return (
        result,
        f"trained without {int(lost.sum()):,} objects, beyond the {most} largest of {images:,} images",
    )


def _keypoints(images: Sequence[AnnotatedImage], room: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    values = np.zeros((len(images), room, len(names), 3))
    for i, image in enumerate(images):
        if image.truth.keypoints is not None:
            values[i, : len(image.truth.keypoints)] = image.truth.keypoints
    mirror = np.array(mirror_of_names(tuple(names)) or range(len(names)), np.int32)
    flips = np.broadcast_to(mirror, (len(images), len(names))).copy()
    return {"points": values[..., :2], "visible": values[..., 2] > 0, "flip_points": flips}


def _runs(images: Sequence[AnnotatedImage], room: int) -> dict[str, Any]:
    codes = [image.truth.masks for image in images if image.truth.masks is not None]
    if not codes:
        return {}
    texts = [[mask["counts"].encode() for mask in of_image] for of_image in codes]
    return {"runs": Ragged.of(texts, room)}


def describe_problems(problems: Sequence[Problem], limit: int = 10) -> str:
    """One line per problem, at most `limit` of them."""
    return shorten([str(problem) for problem in problems], limit)


def tell_problems(problems: Sequence[Problem], objects: int, images: int) -> str:
    """Logs the first problems and then, on a line of its own, what was lost beside the objects and images kept.

    Returns what the note of a dataset says of them.
    """
    if not problems:
        return ""
    log.warning("%s", describe_problems(problems))
    lost = describe_lost(problems, objects, images)
    if lost:
        print(f"warning: {lost}", file=sys.stderr, flush=True)
    return f"{len(problems)} mistakes in the annotations" + (f": {lost}" if lost else "")


def shorten(lines: Sequence[str], limit: int = 10) -> str:
    """The first `limit` lines, and how many more there are."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join([*lines[:limit], *more])


def inside_folder(path: str, file: str) -> str:
    """The relative path in an annotation file, normalized; raises ConfigError if it leaves the image folder."""
    posix = PurePosixPath(path.replace("\\", "/"))
    if "\0" in path or any("\ud800" <= letter <= "\udfff" for letter in path):
        raise ConfigError(f"{file}: the image path {path!r} is no name of a file")
    if not path or posix.is_absolute() or PureWindowsPath(path).anchor or ".." in posix.parts:
        raise ConfigError(f"{file}: the image path {path!r} leads out of the image folder")
    return str(posix)


def read_text(path: Path) -> str:
    """The text of a file; raises ConfigError if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
