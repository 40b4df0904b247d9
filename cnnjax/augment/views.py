"""Views of an image that are averaged at test time."""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from jax import Array

from cnnjax.config import CROPPING, ConfigError

Read = TypeVar("Read", bound=Any)  # config.Data, or the part of it that a trained network remembers
# How many there are of an image.
VIEWS = {"none": 1, "flip": 2, "flips": 4, "shift": 3, "flip_shift": 6, "ten_crop": 10}


class View(NamedTuple):
    """weight: of what is predicted for it. flipped: axes of `images` [N, H, W, C] that run the other way."""

    weight: float
    images: Array
    flipped: tuple[int, ...] = ()


def test_views(mode: str, images: Array, size: int = 0) -> list[View]:
    """Views of images [N, H, W, C] whose predictions are averaged with these weights, which sum to 1.

    "flip": the image and its mirror image. "flips": these two, and both upside down. "shift": the image (0.5), and moved
    by one pixel up-left and down-right with reflected borders (0.25 each). "flip_shift": these and their mirror images, as
    airbench does (Jordan 2024, section 3.6). "ten_crop": squares of `size` pixels at the four corners and the centre, then the mirror images of these five
    (Krizhevsky et al. 2012, section 4.1).

    Raises ConfigError for an unknown mode, and if crops of this size do not fit.
    """
    if mode == "none":
        return [View(1.0, images)]
    if mode == "flip":
        return _and_flipped([View(1.0, images)], 2)
    if mode == "flips":
        return _and_flipped(_and_flipped([View(1.0, images)], 2), 1)
    if mode == "ten_crop":
        five = [
            images[:, top : top + size, left : left + size]
            for top, left in _five_corners(images.shape[1], images.shape[2], size)
        ]
        return _and_flipped([View(0.2, view) for view in five], 2)
    if mode not in ("shift", "flip_shift"):
        raise ConfigError(f"evaluate.augment={mode!r}: choose one of {', '.join(VIEWS)}")
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [View(0.5, images), View(0.25, padded[:, :-2, :-2]), View(0.25, padded[:, 2:, 2:])]
    return moved if mode == "shift" else _and_flipped(moved, 2)


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


def _and_flipped(views: list[View], axis: int) -> list[View]:
    halves = [view._replace(weight=view.weight / 2) for view in views]
    return halves + [
        View(weight, jnp.flip(images, axis), (*flipped, axis)) for weight, images, flipped in halves
    ]


def _five_corners(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Row and column of the upper left pixel of each corner's square and of the central one."""
    down, right = height - size, width - size
    if size < 1 or min(down, right) < 0:
        raise ConfigError(f"cannot crop {size}x{size} out of {height}x{width}")
    return [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
