"""Images of different sizes in a few static frames, each of which is a bucket: a batch is of one frame.

The short side of an image becomes so many pixels, or fewer where the long one would have too many, as two-stage detectors
have it (Ren et al. 2015, section 3.3; 800 and 1333 in Lin et al. 2017): these two are `limits`. It lies in the upper left
corner of the smallest frame that holds it. What has to be one array holds all frames as such a corner of one canvas.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.config import SHORT_SIDE
from cnnjax.data import batches

if TYPE_CHECKING:
    from cnnjax.detection.boxes import Letterbox

Frame = tuple[int, int]  # height, width
STRIDE = 32  # that of the coarsest map of a trunk, of which sides of frames are multiples


def geometry(height: int, width: int, limits: Frame) -> "Letterbox":
    """How an image of height x width lies in its frame. Sides are rounded down, as torchvision does."""
    from cnnjax.detection.boxes import Letterbox  # imports jax, which reading other images does without

    short, long = min(height, width), max(height, width)
    new, old = (limits[0], short) if limits[0] * long <= limits[1] * short else (limits[1], long)
    inner_height, inner_width = max(1, height * new // old), max(1, width * new // old)
    return Letterbox(inner_width / width, inner_height / height, 0, 0, inner_height, inner_width)


def frames(limits: Frame) -> tuple[Frame, ...]:
    """Heights and widths of all frames, the smallest first: sides in the proportion 4:3 and the longest, both ways."""
    short, middle, long = (
        -(-side // STRIDE) * STRIDE for side in (limits[0], min(-(-limits[0] * 4 // 3), limits[1]), limits[1])
    )
    found = [(short, middle), (middle, short), (short, long), (long, short)]
    return tuple(dict.fromkeys(found))


def bucket(height: int, width: int, limits: Frame) -> int:
    """The number of the frame of an image of height x width."""
    place = geometry(height, width, limits)
    return next(
        i
        for i, frame in enumerate(frames(limits))
        if place.inner_height <= frame[0] and place.inner_width <= frame[1]
    )


def canvas(limits: Frame) -> Frame:
    """The frame that holds all frames."""
    both = frames(limits)
    return max(height for height, _ in both), max(width for _, width in both)


def cut(batch: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    """A batch on the canvas as it is in its frame; of numpy or JAX."""
    height, width = frame
    result = dict(batch)
    if "image" in batch:
        result["image"] = batch["image"][:, :height, :width]
    if "masks" in batch:
        result["masks"] = batch["masks"][:, :, :height, :width]
    return result


class Buckets:
    """Which examples are of which frame, and what makes a batch then: a pure function of (seed, step), as ever.

    In as many steps as there are examples, frames have their turns in an order of chance, each as often as it has
    examples; the batches of a frame are those of `batches.train_indices` of its own examples.

    Args:
      of: [N], the number of the frame of each example. frames: as `frames` gives them.
    """

    def __init__(self, of: np.ndarray, frames: Sequence[Frame]):
        self.frames = tuple(frames)
        self._of = np.asarray(of, np.int32)
        self._members = [np.flatnonzero(self._of == i).astype(np.int32) for i in range(len(self.frames))]

    @classmethod
    def find(cls, examples: Mapping[str, Any], resize: str, limits: Frame) -> "Buckets | None":
        """Those of examples that were resized so; None where they have one frame."""
        if resize != SHORT_SIDE:
            return None
        of = [bucket(height, width, limits) for height, width in np.asarray(examples["size"]).tolist()]
        return cls(np.array(of), frames(limits))

    def of_step(self, seed: int, step: int) -> int:
        """The number of the frame of a training step."""
        turn, place = divmod(step, len(self._of))
        return int(_turn(self, seed, turn)[0][place])

    def train_indices(
        self, seed: int, step: int, batch_size: int, order_of: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `batches.train_indices`; all seeds of a step have the frame of the seed `order_of`."""
        turn, place = divmod(step, len(self._of))
        numbers, before = _turn(self, order_of, turn)
        members = self._members[numbers[place]]
        own = turn * len(members) + int(before[place])
        index, epoch = batches.train_indices(seed, own, len(members), batch_size)
        return members[index], epoch

    def evaluation_indices(self, batch_size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Every example once, as `batches.evaluation_indices`, frame by frame, with the number of the frame."""
        for number, members in enumerate(self._members):
            for index, mask in batches.evaluation_indices(len(members), batch_size):
                yield number, members[index], mask


@functools.lru_cache(maxsize=8)
def _turn(buckets: Buckets, seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """The frame of each step of a turn, and how many steps of that frame were before it in the turn."""
    numbers = buckets._of[np.random.default_rng([seed, turn, 1]).permutation(len(buckets._of))]
    before = np.zeros(len(numbers), np.int64)
    for number in np.unique(numbers):
        here = numbers == number
        before[here] = np.arange(here.sum())
    return numbers, before


def train_indices(
    buckets: Buckets | None, seed: int, step: int, count: int, batch_size: int, order_of: int
) -> tuple[np.ndarray, np.ndarray]:
    """`batches.train_indices` of `count` examples, or those of the buckets, where there are several."""
    if buckets:
        return buckets.train_indices(seed, step, batch_size, order_of)
    return batches.train_indices(seed, step, count, batch_size)


def evaluation_order(
    buckets: Buckets | None, count: int, batch_size: int
) -> Iterator[tuple[Frame | None, np.ndarray, np.ndarray]]:
    """Of each batch of an evaluation the frame, where there are several, its examples and which of them count."""
    if buckets:
        for number, index, mask in buckets.evaluation_indices(batch_size):
            yield buckets.frames[number], index, mask
        return
    for index, mask in batches.evaluation_indices(count, batch_size):
        yield None, index, mask
