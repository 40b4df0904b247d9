"""COCO's json: one file for a data set, boxes [x, y, width, height] in pixels."""

import json
import math
from pathlib import Path
from typing import Any

from cnnjax.config import ConfigError
from cnnjax.data.formats.annotations import Annotations, ImageBuilder, Problem, inside_folder, read_text


def read_coco(path: str | Path, image_folder: str | Path) -> Annotations:
    """Reads an annotation file (instances_*.json). Classes are ordered by category id, which may start anywhere
    and have gaps; image and annotation ids may be any number, also 0.

    Raises ConfigError if the file as a whole cannot be used; single boxes are reported (annotations.py).
    """
    file, problems = str(path), list[Problem]()
    data = _parse(Path(path))
    categories = sorted(_table(data, "categories", file).items())
    index = {number: i for i, (number, _) in enumerate(categories)}
    builders = {}
    for number, image in _table(data, "images", file).items():
        name = inside_folder(str(image.get("file_name", "")), file)
        width, height = image.get("width", 0), image.get("height", 0)
        if not all(_is_number(side) and 1 <= side < 2**31 for side in (width, height)):
            raise ConfigError(f"{file}: image {name} has the size {width!r} x {height!r}")
        builders[number] = ImageBuilder(name, int(width), int(height), file, problems)
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise ConfigError(f"{file}: annotations is not a list")
    for position, entry in enumerate(annotations):
        place = f"annotations[{position}]"
        problem = _problem(entry, builders, index)
        if problem:
            problems.append(Problem(file, place, f"{problem}: skipped"))
            continue
        x, y, w, h = (float(v) for v in entry["bbox"])
        area = entry.get("area")
        builders[entry["image_id"]].add(
            [x, y, x + w, y + h],
            index[entry["category_id"]],
            place,
            difficult=bool(entry.get("difficult", 0)),
            crowd=bool(entry.get("iscrowd", 0)),
            area=float(area) if _is_number(area) and 0 < area < math.inf else None,
        )
    images = tuple(builder.build() for builder in builders.values())
    names = tuple(str(category.get("name", number)) for number, category in categories)
    return Annotations(Path(image_folder), names, images, tuple(problems))


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
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(number, int):
            raise ConfigError(f"{file}: {name}[{position}] has no id")
        if number in table:
            raise ConfigError(f"{file}: {name}[{position}] has the id {number} of another entry")
        table[number] = entry
    return table


def _problem(entry: Any, images: dict[int, Any], classes: dict[int, int]) -> str:
    """What makes an annotation unusable, or nothing."""
    if not isinstance(entry, dict):
        return "not an object"
    image, number = entry.get("image_id"), entry.get("category_id")
    if not isinstance(image, int) or image not in images:
        return f"no image has the id {image!r}"
    if number is None:
        return "no class"
    if not isinstance(number, int) or number not in classes:
        return f"unknown class {number!r}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return f"bbox {box!r} is not four numbers"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
