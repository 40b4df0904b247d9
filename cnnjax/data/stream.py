"""Images that stay on disk until a batch needs them, read ahead by Grain in worker processes.

Which examples a batch holds is the same pure function of (seed, step) as for data in memory, so there is no
iterator to save: a run goes on at any step, on any number of processes, and each of these reads its rows only.
"""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Generator
from multiprocessing import resource_tracker
from typing import Any, Protocol

import numpy as np
from absl import flags

from cnnjax.config import ConfigError, Data
from cnnjax.data import batches, images
from cnnjax.runtime import hush
from cnnjax.runtime.signals import ENDING

_AHEAD = 2  # batches that each worker, or this process without workers, holds ready


class Encoded(Protocol):
    """Random access to image files as bytes, from several threads; pickled to reach worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


class StreamedImages:
    """Stands for uint8 [N, H, W, C] where data in memory has an array.

    An integer gives a decoded image, anything else that numpy takes along the first axis gives another
    StreamedImages, and `np.asarray` decodes all of it. Safe in threads, and goes to other processes by pickle.

    Args:
      encoded: random access to N encoded image files as bytes.
      index: which of them, and in what order.
      data: how to resize, as images.decode and images.letterbox_image do.
      shape: [H, W, C] of every decoded image.
      name: what errors call the whole.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, encoded: Encoded, index: np.ndarray, data: Data, shape: tuple[int, ...], name: str):
        self._encoded, self._index, self._data, self._name = encoded, index, data, name
        self.shape = (len(index), *shape)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return StreamedImages(self._encoded, self._index[key], self._data, self.shape[1:], self._name)
        return self._read(int(self._index[key]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, np.uint8)
        for row, index in enumerate(self._index):
            array[row] = self._read(int(index))
        return array if dtype is None else array.astype(dtype)

    def copy(self) -> "StreamedImages":
        return self

    def _read(self, index: int) -> np.ndarray:
        return read_one(self._encoded, index, self._data, self.shape[1:], self._name)


def read_one(encoded: Encoded, index: int, data: Data, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Decodes and resizes one image to [H, W, C]; ConfigError with its number if it is damaged or does not fit."""
    where = f"image {index} of {name}"
    try:
        content = encoded[index]
    except (RuntimeError, ValueError, OSError) as error:  # array_record checks sums of its own
        raise ConfigError(f"{where}: damaged: {error}") from error
    if data.resize == "letterbox":
        return images.letterbox_image(images.decode(content, where, Data(), shape[-1]), (shape[0], shape[1]))
    image = images.decode(content, where, data, shape[-1])
    if image.shape != shape:
        sizes = " and ".join(f"{size[0]}x{size[1]}" for size in (shape, image.shape))
        raise ConfigError(f"images differ in size ({sizes}, height x width): set data.image_size")
    return image


@dataclasses.dataclass(frozen=True)
class TrainRows:
    """Element k: the examples, int32 [len(rows)], that this process reads of the batch of step start + k."""

    seed: int
    start: int
    stop: int
    num_examples: int
    batch_size: int
    rows: np.ndarray  # which rows of a batch are this process's

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < len(self):
            raise IndexError(k)
        index, _ = batches.train_indices(self.seed, self.start + k, self.num_examples, self.batch_size)
        return index[self.rows]


@dataclasses.dataclass(frozen=True)
class EvaluationRows:
    """Element k: the examples that this process reads of the k-th batch of an evaluation."""

    num_examples: int
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return np.minimum(k * self.batch_size + self.rows, self.num_examples - 1).astype(np.int32)


def read_ahead(
    source: StreamedImages | np.ndarray, rows: TrainRows | EvaluationRows, workers: int
) -> Generator[np.ndarray, None, None]:
    """The images of each element of `rows`, in order; the same whatever the number of workers.

    Args:
      workers: processes that read and decode; 0: threads of this one. Each holds up to four batches.
    """
    import grain

    threads = 1 if workers else min(4, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, _AHEAD))
    dataset = grain.MapDataset.source(_Batches(source, rows)).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # outside of an absl program; Grain has flags of its own
            flags.FLAGS.mark_as_parsed()
        _start_tracker()
        processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=_AHEAD)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_begin_worker)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()


class _Batches:
    """What Grain draws from: element k is the k-th batch of images."""

    def __init__(self, source: StreamedImages | np.ndarray, rows: TrainRows | EvaluationRows):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, k: Any) -> np.ndarray:
        return np.asarray(self._source[self._rows[int(k)]])


def _start_tracker() -> None:
    """Starts Python's watcher over shared memory deaf to USR1 and USR2 too; a scheduler signals every process."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    resource_tracker.ensure_running()  # a child inherits what is blocked
    signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _begin_worker(number: int, count: int) -> None:
    """A worker leaves signals to its parent, which has a checkpoint to save, and ends when that one is killed."""
    hush.hush_libraries()
    for name in ENDING:
        signal.signal(name, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
