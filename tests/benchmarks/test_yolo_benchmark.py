"""The benchmark of YOLOv3: both sides have the same weights, maps, loss and detections."""

import jax
import numpy as np
import pytest

from cnnjax import config
from cnnjax.benchmarks import yolo
from cnnjax.benchmarks.detector import Detector, workload
from cnnjax.benchmarks.options import Options


def pair(name, options, **sizes):
    pytest.importorskip("torch", reason="the peer is torch")
    from cnnjax.benchmarks import torch_yolo

    arrays = workload(128, 1, 80)
    setting = yolo.experiment(name, 1, 0, "float32")
    setting = config.replace(setting, {"model.options": options})
    ours = Detector(setting, arrays, 80)
    score = yolo.temper(ours)
    np.testing.assert_allclose([np.std(one) for one in ours.outputs()], 2, rtol=1e-4)
    network = torch_yolo.NETWORKS[name](255, **sizes)
    peer = torch_yolo.Detector(network, ours.variables, ours.recipe.task.scales, arrays, score, yolo.IOU, 100)
    return ours, peer


@pytest.mark.parametrize(
    "name, options, sizes",
    [
        ("yolov3_tiny", ("width=2",), {"width": 2}),
        ("yolov3", ("width=2", "blocks=1/1/2/1/1"), {"width": 2, "blocks": (1, 1, 2, 1, 1)}),
    ],
)
def test_both_sides_compute_the_same(name, options, sizes):
    ours, peer = pair(name, options, **sizes)
    peer.network.eval()
    maps = ours.outputs()
    for mine, theirs in zip(maps, peer.maps(), strict=True):
        theirs = theirs.detach().numpy().transpose(0, 2, 3, 1, 4).reshape(mine.shape)
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())
    assert ours.infer() == peer.infer() > 5
    batch = {name: values.numpy() for name, values in peer.arrays.items()}
    task = ours.recipe.task
    assert not jax.jit(task.metrics)(maps, batch)["collisions"].any()  # in which the two differ
    loss = sum(jax.jit(task.loss)(maps, batch).values()).mean()
    assert float(loss) == pytest.approx(peer.loss().item(), rel=1e-4)


@pytest.mark.full
def test_a_row_of_each_kind():
    inference, training = yolo.yolo_detection(Options(repetitions=2, calls=1, tiny=True))
    assert inference.subject == "inference, yolov3_tiny, 64x64, float32, batch 2"
    assert training.subject == "training step, yolov3_tiny, 64x64, float32, batch 2"
    assert 0 < inference.values["boxes per image, cnnjax"][0] <= yolo.CANDIDATES
    assert len(training.values["cnnjax, ms"]) == 2 and training.values["compilation, s"][0] > 0
