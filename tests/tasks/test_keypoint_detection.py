"""Keypoints of persons in two stages: from COCO's json over the frame to the loss, OKS, pictures and files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.config import ConfigError, Data, replace
from cnnjax.data.formats import records
from cnnjax.data.formats.coco import read_coco
from cnnjax.data.formats.poses import COCO_NAMES
from cnnjax.data.sources import SOURCES, load
from cnnjax.drawing.results import draw
from cnnjax.models import create_model
from cnnjax.tasks import make_task
from cnnjax.tasks.result import to_coco
from cnnjax.training import step as steps
from cnnjax.training.recipe import make_recipe
from experiments import EXPERIMENTS

HEIGHT, WIDTH = 60, 80
EXPERIMENT = replace(
    EXPERIMENTS["scenes_maskrcnn"](),
    {"data.mean": (0.5,) * 3, "data.std": (0.25,) * 3, "data.batch_size": 2, "detection.shown_score": 0.1},
)


def person(number, image, x, y, **changes):
    """A person of 32x40 pixels whose joints lie on a grid, the last of them unknown."""
    joints = [[x + 3 + 4 * (k % 6), y + 4 + 10 * (k // 6), 2] for k in range(16)] + [[0, 0, 0]]
    return {
        "id": number, "image_id": image, "category_id": 1, "bbox": [x, y, 32, 40], "area": 900.0, "iscrowd": 0,
        "keypoints": [v for joint in joints for v in joint], "num_keypoints": 16,
    } | changes  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    (folder / "annotations").mkdir()
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(folder / f"{number}.png")
    hidden = {"keypoints": [0] * 51, "num_keypoints": 0}
    tree = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_NAMES)}],
        "annotations": [
            person(1, 1, 2, 3),
            person(2, 1, 40, 10),
            person(3, 2, 20, 15),
            person(4, 2, 44, 2, **hidden),
        ],
    }
    (folder / "annotations" / "person_keypoints_train.json").write_text(json.dumps(tree))
    return folder


def of(folder, **changes):
    return Data(
        **{"name": f"coco:{folder}", "image_size": 128, "split": "train", "keypoints": True} | changes
    )


def test_keypoints_follow_their_image_into_the_frame_and_into_prepared_sets(folder, tmp_path):
    loaded = load(of(folder)).train
    assert loaded["points"].shape == (2, 2, 17, 2) and loaded["visible"].shape == (2, 2, 17)
    assert not loaded["visible"][1, 1].any() and not loaded["visible"][0, 0, 16]
    # 80x60 becomes 128x96, with 16 rows of grey above.
    assert_allclose(loaded["points"][0, 1, 7], [(40 + 7) * 1.6, (10 + 14) * 1.6 + 16], rtol=1e-5)
    assert loaded["flip_points"][0, 1] == 2  # the left eye
    with SOURCES["coco"].files(of(folder), folder) as raw:
        records.write(tmp_path / "records", raw.classes, raw.splits, raw.note, raw.validation)
    again = load(Data(name=f"records:{tmp_path / 'records'}", image_size=128)).train
    for name, values in loaded.items():
        assert_array_equal(again[name], values, err_msg=name)


@pytest.mark.parametrize("keypoints", [[1, 2], "x", [0] * 50 + ["x"], [0] * 50 + [float("nan")]])
def test_keypoints_that_cannot_be_used_are_told(folder, tmp_path, keypoints):
    tree = json.loads((folder / "annotations" / "person_keypoints_train.json").read_text())
    tree["annotations"][1]["keypoints"] = keypoints
    path = tmp_path / "a.json"
    path.write_text(json.dumps(tree))
    read = read_coco(path, folder, keypoints=True)
    (problem,) = read.problems
    assert (problem.place, problem.lost) == ("annotations[1]", "object")
    assert "keypoints that are not 17 times x, y and v" in problem.text
    assert len(read.truths[0].keypoints) == 1 and read_coco(path, folder).problems == ()


def test_files_without_names_of_keypoints_are_refused(folder, tmp_path):
    tree = json.loads((folder / "annotations" / "person_keypoints_train.json").read_text())
    del tree["categories"][0]["keypoints"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="data.keypoints needs categories with one list of names"):
        read_coco(path, folder, keypoints=True)


def known(split):
    """Predictions of somebody who knows the split."""
    count, most = split["valid"].shape
    return {
        "boxes": split["boxes"], "classes": split["classes"], "counts": np.full(count, most),
        "scores": np.full((count, most), 0.9), "points": split["points"] + 0.0,
    }  # fmt: skip


def test_they_are_judged_by_oks_in_pixels_of_their_images(folder):
    split = load(of(folder)).test
    task = make_task(EXPERIMENT, ("person",), (128, 128, 3))
    found = known(split)
    assert task.judge(found, split).metrics["keypoint_ap"] == pytest.approx(1)
    # Of persons of 900 square pixels; 4 pixels of the image off they are like the real ones by 0.6 to 0.65.
    found["points"] = found["points"] + 4 * 1.6 / np.sqrt(2)
    values = task.judge(found, split).metrics
    wanted = np.mean(np.exp(-16 / (2 * 900 * (2 * _sigmas()[:16]) ** 2)))
    assert values["keypoint_ap"] == pytest.approx(np.mean(wanted >= np.arange(0.5, 1, 0.05)), abs=1e-6)
    assert values["ap"] == pytest.approx(1)
    assert "keypoint_ap" not in task.judge({k: v for k, v in found.items() if k != "points"}, split).metrics


def _sigmas():
    """COCO's, of its page on the evaluation of keypoints."""
    paired = [0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089]
    return np.array([0.026, *np.repeat(paired, 2)])


def test_they_are_told_and_drawn_in_pixels_of_the_image(folder):
    split = load(of(folder)).test
    task = make_task(EXPERIMENT, ("person",), (128, 128, 3))
    result = task.result({name: values[0] for name, values in known(split).items()}, (HEIGHT, WIDTH, 3))
    assert result.point_names == COCO_NAMES
    assert_allclose(result.points[1, 7], [47, 24], rtol=1e-5)
    entry = to_coco(["a.png"], [result], ("person",))["annotations"][1]
    assert_allclose(entry["keypoints"][21:24], [47, 24, 2], rtol=1e-5)
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    picture, _ = draw(grey, result)
    zoom = picture.shape[0] // HEIGHT
    assert_array_equal(picture[24 * zoom, 47 * zoom], [0, 255, 0])


@pytest.mark.slow
def test_the_head_learns_them(folder):
    """One step on objects with keypoints has that part of the loss, and moves the head."""
    dataset = load(of(folder))
    model = create_model("maskrcnn_small", 2).clone(
        mask_convs=(), keypoint_convs=(8,), features=16, hidden=16
    )
    recipe = make_recipe(EXPERIMENT, dataset.classes, (128, 128, 3), 1, model=model)
    state = steps.init_state(recipe, (128, 128, 3), jnp.int32(0))
    batch = {name: jnp.asarray(values) for name, values in dataset.train.items()}
    batch |= {"index": jnp.arange(2), "epoch": jnp.zeros(2, jnp.int32)}
    new, metrics = jax.jit(lambda s, b: steps.train_step(recipe, s, b))(state, batch)
    # Nothing is known yet: of 56 x 56 cells each is about as likely.
    assert_allclose(metrics["loss/keypoints"], np.log(56 * 56), rtol=0.2)
    before, after = (one.params["keypoint_head"]["conv1"]["kernel"] for one in (state, new))
    assert not np.array_equal(before, after)
    network = recipe.network(new.variables, (128, 128, 3), dataset.classes)
    found = recipe.task.predict(jax.jit(lambda x: network.outputs(x))(batch["image"]))
    assert found["points"].shape == (2, 20, 17, 2)
    fewer = {**batch, "points": batch["points"][:, :, :5], "visible": batch["visible"][:, :, :5]}
    with pytest.raises(
        ConfigError, match="objects have 5 keypoints, the network 17: give --model.options=keypoints=5"
    ):
        steps.train_step(recipe, state, fewer)
