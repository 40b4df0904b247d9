"""darknet's way of preparing images, and its detectors through the launcher."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError, Data, Detection, Experiment, Model, replace
from cnnjax.data import darknet_resize
from cnnjax.data.images import read_image
from cnnjax.data.sources import load
from cnnjax.detection.boxes import box_from_letterbox
from cnnjax.detection.multiscale import Head, Scales, candidates, decode, flipped
from cnnjax.models import create_model
from cnnjax.models.darknet import darknet_norm
from cnnjax.network import Network
from cnnjax.runs.plan import with_statistics
from cnnjax.tasks import make_task
from cnnjax.training.recipe import make_recipe
from cnnjax.weights.darknet import load_darknet


@pytest.mark.parametrize(
    ("seed", "shape", "side", "total", "grey"),
    [(3, (30, 50, 3), 32, 1528.02522, 13), (3, (30, 50, 3), 96, 13845.58790, 39), (4, (75, 43, 3), 64, 6149.22357, 0)],
)  # fmt: skip
def test_letterbox_of_darknets_c_program(seed, shape, side, total, grey):
    image = np.random.RandomState(seed).randint(0, 256, shape)
    found = darknet_resize.resize(image, "darknet_letterbox", (side, side)) / np.float32(255)
    np.testing.assert_allclose(found.sum(dtype=np.float64), total, rtol=1e-7)
    assert np.sum(np.all(found == 0.5, axis=(1, 2))) == grey
    if side == 32:
        row = [0.3137255, 0.5826693, 0.4635042, 0.8358002]
        np.testing.assert_allclose(found[15, :4, 0], row, rtol=1e-6)
        np.testing.assert_allclose(found[20, 10, 2], 0.2525404, rtol=1e-6)
    if side == 64:
        inside = np.flatnonzero(~np.all(found == 0.5, axis=(0, 2)))
        assert (inside[0], inside[-1]) == (14, 49)


def test_stretching_fills_the_frame():
    place = darknet_resize.geometry("darknet_stretch", 30, 50, (60, 25))
    assert (place.scale_x, place.scale_y, place.left, place.top) == (0.5, 2.0, 0, 0)


def test_stretching_against_torch():
    """Half pixels, no antialiasing, as OpenCV has it."""
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3))
    found = darknet_resize.resize(image, "darknet_stretch", (41, 24))
    planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    wanted = torch.nn.functional.interpolate(planes, (41, 24), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found, wanted[0].numpy().transpose(1, 2, 0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "grid8"}, "has no heads at several scales"),
        ({"detection.anchors": (1.0, 2.0)}, "has 2 numbers; .* has 6 anchors, which are 12"),
        ({"detection.similar": ("a/x",)}, "no class is called 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    experiment = Experiment(task="multiscale_detection", model=Model(name="tiny_yolov3_tiny"))
    with pytest.raises(ConfigError, match=message):
        make_task(replace(experiment, changes), ("a", "b"), (64, 64, 3))


@pytest.mark.parametrize("axes", [(2,), (1,), (2, 1)])
def test_boxes_of_flipped_maps_are_the_flipped_boxes(axes):
    heads = (Head((1, 2), scale_x_y=1.05), Head((0,), scale_x_y=2.0, new_coords=True))
    scales = Scales(((10.0, 14.0), (23.0, 27.0), (37.0, 58.0)), heads, 4)
    draw, (height, width) = np.random.default_rng(0), (64, 96)
    maps = [draw.normal(size=(2, 2, 3, 18)), draw.uniform(0.1, 0.9, (2, 4, 6, 9))]
    maps = [jnp.asarray(one, jnp.float32) for one in maps]
    turned = flipped(scales, maps, axes)
    for one, other in zip(
        decode(scales, maps, (height, width)), decode(scales, turned, (height, width)), strict=True
    ):
        x1, y1, x2, y2 = np.moveaxis(np.flip(one.boxes, axes), -1, 0)
        x1, x2 = (width - x2, width - x1) if 2 in axes else (x1, x2)
        y1, y2 = (height - y2, height - y1) if 1 in axes else (y1, y2)
        np.testing.assert_allclose(other.boxes, np.stack([x1, y1, x2, y2], -1), rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(other.classes, np.flip(one.classes, axes))
    for one, again in zip(maps, flipped(scales, turned, axes), strict=True):
        np.testing.assert_allclose(again, one, rtol=1e-6)


def test_averages_over_mirrored_views_are_the_same_for_the_mirror_image():
    experiment = Experiment(task="multiscale_detection", model=Model(name="tiny_yolov3_tiny"))
    model, task = create_model("tiny_yolov3_tiny", 21), make_task(experiment, ("a", "b"), (64, 64, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    network = Network(model, model.init(jax.random.key(0), images / 255), (64, 64, 3), task=task)
    maps, plain = network.outputs(images, "flips"), network.outputs(images)
    for axis in (1, 2):
        of_mirrored = network.outputs(np.flip(images, axis), "flips")
        for one, other, alone in zip(maps, flipped(task.scales, of_mirrored, (axis,)), plain, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3 * np.abs(one).max())
            assert np.abs(one - alone).max() > 1e-2 * np.abs(one).max()
    with pytest.raises(
        ConfigError, match="evaluate.augment=shift: MultiscaleDetection averages flip or flips"
    ):
        network.outputs(images, "shift")


@pytest.mark.parametrize("how", ["darknet_letterbox", "darknet_stretch"])
def test_darknets_ways_are_of_folders_with_boxes_and_of_tasks_that_find_several(how):
    with pytest.raises(ConfigError, match=f"data.resize={how} is for voc, coco, yolo, .*not for 'shapes'"):
        load(Data(name="shapes", image_size=64, resize=how))
    experiment = Experiment(
        task="localization", model=Model(name="localizer"), data=Data(resize=how, mean=(0.5,), std=(0.5,))
    )
    with pytest.raises(ConfigError, match=f"data.resize={how}: Localization takes letterboxed images only"):
        make_recipe(experiment, ("a", "b"), (64, 64, 3), num_steps=1)


def test_a_picture_is_framed_as_its_task_says_and_its_boxes_come_back():
    experiment = Experiment(
        task="multiscale_detection",
        model=Model(name="tiny_yolov3_tiny"),
        data=Data(resize="darknet_stretch", mean=(0.5,), std=(0.5,)),
    )
    recipe = make_recipe(experiment, ("a", "b"), (64, 32, 3), num_steps=1)
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    framed = recipe.preprocessing.frame(image, (64, 32, 3))
    np.testing.assert_array_equal(framed, darknet_resize.resize(image, "darknet_stretch", (64, 32)))
    found = {"boxes": np.array([[16.0, 32.0, 32.0, 48.0]]), "scores": np.ones(1), "classes": np.zeros(1, int)}
    result = recipe.task.result({**found, "counts": np.int32(1)}, image.shape)
    np.testing.assert_allclose(result.boxes, [[25, 15, 50, 22.5]], rtol=1e-6)


def test_kmeans_finds_as_many_anchors_as_the_model_has():
    experiment = Experiment(
        task="multiscale_detection",
        model=Model(name="tiny_yolov3_tiny"),
        data=Data(name="shapes", limit=8),
        detection=Detection(kmeans=True),
    )
    assert len(with_statistics(experiment, load(experiment.data)).detection.anchors) == 2 * 6


@pytest.mark.slow
def test_a_run_trains_at_several_sizes_and_predicts(launch, tmp_path):
    flags = (
        "--experiment=bccd_yolo", "--data.name=shapes", "--data.image_size=64", "--data.image_width=0",
        "--model.name=tiny_yolov3_tiny", "--model.options=width=2",
        "--data.limit=12", "--data.batch_size=4", "--train.steps=2", "--train.evaluate_every=0",
        "--augment.sizes=64,96", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    result = launch(*flags)
    assert result.code == 0, result.err
    assert "ap50" in result.out and "collisions" in result.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how", "ap", "ap50"),
    [
        ("yolo-fastest-1.1-xl", "letterbox", 0.225, 0.437),
        ("yolo-fastest-1.1-xl", "stretch", 0.246, 0.463),
        ("yolo-fastest-1.1", "letterbox", 0.166, 0.382),
        ("yolo-fastest-1.1", "stretch", 0.171, 0.379),
    ],
)
def test_published_weights_find_what_they_should(shared, launch, tmp_path, name, how, ap, ap50):
    """AP on the 100 annotated validation images of coco128, and the three objects of darknet's photograph."""
    folder, coco = shared("data/weights/darknet"), shared("data/coco128")
    run = f"--workdir={tmp_path / 'run'}"
    result = launch(
        "--mode=import", "--experiment=coco_yolov3", f"--model.name=darknet:{folder}/{name}.cfg", run,
        f"--weights={folder}/{name}.weights", f"--classes={coco}/classes.txt", f"--data.resize=darknet_{how}",
    )  # fmt: skip
    assert result.code == 0, result.err
    result = launch("--mode=evaluate", run, f"--data.name=coco:{coco}")
    assert result.code == 0, result.err
    values = dict(line.split()[:2] for line in result.out.splitlines() if line.endswith("%"))
    assert abs(float(values["ap"]) / 100 - ap) < 0.002 and abs(float(values["ap50"]) / 100 - ap50) < 0.002
    result = launch("--mode=predict", run, f"--inputs={folder}/dog.jpg", f"--output={tmp_path / 'dog'}")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "dog" / "predictions.json").read_text())[0]["detections"]
    assert {"dog", "bicycle", "car"} == {one["category"] for one in found[:3]}


@pytest.mark.slow
def test_darknets_photograph_has_the_scores_of_its_cpu_code(shared):
    """darknet decodes JPEG with stb_image, which interpolates the colours of this file in another way than libjpeg, by
    up to 3 grey levels. With stb_image's pixels all scores and boxes here are darknet's to 1e-4 and 0.01
    pixels (the dog's is 0.93674); with libjpeg's they differ by up to what is allowed below."""
    folder = shared("data/weights/darknet")
    model = create_model(f"darknet:{folder}/yolo-fastest-1.1-xl.cfg").clone(
        norm=partial(darknet_norm, cpu_form=True)
    )
    image = read_image(folder / "dog.jpg", Data())
    frame = (320, 320)
    pixels = jnp.asarray(darknet_resize.resize(image, "darknet_letterbox", frame) / np.float32(255))[None]
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), pixels))
    weights = load_darknet(folder / "yolo-fastest-1.1-xl.weights", model, template)
    scales = Scales(model.anchors, model.heads, 80)
    found = jax.jit(lambda w, x: candidates(scales, model.apply(w, x), frame))(weights, pixels)
    place = darknet_resize.geometry("darknet_letterbox", *image.shape[:2], frame)
    expected = {  # class: score and box
        16: (0.93674, (112.84, 161.90, 417.56, 541.10)),
        2: (0.87713, (452.40, 72.01, 661.18, 164.45)),
        1: (0.85712, (110.80, 130.43, 561.83, 505.60)),
    }
    for label, (score, box) in expected.items():
        best = int(jnp.argmax(found.scores[0, :, label]))
        np.testing.assert_allclose(found.scores[0, best, label], score, atol=1.5e-3)
        np.testing.assert_allclose(
            box_from_letterbox(np.asarray(found.boxes[0, best]), place), box, atol=0.25
        )
