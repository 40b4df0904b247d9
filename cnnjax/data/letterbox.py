"""Images and their boxes as arrays of one size, and the way back to the pixels of the files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.config import SHORT_SIDE, ConfigError, Data
from cnnjax.data import buckets, darknet_resize, images
from cnnjax.data.examples import ON_HOST
from cnnjax.data.formats.annotations import Annotations, padded
from cnnjax.detection.boxes import Letterbox, box_from_letterbox, box_to_letterbox
from cnnjax.detection.results import Detections, Truth
from cnnjax.detection.rle import RLE, rle_to_mask

# Targets that are places in an image: pairs of x and y, and the entries of which one has to say that a place is there.
PLACES = {"boxes": ("valid", "ignored"), "points": ("visible",)}


def load_detection(
    annotations: Annotations,
    frame: tuple[int, int],
    max_boxes: int = 0,
    how: str = "letterbox",
    targets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads every image of a data set, put into a frame (height, width) by one of images.FRAMING.

    targets: in place of what `annotations.padded` makes of the images.

    Returns what `framed` does, with room for `max_boxes` boxes in an image, and image: [N, height, width, 3], uint8, or
    float32 by darknet's ways; by the short side on the canvas of its buckets. What is on_demand is decoded later.

    Raises ConfigError if an image is missing, damaged, or not of the size that its annotation says, and if an
    image has more than `max_boxes` boxes.
    """
    if targets is None:
        targets = padded(annotations.images, max_boxes, annotations.keypoints)
    targets = framed(targets, frame, how)
    count, size = len(annotations.images), stored(frame, how)

    def read(index: int) -> np.ndarray:
        image = annotations.images[index]
        pixels = images.read_image(annotations.folder / image.path, Data())
        if pixels.shape[:2] != (image.height, image.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise ConfigError(f"{image.path} is {found}, its annotation says {image.width}x{image.height}")
        return images.on_canvas(images.frame_image(pixels, frame, how), size)

    pixels = images.column(read, count, "reading images") if count else np.zeros((0, *size, 3), np.uint8)
    return {"image": pixels, **(targets if images.is_on_demand() else in_memory(targets))}


def framed(
    targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str = "letterbox"
) -> dict[str, Any]:
    """Targets of images of these sizes, such as `annotations.padded` returns, in pixels of the letterboxed frame.

    What PLACES names moves, as far as it is there to be moved, and is zero elsewhere; area stays in pixels of the
    image. Both are float32 then. Of run-length codes, "runs", come "masks" in the frame beside them, bool [N, M, H, W],
    decoded when they are asked for.

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


def _masks(targets: Mapping[str, np.ndarray], frame: tuple[int, int], how: str) -> dict[str, Any]:
    if "runs" not in targets:
        return {}
    return {"masks": Masks(targets["runs"], targets["valid"], targets["size"], frame, how)}


class Masks:
    """Stands for bool [N, M, H, W], as stream.StreamedImages does for images: the masks of run-length codes in a frame,
    of the valid objects. It goes to other processes by pickle."""

    dtype = np.dtype(bool)
    ndim = 4

    def __init__(self, runs: Any, valid: np.ndarray, size: np.ndarray, frame: tuple[int, int], how: str):
        self._columns, self._frame, self._how = (runs, valid, size), frame, how
        self.shape = (*valid.shape, *stored(frame, how))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            runs, valid, size = (column[key] for column in self._columns)
            return Masks(runs, valid, size, self._frame, self._how)
        masks = np.zeros(self.shape[1:], bool)
        self._fill(masks, int(key))
        return masks

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images.check_memory(
            f"the masks of {len(self):,} images with up to {self.shape[1]:,} objects", self.shape
        )
        masks = np.zeros(self.shape, bool)
        for i in range(len(self)):
            self._fill(masks[i], i)
        return masks if dtype is None else masks.astype(dtype)

    def _fill(self, masks: np.ndarray, i: int) -> None:
        runs, valid, size = (column[i] for column in self._columns)
        height, width = size.tolist()
        geometry = darknet_resize.geometry(self._how, height, width, self._frame)
        for j in np.flatnonzero(valid).tolist():
            mask = rle_to_mask(_rle(runs[j], (height, width)))
            masks[j] = _mask_in_frame(mask, geometry, self.shape[2:])


def in_memory(targets: Mapping[str, Any]) -> dict[str, Any]:
    """Targets as `framed` gives them, whose masks are decoded."""
    return {name: v if name in ON_HOST else np.asarray(v) for name, v in targets.items()}


def stored(frame: tuple[int, int], how: str) -> tuple[int, int]:
    """Height and width of the arrays that hold images which got into the frame so."""
    return buckets.canvas(frame) if how == SHORT_SIDE else frame


def _mask_in_frame(mask: np.ndarray, geometry: Letterbox, frame: tuple[int, ...]) -> np.ndarray:
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
