"""ImageNet's recipe on photographs, streamed from records through two worker processes: it learns, and resumes when killed."""

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
from sklearn.datasets import load_sample_images

from cnnjax.config import Data
from cnnjax.data.formats.prepare import prepare
from cnnjax.runs.checkpoint import CheckpointStore

ROOT = Path(__file__).parents[2]
STEPS = 120
FLAGS = (
    "--experiment=imagenet_resnet50", "--model.options=width=8", "--data.image_size=48", "--data.resize_short=54",
    "--data.batch_size=16", "--data.stream=true", "--data.stream_crop=true", "--data.workers=2",
    "--augment.random_crop=0.7", "--optimizer.learning_rate=0.4", f"--train.steps={STEPS}", "--train.epochs=0",
    "--train.checkpoint_every=10", "--train.log_every=1", "--train.evaluate_every=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Records of the quarters of scikit-learn's two photographs: eight classes, six pictures of each to learn from, each
    of another part of its quarter, and the whole quarter to be tested on."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number, pixels in enumerate(load_sample_images().images):
        height, width = (side // 2 for side in pixels.shape[:2])
        for quarter in range(4):
            top, left = height * (quarter // 2), width * (quarter % 2)
            whole = Image.fromarray(pixels[top : top + height, left : left + width])
            boxes = [(0, 0, width, height)]
            for _ in range(6):
                x, y = int(rng.integers(width // 8)), int(rng.integers(height // 8))
                boxes.append((x, y, x + width * 7 // 8, y + height * 7 // 8))
            for i, box in enumerate(boxes):
                path = folder / "images" / ("train" if i else "test") / f"{number}{quarter}" / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                whole.crop(box).save(file, "JPEG", quality=92)
                path.write_bytes(file.getvalue())
    prepare(Data(name=f"folder:{folder / 'images'}"), folder / "records")
    return folder / "records"


def start(workdir: Path, records: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch.py"), *FLAGS, f"--data.name=records:{records}"]
    return subprocess.Popen([*command, f"--workdir={workdir}"], stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err


def lines(workdir: Path) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second")
    return [{name: value for name, value in line.items() if name not in clock} for line in found]


def weights(workdir: Path) -> dict[str, bytes]:
    """Those of the last checkpoint, by their paths."""
    import jax

    with CheckpointStore(workdir / "checkpoints") as store:
        leaves = jax.tree_util.tree_leaves_with_path(store.newest_variables())
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.mark.slow
def test_it_learns_photographs_and_resumes_bit_for_bit_when_it_is_killed(tmp_path, photographs):
    finish(start(tmp_path / "whole", photographs))
    process = start(tmp_path / "killed", photographs)
    while not (tmp_path / "killed" / "checkpoints" / "60").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(start(tmp_path / "killed", photographs))
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    trained = [line["loss"] for line in lines(tmp_path / "whole") if line["split"] == "train"]
    assert len(trained) == STEPS and np.mean(trained[-10:]) < 0.4 * np.mean(trained[:3])
    assert (
        lines(tmp_path / "whole")[-1]["split"] == "test" and lines(tmp_path / "whole")[-1]["accuracy"] >= 0.75
    )
