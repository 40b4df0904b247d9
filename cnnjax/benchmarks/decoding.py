"""Photographs decoded in worker processes with a random resized crop: ours against torch's DataLoader with torchvision."""

import contextlib
import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError, Data
from cnnjax.data import examples
from cnnjax.data.formats import records
from cnnjax.data.formats.records import Raw
from cnnjax.data.stream import TrainRows

SIDE, SMALLEST, BATCH = 224, 0.08, 64
COUNT = 2048  # photographs
STORED = (500, 375)  # width and height of most of ImageNet
_PEER = Path(__file__).with_name("torch_decoding.py")


def decode_crops(options: Options) -> list[Measured]:
    """Images per second of random resized crops to 224 pixels, decoded from JPEGs of 500x375 in worker processes.

    The peer is torch's DataLoader with torchvision's RandomResizedCrop, at as many workers; --benchmark.torchvision names
    a Python that has both. Neither flips, normalizes or copies to a device; the start and the end of the workers are not
    counted.
    """
    counts = sorted({1, 2, os.cpu_count() or 1})
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), COUNT)
        return [compared(Path(folder), workers, 40 * workers, options) for workers in counts]


def compared(folder: Path, workers: int, batches: int, options: Options) -> Measured:
    """Both sides in turns, on what `write_photographs` wrote."""
    python, values = options.torchvision, dict[str, list[float]]()
    for _ in range(options.repetitions):
        values.setdefault("cnnjax, images/s", []).append(ours(folder, workers, batches))
        if python:
            found = theirs(python, folder, workers, batches)
            values.setdefault("torch, images/s", []).append(found["images_per_second"])
    note, peers = "Without its peer: --benchmark.torchvision names no Python.", {}
    if python:
        ratio = [a / b for a, b in zip(values["cnnjax, images/s"], values["torch, images/s"], strict=True)]
        note, peers = "", dict(found["versions"])
        values = {**values, "cnnjax / torch": ratio}
    subject = f"random resized crops of JPEGs to {SIDE}x{SIDE}, {workers} workers, batch {BATCH}"
    return Measured("input", subject, values, note=note, peers=peers)


def write_photographs(folder: Path, count: int) -> None:
    """Random windows of scikit-learn's two photographs, as files in folder/jpegs/0 and as the same in folder/records."""
    from sklearn.datasets import load_sample_images

    sources, rng = (
        [Image.fromarray(pixels) for pixels in load_sample_images().images],
        np.random.default_rng(0),
    )
    (folder / "jpegs" / "0").mkdir(parents=True)
    files = []
    for number in range(count):
        source, file = sources[number % len(sources)], io.BytesIO()
        left, top = (int(rng.integers(all_ - part)) for all_, part in zip(source.size, STORED, strict=True))
        source.crop((left, top, left + STORED[0], top + STORED[1])).save(file, "JPEG", quality=90)
        (folder / "jpegs" / "0" / f"{number:05d}.jpg").write_bytes(file.getvalue())
        files.append((str(number), file.getvalue()))
    labels = {"label": np.zeros(count, np.int32)}
    few = Raw(files[:1], {"label": labels["label"][:1]}, 1)
    records.write(folder / "records", ("0",), {"train": Raw(files, labels, count), "test": few}, "")


def ours(folder: Path, workers: int, batches: int) -> float:
    """Images per second of as many batches, after the first ones."""
    data = Data(name="records:it", image_size=SIDE, batch_size=BATCH, stream=True, stream_crop=True)
    train = records.read(data, folder / "records").train
    first = warm_up(workers)
    rows = TrainRows(0, 0, first + batches, len(train), BATCH, np.arange(BATCH), SMALLEST)
    with contextlib.closing(examples.read_ahead(train, rows, workers)) as read:
        for number, batch in enumerate(read, start=1):
            assert batch["image"].shape == (BATCH, SIDE, SIDE, 3)
            if number == first:
                began = time.perf_counter()
            ended = time.perf_counter()
    return batches * BATCH / (ended - began)


def theirs(python: str, folder: Path, workers: int, batches: int) -> dict:
    """The same of the peer, whose Python has torchvision: "images_per_second" and "versions"."""
    arguments = [str(folder / "jpegs"), workers, BATCH, SIDE, SMALLEST, warm_up(workers), batches]
    command: Sequence[str] = [python, str(_PEER), *map(str, arguments)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(result.stdout.splitlines()[-1])
    except OSError as error:
        raise ConfigError(f"benchmark.torchvision={python!r}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise ConfigError(f"benchmark.torchvision={python!r}: {last}") from error


def warm_up(workers: int) -> int:
    """Batches that are not counted: what all workers hold ready, and one more of each."""
    return 5 * max(workers, 1)
