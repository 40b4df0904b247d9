"""Multi-scale training: which sizes a model takes, whose turn it is, and that a run is still exactly resumed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax import models
from cnnjax.augment.augment import resize
from cnnjax.config import Augment, ConfigError, Data, Detection, Experiment, Model, Optimizer, Train
from cnnjax.data.batches import train_size
from cnnjax.data.dataset import Dataset
from cnnjax.models import create_model
from cnnjax.models.grid import GridNet
from cnnjax.runtime import sharding
from cnnjax.training import sizes
from cnnjax.training import step as steps
from cnnjax.training.loop import Callbacks, train
from cnnjax.training.recipe import make_recipe

STEPS, HEIGHTS = 6, (16, 24)


def test_every_size_has_its_turn_in_an_order_of_chance():
    order = [train_size(3, step, 3) for step in range(300)]
    turns = np.array(order).reshape(100, 3)
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    assert len(np.unique(turns, axis=0)) == 6
    assert order != [train_size(4, step, 3) for step in range(300)]
    assert [train_size(3, step, 1) for step in range(5)] == [0] * 5


def test_frames_are_in_proportion():
    assert sizes.frames(create_model("grid16"), (192, 240), (240, 320, 3)) == [(192, 256), (240, 320)]
    assert sizes.frames(create_model("localizer"), (32,), (64, 64, 3)) == [(32, 32)]
    assert sizes.frames(create_model("yolov1"), (), (448, 448, 3)) == []


@pytest.mark.parametrize(
    ("name", "height", "shape", "text"),
    [
        ("yolov1", 320, (448, 448, 3), "the model has weights for images of 448x448 only"),
        ("sliding_window", 28, (14, 14, 3), "the model has weights for images of 14x14 only"),
        ("grid16", 200, (240, 320, 3), "no whole width is in proportion to 240x320"),
        ("grid16", -16, (64, 64, 3), "no whole width"),
        ("grid8", 36, (64, 64, 3), "36x36 does not divide into cells of 8x8"),
    ],
)
def test_sizes_that_a_model_cannot_take_are_one_line(name, height, shape, text):
    with pytest.raises(ConfigError, match=f"augment.sizes={height}: {text}"):
        sizes.frames(create_model(name), (height,), shape)


def test_boxes_go_with_their_image():
    image = np.zeros((1, 20, 40, 3), np.float32)
    image[0, 4:12, 10:30] = 255
    batch = {
        "image": jnp.asarray(image),
        "boxes": jnp.array([[[10.0, 4, 30, 12]]]),
        "valid": jnp.ones((1, 1), bool),
    }
    small = resize(batch, (10, 20))
    assert_allclose(small["boxes"], [[[5, 2, 15, 6]]])
    rows, columns = np.nonzero(np.asarray(small["image"][0, ..., 0]) > 127)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (5, 2, 15, 6)
    assert small["valid"] is batch["valid"]


@pytest.fixture
def experiment(monkeypatch):
    tiny = functools.partial(GridNet, widths=(4, 8), blocks=(0, 1))
    monkeypatch.setitem(models.MODELS, "tiny_grid", tiny)
    return Experiment(
        task="grid_detection",
        data=Data(name="drawn", batch_size=4, mean=(0.5,) * 3, std=(0.25,) * 3),
        augment=Augment(flip="random", sizes=HEIGHTS),
        model=Model(name="tiny_grid"),
        detection=Detection(form="anchors", anchors=(6.0, 6.0, 12.0, 9.0)),
        optimizer=Optimizer(learning_rate=1e-3),
        train=Train(steps=STEPS, log_every=1, evaluate_every=0, checkpoint_every=0),
    )


def drawn(count):
    """Images of 16x24 with one box."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 8, (count, 1, 2))
    boxes = np.concatenate([low, low + 7], axis=-1).astype(np.float32)
    image = rng.integers(0, 99, (count, 16, 24, 3), dtype=np.uint8)
    classes = rng.integers(0, 2, (count, 1)).astype(np.int32)
    return {"image": image, "boxes": boxes, "classes": classes, "valid": np.ones((count, 1), bool)}


def test_grids_follow_the_size_and_anchors_stay_in_pixels(experiment):
    recipe = make_recipe(experiment, ("a", "b"), (16, 24, 3), STEPS)
    assert recipe.frame is None and [one.frame for one in recipe.sized] == [(16, 24), (24, 36)]
    grids = [one.task.grid for one in recipe.sized]
    assert [(grid.rows, grid.columns, grid.height, grid.width) for grid in grids] == [
        (4, 6, 16, 24),
        (6, 9, 24, 36),
    ]
    assert {grid.cell for grid in grids} == {(4, 4)} and {grid.anchors for grid in grids} == {
        ((6, 6), (12, 9))
    }


@pytest.mark.full
def test_each_size_compiles_once_and_a_resumed_run_is_the_same(experiment, monkeypatch):
    dataset = Dataset("drawn", drawn(12), drawn(2), ("a", "b"))
    recipe = make_recipe(experiment, dataset.classes, (16, 24, 3), STEPS)
    mesh = sharding.make_mesh(4, data_parallel=False)
    traced, losses = [], {}
    step = steps.train_step

    def counted(recipe, *arguments):
        traced.append(recipe.frame)
        return step(recipe, *arguments)

    monkeypatch.setattr(steps, "train_step", counted)

    def run(state, until):
        return train(
            experiment, recipe, dataset, mesh, state, until,
            Callbacks(lambda at, m: losses.setdefault(at, []).append(m["loss"]), lambda *_: 0.0, lambda *_: None),
        )  # fmt: skip

    init = steps.compile_init(recipe, (16, 24, 3), mesh)
    whole = run(init(np.zeros(1, np.int32), None), STEPS)
    assert sorted(traced) == [(16, 24), (24, 36)]
    half = run(init(np.zeros(1, np.int32), None), 3)
    resumed = run(half, STEPS)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert_array_equal(a, b)
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert all(np.isfinite(pair).all() and pair[0] == pair[1] for pair in losses.values())
