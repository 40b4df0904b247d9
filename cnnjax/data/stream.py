"""Images that stay on disk until a batch needs them, read ahead by Grain in worker processes.

Which examples a batch holds is the same pure function of (seed, step) as for data in memory, so there is no
iterator to save: a run goes on at any step, on any number of processes, and each of these reads its rows only.
"""

import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from multiprocessing import resource_tracker
from typing import Any, Protocol

import numpy as np
from absl import flags

from cnnjax.config import SHORT_SIDE, ConfigError, Data
from cnnjax.data import images
from cnnjax.data.buckets import Buckets, Frame, cut, evaluation_order, train_indices
from cnnjax.data.windows import Window
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
        array = self.decoded([None] * len(self))
        return array if dtype is None else array.astype(dtype)

    def decoded(self, windows: Sequence[Window | None]) -> np.ndarray:
        """All of it, of each image what its window shows; None: as it is otherwise."""
        array = np.empty(self.shape, np.uint8)
        for row, (index, window) in enumerate(zip(self._index, windows, strict=True)):
            array[row] = self._read(int(index), window)
        return array

    def with_channels(self, channels: int) -> "StreamedImages":
        """The same images, decoded as grey (1) or colour (3)."""
        shape = (*self.shape[1:-1], channels)
        return StreamedImages(self._encoded, self._index, self._data, shape, self._name)

    def _read(self, index: int, window: Window | None = None) -> np.ndarray:
        return read_one(self._encoded, index, self._data, self.shape[1:], self._name, window)


class Joined:
    """Several columns, one after the other, of which one at least is decoded when it is asked for.

    It takes the keys that StreamedImages does, in the same way.

    Args:
      parts: arrays or StreamedImages [n, ...] of the same shape but for n.
      index: which of their examples, counted over all parts, and in what order; None: all.
    """

    def __init__(self, parts: Sequence[Any], index: np.ndarray | None = None):
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])
        self._index = np.arange(self._ends[-1]) if index is None else index
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim
        self.shape = (len(self._index), *parts[0].shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return Joined(self._parts, self._index[key])
        part, row = self._find(int(self._index[key]))
        return part[row]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        for row in range(len(self)):
            array[row] = self[row]
        return array if dtype is None else array.astype(dtype)

    def decoded(self, windows: Sequence[Window]) -> np.ndarray:
        """All of it, of each image what its window shows."""
        array = np.empty(self.shape, self.dtype)
        for row, (index, window) in enumerate(zip(self._index, windows, strict=True)):
            part, place = self._find(int(index))
            array[row] = part[np.array([place])].decoded([window])[0]
        return array

    def with_channels(self, channels: int) -> "Joined":
        return Joined([coloured(part, channels) for part in self._parts], self._index)

    def _find(self, row: int) -> tuple[Any, int]:
        """The part that has an example, and its place there."""
        which = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[which], row - int(self._ends[which]) + len(self._parts[which])


def coloured(images: Any, channels: int) -> Any:
    """Images [N, H, W, C] with 3 channels, as they are if C is 3 already or `channels` is 1."""
    if images.shape[-1] == channels:
        return images
    return images.repeat(channels, -1) if isinstance(images, np.ndarray) else images.with_channels(channels)


def read_one(
    encoded: Encoded, index: int, data: Data, shape: tuple[int, ...], name: str, window: Window | None = None
) -> np.ndarray:
    """Decodes and resizes one image, or a window of it, to [H, W, C]; ConfigError with its number if it is damaged or
    does not fit."""
    where = f"image {index} of {name}"
    try:
        content = encoded[index]
    except (RuntimeError, ValueError, OSError) as error:  # array_record checks sums of its own
        raise ConfigError(f"{where}: damaged: {error}") from error
    if window is not None:
        return images.decode_window(content, where, data, shape[-1], window.draw)
    if data.resize in ("letterbox", SHORT_SIDE):
        whole = images.decode(content, where, Data(), shape[-1])
        return images.on_canvas(images.resize(whole, data, shape), (shape[0], shape[1]))
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
    smallest_window: float = 0.0  # of the area of a file; 0: files are read whole
    buckets: Buckets | None = None  # where a batch is of one of several frames

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self._of_step(k)[0][self.rows]

    def windows(self, k: int) -> list[Window] | None:
        """What each of the examples of element k shows of its file; None: all of it."""
        if not self.smallest_window:
            return None
        index, epoch = (values[self.rows].tolist() for values in self._of_step(k))
        return [Window(self.smallest_window, self.seed, e, i) for i, e in zip(index, epoch, strict=True)]

    def _of_step(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        step = self.start + k
        return train_indices(self.buckets, self.seed, step, self.num_examples, self.batch_size, self.seed)

    def frame(self, k: int) -> Frame | None:
        """Height and width of the images of element k, where they are less than those of what is read."""
        return self.buckets.frames[self.buckets.of_step(self.seed, self.start + k)] if self.buckets else None


@dataclasses.dataclass(frozen=True)
class EvaluationRows:
    """Element k: the examples that this process reads of the k-th batch of an evaluation."""

    num_examples: int
    batch_size: int
    rows: np.ndarray
    buckets: Buckets | None = None  # where a batch is of one of several frames

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, k: int) -> np.ndarray:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self._batches[k][1][self.rows]

    def frame(self, k: int) -> Frame | None:
        """As that of TrainRows."""
        return self._batches[k][0]

    @functools.cached_property
    def _batches(self) -> list[tuple[Frame | None, np.ndarray]]:
        """Of each batch its frame, where there are several, and its examples."""
        order = evaluation_order(self.buckets, self.num_examples, self.batch_size)
        return [(frame, index) for frame, index, _ in order]

    def windows(self, k: int) -> None:
        """None: files are read whole."""


Rows = TrainRows | EvaluationRows


def read_ahead(source: Any, rows: Rows, workers: int) -> Generator[Any, None, None]:
    """source[rows[0]], source[rows[1]], ..., decoded; the same whatever the number of workers.

    Args:
      source: a column, such as StreamedImages, whose batches are arrays; or Examples, whose batches are dictionaries.
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
    """What Grain draws from: element k is the k-th batch."""

    def __init__(self, source: Any, rows: Rows):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, k: Any) -> Any:
        rows, windows = self._rows[int(k)], self._rows.windows(int(k))
        batch = self._source[rows] if windows is None else self._source.through(rows, windows)
        if frame := self._rows.frame(int(k)):
            batch = {name: np.ascontiguousarray(values) for name, values in cut(batch, frame).items()}
        return batch if isinstance(batch, dict) else np.asarray(batch)


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
