"""Images and their boxes as arrays of one size, and detections back in the pixels of the files."""

from collections.abc import Sequence

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.annotations import AnnotatedImage, Annotations
from cnnjax.detection.boxes import box_from_letterbox, box_to_letterbox, letterbox
from cnnjax.detection.results import Detections


def load_detection(
    annotations: Annotations, size: tuple[int, int], max_boxes: int = 0
) -> dict[str, np.ndarray]:
    """Reads every image of a data set, letterboxed into a frame of `size` (height, width).

    Args:
      max_boxes: M, room for the boxes of an image; 0: as many as the fullest image has.

    Returns:
      image: uint8 [N, height, width, 3].
      boxes: float32 [N, M, 4] xyxy in pixels of the frame; classes: int32 [N, M]; valid: bool [N, M].
        Crowd regions are not objects to learn and not valid; difficult objects are.
      ignored: bool [N, M], crowd or difficult: neither found nor missed in evaluation.

    Raises ConfigError if an image is missing, damaged, or not of the size that its annotation says, and if an
    image has more than `max_boxes` boxes.
    """
    room = max_boxes or max((len(truth.boxes) for truth in annotations.truths), default=0)
    count = len(annotations.images)
    boxes = np.zeros((count, room, 4), np.float32)
    classes = np.zeros((count, room), np.int32)
    valid, ignored = np.zeros((2, count, room), bool)
    for i, image in enumerate(annotations.images):
        n = len(image.truth.boxes)
        if n > room:
            raise ConfigError(f"{image.path} has {n} boxes, and there is room for {room}")
        geometry = letterbox(image.height, image.width, size)
        boxes[i, :n] = box_to_letterbox(image.truth.boxes, geometry)
        classes[i, :n] = image.truth.classes
        valid[i, :n] = ~np.asarray(image.truth.crowd)
        ignored[i, :n] = image.truth.ignored

    def read(index: int) -> np.ndarray:
        image = annotations.images[index]
        pixels = images.read_image(annotations.folder / image.path, Data())
        if pixels.shape[:2] != (image.height, image.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ConfigError(f"{image.path} is {found}, its annotation says {image.width}x{image.height}")
        return images.letterbox_image(pixels, size)

    pixels = images.stack(read, count, "reading images") if count else np.zeros((0, *size, 3), np.uint8)
    return {"image": pixels, "boxes": boxes, "classes": classes, "valid": valid, "ignored": ignored}


def to_original(
    detections: Sequence[Detections], originals: Sequence[AnnotatedImage], size: tuple[int, int]
) -> list[Detections]:
    """Detections in letterboxed images, in pixels of the original images and clipped to them."""
    result = []
    for found, image in zip(detections, originals, strict=True):
        boxes = box_from_letterbox(found.boxes, letterbox(image.height, image.width, size))
        limit = [[image.width, image.height, image.width, image.height]]
        result.append(Detections(np.clip(boxes, 0, limit), found.scores, found.classes))
    return result
