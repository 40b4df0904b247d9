"""The task of two stages: from scenes with masks to their judgement, pictures and files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError, replace
from cnnjax.data.synthetic.scenes import grid_scenes
from cnnjax.detection.rle import rle_to_mask
from cnnjax.drawing.results import draw
from cnnjax.runtime import sharding
from cnnjax.tasks import make_task
from cnnjax.tasks.result import to_coco
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import compile_steps, init_states
from experiments import EXPERIMENTS

CLASSES = ("disk", "square", "triangle", "cross")
EXPERIMENT = replace(
    EXPERIMENTS["scenes_maskrcnn"](),
    {"data.mean": (0.5,) * 3, "data.std": (0.25,) * 3, "data.image_size": 64, "data.batch_size": 4},
)
FRAME = (64, 64)


@pytest.fixture(scope="module")
def scenes():
    drawn = grid_scenes(jax.random.key(3), 8, size=FRAME[0], masks=True)
    return {name: np.asarray(values) for name, values in drawn.items()}


@pytest.mark.full
def test_a_run_with_masks_evaluates_reports_and_predicts(launch, tmp_path):
    flags = ("--data.limit=8", "--data.batch_size=4", "--train.steps=2", "--data.image_size=64")
    workdir = tmp_path / "run"
    result = launch("--experiment=scenes_maskrcnn", *flags, f"--workdir={workdir}")
    assert result.code == 0, result.err
    assert "mask_ap50" in result.out and (workdir / "plots" / "examples.png").exists()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    parts = ("objectness", "proposals", "classes", "boxes", "masks")
    (trained,) = [line for line in lines if line["split"] == "train"][-1:]
    assert_allclose(sum(trained[f"loss/{part}"] for part in parts), trained["loss"], rtol=1e-5)
    picture = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 120, 3), dtype=np.uint8)).save(picture)
    shown = ("--detection.shown_score=0.001", "--detection.score_threshold=0")
    result = launch("--mode=predict", *shown, f"--workdir={workdir}", f"--inputs={picture}")
    assert result.code == 0, result.err
    file = json.loads((workdir / "predictions" / "coco.json").read_text())
    assert len(file["annotations"]) == 20
    for entry in file["annotations"]:
        mask = rle_to_mask(entry["segmentation"])
        assert mask.shape == (50, 120) and mask.sum() == entry["area"]


def perfect(scenes, size=28):
    """Predictions of somebody who knows the scenes: boxes, and the masks inside them as squares."""
    count, most = scenes["valid"].shape
    squares = np.zeros((count, most, size, size), np.float16)
    for image, object_ in np.argwhere(scenes["valid"]):
        x0, y0, x1, y1 = scenes["boxes"][image, object_].astype(int)
        inside = Image.fromarray(scenes["masks"][image, object_, y0:y1, x0:x1].astype(np.uint8) * 255)
        squares[image, object_] = np.asarray(inside.resize((size, size), Image.Resampling.BILINEAR)) / 255
    order = np.argsort(~scenes["valid"], axis=1, kind="stable")

    def sort(values):
        return np.take_along_axis(values, order.reshape(*order.shape, *(1,) * (values.ndim - 2)), axis=1)

    return {
        "boxes": sort(scenes["boxes"]),
        "masks": sort(squares),
        "classes": sort(np.where(scenes["valid"], scenes["classes"], -1)),
        "scores": sort(np.where(scenes["valid"], 0.9, 0).astype(np.float32)),
        "counts": scenes["valid"].sum(1),
    }


def test_perfect_predictions_have_a_high_average_precision_of_masks(scenes):
    task = make_task(EXPERIMENT, CLASSES, (*FRAME, 3))
    assert task.num_outputs == 5
    found = perfect(scenes)
    values = task.judge(found, scenes).metrics
    assert values["ap"] == pytest.approx(1) and values["mask_ap50"] == pytest.approx(1)
    assert values["mask_ap"] > 0.7  # 28 x 28 pixels, of whole pixels of the frame, are not exact
    empty = {**found, "masks": np.zeros_like(found["masks"])}
    values = task.judge(empty, scenes).metrics
    assert values["ap"] == pytest.approx(1) and values["mask_ap50"] == 0
    assert "mask_ap" not in task.judge({k: v for k, v in found.items() if k != "masks"}, scenes).metrics


def test_ignored_objects_have_masks_that_are_neither_found_nor_missed(scenes):
    task = make_task(EXPERIMENT, CLASSES, (*FRAME, 3))
    first = (np.arange(len(scenes["valid"])) == 0)[:, None]
    assert scenes["valid"][0].any()
    ignored = {**scenes, "valid": scenes["valid"] & first, "ignored": scenes["valid"] & ~first}
    assert task.judge(perfect(scenes), ignored).metrics["mask_ap50"] == pytest.approx(1)


def test_masks_are_told_and_drawn_in_pixels_of_the_image():
    task = make_task(EXPERIMENT, CLASSES, (*FRAME, 3))
    prediction = {
        "boxes": np.array([[16.0, 24, 32, 40], [0, 0, 0, 0]]),
        "scores": np.array([0.9, 0.0]),
        "classes": np.array([1, -1]),
        "counts": np.array(1),
        "masks": np.stack([np.ones((28, 28)), np.zeros((28, 28))]).astype(np.float16),
    }
    # A frame of 64x64 holds an image of 100x200 at scale 0.32, with 16 grey rows above it.
    result = task.result(prediction, (100, 200, 3))
    mask = rle_to_mask(result.masks[0])
    assert mask.shape == (100, 200)
    assert_array_equal(np.argwhere(mask).min(0), [25, 50])
    assert 48**2 <= mask.sum() <= 51**2
    (entry,) = to_coco(["a.png"], [result], CLASSES)["annotations"]
    assert entry["area"] == mask.sum() and entry["segmentation"]["size"] == [100, 200]

    grey = np.full((50, 100, 1), 100, np.uint8)  # a smaller copy
    picture, _ = draw(grey, result)
    zoom = picture.shape[0] // 50
    middle, corner = picture[zoom * 25, zoom * 37], picture[zoom * 5, zoom * 5]
    assert_array_equal(middle, [(100 + 255) // 2, 50, 50])  # the second class is red
    assert_array_equal(corner, [100, 100, 100])


def test_models_and_data_that_do_not_fit_are_refused(scenes):
    with pytest.raises(ConfigError, match="model.name='grid8' has no two stages"):
        make_task(replace(EXPERIMENT, {"model.name": "grid8"}), CLASSES, (*FRAME, 3))
    with pytest.raises(ConfigError, match="model.name='maskrcnn_small' has no grid as output"):
        make_task(replace(EXPERIMENT, {"task": "grid_detection"}), CLASSES, (*FRAME, 3))
    task = make_task(EXPERIMENT, CLASSES, (*FRAME, 3))
    without = {name: values for name, values in scenes.items() if name != "masks"}

    class Apply:
        model = make_recipe(EXPERIMENT, CLASSES, (*FRAME, 3), 1).model

    with pytest.raises(
        ConfigError, match="the network learns masks, and the data have none: give --data.masks"
    ):
        task.forward(Apply(), without, jax.random.key(0))


def run_steps(scenes, devices, batch=4):
    """The metrics of two steps on so many devices."""
    recipe = make_recipe(EXPERIMENT, CLASSES, (*FRAME, 3), num_steps=4)
    mesh = sharding.make_mesh(batch, data_parallel=devices > 1)
    assert mesh.size == devices
    state = init_states(recipe, (*FRAME, 3), jnp.zeros(1, jnp.int32))
    everywhere = sharding.replicated(mesh)
    state, arrays = jax.device_put((state, scenes), everywhere)
    steps = compile_steps(recipe, mesh)
    index = np.arange(2 * batch, dtype=np.int32).reshape(2, 1, batch) % len(scenes["image"])
    place = sharding.sharded(mesh, 2)
    index, epoch = jax.device_put((index, np.zeros_like(index)), place)
    found = []
    for i in range(2):
        rows = jax.device_put((index[i : i + 1], epoch[i : i + 1]), place)
        with jax.transfer_guard("disallow"):
            state, metrics = steps(state, arrays, *rows)
        found.append(jax.device_get(metrics))
    return found


@pytest.mark.slow
def test_steps_stay_on_the_devices_and_losses_do_not_depend_on_their_number(scenes):
    one, four = run_steps(scenes, 1), run_steps(scenes, 4)
    for first, second in zip(one, four, strict=True):
        for name in first:
            assert_allclose(first[name], second[name], rtol=1e-3, err_msg=name)


IN_A_PROCESS = """
import json, jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
import test_two_stage as tests
scenes = tests.grid_scenes(jax.random.key(3), 8, size=64, masks=True)
scenes = {name: np.asarray(values) for name, values in scenes.items()}
found = [tests.run_steps(scenes, devices, batch=8) for devices in (1, 8)]
print(json.dumps([[{name: float(v[0, 0]) for name, v in step.items()} for step in one] for one in found]))
"""


@pytest.mark.slow
def test_one_device_and_eight_have_the_same_losses():
    """In a process of its own, that has eight virtual ones."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", IN_A_PROCESS]
    said = subprocess.run(command, env=environment, cwd=here, check=True, capture_output=True, text=True)
    one, eight = json.loads(said.stdout.splitlines()[-1])
    for first, second in zip(one, eight, strict=True):
        for name in ("loss", "grad_norm", "loss/objectness", "loss/boxes", "loss/masks"):
            assert_allclose(first[name], second[name], rtol=1e-3, err_msg=name)
