"""Images and their boxes as arrays of one size, and the way back to the pixels of the files."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import darknet_resize, images
from cnnjax.data.formats.annotations import Annotations, padded
from cnnjax.detection.boxes import Letterbox, box_from_letterbox, box_to_letterbox
from cnnjax.detection.results import Detections, Truth
from cnnjax.detection.rle import RLE, rle_to_mask

# Targets that are places in an image: pairs of x and y, and the entries of which one has to say that a place is there.
PLACES = {"boxes": ("valid", "ignored"), "points": ("visible",)}


def load_detection(
    annotations: Annotations, frame: tuple[int, int], max_boxes: int = 0, how: str = "letterbox"
) -> dict[str, np.ndarray]:
    """Reads every image of a data set, put into a frame (height, width) by one of images.FRAMING.

    Returns what `framed` does, with room for `max_boxes` boxes in an image, and image: [N, height, width, 3], uint8, or
    float32 by darknet's ways.

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

    pixels = images.column(read, count, "reading images") if count else np.zeros((0, *frame, 3), np.uint8)
    return {"image": pixels, **targets}


def framed(
    targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str = "letterbox"
) -> dict[str, np.ndarray]:
    """Targets of images of these sizes, such as `annotations.padded` returns, in pixels of the letterboxed frame.

    What PLACES names moves, as far as it is there to be moved, and is zero elsewhere; area stays in pixels of the
    image. Both are float32 then. Of run-length codes, "runs", come "masks" in the frame beside them, bool [N, M, H, W].

    Args:
      frame: height and width.
      how: images got into it, one of images.FRAMING.
    """
    moved = {name: np.zeros(targets[name].shape, np.float32) for name in PLACES if name in targets}
    for name, places in moved.items():
        real = np.any([targets[flag] for flag in PLACES[name] if flag in targets], axis=0)
        for i, (height, width) in enumerate(targets["size"].tolist()):
            geometry = darknet_resize.geometry(how, height, width, frame)
            here = targets[name][i][real[i]]
            corners = here.reshape(len(here), here.shape[-1] // 2, 2)  # two of a box; a point is its own
            both = np.concatenate([corners, corners], axis=-1)
            places[i][real[i]] = box_to_letterbox(both, geometry)[..., :2].reshape(here.shape)
    area = {"area": targets["area"].astype(np.float32)} if "area" in targets else {}
    return {**targets, **moved, **area, **_masks(targets, frame, how)}


def _masks(targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str) -> dict[str, np.ndarray]:
    if "runs" not in targets:
        return {}
    shape = (*targets["valid"].shape, *frame)
    images.check_memory(f"the masks of {shape[0]:,} images with up to {shape[1]:,} objects", shape)
    masks = np.zeros(shape, bool)
    for i, (height, width) in enumerate(targets["size"].tolist()):
        geometry = darknet_resize.geometry(how, height, width, frame)
        for j in np.flatnonzero(targets["valid"][i]).tolist():
            mask = rle_to_mask(_rle(targets["runs"][i, j], (height, width)))
            masks[i, j] = _mask_in_frame(mask, geometry, frame)
    return {"masks": masks}


def _mask_in_frame(mask: np.ndarray, geometry: Letterbox, frame: tuple[int, int]) -> np.ndarray:
    """bool [H, W] in the frame: of each of its pixels what lies under the centre. An object so thin that this is nothing
    has the pixels that it touches."""
    place, inner = (geometry.top, geometry.left), (geometry.inner_height, geometry.inner_width)
    sampled = [
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(inner, mask.shape, strict=True)
    ]
    shown = mask[np.ix_(*sampled)]
    if not shown.any():
        touched = (at * new // old for at, new, old in zip(np.nonzero(mask), inner, mask.shape, strict=True))
        shown[tuple(touched)] = True
    result = np.zeros(frame, bool)
    result[place[0] : place[0] + inner[0], place[1] : place[1] + inner[1]] = shown
    return result


def _rle(runs: np.ndarray, size: Sequence[int]) -> RLE:
    """What `annotations.padded` made a row of."""
    return {"size": list(size), "counts": runs[runs > 0].tobytes().decode()}


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
        masks = (
            [_rle(one, (height, width)) for one in targets["runs"][i][keep]] if "runs" in targets else None
        )
        truths.append(
            Truth(boxes, targets["classes"][i][keep], ignored[i][keep] & ~crowd, crowd, area, masks)
        )
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
