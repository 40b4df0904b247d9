"""Points placed on faces that were found: crops of a photograph, a network on them, its answer in the photograph."""

from collections.abc import Callable

import numpy as np
from jax import Array
from PIL import Image

from cnnjax.network import Preprocessing

SIDE = 1.5  # of the crop, as a share of the longer side of the box of the 68 points


def square_around(boxes: np.ndarray, share: float = SIDE) -> np.ndarray:
    """Squares [N, 4] with the centres of boxes [N, 4] xyxy, `share` times as wide as the longer side of each."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = share * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([center - half, center + half], axis=1)


def crop_faces(image: np.ndarray, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of an image, uint8 [H, W, 3], in boxes [N, 4] xyxy, each resized (bilinear, antialiased) to `size`.

    Returns uint8 [N, size, size, 3] and the boxes as they were cut at the borders of the image.
    """
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height])
    inside = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, limits)
    whole = Image.fromarray(image)
    crops = [
        np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box)))
        for box in inside.tolist()
    ]
    return np.array(crops, np.uint8).reshape(-1, size, size, 3), inside


def place_points(
    apply: Callable[[Array], Array],
    prepare: Preprocessing,
    image: np.ndarray,
    boxes: np.ndarray,
    share: float = SIDE,
) -> np.ndarray:
    """Points [N, K, 2] in pixels of the image on the faces in boxes [N, 4] xyxy; [0, 0, 2] without faces.

    Args:
      apply: a jitted network, [M, S, S, 3] -> [M, 2 K] of x and y as shares of its image, such as face_landmarks68.
        M is N rounded up to a power of 2, so that few shapes are compiled.
      prepare: what its weights expect.
      share: the side of the crop by the longer side of a box; 1.5 if boxes are those of the points.
    """
    crops, inside = crop_faces(image, square_around(boxes, share), prepare.image_size)
    if not len(crops):
        return np.zeros((0, 0, 2), np.float32)
    room = 1 << (len(crops) - 1).bit_length()
    padded = np.concatenate([crops, np.zeros((room - len(crops), *crops.shape[1:]), np.uint8)])
    shares = np.asarray(apply(prepare(padded)))[: len(crops)].reshape(len(crops), -1, 2)
    return inside[:, None, :2] + shares * (inside[:, None, 2:] - inside[:, None, :2])
