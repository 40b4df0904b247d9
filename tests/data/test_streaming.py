"""Training from records on disk: the numbers of data in memory, resumption, and processes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.benchmarks.launched import family
from cnnjax.config import Data
from cnnjax.data.formats.prepare import prepare

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", "--data.image_size=8", "--data.batch_size=4",
    "--train.log_every=1", "--train.evaluate_every=0", "--optimizer.schedule=constant", "--optimizer.warmup=0",
    "--data.mean=0.5,0.5,0.5", "--data.std=0.3,0.3,0.3",
)  # fmt: skip


def picture(seed: int, side: int = 12) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    for i in range(30):
        path = folder / "images" / "ab"[i % 2] / f"{i}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    prepare(Data(name=f"folder:{folder / 'images'}"), folder / "records")
    return folder / "records"


def losses(workdir: Path) -> list[tuple[int, str, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > 0 for line in lines if line["split"] == "train")
    return [(line["step"], line["split"], line["loss"]) for line in lines]


@pytest.mark.full
def test_streamed_training_is_training_in_memory_bit_for_bit_and_resumes(launch, tmp_path, prepared):
    name = f"--data.name=records:{prepared}"
    stream = ("--data.stream=true", "--data.workers=0")
    whole = launch(*FLAGS, name, "--train.steps=9", f"--workdir={tmp_path / 'memory'}")
    assert whole.code == 0, whole.err
    for steps in (5, 9):  # the second launch begins in the middle of an epoch of 24 examples
        part = launch(*FLAGS, name, *stream, f"--train.steps={steps}", f"--workdir={tmp_path / 'disk'}")
        assert part.code == 0, part.err
    wanted = losses(tmp_path / "memory")
    assert [line for line in losses(tmp_path / "disk") if line[:2] != (5, "test")] == wanted
    assert (tmp_path / "disk" / "report.html").exists()
    result = launch("--mode=evaluate", f"--workdir={tmp_path / 'disk'}")
    assert result.code == 0 and f"{wanted[-1][2]:.4f}" in result.out


def test_several_seeds_are_refused(launch, tmp_path, prepared):
    flags = ("--data.stream=true", "--train.steps=1", "--train.seeds=2", f"--workdir={tmp_path}")
    result = launch(*FLAGS, f"--data.name=records:{prepared}", *flags)
    assert result.code == 1 and "one seed at a time" in result.err


def test_mode_prepare(launch, tmp_path, prepared):
    images = prepared.parent / "images"
    result = launch("--mode=prepare", f"--data.name=folder:{images}", f"--output={tmp_path / 'out'}")
    assert result.code == 0 and "24 train and 6 test images" in result.out
    again = launch("--mode=prepare", f"--data.name=folder:{images}", f"--output={tmp_path / 'out'}")
    assert again.code == 1 and "exists already" in again.err
    assert "needs --data.name" in launch("--mode=prepare").err


def run(workdir: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch.py"), *FLAGS, f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workdir.parent
    )


@pytest.mark.slow
def test_workers_change_nothing_and_end_with_their_run(tmp_path, prepared):
    name = f"--data.name=records:{prepared}"
    for workers in (0, 3):
        flags = ("--data.stream=true", f"--data.workers={workers}", "--train.steps=9")
        process = run(tmp_path / str(workers), name, *flags)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert losses(tmp_path / "0") == losses(tmp_path / "3")
    process = run(tmp_path / "long", name, "--data.stream=true", "--train.steps=100000")
    while not (tmp_path / "long" / "metrics.jsonl").exists() or not losses(tmp_path / "long"):
        assert process.poll() is None
        time.sleep(0.2)
    children = family(process.pid)[1:]
    assert len(children) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_signal_to_the_run_and_all_its_workers_saves(tmp_path, prepared):
    flags = (f"--data.name=records:{prepared}", "--data.stream=true", "--train.steps=100000")
    process = run(tmp_path / "run", *flags)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.2)
    for pid in family(process.pid):
        os.kill(pid, signal.SIGUSR1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75 and err.startswith("error: stopped by a signal"), err
    assert len(err.splitlines()) == 1
