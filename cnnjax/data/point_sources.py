"""Datasets of images with points: figures drawn here, and folders of tables, .pts files, COCO's keypoints or .mat.

The classes of such a dataset are the names of its points.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images, listing
from cnnjax.data.dataset import Dataset, join, mixed
from cnnjax.data.examples import Columns
from cnnjax.data.formats import landmarks, poses
from cnnjax.data.formats.points import PointSet
from cnnjax.data.letterbox import framed
from cnnjax.data.splits import TEST_SHARE, role, stratified_split
from cnnjax.data.synthetic import figures

NUM_FIGURES = {"train": 4000, "test": 500}
SEEDS = {"train": 0, "test": 1}
BACKGROUNDS = 0.25  # squares of photographs without points for each image with some
_FORMS = "train.csv and test.csv, NAME.csv, joints.mat, mpii*.mat, annotations/person_keypoints_*.json, or .pts files"
# How to read each split of a folder; "" of a folder that is not split.
Readers = dict[str, Callable[[], PointSet]]


def read_figures(data: Data, _: Path) -> Dataset:
    """Stick figures, 64 pixels wide unless data.image_size says otherwise."""

    def split(name: str) -> Columns:
        count = min(NUM_FIGURES[name], data.limit or NUM_FIGURES[name])
        drawn = figures.figures(jax.random.key(SEEDS[name]), count, data.image_size or 64)
        return Columns({key: np.asarray(value) for key, value in drawn.items()})

    return Dataset(data.name, split("train"), split("test"), figures.NAMES, "figures drawn here")


def read_points(data: Data, folder: Path) -> Dataset:
    """points:PATH, letterboxed into squares of data.image_size, with squares of data.backgrounds beside them.

    PATH holds train.csv and test.csv (or val.csv) with images below train/ and test/, or images/; or
    annotations/person_keypoints_*.json; or, not split, one .csv or joints.mat with images/, mpii*.mat, or .pts files: of
    these a fixed fifth is held out for the test. Raises ConfigError.
    """
    if not folder.is_dir():
        raise ConfigError(f"data.name={data.name!r}: no folder {folder}")
    if not data.image_size:
        raise ConfigError(f"data.name={data.name!r} needs --data.image_size, the side of the frame in pixels")
    readers = _readers(folder)
    names = {role(name): name for name in sorted(readers, reverse=True)}
    train = readers[names.get("train", next(iter(readers)))]()
    held = names.get("test", names.get("val"))
    if held is None:
        kept, apart = parted(len(train.files))
        test, train = _rows(train, apart), _rows(train, kept)
        note = f"{len(apart):,} images of {folder} held out for the test"
    else:
        test, note = readers[held](), ""
    if test.names != train.names:
        found = f"{len(train.names)} and {len(test.names)}"
        raise ConfigError(f"{folder}: the splits have different points: {found}")
    if data.limit:
        train, test = (_rows(part, np.arange(min(data.limit, len(part.files)))) for part in (train, test))
        note = join(note, f"at most {data.limit:,} images with points in each split")
    loaded = load(train, data.image_size), load(test, data.image_size)
    if data.backgrounds:
        loaded = _with_backgrounds(*loaded, Path(data.backgrounds).expanduser())
        note = join(note, f"with squares of {data.backgrounds} that have no points")
    return Dataset(data.name, *loaded, classes=train.names, note=note)


def load(points: PointSet, size: int) -> Columns:
    """Reads every image of a set, letterboxed into size x size pixels; its points are in pixels of that frame."""
    frame = (size, size)
    targets = {"points": points.points, "visible": points.visible, "size": points.sizes()}
    moved = framed(targets, frame)

    def read(index: int) -> np.ndarray:
        return images.letterbox_image(images.read_image(points.folder / points.files[index], Data()), frame)

    mirror = np.tile(np.array(points.mirror, np.int32), (len(points.files), 1))
    pixels = images.column(read, len(points.files), "reading images")
    return Columns(
        {"image": pixels, "points": moved["points"], "visible": points.visible, "flip_points": mirror},
        files=[points.folder / name for name in points.files],
    )


def _with_backgrounds(train: Columns, test: Columns, folder: Path) -> tuple[Columns, Columns]:
    """Both splits with squares of the photographs of a folder, of which a fixed fifth is for the test."""
    files = listing.list_files(folder)
    if len(files) < 2:
        raise ConfigError(f"data.backgrounds={folder}: {len(files)} images; there must be one for each split")
    kept, apart = parted(len(files))
    first, second = (
        _join(split, [files[i] for i in part.tolist()], seed)
        for split, part, seed in ((train, kept, 0), (test, apart, 1))
    )
    return first, second


def _join(split: Columns, files: list[Path], seed: int) -> Columns:
    """The split and random squares of photographs, in one fixed shuffled order."""
    count, size = max(1, round(BACKGROUNDS * len(split["image"]))), split["image"].shape[1]
    rng = np.random.default_rng(seed)
    draws = rng.uniform(size=(count, 3))

    def read(index: int) -> np.ndarray:
        photograph = images.read_image(files[index % len(files)], Data())
        height, width = photograph.shape[:2]
        share, down, right = draws[index]
        side = max(1, round(min(height, width) * (0.25 + 0.75 * share)))
        y, x = round(down * (height - side)), round(right * (width - side))
        return images.letterbox_image(photograph[y : y + side, x : x + side], (size, size))

    points, flips = split["points"], np.repeat(split["flip_points"][:1], count, axis=0)
    empty = Columns(
        {
            "image": images.stack(read, count, "reading backgrounds"),
            "points": np.zeros((count, *points.shape[1:]), np.float32),
            "visible": np.zeros((count, points.shape[1]), bool),
            "flip_points": flips,
        },
        files=[files[index % len(files)] for index in range(count)],
    )
    return mixed("data.backgrounds", [split, empty])


def parted(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all but a fixed fifth of `count` images, and of that fifth."""
    return stratified_split(np.zeros(count, np.int64), max(1, round(TEST_SHARE * count)))


def _readers(folder: Path) -> Readers:
    tables = sorted(folder.glob("*.csv"))
    if tables:
        splits = {path.stem if role(path.stem) else "": path for path in tables}
        return {
            name: _bind(landmarks.read_csv, path, _images_of(folder, path.stem))
            for name, path in splits.items()
        }
    keypoints = sorted((folder / "annotations").glob("person_keypoints_*.json"))
    if keypoints:
        found = {path.stem.removeprefix("person_keypoints_"): path for path in keypoints}
        return {
            name: _bind(poses.read_coco_keypoints, path, folder / "images" / name, folder / name, folder / "images")
            for name, path in found.items()
        }  # fmt: skip
    if (folder / "joints.mat").is_file():
        return {"": _bind(poses.read_lsp, folder / "joints.mat", folder / "images")}
    for path in sorted(folder.glob("mpii*.mat")):
        return {"": _bind(poses.read_mpii, path, folder / "images")}
    if listing.list_files(folder, {".pts"}):
        return {"": _bind(landmarks.read_pts, folder)}
    raise ConfigError(f"{folder}: no points: expected {_FORMS}")


def _bind(read: Callable[..., PointSet], *places: Path) -> Callable[[], PointSet]:
    return lambda: read(*places)


def _images_of(folder: Path, stem: str) -> Path:
    return next((folder / name for name in (stem, "images") if (folder / name).is_dir()), folder)


def _rows(points: PointSet, rows: np.ndarray) -> PointSet:
    """Some of the images of a set."""
    arrays = {name: getattr(points, name) for name in ("points", "visible", "boxes", "heads", "areas")}
    chosen = {name: value[rows] for name, value in arrays.items() if value is not None}
    return dataclasses.replace(points, files=tuple(points.files[i] for i in rows.tolist()), **chosen)
