"""Images of different sizes in a few frames: geometry, the order of batches, and a run that is the same however it is read."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError, Data, replace
from cnnjax.data import buckets
from cnnjax.data.buckets import Buckets
from cnnjax.data.formats import records
from cnnjax.data.letterbox import truths_in_originals
from cnnjax.data.sources import SOURCES, load
from cnnjax.data.stream import EvaluationRows, TrainRows, _Batches
from cnnjax.runtime import sharding
from cnnjax.training import step as steps
from cnnjax.training.evaluate import Evaluator
from cnnjax.training.loop import Callbacks, train
from cnnjax.training.recipe import make_recipe
from experiments import EXPERIMENTS

LIMITS = (800, 1333)
SIZES = ((40, 60), (64, 40), (50, 50), (30, 90), (60, 42), (40, 58))  # height, width
SMALL = (40, 80)


def test_sizes_are_those_of_torchvision():
    """What its transform makes of images of COCO's usual sizes and of extreme ones, before it pads."""
    sizes = {
        (480, 640): (800, 1066),
        (427, 640): (800, 1199),
        (640, 480): (1066, 800),
        (200, 1000): (266, 1333),
        (1000, 200): (1333, 266),
        (1600, 1600): (800, 800),
        (3, 4000): (1, 1333),
    }
    assert buckets.frames(LIMITS) == ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    assert buckets.canvas(LIMITS) == (1344, 1344)
    for (height, width), inner in sizes.items():
        place = buckets.geometry(height, width, LIMITS)
        assert (place.inner_height, place.inner_width) == inner
        frame = buckets.frames(LIMITS)[buckets.bucket(height, width, LIMITS)]
        assert frame[0] >= inner[0] and frame[1] >= inner[1] and (place.left, place.top) == (0, 0)
    assert buckets.bucket(480, 640, LIMITS) == 0 and buckets.bucket(427, 640, LIMITS) == 2
    assert buckets.frames((64, 64)) == ((64, 64),)


def test_every_example_has_its_turn_with_others_of_its_frame():
    of = np.array([0, 0, 0, 2, 2, 2, 2, 0, 1, 2])
    schedule = Buckets(of, [(1, 2), (2, 1), (3, 3)])
    seen = np.zeros(10, int)
    for step in range(20):  # ten steps of four are four epochs
        index, epoch = schedule.train_indices(5, step, 4, 5)
        number = schedule.of_step(5, step)
        assert set(of[index]) == {number}
        np.add.at(seen, index, 1)
        rows = TrainRows(5, 0, 20, 10, 4, np.arange(4), buckets=schedule)
        assert_array_equal(rows[step], index)
        assert rows.frame(step) == schedule.frames[number]
        other, _ = schedule.train_indices(6, step, 4, 5)  # of another seed in the same program
        assert set(of[other]) == {number}
    assert_array_equal(seen, 8)
    assert [schedule.of_step(5, s) for s in range(10)] != [schedule.of_step(5, s) for s in range(10, 20)]
    found = list(schedule.evaluation_indices(3))
    assert sorted(np.concatenate([index[mask] for _, index, mask in found])) == list(range(10))
    rows = EvaluationRows(10, 3, np.array([1]), schedule)
    assert [rows[k].tolist() for k in range(len(rows))] == [index[[1]].tolist() for _, index, _ in found]


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A folder of images of different sizes, each with a square that is brighter than the rest, and its polygon."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    images, objects = [], []
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES, start=1):
        x, y = width // 4, height // 4
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[y : y + 16, x : x + 16] += 180
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        ring = [x, y, x + 16, y, x + 16, y + 16, x, y + 16]
        objects.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [x, y, 16, 16],
                "segmentation": [ring],
            }
        )
    tree = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "square"}]}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    data = Data(name=f"coco:{folder}", split="train", masks=True)
    with SOURCES["coco"].files(data, folder) as raw:
        records.write(folder / "records", raw.classes, raw.splits, raw.note, raw.validation)
    return folder


def of(folder, **changes):
    small = {"image_size": SMALL[0], "image_width": SMALL[1], "resize": "short_side", "split": "train"}
    return Data(**{"name": f"coco:{folder}", "masks": True, **small, **changes})


def test_images_and_masks_lie_in_the_corner_of_the_canvas_and_come_back(coco):
    loaded = load(of(coco)).train
    assert loaded["image"].shape == (6, 96, 96, 3) and loaded["masks"].shape == (6, 1, 96, 96)
    assert buckets.frames(SMALL) == ((64, 64), (64, 96), (96, 64))
    schedule = Buckets.find(loaded, "short_side", SMALL)
    for i, (height, width) in enumerate(SIZES):
        shown = buckets.cut(loaded[np.array([i])], schedule.frames[buckets.bucket(height, width, SMALL)])
        inside = np.argwhere(shown["masks"][0, 0])
        box = loaded["boxes"][i, 0]
        assert np.all(np.abs(inside.min(0)[::-1] - box[:2]) <= 1)
        assert np.all(np.abs(inside.max(0)[::-1] + 1 - box[2:]) <= 1)
        assert shown["image"][0][shown["masks"][0, 0]].mean() > 150
    for truth, (height, width) in zip(truths_in_originals(loaded, SMALL, "short_side"), SIZES, strict=True):
        x, y = width // 4, height // 4
        assert_allclose(truth.boxes, [[x, y, x + 16, y + 16]], atol=1e-4)


def test_streamed_they_are_the_same_and_no_larger_than_their_frame(coco):
    here = load(of(coco)).train
    there = load(of(coco, name=f"records:{coco / 'records'}", masks=False, split="", stream=True)).train
    assert not isinstance(there["masks"], np.ndarray) and not isinstance(there["image"], np.ndarray)
    schedule = Buckets.find(there, "short_side", SMALL)
    rows = TrainRows(1, 0, 6, 6, 2, np.arange(2), buckets=schedule)
    batches = _Batches(there, rows)
    for k in range(len(rows)):
        batch = batches[k]
        expected = buckets.cut(here[rows[k]], rows.frame(k))
        assert batch["image"].shape[1:3] == rows.frame(k) == batch["masks"].shape[2:]
        for name, values in expected.items():
            assert_array_equal(batch[name], values, err_msg=name)


def experiment(folder, **changes):
    base = replace(
        EXPERIMENTS["scenes_maskrcnn"](),
        {"data.mean": (0.2,) * 3, "data.std": (0.3,) * 3, "data.batch_size": 2, "train.steps": 4, "data.workers": 0}
        | {"augment.flip": "random", "train.log_every": 1, "detection.score_threshold": 0.0}
        | {"model.options": ("features=16", "hidden=16", "mask_convs=8")} | changes,
    )  # fmt: skip
    return replace(base, {f"data.{k}": v for k, v in vars(of(folder)).items() if k in (
        "name", "image_size", "image_width", "resize", "split")})  # fmt: skip


@pytest.mark.slow
def test_training_and_evaluation_are_the_same_in_memory_and_streamed_and_resumed(coco):
    """Bit for bit, in frames of three shapes, each of which is compiled once."""
    mesh = sharding.make_mesh(2, data_parallel=False)
    settings = experiment(coco)
    outcome = {}
    for how in ("memory", "streamed", "resumed"):
        data = of(coco)
        if how == "streamed":
            data = of(coco, name=f"records:{coco / 'records'}", masks=False, split="", stream=True)
        dataset = load(data)
        shape = dataset.train["image"].shape[1:]
        recipe = make_recipe(settings, dataset.classes, shape, 4)
        assert [one.bucket for one in recipe.sized] == list(buckets.frames(SMALL))
        told = Callbacks(lambda *_: None, lambda *_: 0.0, lambda *_: None)
        state = steps.compile_init(recipe, shape, mesh)(np.zeros(1, np.int32), None)
        for until in (2, 4) if how == "resumed" else (4,):
            state = train(settings, recipe, dataset, mesh, state, until, told)
        evaluation = Evaluator(recipe, dataset.test, 2, mesh, "none")(state.variables)
        outcome[how] = jax.tree.leaves(state), evaluation
        if how == "memory":
            network = recipe.network(jax.tree.map(lambda a: a[0], state.variables), shape, dataset.classes)
            shown = dataclasses.replace(network, task=network.task.in_full())
            pictures = [np.asarray(Image.open(coco / f"{number}.png")) for number in (1, 2)]
            predictor = shown.predictor()
            answers = predictor.predictions([predictor.framed(picture) for picture in pictures])
    weights, evaluation = outcome["memory"]
    for i, answer in enumerate(answers):  # of a picture alone, which was in no array
        assert_allclose(answer["boxes"], evaluation.predictions["boxes"][i], rtol=1e-4, atol=1e-2)
        assert_allclose(answer["scores"], evaluation.predictions["scores"][i], rtol=1e-3)
    for other, found in (outcome["streamed"], outcome["resumed"]):
        for a, b in zip(weights, other, strict=True):
            assert_array_equal(a, b)
        assert found.per_seed == evaluation.per_seed
        for name, values in evaluation.predictions.items():
            assert_array_equal(found.predictions[name], values, err_msg=name)


def test_other_tasks_and_data_refuse_them(coco):
    with pytest.raises(ConfigError, match="data.resize=short_side is for voc, .*records, not for 'shapes'"):
        load(Data(name="shapes", resize="short_side", image_size=64))
    grid = replace(experiment(coco), {"task": "grid_detection", "model.name": "grid8", "model.options": ()})
    with pytest.raises(
        ConfigError, match="data.resize=short_side: GridDetection takes letterboxed images only"
    ):
        make_recipe(grid, ("square",), (96, 96, 3), 1)
    unsized = experiment(coco)
    unsized = replace(unsized, {"data.image_size": 0})
    with pytest.raises(ConfigError, match="data.resize=short_side needs --data.image_size"):
        make_recipe(unsized, ("square",), (96, 96, 3), 1)
    with pytest.raises(ConfigError, match="augment.sizes has no effect with data.resize=short_side"):
        make_recipe(experiment(coco, **{"augment.sizes": (64,)}), ("square",), (96, 96, 3), 1)


def test_more_objects_than_there_is_room_for_are_counted_and_said(coco, tmp_path):
    tree = json.loads((coco / "annotations" / "instances_train.json").read_text())
    small = {"bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
    for number in (7, 8):  # both in the third image, in front of what is there
        tree["annotations"].insert(0, {"id": number, "image_id": 3, "category_id": 1, **small})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(tree))
    (tmp_path / "images").symlink_to(coco)
    found = load(of(tmp_path, max_objects=1))
    assert "trained without 2 objects, beyond the 1 largest of 1 images" in found.note
    assert found.test["valid"].sum() == 8 and found.test["masks"].shape[1] == 3  # all are judged
    with SOURCES["coco"].files(of(tmp_path), tmp_path) as raw:
        records.write(tmp_path / "records", raw.classes, raw.splits, raw.note, raw.validation)
    again = load(of(tmp_path, name=f"records:{tmp_path / 'records'}", masks=False, split="", max_objects=1))
    assert again.note.startswith("trained without 2 objects")
    for split in (found.train, again.train):
        for name, values in load(of(coco)).train.items():
            assert_array_equal(split[name], values, err_msg=name)  # the large one of each image
    fewer = load(of(tmp_path, max_objects=2)).train
    assert fewer["masks"][2].sum((1, 2)).min() > 0 and fewer["valid"].sum() == 7
