"""Mask R-CNN, a training step and an inference of the small network and of ResNet-50's: ours against torchvision's."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import config
from cnnjax.benchmarks.detector import Detector, workload
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.config import ConfigError, Data, Detection, Experiment, Model

NETWORKS = {"maskrcnn_small": (128, 8, 4, 20), "maskrcnn_resnet50_fpn": (256, 2, 90, 100)}
# As torchvision's network has it.
_FROZEN = {"maskrcnn_resnet50_fpn": ("trunk/model/conv1", "trunk/model/block1_*")}
_NORM_SCALE = 0.3  # as in torch_two_stage.py
_PEER = Path(__file__).with_name("torch_two_stage.py")


def two_stages(options: Options) -> Iterator[Measured]:
    """Milliseconds of a training step and of an inference of Mask R-CNN: small, and ResNet-50 at 256 pixels.

    The peer is torchvision's network of the same layers and settings, in a Python that --benchmark.torchvision names.
    Weights are random, so every box that may be a detection is one on both sides, and has its mask computed. Images are of
    one size; pasting of masks into images, which torchvision's network does itself, is outside of ours.
    """
    for name, (side, batch, classes, most) in NETWORKS.items():
        yield from compare(name, side, batch, classes, most, options)


def calmed(variables: Any) -> Any:
    """With constant norms, such as a pretrained trunk has, that make values smaller: a random ResNet-50 makes them a
    million times as large, and of all proposals one is left."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a: a * _NORM_SCALE if path[0].key == "batch_stats" and path[-1].key == "scale" else a,
        dict(variables),
    )


def with_masks(arrays: dict[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
    """Rectangles as objects."""
    boxes, at = arrays["boxes"], np.arange(side) + 0.5
    across = (at > boxes[..., [0]]) & (at < boxes[..., [2]])
    down = (at > boxes[..., [1]]) & (at < boxes[..., [3]])
    return arrays | {"masks": down[..., :, None] & across[..., None, :]}


class Theirs:
    """The peer in its own process."""

    def __init__(self, process: subprocess.Popen[str], python: str):
        self._process, self._python = process, python
        versions, _, parameters = self._line().rpartition(" ")
        self.versions, self.parameters = json.loads(versions), int(parameters)

    def __call__(self, what: str) -> int:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline().strip()
        if not line:
            last = (self._process.stderr.read().strip().splitlines() or ["nothing said"])[-1]
            raise ConfigError(f"benchmark.torchvision={self._python!r}: {last}")
        return line


@contextlib.contextmanager
def peer(python: str | None, name: str, arrays: dict[str, np.ndarray]) -> Iterator[Theirs | None]:
    """The peer with these images, as long as it is needed; None without a Python that has it."""
    if not python:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "arrays.npz", **arrays)  # type: ignore[arg-type]
        pipe = subprocess.PIPE
        command = [python, str(_PEER), name, f"{folder}/arrays.npz"]
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        except OSError as error:
            raise ConfigError(f"benchmark.torchvision={python!r}: {error.strerror}") from error
        with process:
            try:
                yield Theirs(process, python)
            finally:
                process.kill()


def compare(
    name: str, side: int, batch: int, classes: int, most: int, options: Options
) -> Iterator[Measured]:
    """Both sides in turns: training, then inference."""
    arrays = with_masks(workload(side, batch, classes), side)
    experiment = Experiment(
        task="two_stage",
        data=Data(resize="letterbox", batch_size=batch, mean=(0.5,) * 3, std=(0.25,) * 3),
        model=Model(name=name),
        detection=Detection(score_threshold=0.0, max_detections=most),
        optimizer=config.Optimizer(
            name="sgd", learning_rate=1e-4, momentum=0.9, schedule="constant", frozen=_FROZEN.get(name, ())
        ),
    )
    ours = Detector(experiment, arrays, classes)
    ours.change(calmed)
    with peer(options.torchvision, name, arrays) as theirs:
        for what, act, seconds in (
            ("training step", ours.train, ours.train_compilation),
            ("inference", ours.infer, ours.infer_compilation),
        ):
            sides: dict[str, Any] = {"cnnjax": act}
            note, peers = "Without its peer: --benchmark.torchvision names no Python.", {}
            if theirs:
                sides["torchvision"] = lambda what=what: theirs("infer" if what == "inference" else "train")
                note, peers = "Random weights: every box that may be one is a detection.", theirs.versions
            values = comparison(interleave(sides, options.repetitions))
            values["compilation, s"] = [seconds]
            if what == "inference":
                values["detections per image"] = [ours.infer() / batch]
                if theirs:
                    values["torchvision's"] = [theirs("infer") / batch]
            subject = f"{what}, {name}, {side}x{side}, batch {batch}"
            yield Measured("speed", subject, values, note=note, peers=peers)
