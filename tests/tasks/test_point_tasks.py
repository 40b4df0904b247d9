import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import sources
from cnnjax.data.formats.poses import LSP_NAMES
from cnnjax.data.synthetic import figures
from cnnjax.models import create_model
from cnnjax.tasks.heatmaps import Heatmaps
from cnnjax.tasks.points import Points, point_pictures

NAMES = tuple(map(str, range(68)))


def test_what_an_image_does_not_say_its_outputs_do_not_learn():
    task = Points(NAMES, 64, 64)
    assert task.num_outputs == 137
    points = jax.random.uniform(jax.random.key(0), (3, 68, 2), maxval=64.0)
    visible = jnp.array([[True] * 68, [False] * 68, [True] * 10 + [False] * 58])
    batch = {"points": points.at[1].set(jnp.nan), "visible": visible}
    outputs = jax.random.normal(jax.random.key(1), (3, 137))
    gradient = jax.grad(lambda x: sum(jnp.sum(part) for part in task.loss(x, batch).values()))(outputs)
    assert np.count_nonzero(gradient[0]) == 137
    assert np.count_nonzero(gradient[1]) == 1  # presence alone
    assert np.count_nonzero(gradient[2, 1:21]) == 20 and not np.any(gradient[2, 21:])


def test_points_as_outputs_and_back():
    task = Points(NAMES, 32, 64)
    points = jax.random.uniform(jax.random.key(0), (2, 68, 2), maxval=32.0)
    shares = points / jnp.array([[[64.0, 32.0]]]) - 0.5
    outputs = jnp.concatenate([jnp.ones((2, 1)), shares.reshape(2, -1)], axis=1)
    assert_allclose(task.predict(outputs)["points"], points, rtol=1e-4, atol=1e-3)


def test_folders_of_points_with_squares_of_photographs_that_have_none(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in (("train", 5), ("test", 4), ("streets", 3)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    for split, count in (("train", 5), ("test", 4)):
        rows = ["file,left_x,left_y,right_x,right_y", *(f"{i}.png,10,5,30,15" for i in range(count - 1))]
        (tmp_path / f"{split}.csv").write_text("\n".join([*rows, f"{count - 1}.png,10,5,,"]))
    data = Data(name=f"points:{tmp_path}", image_size=20)
    whole = sources.load(data, None)
    assert (len(whole.train), len(whole.test), whole.classes) == (5, 4, ("left", "right"))
    # Half as large, and five pixels down: 40x20 becomes 20x10 in the middle of 20x20.
    assert_allclose(whole.test["points"][0], [[5, 7.5], [15, 12.5]])
    assert_allclose(whole.test["points"][3], [[5, 7.5], [0, 0]])
    assert whole.test["visible"].tolist() == [[True, True]] * 3 + [[True, False]]
    assert whole.train["flip_points"].tolist() == [[1, 0]] * 5
    more = sources.load(dataclasses.replace(data, backgrounds=str(tmp_path / "streets")), None)
    assert more.train["visible"].any(axis=1).sum() == 5 and len(more.train) == 6 and len(more.test) == 5
    with pytest.raises(ConfigError, match="0 images"):
        (tmp_path / "nothing").mkdir()
        sources.load(dataclasses.replace(data, backgrounds=str(tmp_path / "nothing")), None)


@pytest.mark.full
def test_figures_show_their_joints():
    drawn = figures.figures(jax.random.key(3), 40, 64)
    more = figures.figures(jax.random.key(3), 300, 64)
    assert np.array_equal(drawn["image"], more["image"][:40])
    colours = []
    for i in range(40):
        for a, b in ((2, 1), (3, 4)):  # the thighs, in their middle
            x, y = (np.asarray(drawn["points"])[i, [a, b]].mean(axis=0)).astype(int)
            colours.append(np.asarray(drawn["image"])[i, y, x].astype(int))
    right, left = np.stack(colours[::2]), np.stack(colours[1::2])
    # A hand may lie over a thigh, and the left leg over the right.
    assert np.mean(right[:, 0] > right[:, 2]) > 0.85 and np.mean(left[:, 2] > left[:, 0]) > 0.85


def test_pictures_of_faces_are_ordered_and_named_by_the_distance_of_their_outer_eye_corners(monkeypatch):
    rng = np.random.default_rng(0)
    real = rng.uniform(8, 56, (3, 68, 2)).astype(np.float32)
    real[:, 36] = 10, 30
    real[:, 45] = [(50, 30), (30, 30), (20, 30)]  # 40, 20 and 10 apart
    split = {"image": np.zeros((3, 64, 64, 3), np.uint8), "points": real, "visible": np.ones((3, 68), bool)}
    texts = []
    monkeypatch.setattr("cnnjax.drawing.figures.image_grid", lambda *arguments: texts.extend(arguments[-1]))
    off = np.array([[[4, 0]], [[0, 1]], [[1, 0]]], np.float32)
    point_pictures(real + off, split, NAMES)
    assert texts[:3] == ["best  5.0 %", "best  10.0 %", "best  10.0 %"]
    with_two = {**split, "points": real[:, :2], "visible": np.ones((3, 2), bool)}
    texts.clear()
    point_pictures(real[:, :2] + off, with_two, ("left", "right"))
    shares = np.sort([4, 1, 1] / np.abs(real[:, 0] - real[:, 1]).max(axis=1))
    assert texts[:3] == [f"best  {100 * share:.1f} %" for share in shares]


def test_heatmaps_as_outputs_and_back():
    task = Heatmaps(LSP_NAMES, 64, 64)
    points = 4.0 * jnp.round(jax.random.uniform(jax.random.key(0), (2, 14, 2), minval=3.0, maxval=12.0))
    batch = {"points": points, "visible": jnp.ones((2, 14), bool)}
    from cnnjax.detection.heatmaps import encode_heatmaps

    maps, _ = encode_heatmaps(points, batch["visible"], (16, 16), 4.0, 2.0)
    assert_allclose(task.predict(maps)["points"], points, atol=1e-3)
    assert_allclose(task.loss(maps, batch), 0, atol=1e-12)


def test_views_of_points_whose_names_do_not_say_what_a_flip_swaps_are_refused():
    Heatmaps(LSP_NAMES, 64, 64).check_views("flip")
    with pytest.raises(ConfigError, match="evaluate.augment=flips: Heatmaps averages flip"):
        Heatmaps(LSP_NAMES, 64, 64).check_views("flips")
    with pytest.raises(ConfigError, match="which points it swaps"):
        Heatmaps(("a", "b", "c"), 64, 64).check_views("flip")


def test_parameters_and_shapes_of_the_networks():
    def of(name, outputs, shape):
        model = create_model(name, outputs)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        found, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), x)
        return found.shape, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    assert of("point_net", 137, (2, 64, 64, 1)) == ((2, 137), 745_001)
    assert of("heatmaps_small", 14, (2, 64, 64, 3))[0] == (2, 32, 32, 14)
    # mmpose and the authors: 34.0 M parameters of ResNet-50 with 17 joints.
    shape, parameters = of("heatmaps_resnet50", 17, (1, 256, 192, 3))
    assert shape == (1, 64, 48, 17) and round(parameters / 1e6, 1) == 34.0
