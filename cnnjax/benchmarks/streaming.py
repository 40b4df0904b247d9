"""Records larger than memory: how fast they stream through training, and in how much memory."""

import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.benchmarks import launched
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError
from cnnjax.data.formats.records import Raw, write

SIDE = 1024  # of the stored images, which are not compressed: 3.1 MB each
_RESIZED, _BATCH = 8, 32
_FLAGS = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", f"--data.image_size={_RESIZED}",
    f"--data.batch_size={_BATCH}", "--data.stream=true", "--data.mean=0.5,0.5,0.5", "--data.std=0.3,0.3,0.3",
    "--train.epochs=1", "--train.log_every=20", "--train.evaluate_every=0",
)  # fmt: skip


def stream_records(options: Options) -> list[Measured]:
    """Streams --benchmark.repetitions gigabytes of records through training, each read once: speed, and peak memory."""
    size = 10**9 * options.repetitions
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.1 * size:
            raise ConfigError(
                f"{size / 1e9:.0f} GB of records do not fit: {free / 1e9:.0f} GB are free in {folder}; TMPDIR names another folder"
            )
        return [streamed(Path(folder), size)]


def streamed(folder: Path, size: int) -> Measured:
    """Writes `size` bytes of records into the folder and trains on them for one epoch."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    record = file.getvalue()
    count = max(_BATCH, size // len(record))

    def files() -> Iterator[tuple[str, bytes]]:
        for i in range(count):
            yield str(i), record

    labels = {"label": np.arange(count, dtype=np.int32) % 2}
    test = Raw([("0", record), ("1", record)], {"label": np.arange(2, dtype=np.int32)}, 2)
    began = time.monotonic()
    write(folder / "records", ("a", "b"), {"train": Raw(files(), labels, count), "test": test}, "synthetic")
    written = time.monotonic()
    process = launched.start(folder / "run", f"--data.name=records:{folder / 'records'}", *_FLAGS)
    with launched.watched(process) as series:
        launched.finish(process)
    seconds = time.monotonic() - written
    total = count * len(record)
    values: dict[str, list[float]] = {
        "records": [count],
        "size, GB": [total / 1e9],
        "training, images/s": [count / seconds],
        "training, MB/s": [total / seconds / 1e6],
        "preparing, MB/s": [total / (written - began) / 1e6],
        "peak memory of all processes, GB": [max(sample.memory for sample in series) / 1e9],
    }
    note = f"BMP images of {SIDE}x{SIDE}x3, resized to {_RESIZED}x{_RESIZED}; start-up is included."
    return Measured("reliability", "streamed records", values, note=note)
