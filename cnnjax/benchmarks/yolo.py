"""YOLOv3 and its tiny form from images to final boxes, and a training step: ours against torch's on the same weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cnnjax import config
from cnnjax.benchmarks.detector import Detector, workload
from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.benchmarks.workload import LEARNING_RATE, MOMENTUM
from cnnjax.config import Data, Detection, Experiment, Model
from cnnjax.detection.multiscale import candidates
from cnnjax.runtime import sharding

SIDE, CLASSES, MOST, IOU = 416, 80, 100, 0.45
CANDIDATES = 100  # of an image, before suppression


def yolo_detection(options: Options) -> Iterator[Measured]:
    """YOLOv3 and YOLOv3-tiny, 416 pixels: forward, decoding, suppression at batch 1 and 16; a step of the tiny one.

    On an accelerator in bfloat16 at batch 1 and 64, against torch.compile. Weights are random, and the score that makes
    a detection such that an image has 100 before suppression. The loss is darknet's.
    """
    if options.tiny:
        yield from compare("yolov3_tiny", 64, 2, options, width=2)
        return
    on_cpu = sharding.process_on_cpu()
    dtype, compiler = ("float32", "") if on_cpu else ("bfloat16", "default")
    for name in ("yolov3_tiny", "yolov3"):
        for batch in (1, 16 if on_cpu else 64):
            yield from compare(name, SIDE, batch, options, dtype=dtype, compiler=compiler)


def compare(
    name: str,
    side: int,
    batch: int,
    options: Options,
    width: int = 0,
    dtype: str = "float32",
    compiler: str = "",
) -> Iterator[Measured]:
    """Both sides in turns: inference and, of several images by yolov3_tiny, training."""
    arrays = workload(side, batch, CLASSES)
    ours = Detector(experiment(name, batch, width, dtype), arrays, CLASSES)
    score = temper(ours)
    task: Any = ours.recipe.task
    sides: dict[str, Any] = {"cnnjax": ours}
    note, peers = missing("torch"), {}
    if not note:
        from cnnjax.benchmarks import torch_yolo

        network = torch_yolo.NETWORKS[name](task.num_outputs, **({"width": width} if width else {}))
        sides["torch"] = torch_yolo.Detector(
            network, ours.variables, task.scales, arrays, score, IOU, MOST, dtype == "bfloat16", compiler
        )
        note, peers = "Suppression in torch is written in torch.", version("torch")
    parts = {"inference": "infer"} | (
        {"training step": "train"} if batch > 1 and name == "yolov3_tiny" else {}
    )
    for title, part in parts.items():
        calls = {side: getattr(one, part) for side, one in sides.items()}
        found = {f"boxes per image, {side}": [one.infer() / batch] for side, one in sides.items()}
        values = comparison(interleave(calls, options.repetitions, options.calls if batch == 1 else 1))
        values["compilation, s"] = [getattr(ours, f"{part}_compilation")]
        subject = f"{title}, {name}, {side}x{side}, {dtype}, batch {batch}"
        yield Measured("speed", subject, values | (found if part == "infer" else {}), note=note, peers=peers)


def temper(ours: Detector) -> float:
    """Gives it maps and as many detections as trained weights would; returns the score from which on they are."""
    spreads = [float(np.std(one)) for one in ours.outputs()]
    ours.change(lambda variables: tempered(variables, spreads))
    score = usual_score(ours)
    ours.limit(score)
    return score


def tempered(variables: Any, spreads: Sequence[float]) -> Any:
    """With other last layers, so that maps, whose standard deviations are `spreads`, have one of 2. The residuals of a
    random Darknet-53 add up to maps in which every score is 0 or 1."""
    scales = {f"output{i}": 2 / spread for i, spread in enumerate(spreads, start=1)}

    def scaled(layer: Any, factor: float) -> Any:
        return jax.tree.map(lambda a: a * factor, layer)

    layers = variables["params"].items()
    return {**variables, "params": {name: scaled(layer, scales.get(name, 1.0)) for name, layer in layers}}


def usual_score(ours: Detector) -> float:
    """A score that so many candidates of an image are above, as with trained weights.

    It lies between the scores of two candidates, so that rounding, which each side does otherwise, moves none across it.
    """
    task: Any = ours.recipe.task
    scores = np.asarray(candidates(task.scales, ours.outputs(), task.frame).scores)
    number = CANDIDATES * len(scores)
    return float(np.sort(scores, axis=None)[-number - 1 : -number + 1].mean())


def experiment(name: str, batch: int, width: int, dtype: str) -> Experiment:
    return Experiment(
        task="multiscale_detection",
        data=Data(resize="letterbox", batch_size=batch, mean=(0.0,) * 3, std=(1.0,) * 3),
        model=Model(name=name, dtype=dtype, options=(f"width={width}",) if width else ()),
        detection=Detection(iou_threshold=IOU, max_detections=MOST),
        optimizer=config.Optimizer(
            name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, schedule="constant"
        ),
    )
