"""Views of an image that are averaged at test time."""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import Array

from cnnjax.config import CROPPING, ConfigError

Read = TypeVar("Read", bound=Any)  # config.Data, or the part of it that a trained network remembers
# How many there are of an image.
VIEWS = {"none": 1, "flip": 2, "shift": 3, "flip_shift": 6, "ten_crop": 10}


def test_views(mode: str, images: Array, size: int = 0) -> list[tuple[float, Array]]:
    """Views of images [N, H, W, C] whose predictions are averaged with these weights, which sum to 1.

    "flip": the image and its mirror image. "shift": the image (0.5), and moved by one pixel up-left and down-right with
    reflected borders (0.25 each). "flip_shift": these and their mirror images, as airbench does (Jordan 2024, section
    3.6). "ten_crop": squares of `size` pixels at the four corners and the centre, then the mirror images of these five
    (Krizhevsky et al. 2012, section 4.1).

    Raises ConfigError for an unknown mode, and if crops of this size do not fit.
    """
    if mode == "none":
        return [(1.0, images)]
    if mode == "flip":
        return [(0.5, images), (0.5, images[:, :, ::-1])]
    if mode == "ten_crop":
        five = [
            images[:, top : top + size, left : left + size]
            for top, left in _five_corners(images.shape[1], images.shape[2], size)
        ]
        return [(0.1, view) for view in five + [view[:, :, ::-1] for view in five]]
    if mode not in ("shift", "flip_shift"):
        raise ConfigError(f"evaluate.augment={mode!r}: choose one of {', '.join(VIEWS)}")
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [(0.5, images), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    if mode == "shift":
        return moved
    halves = [(weight / 2, view) for weight, view in moved]
    return halves + [(weight, view[:, :, ::-1]) for weight, view in halves]


def before_views(mode: str, data: Read) -> Read:
    """How to read images of which these views are taken: larger than the network sees, for crops.

    Ten crops are taken of the central square whose side is data.resize_short. Raises ConfigError if that
    leaves nothing to choose.
    """
    if mode != "ten_crop":
        return data
    if data.resize not in CROPPING or data.resize_short <= data.image_size:
        raise ConfigError(
            "evaluate.augment=ten_crop cuts data.image_size out of data.resize_short pixels: it needs data.resize=crop"
            f" and data.resize_short above {data.image_size}"
        )
    return dataclasses.replace(data, image_size=data.resize_short)


def _five_corners(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Row and column of the upper left pixel of each corner's square and of the central one."""
    down, right = height - size, width - size
    if size < 1 or min(down, right) < 0:
        raise ConfigError(f"cannot crop {size}x{size} out of {height}x{width}")
    return [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
