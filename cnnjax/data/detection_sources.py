"""Datasets of images with boxes: synthetic scenes, and folders in the layouts of Pascal VOC, COCO and YOLO."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data.dataset import Dataset, Split, first
from cnnjax.data.formats.annotations import Annotations, describe_problems, keep_classes
from cnnjax.data.formats.coco import read_coco
from cnnjax.data.formats.voc import read_voc
from cnnjax.data.formats.yolo import read_yolo
from cnnjax.data.letterbox import load_detection
from cnnjax.data.synthetic import scenes

KINDS = {"shapes": "shapes", "digit_scenes": "digits"}
NUM_SCENES = {"train": 4000, "test": 1000}
NUM_SINGLE = {"train": 16_000, "test": 1000}  # a scene with one object says less
SEEDS = {"train": 0, "test": 1}
log = logging.getLogger(__name__)


def read_scenes(data: Data) -> Dataset:
    """Synthetic scenes with up to data.objects objects, 64 pixels wide unless data.image_size says otherwise."""
    kind = KINDS[data.name]

    def split(name: str) -> dict[str, np.ndarray]:
        available = (NUM_SINGLE if data.objects == 1 else NUM_SCENES)[name]
        count = min(available, data.limit or available)
        # One object may be large, several need room beside each other.
        scale = (0.25, 0.7) if data.objects == 1 else (0.2, 0.45)
        drawn = scenes.grid_scenes(
            jax.random.key(SEEDS[name]), count, data.image_size or 64, data.objects, kind, name, scale
        )
        return {key: np.asarray(value) for key, value in drawn.items()}

    return Dataset(data.name, split("train"), split("test"), scenes.KINDS[kind], "synthetic scenes")


def read_annotated(data: Data) -> Dataset:
    """voc:PATH, coco:PATH or yolo:PATH, letterboxed into data.image_size x (data.image_width or image_size).

    voc: Annotations/, JPEGImages/ and ImageSets/Main/*.txt. coco: annotations/instances_<split>*.json and
    images/<split>*/. yolo: images/<split>*/, labels/<split>*/ and classes.txt. Mistakes in annotations are
    logged; the note of the dataset counts them.
    """
    if not data.image_size:
        raise ConfigError(
            f"data.name={data.name!r} needs --data.image_size, the height of the frame in pixels"
        )
    size = (data.image_size, data.image_width or data.image_size)
    found, validation = read_splits(data)
    problems = [problem for split in found.values() for problem in split.problems]
    room = max(len(truth.boxes) for split in found.values() for truth in split.truths)
    splits: dict[str, Split] = {
        name: load_detection(annotations, size, room) for name, annotations in found.items()
    }
    dataset = Dataset(
        data.name,
        splits["train"],
        splits["test"],
        found["train"].classes,
        f"{len(problems)} mistakes in the annotations" if problems else "",
        splits.get(validation),
    )
    return first(dataset, data.limit)


def read_splits(data: Data) -> tuple[dict[str, Annotations], str]:
    """The annotations of the splits "train", "test", which is evaluated, and "validation" beside it if there is one;
    and the name of the one on which thresholds are chosen, or "". Mistakes in annotations are logged."""
    layout, _, path = data.name.partition(":")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"data.name={data.name!r}: no folder {folder}")
    evaluated = data.split or ("test" if _has_split(layout, folder, "test") else "val")
    names = {"train": "train", "test": evaluated}
    if evaluated == "test" and _has_split(layout, folder, "val"):
        names["validation"] = "val"
    found = {name: _read(layout, folder, split) for name, split in names.items()}
    for split in found.values():
        if split.classes != found["train"].classes:
            both = f"{found['train'].classes} and {split.classes}"
            raise ConfigError(f"{folder}: the splits have different classes: {both}")
        if not split.images:
            why = f"; the first: {split.problems[0]}" if split.problems else ""
            raise ConfigError(f"{split.folder}: no images with annotations that can be read{why}")
    if data.keep:
        found = {name: keep_classes(split, data.keep) for name, split in found.items()}
    if problems := [problem for split in found.values() for problem in split.problems]:
        log.warning("%s", describe_problems(problems))
    return found, "test" if evaluated == "val" else "validation" if "validation" in found else ""


def _has_split(layout: str, folder: Path, split: str) -> bool:
    if layout == "voc":
        return (folder / "ImageSets" / "Main" / f"{split}.txt").exists()
    return bool(_image_folders(folder, split))


def _image_folders(folder: Path, split: str) -> list[Path]:
    return sorted(path for path in (folder / "images").glob(f"{split}*") if path.is_dir())


def _read(layout: str, folder: Path, split: str) -> Annotations:
    if layout == "voc":
        return read_voc(folder, split)
    images = _image_folders(folder, split)
    if not images:
        raise ConfigError(f"{folder / 'images'}: no folder whose name begins with {split}")
    if layout == "coco":
        found = read_coco(folder / "annotations" / f"instances_{images[0].name}.json", images[0])
        # Some files give names below the whole set's folder, not below the split's.
        inside = all((found.folder / image.path).exists() for image in found.images[:1])
        return found if inside else dataclasses.replace(found, folder=folder)
    return read_yolo(images[0], folder / "labels" / images[0].name, folder / "classes.txt")
