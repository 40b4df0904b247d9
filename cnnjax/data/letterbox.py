"""Images and their boxes as arrays of one size, and the way back to the pixels of the files."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import darknet_resize, images
from cnnjax.data.formats.annotations import Annotations, padded
from cnnjax.detection.boxes import box_from_letterbox, box_to_letterbox
from cnnjax.detection.results import Detections, Truth


def load_detection(
    annotations: Annotations, frame: tuple[int, int], max_boxes: int = 0, how: str = "letterbox"
) -> dict[str, np.ndarray]:
    """Reads every image of a data set, put into a frame (height, width) as darknet_resize.geometry has it for `how`.

    Returns what `framed` does, with room for `max_boxes` boxes in an image, and image: uint8 [N, height, width, 3].

    Raises ConfigError if an image is missing, damaged, or not of the size that its annotation says, and if an
    image has more than `max_boxes` boxes.
    """
    targets = framed(padded(annotations.images, max_boxes), frame, how)
    count = len(annotations.images)

    def read(index: int) -> np.ndarray:
        image = annotations.images[index]
        pixels = images.read_image(annotations.folder / image.path, Data())
        if pixels.shape[:2] != (image.height, image.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ConfigError(f"{image.path} is {found}, its annotation says {image.width}x{image.height}")
        return images.frame_image(pixels, frame, how)

    pixels = images.stack(read, count, "reading images") if count else np.zeros((0, *frame, 3), np.uint8)
    return {"image": pixels, **targets}


def framed(
    targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str = "letterbox"
) -> dict[str, np.ndarray]:
    """What `annotations.padded` returns, with boxes in pixels of the letterboxed frame (height, width).

    boxes are float32 then, and so is area, which stays in pixels of the image.
    """
    boxes = np.zeros(targets["boxes"].shape, np.float32)
    real = targets["valid"] | targets["ignored"]
    for i, (height, width) in enumerate(targets["size"].tolist()):
        geometry = darknet_resize.geometry(how, height, width, frame)
        boxes[i][real[i]] = box_to_letterbox(targets["boxes"][i][real[i]], geometry)
    return {**targets, "boxes": boxes, "area": targets["area"].astype(np.float32)}


def truths_in_originals(
    targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str = "letterbox"
) -> list[Truth]:
    """What `framed` returned, in pixels of the images. Without "size" the images have the size of the frame."""
    ignored = targets.get("ignored", np.zeros_like(targets["valid"]))
    real = targets["valid"] | ignored
    truths = []
    for i, (height, width) in enumerate(_sizes(targets, len(real), frame)):
        keep = real[i]
        geometry = darknet_resize.geometry(how, height, width, frame)
        boxes = box_from_letterbox(targets["boxes"][i][keep].astype(np.float64), geometry)
        crowd = ignored[i][keep] & ~targets["valid"][i][keep]
        area = targets["area"][i][keep] if "area" in targets else None
        truths.append(Truth(boxes, targets["classes"][i][keep], ignored[i][keep] & ~crowd, crowd, area))
    return truths


def detections_in_originals(
    detections: Sequence[Detections],
    targets: Mapping[str, np.ndarray],
    frame: tuple[int, int],
    how: str = "letterbox",
) -> list[Detections]:
    """Detections in letterboxed images, in pixels of the images and clipped to them."""
    result = []
    for found, (height, width) in zip(detections, _sizes(targets, len(detections), frame), strict=True):
        geometry = darknet_resize.geometry(how, height, width, frame)
        boxes = box_from_letterbox(found.boxes, geometry)
        result.append(Detections(np.clip(boxes, 0, [[width, height] * 2]), found.scores, found.classes))
    return result


def _sizes(targets: Mapping[str, np.ndarray], count: int, frame: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of every image before it was letterboxed."""
    return targets["size"].tolist() if "size" in targets else [frame] * count
