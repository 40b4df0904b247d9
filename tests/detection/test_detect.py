import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import detect as dt
from cnnjax.detection.detect import FORMS
from cnnjax.detection.grid import Grid
from cnnjax.detection.grid import encode as unjitted_encode

encode = jax.jit(unjitted_encode, static_argnums=0)
detect = jax.jit(dt.detect, static_argnames=("grid", "form", "max_outputs"))

BOXES = jnp.array([[[10.0, 12, 40, 30], [60, 5, 90, 60]], [[100, 40, 126, 63], [0, 0, 1, 1]]])
CLASSES = jnp.array([[2, 0], [1, 0]])
VALID = jnp.array([[True, True], [True, False]])


def grid_of(form):
    anchors = ((32.0, 16.0), (32.0, 64.0)) if form == "anchors" else ()
    return Grid(4, 8, 64, 128, 3, boxes=2 if form == "yolov1" else 1, anchors=anchors)


def perfect_outputs(form, grid, cells):
    """The outputs that say exactly what the targets say."""
    sure = 30 * (2 * cells - 1)
    if form == "squared":
        return cells
    if form == "logistic":
        return jnp.concatenate([sure[..., :1], cells[..., 1:5], sure[..., 5:]], -1)
    if form == "yolov1":
        sizes = jnp.sqrt(cells[..., 3:5] / jnp.array([8.0, 4]).reshape(1, 1, 1, 2))
        box = jnp.concatenate([cells[..., :3], sizes], -1)
        # The second predictor says the same, a little less surely: suppression has to remove it.
        return jnp.concatenate([box, box.at[..., 0].multiply(0.9), cells[..., 5:]], -1)
    centre = jnp.log(cells[..., 1:3] / (1 - cells[..., 1:3]))
    prior = jnp.array([[32.0, 16], [32, 64]]).reshape(1, 1, 1, 2, 2) / 16
    present = cells[..., :1] > 0
    sizes = jnp.where(present, jnp.log(jnp.where(present, cells[..., 3:5], 1) / prior), 0)
    centre = jnp.where(present, centre, 0)
    return jnp.concatenate([sure[..., :1], centre, sizes, sure[..., 5:]], -1).reshape(*cells.shape[:3], -1)


@pytest.mark.parametrize("form", FORMS)
def test_perfect_outputs_give_back_the_objects(form):
    grid = grid_of(form)
    targets = encode(grid, BOXES, CLASSES, VALID)
    assert_array_equal(targets.collisions, 0)
    outputs = perfect_outputs(form, grid, targets.cells)
    assert outputs.shape == (2, 4, 8, grid.num_outputs)
    found = detect(grid, outputs, form, max_outputs=5)
    assert found.boxes.shape == (2, 5, 4)
    assert_array_equal(found.counts, [2, 1])
    for n, count in enumerate((2, 1)):
        order = np.lexsort(np.asarray(found.boxes[n, :count]).T[::-1])
        assert_allclose(found.boxes[n, :count][order], BOXES[n, :count], rtol=1e-4, atol=1e-3)
        assert_array_equal(found.classes[n, :count][order], CLASSES[n, :count])
        assert_allclose(found.scores[n, :count], 1, atol=1e-5)
        assert_array_equal(found.classes[n, count:], -1)
        assert_array_equal(found.scores[n, count:], 0)
    losses = jax.jit(FORMS[form].loss, static_argnums=0)(grid, outputs, targets)
    # YOLOv1's second predictor should say 0 and says 0.9 for each object: 0.5 x 0.81.
    expected = [0.81, 0.405] if form == "yolov1" else [0, 0]
    assert_allclose(losses, expected, atol=1e-4)


def test_boxes_are_clipped_and_nan_is_never_found():
    grid = grid_of("squared")
    outputs = jnp.zeros((1, 4, 8, 8)).at[0, 0, 0].set(jnp.array([0.9, 0.5, 0.5, 3, 3, 1, 0, 0]))
    outputs = outputs.at[0, 2, 2].set(jnp.nan)
    found = detect(grid, outputs, "squared", max_outputs=3)
    assert found.counts[0] == 1
    assert_allclose(found.boxes[0, 0], [0, 0, 32, 32])


def test_doubles_of_another_class_stay():
    grid = Grid(1, 2, 16, 32, 2)
    cell = jnp.array([0.9, 1.0, 0.5, 1, 1, 1, 0])
    neighbour = jnp.array([0.8, 0.0, 0.5, 1, 1, 0, 1])
    outputs = jnp.stack([cell, neighbour])[None, None]
    assert detect(grid, outputs, "squared").counts[0] == 2
    same = outputs.at[0, 0, 1, 5:].set(jnp.array([1.0, 0]))
    assert detect(grid, same, "squared").counts[0] == 1
