"""Files and folders in, as a stream: predictions as JSON and a contact sheet out.

Of images before they are framed no more than _PIXELS are in memory (or one), and of frames of the network a batch and
what is read ahead of it, no more than _FRAMES bytes and no more than a batch, however many files there are.
"""

import collections
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax.config import ConfigError
from cnnjax.data.images import read_reduced
from cnnjax.data.listing import list_files
from cnnjax.drawing import figures
from cnnjax.drawing.results import draw
from cnnjax.network import Batches
from cnnjax.predict.output import Lines
from cnnjax.runs.committee import RunCommittee
from cnnjax.runs.run import Run
from cnnjax.tasks.result import Result

SHOWN = 100  # images on the contact sheet
_THUMBNAIL = 640  # pixels
_PAGE, _COLUMNS = 12.8, (2, 5)  # inches; images to a row of the contact sheet, at least and at most
_PIXELS = 64 * 2**20  # of images that are being decoded at a time
_FRAMES = 256 * 2**20  # bytes


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The named files, and the image files below the named folders in sorted order, without hidden ones.

    Raises ConfigError if nothing is named, a name does not exist or a folder has no image file at all.
    """
    if not inputs:
        raise ConfigError("nothing to predict: name files and folders with --inputs=photo.png,folder/")
    found: list[Path] = []
    for name in itertools.chain.from_iterable(map(_names, inputs)):
        path = Path(name)
        if path.is_dir():
            inside = list_files(path)
            if not inside:
                raise ConfigError(f"no image files in folder {path}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ConfigError(f"no such file or folder: {path}")
    return found


def _names(text: str) -> Iterator[str]:
    """The names in a list separated by commas; a comma of a name that exists separates nothing."""
    parts = text.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if Path(",".join(parts[:end])).exists()), 1)
        yield ",".join(parts[:end])
        parts = parts[end:]


# A small copy of an image, of the first of them, and what is said of it; or why it could not be read.
Found = tuple[np.ndarray | None, Result] | ConfigError
# Its frame, its whole shape and its small copy.
_Read = tuple[np.ndarray, tuple[int, int, int], np.ndarray | None] | ConfigError


def predict_files(run: Run | RunCommittee, paths: Sequence[Path], output: Path) -> tuple[int, list[str]]:
    """What `write_predictions` does with the predictions of a run, or of several."""
    return write_predictions(predictions(run, paths), output)


def write_predictions(found_in: Iterable[tuple[Path, Found]], output: Path) -> tuple[int, list[str]]:
    """Writes `output`/predictions.jsonl, a line for each image as soon as it is known; at the end the same as
    predictions.json, of detections also as coco.json, and contact_sheet.png of the first SHOWN.

    Returns how many were predicted and one line for each file that could not be read. Raises ConfigError if that is
    all of them.
    """
    seen: list[tuple[np.ndarray, Result, str]] = []
    problems: list[str] = []
    with Lines(output) as lines:
        for path, found in found_in:
            if isinstance(found, ConfigError):
                problems.append(str(found))
                continue
            small, result = found
            lines.write(str(path), result)
            if small is not None and len(seen) < SHOWN:
                seen.append((small, result, path.name))
    if not lines.count:
        raise ConfigError(f"none of {len(problems)} files could be read; the first: {problems[0]}")
    lines.finish()
    title = "" if len(seen) == lines.count else f"The first {len(seen)} of {lines.count:,} predictions"
    columns = min(max(len(seen), _COLUMNS[0]), _COLUMNS[1])
    width = _PAGE / columns
    # At the size in which it is shown, so that what is written in it can be read.
    drawn = [draw(thumbnail(small, int(width * figures.DPI)), result, name) for small, result, name in seen]
    shown, texts = [image for image, _ in drawn], [text for _, text in drawn]
    sheet = figures.image_grid("contact_sheet", title, "", shown, texts, columns, width)
    sheet.figure.suptitle(title, y=1, va="bottom")
    figures.save(sheet.figure, output / "contact_sheet.png")
    return lines.count, problems


def predictions(run: Run | RunCommittee, paths: Iterable[Path]) -> Iterator[tuple[Path, Found]]:
    """Of every file, in order, a small copy of the image (of the first SHOWN; else None) and what the network says of
    it; or the error where it cannot be read. Threads read ahead of the network.

    JPEG photographs far larger than the network's frame are decoded at a smaller scale, which leaves at least twice
    the pixels that the frame needs on each side.
    """
    predictor = run.predictor()
    channels, side = run.image_shape[-1], max(_THUMBNAIL, 2 * predictor.longest_side)
    room = _Room(_PIXELS)

    def read(path: Path, shown: bool) -> _Read:
        try:
            with read_reduced(path, channels, side, room) as (image, whole):
                return predictor.framed(image), whole, thumbnail(image) if shown else None
        except ConfigError as error:
            return error

    bytes_of_frame = predictor.framed(np.zeros((side, side, channels), np.uint8)).nbytes
    ahead = max(1, min(predictor.batch, _FRAMES // bytes_of_frame))
    waiting: list[tuple[Path, _Read]] = []
    good = at_once = 0
    for path, one in _read_ahead(read, paths, ahead):
        waiting.append((path, one))
        good += not isinstance(one, ConfigError)
        if good == predictor.batch:
            at_once = predictor.batch
        elif good:
            continue
        yield from _answered(predictor, waiting, at_once)
        waiting, good = [], 0
    yield from _answered(predictor, waiting, at_once)


def _read_ahead(
    read: Callable[[Path, bool], _Read], paths: Iterable[Path], ahead: int
) -> Iterator[tuple[Path, _Read]]:
    """What `read` gives for every path, in order, from threads that are at most `ahead` files ahead."""
    running: collections.deque[tuple[Path, Future[_Read]]] = collections.deque()
    total = len(paths) if isinstance(paths, Sequence) else None
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=total, desc="predicting", unit=" images", delay=2, leave=False, disable=None) as bar,
    ):
        try:
            for number, path in enumerate(paths):
                running.append((path, pool.submit(read, path, number < SHOWN)))
                if len(running) >= ahead:
                    first, future = running.popleft()
                    yield first, future.result()
                    bar.update()
            while running:
                first, future = running.popleft()
                yield first, future.result()
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _answered(
    predictor: Batches, opened: Sequence[tuple[Path, _Read]], at_once: int
) -> Iterator[tuple[Path, Found]]:
    """The answers for what was opened, of which the images go through the network together."""
    frames = [one[0] for _, one in opened if not isinstance(one, ConfigError)]
    rows = iter(predictor.predictions(frames, at_once) if frames else ())
    del frames
    for path, one in opened:
        if isinstance(one, ConfigError):
            yield path, one
        else:
            yield path, (one[2], predictor.result(next(rows), one[1]))


class _Room:
    """Lets threads in as long as the pixels that they need fit; one that needs more than all comes in alone."""

    def __init__(self, pixels: int):
        self._free = self._all = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def __call__(self, pixels: int) -> Iterator[None]:
        needed = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


def thumbnail(image: np.ndarray, side: int = _THUMBNAIL) -> np.ndarray:
    """uint8 [H, W, C] shrunk, in proportion, to at most so many pixels on a side."""
    small = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    small.thumbnail((side, side))
    array = np.asarray(small)
    return array if array.ndim == 3 else array[..., None]
