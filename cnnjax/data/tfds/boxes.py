"""What tensorflow-datasets says of the objects in an image, as annotations: VOC, COCO, KITTI, WIDER FACE and their like.

Its boxes are ymin, xmin, ymax, xmax in shares of the image. Two traps of its own: what it makes of Pascal VOC's xml
keeps corners that are counted from 1, and its boxes of KITTI measure y from the bottom of the image.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnjax.config import ConfigError, Data, frame_of
from cnnjax.data import images
from cnnjax.data.formats.annotations import AnnotatedImage, ImageBuilder, Problem, padded

_FEATURES = {"objects": ("label", "type"), "faces": ()}  # of the objects, and of their class
_COUNTED_FROM_ONE = ("voc", "bccd")
_UPSIDE_DOWN = ("kitti",)


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Where the records of a data set hold their boxes, and what these mean."""

    name: str  # of the data set, for messages
    objects: str  # the feature with "bbox"
    label: str  # its feature with the class; empty: there is one class only
    classes: tuple[str, ...]
    counted_from_one: bool
    upside_down: bool


def boxes_of(info: Any) -> Boxes | None:
    """Of a tfds.core.DatasetInfo; None if its images have no boxes with classes."""
    import tensorflow_datasets as tfds

    def parts(features: Any) -> dict[str, Any]:
        return dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}

    features = parts(info.features)
    if "label" in features:
        return None
    for objects, labels in _FEATURES.items():
        sequence = features.get(objects)
        inside = parts(sequence.feature) if isinstance(sequence, tfds.features.Sequence) else {}
        box = inside.get("bbox")
        if not isinstance(box, tfds.features.BBoxFeature) or box.bbox_format.value != "REL_YXYX":
            continue
        label = next((name for name in labels if isinstance(inside.get(name), tfds.features.ClassLabel)), "")
        if label or not labels:
            classes = tuple(inside[label].names) if label else (objects.removesuffix("s"),)
            special = (info.name in _COUNTED_FROM_ONE, info.name in _UPSIDE_DOWN)
            return Boxes(info.full_name, objects, label, classes, *special)
    return None


def annotate(
    record: Mapping[str, Any], place: str, size: tuple[int, int], boxes: Boxes, problems: list[Problem]
) -> AnnotatedImage | None:
    """The objects of a record, whose image is `size` (height, width), by the rules of annotations.py.

    None if there are objects and none of them can be used.

    place: the record, for messages, such as "image 3 of train".
    """
    height, width = size
    objects = record[boxes.objects]
    image = ImageBuilder(place, width, height, f"{boxes.name}, {place}", problems)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(objects["bbox"], np.float64).reshape(-1, 4).tolist()):
        where = f"{boxes.objects}[{i}]"
        label = int(objects[boxes.label][i]) if boxes.label else 0
        if not 0 <= label < len(boxes.classes):
            image.skip(where, f"unknown class {label}", "unknown class")
            continue
        if boxes.upside_down:
            y1, y2 = 1 - y2, 1 - y1
        # One pixel wide by VOC's rule is a mistake here as in its xml (annotations_voc.py).
        first = 1.0 if boxes.counted_from_one and x1 < x2 and y1 < y2 else 0.0

        def flag(*names: str, i: int = i) -> bool:
            return any(bool(objects[name][i]) for name in names if name in objects)

        image.add(
            [x1 * width - first, y1 * height - first, x2 * width, y2 * height],
            label,
            where,
            difficult=flag("is_difficult", "invalid"),
            crowd=flag("is_crowd"),
            area=float(objects["area"][i]) if "area" in objects else None,
        )
    return image.build()


def decode(source: Any, count: int, data: Data, boxes: Boxes, name: str) -> dict[str, np.ndarray]:
    """The first `count` records of a split as detection.load_detection gives them, and problems: a row for each.

    Images whose objects can all not be used are left out.
    """
    from cnnjax.data.letterbox import framed  # imports jax

    if not data.image_size:
        raise ConfigError(
            f"data.name={data.name!r} needs --data.image_size, the height of the frame in pixels"
        )
    frame = frame_of(data)
    annotated: dict[int, AnnotatedImage | None] = {}
    problems: dict[int, list[Problem]] = {}

    def read_one(index: int) -> np.ndarray:
        record, place = source[index], f"image {index} of {name}"
        pixels = images.decode(record["image"], place, Data(), 3)
        problems[index] = []
        annotated[index] = annotate(record, place, pixels.shape[:2], boxes, problems[index])
        return images.letterbox_image(pixels, frame)

    pixels = images.stack(read_one, count, f"decoding {name}")
    rows = [dataclasses.astuple(problem) for index in range(count) for problem in problems[index]]
    found = [annotated[index] for index in range(count)]
    kept = [image for image in found if image is not None]
    if not kept:
        raise ConfigError(
            f"{boxes.name}: no images of {name} with boxes that can be used; the first: {problems[0][0]}"
        )
    if len(kept) < count:
        pixels = pixels[[image is not None for image in found]]
    return {"image": pixels, **framed(padded(kept), frame), "problems": np.array(rows, np.str_)}
