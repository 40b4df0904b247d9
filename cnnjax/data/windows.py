"""Random resized crop of files: the window of each example, drawn on the host so that only what it needs is decoded."""

import math
from typing import NamedTuple

import numpy as np

from cnnjax.config import Experiment

STRETCH = 4 / 3
_TRIES = 10
_STREAM = 1  # of random numbers; others of the same seed, epoch and example have another


class Window(NamedTuple):
    """What an example shows of its file in an epoch: that depends on these numbers alone, and neither on its batch nor on
    who reads it.

    Attributes:
      smallest: share of the file's area that it shows at least.
    """

    smallest: float
    seed: int
    epoch: int
    example: int

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of so many pixels, as torchvision's RandomResizedCrop.

        The share of the area is even, the logarithm of the shape, width by height, too, from 3/4 to 4/3. What does not fit
        into the picture is drawn again, ten times; then it is the largest one at the centre.
        """
        key = np.random.SeedSequence([_STREAM, self.seed, self.epoch, self.example])
        draws = np.random.Generator(np.random.Philox(key)).random((_TRIES + 1, 2))
        for share, shape in draws[:_TRIES]:
            area = height * width * (self.smallest + (1 - self.smallest) * share)
            ratio = STRETCH ** (2 * shape - 1)
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = (
                    int(u * (room + 1))
                    for u, room in zip(draws[_TRIES], (width - w, height - h), strict=True)
                )
                return left, top, left + w, top + h
        w, h = min(width, round(height * STRETCH)), min(height, round(width * STRETCH))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def smallest_window(experiment: Experiment) -> float:
    """Of data.stream_crop: the share of a file's area that its windows have at least; 0: files are read whole."""
    return 1 - experiment.augment.random_crop if experiment.data.stream_crop else 0.0
