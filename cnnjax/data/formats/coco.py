"""COCO's json: one file for a data set, boxes [x, y, width, height] in pixels.

Where bbox is missing, empty or all zeros, the box around the segmentation, polygons or run-length code, is taken.
"""

import contextlib
import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

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
from cnnjax.data.splits import role
from cnnjax.detection.rle import RLE, checked_rle, polygons_to_rle, rle_area, rle_box

_ROBOFLOW = "_annotations.coco.json"
_INSTANCES, _KEYPOINTS = "instances_", "person_keypoints_"  # begin names of files


def read_coco(
    path: str | Path, *image_folders: str | Path, masks: bool = False, keypoints: bool = False
) -> Annotations:
    """Reads an annotation file (instances_*.json). Classes are ordered by category id, which may start anywhere
    and have gaps; image and annotation ids may be any whole number, also 0, and also as a text or with ".0". An
    image of size 0 x 0 has that of its file.

    Its images lie in the first of the folders that has one of them, else in the last.

    With `masks`, objects without a mask that can be used are left out and reported, as are parts of one that have less
    than three corners. Polygons become pixels as pycocotools has them. With `keypoints`, of which only one category
    may have names, those of an object that does not say any are not known.

    Raises ConfigError if the file as a whole cannot be used; single boxes are reported (annotations.py).
    """
    file, problems = str(path), list[Problem]()
    data = _parse(Path(path))
    categories = sorted(_table(data, "categories", file).items())
    index = {number: i for i, (number, _) in enumerate(categories)}
    entries = _table(data, "images", file)
    names = {
        number: inside_folder(str(entry.get("file_name", "")), file) for number, entry in entries.items()
    }
    folders = [Path(folder) for folder in image_folders]
    root = next(
        (one for one in folders if any(os.path.exists(one / name) for name in names.values())), folders[-1]
    )
    builders = {}
    for number, name in names.items():
        width, height = (entries[number].get(side, 0) for side in ("width", "height"))
        if width == height == 0 and (root / name).is_file():
            height, width = images.size(root / name, str(root / name))
        if not all(_is_number(side) and 1 <= side < 2**31 for side in (width, height)):
            raise ConfigError(f"{file}: image {name} has the size {width!r} x {height!r}")
        builders[number] = ImageBuilder(name, int(width), int(height), file, problems, masks)
    names_of_points = _point_names(data["categories"], file) if keypoints else ()
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise ConfigError(f"{file}: annotations is not a list")
    for position, entry in enumerate(annotations):
        place = f"annotations[{position}]"
        box, problem, why = _box_of(entry, builders, index)
        mask: RLE | None = None
        if box and masks:
            size = builders[_id(entry["image_id"])].size
            mask, problem, why = _mask_of(entry.get("segmentation"), *size)
            if mask and problem:
                problems.append(Problem(file, place, problem))
        points = None
        if box and keypoints and (mask or not masks):
            points, problem, why = _keypoints_of(entry.get("keypoints"), len(names_of_points))
        if not box or (masks and not mask) or (keypoints and points is None):
            image = builders.get(_id(entry.get("image_id"))) if isinstance(entry, dict) else None
            if image is not None:
                image.skip(place, problem, why)
            else:
                problems.append(Problem(file, place, f"{problem}: skipped", "object", why))
            continue
        area = entry.get("area")
        builders[_id(entry["image_id"])].add(
            box,
            index[_id(entry["category_id"])],
            place,
            difficult=bool(entry.get("difficult", 0)),
            crowd=bool(entry.get("iscrowd", 0)),
            area=float(area)
            if _is_number(area) and 0 < area < math.inf
            else rle_area(mask)
            if mask
            else None,
            mask=mask,
            keypoints=points,
        )
    classes = tuple(str(category.get("name", number)) for number, category in categories)
    return Annotations(root, classes, build_all(builders.values()), tuple(problems), names_of_points)


def in_annotations(folder: Path) -> Readers:
    """COCO's layout, which CVAT writes too: annotations/instances_<split>.json or person_keypoints_<split>.json, and images below images/<split>/,
    <split>/ or images/, or with paths from the folder itself."""
    found: Readers = {}
    for kind in (_KEYPOINTS, _INSTANCES):
        for path in sorted((folder / "annotations").glob(f"{kind}*.json")):
            split = path.stem.removeprefix(kind)
            places = (folder / "images" / split, folder / split, folder / "images", folder)
            found[split] = functools.partial(_read_split, path, *places)
    return found


def _read_split(
    path: Path, *image_folders: Path, masks: bool = False, keypoints: bool = False
) -> Annotations:
    """The file of a split or, for keypoints, that beside it which has them."""
    people = path.with_name(path.name.replace(_INSTANCES, _KEYPOINTS))
    path = people if keypoints and people.is_file() else path
    return read_coco(path, *image_folders, masks=masks, keypoints=keypoints)


def in_split_folders(folder: Path) -> Readers:
    """Roboflow's layout: <split>/_annotations.coco.json beside the images."""
    files = {path.parent.name: path for path in sorted(folder.glob(f"*/{_ROBOFLOW}"))}
    return {
        name: functools.partial(read_coco, path, path.parent) for name, path in files.items() if role(name)
    }


def in_one_folder(folder: Path) -> Readers:
    """No splits: one json, with the images beside it or below images/."""
    files = sorted(folder.glob("*.json"))
    return {"": functools.partial(read_coco, files[0], folder / "images", folder)} if len(files) == 1 else {}


LAYOUTS = (in_annotations, in_split_folders, in_one_folder)


def write_coco(annotations: Annotations, path: str | Path) -> None:
    """Writes COCO's json, all ids from 1. COCO has no "difficult": an extra key of that name holds it."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, image in enumerate(annotations.images, start=1):
        images.append({"id": number, "file_name": image.path, "width": image.width, "height": image.height})
        truth = image.truth
        assert truth.difficult is not None and truth.crowd is not None and truth.area is not None
        for i, (x1, y1, x2, y2) in enumerate(truth.boxes.tolist()):
            entry = {
                "id": len(boxes) + 1,
                "image_id": number,
                "category_id": int(truth.classes[i]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(truth.area[i]),
                "iscrowd": int(truth.crowd[i]),
            }
            entry |= {"segmentation": truth.masks[i]} if truth.masks is not None else {}
            boxes.append(entry | ({"difficult": 1} if truth.difficult[i] else {}))
    categories = [{"id": i, "name": name} for i, name in enumerate(annotations.classes, start=1)]
    data = {"images": images, "annotations": boxes, "categories": categories}
    Path(path).write_text(json.dumps(data), encoding="utf-8")


def _parse(path: Path) -> dict[str, Any]:
    text = read_text(path)
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict) or "images" not in data or "categories" not in data:
        raise ConfigError(f"{path}: not COCO's format: it lacks images or categories")
    return data


def _table(data: dict[str, Any], name: str, file: str) -> dict[int, dict[str, Any]]:
    """The entries of a list by their id."""
    table: dict[int, dict[str, Any]] = {}
    entries = data[name]
    if not isinstance(entries, list):
        raise ConfigError(f"{file}: {name} is not a list")
    for position, entry in enumerate(entries):
        number = _id(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            raise ConfigError(f"{file}: {name}[{position}] has no id")
        if number in table:
            raise ConfigError(f"{file}: {name}[{position}] has the id {number} of another entry")
        table[number] = entry
    return table


def _box_of(
    entry: Any, images: dict[int, ImageBuilder], classes: dict[int, int]
) -> tuple[list[float], str, str]:
    """xyxy of an annotation; or nothing, what makes it unusable, and that in two words."""
    if not isinstance(entry, dict):
        return [], "not an object", "not an object"
    if _id(entry.get("image_id")) not in images:
        return [], f"no image has the id {entry.get('image_id')!r}", "unknown image"
    number = entry.get("category_id")
    if number is None:
        return [], "no class", "no class"
    if _id(number) not in classes:
        return [], f"unknown class {number!r}", "unknown class"
    box, rings = entry.get("bbox"), entry.get("segmentation")
    if box is None or (isinstance(box, list) and not any(box)):
        if isinstance(rings, list) and rings and all(map(_is_polygon, rings)):
            xs, ys = ([float(v) for ring in rings for v in ring[axis::2]] for axis in (0, 1))
            return [min(xs), min(ys), max(xs), max(ys)], "", ""
        if isinstance(rings, dict):
            with contextlib.suppress(ValueError):
                return rle_box(checked_rle(rings, *_sides(rings))), "", ""
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return [], f"bbox {box!r} is not four numbers", "not a box"
    x, y, w, h = map(float, box)
    return [x, y, x + w, y + h], "", ""


def _mask_of(parts: Any, height: int, width: int) -> tuple[RLE | None, str, str]:
    """The mask of an object; what is wrong with it, or with a part of it that is left out; and that in two words."""
    problem = ""
    if isinstance(parts, list):
        kept = [ring for ring in parts if _is_polygon(ring)]
        near = [ring for ring in kept if _is_near(ring, height, width)]
        if len(kept) < len(parts):
            problem = f"{len(parts) - len(kept)} of {len(parts)} polygons have fewer than three corners, or no numbers"
        elif len(near) < len(kept):
            problem = f"{len(kept) - len(near)} of {len(kept)} polygons reach far out of the image"
        if not near:
            return None, problem or "segmentation holds no polygon", "no mask"
        mask = polygons_to_rle(near, height, width)
    elif parts is None:
        return None, "no segmentation", "no mask"
    else:
        try:
            mask = checked_rle(parts, height, width)
        except ValueError as error:
            return None, str(error), "no mask"
    if not rle_area(mask):
        return None, f"the mask has no pixel in the image of {width}x{height}", "empty mask"
    return mask, problem and f"{problem}: left out", ""


def _point_names(categories: Any, file: str) -> tuple[str, ...]:
    """The names of the keypoints that objects have."""
    named = [category["keypoints"] for category in categories if category.get("keypoints")]
    if not named or any(one != named[0] for one in named) or not isinstance(named[0], list):
        raise ConfigError(
            f"{file}: data.keypoints needs categories with one list of names, as person_keypoints_*.json has"
        )
    return tuple(map(str, named[0]))


def _keypoints_of(flat: Any, count: int) -> tuple[np.ndarray | None, str, str]:
    """The keypoints [count, 3] of an object, none of them known if it says nothing; else what is wrong, also in two
    words."""
    if flat is None:
        return np.zeros((count, 3)), "", ""
    numbers = isinstance(flat, list) and all(_is_number(v) and math.isfinite(v) for v in flat)
    if not numbers or len(flat) != 3 * count:
        return None, f"keypoints that are not {count} times x, y and v", "no keypoints"
    return np.array(flat, np.float64).reshape(count, 3), "", ""


def _is_near(ring: list[float], height: int, width: int) -> bool:
    """Whether no corner is farther outside than the image is long: the pixels of an edge are counted one by one."""
    sides = ((ring[0::2], width), (ring[1::2], height))
    return all(-side <= value <= 2 * side for values, side in sides for value in values)


def _sides(code: dict[str, Any]) -> tuple[int, int]:
    """Height and width that a run-length code says it has; ValueError if it does not."""
    size = code.get("size")
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(v) is int and 0 < v < 2**15 for v in size)
    ):
        raise ValueError(f"size {size!r}")
    return size[0], size[1]


def _is_polygon(ring: Any) -> bool:
    numbers = isinstance(ring, list) and all(_is_number(v) and math.isfinite(v) for v in ring)
    return numbers and len(ring) >= 6 and len(ring) % 2 == 0


def _id(value: Any) -> Any:
    """A whole number, also of 2.0 or "2" as some tools write it; None for what is none."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
