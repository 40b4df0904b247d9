"""Images in the size of a network as darknet prepares them: bilinear, without antialiasing.

Its letterbox takes corners to corners; AlexeyAB's fork, which stretches, has OpenCV's centres of pixels.
"""

import numpy as np

from cnnjax.config import DARKNET, SHORT_SIDE
from cnnjax.data import buckets
from cnnjax.detection.boxes import Letterbox, letterbox

PADDING = 127.5  # half of the full range
LETTERBOX, STRETCH = DARKNET


def geometry(how: str, height: int, width: int, frame: tuple[int, int]) -> Letterbox:
    """How an image of height x width is put into a frame (height, width), by data.resize.

    "darknet_letterbox" rounds sizes down where "letterbox" rounds to the nearest; "darknet_stretch" fills the frame,
    whatever the proportions, as AlexeyAB's fork does by default. "short_side": see buckets.py; the two are limits.
    """
    if how == SHORT_SIDE:
        return buckets.geometry(height, width, frame)
    if how not in DARKNET:
        return letterbox(height, width, frame)
    inner_height, inner_width = frame
    if how == LETTERBOX and frame[1] * height < frame[0] * width:
        inner_height = max(1, height * frame[1] // width)
    elif how == LETTERBOX:
        inner_width = max(1, width * frame[0] // height)
    left, top = (frame[1] - inner_width) // 2, (frame[0] - inner_height) // 2
    return Letterbox(inner_width / width, inner_height / height, left, top, inner_height, inner_width)


def resize(image: np.ndarray, how: str, frame: tuple[int, int]) -> np.ndarray:
    """[H, W, C] of 0 to 255 in a frame (height, width), float32, as `geometry` says; the rest is PADDING."""
    place = geometry(how, image.shape[0], image.shape[1], frame)
    result = np.full((*frame, image.shape[2]), PADDING, np.float32)
    inner = _along(image.astype(np.float32), place.inner_width, 1, corners=how == LETTERBOX)
    inner = _along(inner, place.inner_height, 0, corners=how == LETTERBOX)
    result[place.top : place.top + len(inner), place.left : place.left + inner.shape[1]] = inner
    return result


def _along(image: np.ndarray, size: int, axis: int, corners: bool) -> np.ndarray:
    old = image.shape[axis]
    place = np.arange(size, dtype=np.float32)
    if corners:
        place = place * (np.float32(old - 1) / np.float32(max(1, size - 1)))
    else:
        place = np.maximum((place + np.float32(0.5)) * np.float32(old / size) - np.float32(0.5), 0)
    low = np.minimum(place.astype(np.int64), old - 1)
    share = (place - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    high = np.minimum(low + 1, old - 1)
    return (1 - share) * image.take(low, axis) + share * image.take(high, axis)
