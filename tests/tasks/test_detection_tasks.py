"""Localization and grid detection through the launcher, at a tiny size, and what their numbers mean."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from pycocotools.coco import COCO

from cnnjax.augment.augment import augment as augmented
from cnnjax.augment.draws import keys_of
from cnnjax.config import Augment, ConfigError, Data, Detection, Experiment, Model, replace
from cnnjax.data.formats.annotations import AnnotatedImage, Annotations, padded
from cnnjax.data.formats.prepare import prepare
from cnnjax.data.formats.voc import write_voc
from cnnjax.data.letterbox import framed
from cnnjax.data.sources import load
from cnnjax.detection.results import Truth
from cnnjax.drawing import figures
from cnnjax.inspect.preview import preview
from cnnjax.models import MODELS
from cnnjax.models.grid import GridNet
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks import Judgement, make_task
from cnnjax.tasks.grid_detection import GridDetection
from cnnjax.tasks.localization import Localization
from cnnjax.training.recipe import make_recipe
from experiments import EXPERIMENTS

CLASSES = ("disk", "square", "triangle", "cross")
TINY = ("--data.limit=12", "--data.batch_size=4", "--train.steps=2", "--train.evaluate_every=0")


TINY_GRID = functools.partial(GridNet, widths=(4, 8, 8), blocks=(0, 0, 0))


@pytest.mark.parametrize(
    ("experiment", "metric", "flags"),
    [
        pytest.param("digits_localization", "iou", (), marks=pytest.mark.full),
        ("scenes_grid", "ap50", ("--model.name=tiny_grid", "--detection.form=anchors", "--detection.num_anchors=2")),
    ],
)  # fmt: skip
def test_a_run_evaluates_reports_and_predicts(launch, tmp_path, monkeypatch, experiment, metric, flags):
    monkeypatch.setitem(MODELS, "tiny_grid", TINY_GRID)
    workdir = tmp_path / "run"
    result = launch(f"--experiment={experiment}", *flags, *TINY, f"--workdir={workdir}")
    assert result.code == 0, result.err
    assert metric in result.out
    anchors = json.loads((workdir / "config.json").read_text())["detection"]["anchors"]
    assert len(anchors) == (4 if flags else 0)  # they come from the data and stay with the run
    assert all(4 < side < 64 for side in anchors)
    assert (workdir / "plots" / "examples.png").exists()
    picture = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 120, 3), dtype=np.uint8)).save(picture)
    result = launch("--mode=predict", f"--workdir={workdir}", f"--inputs={picture}")
    assert result.code == 0, result.err
    (entry,) = json.loads((workdir / "predictions" / "predictions.json").read_text())
    boxes = entry.get("detections", [entry] if entry.get("bbox") else [])
    for box in boxes:
        x, y, w, h = box["bbox"]
        assert -1e-3 <= x <= x + w <= 120.001 and -1e-3 <= y <= y + h <= 50.001


def grid_task(**detection):
    experiment = replace(
        Experiment(task="grid_detection", model=Model(name="grid8"), data=Data(mean=(0.5,), std=(0.5,))),
        {f"detection.{name}": value for name, value in detection.items()},
    )
    return make_task(experiment, CLASSES, (64, 64, 3))


def perfect_outputs(task, boxes, classes):
    """Outputs [1, rows, columns, 9] of a network that is sure of exactly these boxes (loss B's form)."""
    outputs = np.zeros((1, task.grid.rows, task.grid.columns, 9), np.float32)
    outputs[..., 0] = -20
    for (x0, y0, x1, y1), label in zip(boxes, classes, strict=True):
        cx, cy = (x0 + x1) / 2 / 8, (y0 + y1) / 2 / 8
        cell = outputs[0, int(cy), int(cx)]
        cell[:5] = 20, cx % 1, cy % 1, (x1 - x0) / 8, (y1 - y0) / 8
        cell[5 + label] = 20
    return jnp.asarray(outputs)


def test_perfect_outputs_have_an_average_precision_of_one():
    task = grid_task(form="logistic")
    assert (task.grid.rows, task.grid.columns, task.num_outputs) == (8, 8, 9)
    boxes, classes = [(4, 5, 20, 30), (40, 33, 60, 50)], [1, 3]
    found = {k: np.asarray(v) for k, v in task.predict(perfect_outputs(task, boxes, classes)).items()}
    truth = {
        "boxes": np.array([boxes], np.float32),
        "classes": np.array([classes], np.int32),
        "valid": np.ones((1, 2), bool),
    }
    values = task.judge(found, truth).metrics
    assert all(
        values[name] == pytest.approx(1) for name in ("ap50", "ap", "voc2007", "voc2010", "ap50/square")
    )
    moved = {**truth, "boxes": truth["boxes"] + 30}
    assert task.judge(found, moved).metrics["ap50"] == 0
    ignored = {**moved, "valid": np.zeros((1, 2), bool), "ignored": np.ones((1, 2), bool)}
    assert task.judge(found, ignored).metrics["ap50"] == 0  # nothing to find


@pytest.mark.parametrize("area, size", [(None, "medium"), (900.0, "small")])
def test_sizes_are_counted_in_pixels_of_the_original_image(area, size):
    """A frame of 64x64 shows 200 pixels of an image's height: 50x50 there are 16x16 here."""
    task = grid_task(form="logistic")
    truth = Truth(np.array([[50.0, 75, 100, 125]]), [2], area=None if area is None else [area])
    split = framed(padded([AnnotatedImage("a.png", 200, 200, truth)]), (64, 64))
    assert_allclose(split["boxes"][0, 0], [16, 24, 32, 40])
    outputs = perfect_outputs(task, [(16, 24, 32, 40)], [2])
    found = {k: np.asarray(v) for k, v in task.predict(outputs).items()}
    values = task.judge(found, split).metrics
    assert {name for name in values if name.startswith("ap/")} == {f"ap/{size}"}
    assert values[f"ap/{size}"] == pytest.approx(1) and values["ap"] == pytest.approx(1)


def test_record_is_in_pixels_of_the_original_image():
    task = grid_task(form="logistic")
    found = task.predict(perfect_outputs(task, [(16, 24, 32, 40)], [2]))
    one = {name: np.asarray(value)[0] for name, value in found.items()}
    # A frame of 64x64 holds an image of 100x200 (height x width) at scale 0.32, with 16 grey rows above it.
    (detection,) = task.result(one, (100, 200, 3)).to_json()["detections"]
    assert detection["category"] == "triangle"
    assert_allclose(detection["bbox"], [50, 25, 50, 50], atol=0.1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A data set in Pascal VOC's layout: 6 images to learn, 3 to choose a threshold on and 2 to test."""
    folder, start = tmp_path_factory.mktemp("voc"), 0
    rng = np.random.default_rng(0)
    (folder / "JPEGImages").mkdir()
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        annotated = []
        for i in range(start, start + count):
            low = rng.integers(0, 40, (2, 2))
            truth = Truth(np.concatenate([low, low + 20], axis=1), rng.integers(0, 4, 2))
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{i}.png")
            annotated.append(AnnotatedImage(f"{i}.png", 64, 64, truth))
        write_voc(Annotations(folder, CLASSES, tuple(annotated)), folder, split)
        start += count
    return folder


def test_preview_draws_the_boxes_of_the_augmented_batch(drawn, tmp_path, monkeypatch):
    seen = []
    draw = figures.draw_boxes
    monkeypatch.setattr(figures, "draw_boxes", lambda image, boxes: seen.append(boxes) or draw(image, boxes))
    experiment = replace(
        EXPERIMENTS["scenes_grid"](),
        {"data.name": f"voc:{drawn}", "data.image_size": 64, "data.batch_size": 6, "augment.scale": 0.0}
        | {"augment.translate": 0.0, "augment.flip": "random", "augment.sizes": (32,)},
    )
    preview(experiment, None, str(tmp_path / "preview.png"))
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.width > 400
    train = load(experiment.data).train
    # Some images are mirrored, and all are half as large: what is left of a box is its place from above.
    rows = sorted(tuple(box[[1, 3]]) for boxes in seen for box in boxes.boxes)
    assert rows == sorted(tuple(box[[1, 3]] / 2) for box in train["boxes"][train["valid"]])
    columns = {tuple(box[[0, 2]]) for boxes in seen for box in boxes.boxes}
    assert columns != {tuple(box[[0, 2]] / 2) for box in train["boxes"][train["valid"]]}
    assert {label for boxes in seen for label in boxes.labels} <= set(CLASSES)


@pytest.mark.full
def test_the_shown_score_is_that_of_the_best_f1_on_the_validation_split(launch, tmp_path, drawn, monkeypatch):
    judge, judged_on = GridDetection.judge, []

    def marked(self, predictions, split):
        judged_on.append(len(split["image"]))
        chosen = {"detection.shown_score": 0.987 if len(split["image"]) == 3 else 0.123}
        return Judgement(judge(self, predictions, split).metrics, chosen)

    monkeypatch.setattr(GridDetection, "judge", marked)
    monkeypatch.setitem(MODELS, "tiny_grid", TINY_GRID)
    data = (f"--data.name=voc:{drawn}", "--data.image_size=32", "--model.name=tiny_grid")
    assert launch("--experiment=scenes_grid", *data, *TINY, f"--workdir={tmp_path / 'run'}").code == 0
    assert judged_on == [2, 3]  # the test split decides nothing
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["split"] == "validation"]
    assert line["detection.shown_score"] == 0.987 and "ap50" in line
    report = (tmp_path / "run" / "report.html").read_text()
    assert "a score of 0.99 or more" in report
    workdir = Workdir(tmp_path / "run")
    assert restore(workdir).recipe.task.shown_score == 0.987
    assert restore(workdir, changes={"detection.shown_score": 0.2}).recipe.task.shown_score == 0.2

    predict = ("--mode=predict", f"--workdir={workdir.path}", f"--inputs={drawn / 'JPEGImages'}")
    result = launch(*predict, "--detection.shown_score=0.01", "--detection.score_threshold=0.01")
    assert result.code == 0, result.err
    entries = json.loads((workdir.path / "predictions" / "predictions.json").read_text())
    check_coco_json(workdir.path / "predictions" / "coco.json", entries)
    scores = [one["score"] for entry in entries for one in entry["detections"]]
    assert scores and 0.01 <= min(scores) and max(scores) < 0.987  # two steps make no network that sure
    refused = launch(*predict, "--data.objects=1")
    assert refused.code == 1 and "--data.objects cannot be changed by mode=predict" in refused.err


def check_coco_json(path, entries):
    """pycocotools reads it, and what it reads is what predictions.json says."""
    data = COCO(str(path))
    assert [data.imgs[i + 1]["file_name"] for i in range(len(entries))] == [
        entry["file"] for entry in entries
    ]
    assert [one["name"] for one in data.loadCats(data.getCatIds())] == sorted(CLASSES)
    for number, entry in enumerate(entries, start=1):
        found = data.imgToAnns[number]
        assert [one["bbox"] for one in found] == [one["bbox"] for one in entry["detections"]]
        names = [data.cats[one["category_id"]]["name"] for one in found]
        assert names == [one["category"] for one in entry["detections"]]


def test_the_score_that_is_chosen_separates_right_from_wrong():
    task = grid_task(form="logistic")
    assert task.shown_score == 0.3 and grid_task(form="logistic", shown_score=0.6).shown_score == 0.6
    found = {
        "boxes": np.array([[[4, 5, 20, 30], [40, 33, 60, 50], [0, 0, 64, 64]]], np.float32),
        "scores": np.array([[0.9, 0.6, 0.5]], np.float32),
        "classes": np.array([[1, 3, 3]]),
        "counts": np.array([3]),
    }
    truth = {
        "boxes": found["boxes"][:, :2],
        "classes": found["classes"][:, :2],
        "valid": np.ones((1, 2), bool),
    }
    assert task.judge(found, truth).chosen == {"detection.shown_score": pytest.approx(0.55)}
    assert task.judge(found, {**truth, "boxes": truth["boxes"] + 30}).chosen == {}


def test_validation_splits_come_with_the_test_split_only(drawn, tmp_path):
    def sizes(**changes):
        dataset = load(Data(name=f"voc:{drawn}", image_size=32, **changes))
        validation = dataset.validation
        return len(dataset.test["image"]), len(validation["image"]) if validation else 0, dataset

    assert sizes()[:2] == (2, 3)
    assert sizes(limit=1)[:2] == (1, 1)
    assert sizes(split="train")[:2] == (6, 0)
    for changes in ({"split": "val"}, {"split": "val", "limit": 2}, {"validation": 0.5}):
        assert sizes(**changes)[2].validation is not None
        dataset = sizes(**changes)[2]
        assert dataset.validation is dataset.test
    prepare(Data(name=f"voc:{drawn}"), tmp_path / "test")
    prepare(Data(name=f"voc:{drawn}", split="val"), tmp_path / "val")
    read = load(Data(name=f"records:{tmp_path / 'test'}", image_size=32))
    assert_array_equal(read.validation["boxes"], sizes()[2].validation["boxes"])
    read = load(Data(name=f"records:{tmp_path / 'val'}", image_size=32))
    assert read.validation is read.test


@pytest.mark.full
def test_a_model_without_grid_and_averaging_are_refused(launch, tmp_path):
    wrong = launch("--experiment=scenes_grid", "--model.name=lenet5", *TINY, f"--workdir={tmp_path / 'a'}")
    assert wrong.code == 1 and "has no grid" in wrong.err
    wrong = launch(
        "--experiment=scenes_grid", "--evaluate.augment=flip", *TINY, f"--workdir={tmp_path / 'b'}"
    )
    assert wrong.code == 1 and "evaluate.augment=flip: GridDetection averages no views" in wrong.err


def scenes():
    arrays = load(Data(name="shapes", limit=6, objects=3)).train
    return {k: jnp.asarray(v) for k, v in arrays.items()} | {
        "image": jnp.asarray(arrays["image"], jnp.float32)
    }


@pytest.mark.full
@pytest.mark.parametrize(
    "augment, joined",
    [
        (Augment(flip="random", scale=0.2, translate=0.1), 1),
        (Augment(mosaic=True, flip_vertical=True), 4),
        (Augment(mosaic=True, mixup=1.5), 8),
        (Augment(random_crop=0.5, hue=0.1, saturation=0.5, exposure=0.5, brightness=0.1, contrast=0.1), 1),
    ],
)
def test_augmented_batches_have_room_for_all_boxes_and_keep_them_inside(augment, joined):
    batch = scenes()
    changed = augmented(augment, batch, keys_of(jax.random.key(0), 0, jnp.arange(6)), jnp.full(3, 128.0))
    assert changed["image"].shape == batch["image"].shape
    for name in ("boxes", "classes", "valid"):
        assert changed[name].shape == (6, 3 * joined, *batch[name].shape[2:])
    boxes = np.asarray(changed["boxes"])[np.asarray(changed["valid"])]
    assert len(boxes) and boxes.min() >= 0 and boxes.max() <= 64
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_augmentation_without_a_form_for_boxes_is_refused():
    keys = keys_of(jax.random.key(0), 0, jnp.arange(6))
    with pytest.raises(ConfigError, match="augment.cutmix"):
        augmented(Augment(cutmix=1), scenes(), keys, jnp.full(3, 128.0))


@pytest.mark.full
@pytest.mark.parametrize("task", [grid_task(form="logistic"), Localization(CLASSES, 64, 64)])
def test_data_without_any_object_is_no_mistake(task):
    """All images are negatives: losses are finite, there is nothing to find, and the report has its pictures."""
    empty = Truth(np.zeros((0, 4)), [])
    split = framed(padded([AnnotatedImage(f"{i}.png", 50, 40, empty) for i in range(2)]), (64, 64))
    split["image"] = np.zeros((2, 64, 64, 3), np.uint8)
    outputs = jnp.zeros((2, 8, 8, 9) if task.headline == "ap50" else (2, 9))
    batch = {name: jnp.asarray(values) for name, values in split.items()}
    assert np.isfinite(task.loss(outputs, batch)).all()
    found = {name: np.asarray(value) for name, value in task.predict(outputs).items()}
    assert all(value == 0 for value in task.judge(found, split).metrics.values())
    for picture in task.pictures(found, split):
        assert picture.figure.axes


def test_only_some_classes_are_kept(drawn):
    every = load(Data(name=f"voc:{drawn}", image_size=64))
    assert every.classes == tuple(sorted(CLASSES))
    some = load(Data(name=f"voc:{drawn}", image_size=64, keep=("triangle", "disk")))
    assert some.classes == ("triangle", "disk") and len(some.train["image"]) == len(every.train["image"])
    for index, name in enumerate(some.classes):
        wanted = every.train["boxes"][
            every.train["valid"] & (every.train["classes"] == every.classes.index(name))
        ]
        kept = some.train["boxes"][some.train["valid"] & (some.train["classes"] == index)]
        assert_array_equal(kept, wanted)
    with pytest.raises(ConfigError, match="data.keep: .* has no class 'dog', but cross, disk"):
        load(Data(name=f"voc:{drawn}", image_size=64, keep=("dog",)))


def test_real_annotations_in_three_layouts(shared):
    bccd = load(Data(name=f"voc:{shared('data/bccd')}", image_size=60, image_width=80, limit=5))
    assert bccd.train["image"].shape == (5, 60, 80, 3) and bccd.classes == ("Platelets", "RBC", "WBC")
    coco = shared("data/coco128")
    for layout in ("coco", "yolo"):
        dataset = load(Data(name=f"{layout}:{coco}", image_size=32, limit=3))
        assert len(dataset.classes) == 80 and dataset.train["valid"].any()


def test_focal_loss_is_an_option():
    settings = {"form": "anchors", "anchors": (16.0, 16.0)}
    batch = {
        "boxes": jnp.array([[[4.0, 5, 20, 30]]]),
        "classes": jnp.array([[1]]),
        "valid": jnp.ones((1, 1), bool),
    }
    outputs = jnp.zeros((1, 8, 8, 9))
    plain, focal = (
        jax.jit(grid_task(**settings, focal_gamma=gamma).loss)(outputs, batch) for gamma in (0.0, 2.0)
    )
    # At an even chance focal loss is a quarter of the logistic one, times 1/4 where there is an object, else 3/4.
    logistic = np.log(2) * np.array([1, 63])
    assert_allclose(plain - focal, [logistic.sum() - (logistic * [1 / 16, 3 / 16]).sum()], rtol=1e-5)


def test_groups_of_similar_classes():
    assert grid_task(form="logistic", similar=("square/cross", "disk"))._similar() == [[1, 3], [0]]
    with pytest.raises(ConfigError, match="detection.similar: no class is called 'cat', but disk, square"):
        grid_task(form="logistic", similar=("disk/cat",))


def test_settings_are_part_of_the_recipe():
    experiment = Experiment(
        task="grid_detection", model=Model(name="grid16"), detection=Detection(form="yolov1", boxes=2),
        data=Data(mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    recipe = make_recipe(experiment, CLASSES, (64, 64, 3), 1)
    assert recipe.task.num_outputs == 14 and recipe.model.num_outputs == 14
