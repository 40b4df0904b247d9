"""Very many large photographs: how fast a trained network answers for them, and in how much memory."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from cnnjax import config
from cnnjax.benchmarks import launched
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import Experiment
from cnnjax.models import create_model
from cnnjax.models.parts import shapes_of
from cnnjax.runs import transfer
from cnnjax.runs.workdir import Workdir
from cnnjax.weights.convert import save_torchvision

_MODEL, _SIZE = "squeezenet1_1", (4000, 3000)  # width and height: 12 megapixels
_DIFFERENT = 10  # photographs; the others are the same files under other names


def predict_photographs(options: Options) -> list[Measured]:
    """Predicts --benchmark.repetitions times 100 photographs of 12 megapixels: speed, first answer, peak memory, cores at work."""
    with tempfile.TemporaryDirectory() as folder:
        return [predicted(Path(folder), 100 * options.repetitions)]


def predicted(folder: Path, count: int, size: tuple[int, int] = _SIZE) -> Measured:
    """Writes `count` photographs into the folder and lets mode=predict, as a process of its own, answer for them."""
    photographs, workdir, output = folder / "photographs", folder / "run", folder / "predictions"
    _write_photographs(photographs, count, size)
    _write_run(workdir)
    began = time.monotonic()
    process = launched.start(workdir, "--mode=predict", f"--inputs={photographs}", f"--output={output}")
    with launched.watched(process, seconds=0.2) as series:
        first = _seconds_until(output / "predictions.jsonl", process)
        launched.finish(process)
    seconds, cores = time.monotonic() - began, len(os.sched_getaffinity(0))
    computed = max(sample.cpu_seconds for sample in series)
    values: dict[str, list[float]] = {
        "photographs": [count],
        "photographs/s": [count / seconds],
        "seconds to the first answer": [first],
        "seconds of computation for one": [computed / count],
        "share of the cores at work": [computed / seconds / cores],
        "peak memory, GB": [max(sample.memory for sample in series) / 1e9],
    }
    note = (
        f"JPEGs of {size[0]}x{size[1]}, {min(count, _DIFFERENT)} of them different, through {_MODEL} of random weights; "
        "start-up, compilation and the contact sheet are included."
    )
    return Measured("reliability", "prediction", values, note=note)


def _seconds_until(path: Path, process: subprocess.Popen) -> float:
    began = time.monotonic()
    while process.poll() is None and not path.exists():
        time.sleep(0.05)
    return time.monotonic() - began


def _write_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Clouds with grain, which need as many bytes as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:06}.jpg"
        if i >= _DIFFERENT:
            os.link(folder / f"{i % _DIFFERENT:06}.jpg", path)
            continue
        clouds = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = rng.integers(-8, 9, (size[1], size[0], 1), dtype=np.int16)
        pixels = np.clip(np.asarray(clouds, np.int16) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=85)


def _write_run(path: Path) -> None:
    model, rng = create_model(_MODEL), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda a: rng.normal(0, 0.05, a.shape).astype(np.float32), shapes_of(model, (224, 224, 3))
    )
    file = path.with_suffix(".safetensors")
    save_torchvision(file, _MODEL, variables)
    experiment = config.replace(Experiment(), {"model.name": _MODEL})
    transfer.import_weights(experiment, file, Workdir(path), tuple(f"class {i}" for i in range(1000)))
