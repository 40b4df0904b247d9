"""Which examples make a batch: a pure function of (seed, step), so a run can go on from any step."""

import functools
from collections.abc import Callable, Iterator

import numpy as np


def train_indices(seed: int, step: int, num_examples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of a training step and the epoch that each belongs to; int32 [batch_size] both.

    Batches cut the endless sequence of shuffled epochs into equal pieces: none is padded and no example is left
    out, so a batch may end one epoch and begin the next.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epoch, offset = np.divmod(position, num_examples)
    index = np.empty(batch_size, np.int32)
    for e in np.unique(epoch):
        here = epoch == e
        index[here] = _shuffled(seed, num_examples)(int(e))[offset[here]]
    return index, epoch.astype(np.int32)


def evaluation_indices(num_examples: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every example once, in order: (index int32, mask bool), both [batch_size]; the last batch is padded."""
    for start in range(0, num_examples, batch_size):
        index = np.arange(start, start + batch_size)
        yield np.minimum(index, num_examples - 1).astype(np.int32), index < num_examples


def train_size(seed: int, step: int, num_sizes: int) -> int:
    """Which of several sizes the batch of a training step has: all of them, in an order of chance, then again."""
    turn, place = divmod(step, num_sizes)
    return int(np.random.default_rng([seed, turn]).permutation(num_sizes)[place])


@functools.lru_cache(maxsize=1024)
def _shuffled(seed: int, num_examples: int) -> Callable[[int], np.ndarray]:
    """The order of every epoch of a seed, by the number of the epoch; the last two are kept, for each seed."""

    @functools.lru_cache(maxsize=2)
    def of_epoch(epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        return generator.permutation(num_examples).astype(np.int32)

    return of_epoch
