"""A grid detector from pixels to final boxes: forward, decoding and non-maximum suppression."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.timing import comparison, compiled, interleave
from cnnjax.benchmarks.workload import Workload
from cnnjax.detection.detect import Found, detect
from cnnjax.detection.grid import Grid
from cnnjax.models import create_model

ANCHORS = ((30.0, 30.0), (60.0, 60.0), (100.0, 90.0))
SCORE, IOU, MOST = 0.3, 0.5, 100


def grid_detection(options: Options) -> list[Measured]:
    """grid16 on 240x320 pixels, 900 candidates: forward, decode and suppression, at batch 64 and 1, against torch."""
    return [compare("grid16", (240, 320), 16, batch, options) for batch in (64, 1)]


def compare(model: str, size: tuple[int, int], stride: int, batch: int, options: Options) -> Measured:
    grid = Grid(size[0] // stride, size[1] // stride, *size, num_classes=3, anchors=ANCHORS)
    network = create_model(model, grid.num_outputs)
    images = np.random.default_rng(0).normal(size=(batch, *size, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images[:1])

    def find(variables: Any, images: jax.Array) -> Found:
        outputs: Any = network.apply(variables, images)
        return detect(grid, outputs, "anchors", SCORE, IOU, MOST)

    placed = jnp.asarray(images)
    program, seconds = compiled(jax.jit(find), variables, placed)
    sides: dict[str, Any] = {"cnnjax": lambda: jax.block_until_ready(program(variables, placed))}
    note = missing("torch")
    if not note:
        from cnnjax.benchmarks.torch_detection import Detector

        detector = Detector(Workload(model, (*size, 3), batch, grid.num_outputs), variables, grid, images)
        sides["torch"] = lambda: detector.detect(SCORE, IOU, MOST)
        note = "Suppression in torch is written in torch, as torchvision's batched_nms computes it."
    values = comparison(interleave(sides, options.repetitions, options.calls if batch == 1 else 1))
    values["compilation, s"] = [seconds]
    values["boxes per image"] = [float(np.mean(program(variables, placed).counts))]
    subject = f"detection, {model}, {size[0]}x{size[1]}, batch {batch}"
    return Measured("speed", subject, values, note=note, peers=version("torch") if len(sides) > 1 else {})
