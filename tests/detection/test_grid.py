import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import grid as gr
from cnnjax.detection.grid import Grid

encode = jax.jit(gr.encode, static_argnums=0)

LECTURE = Grid(rows=8, columns=8, height=480, width=640, num_classes=4)


def encode_one(grid, boxes, classes):
    boxes, classes = jnp.array([boxes], jnp.float32), jnp.array([classes])
    return encode(grid, boxes, classes, jnp.ones(classes.shape, bool))


def test_the_cell_of_the_centre_is_responsible():
    targets = encode_one(LECTURE, [[100, 120, 420, 360]], [1])
    assert targets.cells.shape == (1, 8, 8, 9)
    # Column 3, row 4: the centre lies on the upper border of row 4, and floor decides.
    assert_allclose(targets.cells[0, 4, 3], [1, 0.25, 0, 4, 4, 0, 1, 0, 0])
    assert_array_equal(jnp.sum(targets.cells != 0), 5)
    assert targets.collisions[0] == 0


def test_the_lectures_cell():
    # y44 = [1, 0.8, 0.9, 2.0, 1.8, 0, 1, 0, 0] in cells of 80 x 60.
    centre, half = np.array([4.8 * 80, 4.9 * 60]), np.array([80.0, 0.9 * 60])
    targets = encode_one(LECTURE, [[*(centre - half), *(centre + half)]], [1])
    assert_allclose(targets.cells[0, 4, 4], [1, 0.8, 0.9, 2.0, 1.8, 0, 1, 0, 0], rtol=1e-5)


def test_a_centre_on_the_last_border_stays_in_the_grid():
    targets = encode_one(LECTURE, [[600, 440, 680, 520]], [0])
    assert_allclose(targets.cells[0, 7, 7, :5], [1, 1, 1, 1, 80 / 60], rtol=1e-6)


def test_collisions_are_counted_and_the_first_stays():
    boxes = [[100, 120, 420, 360], [110, 120, 430, 360], [0, 0, 10, 10], [111, 120, 431, 360]]
    targets = encode_one(LECTURE, boxes, [1, 2, 3, 0])
    assert targets.collisions[0] == 2
    assert_allclose(targets.cells[0, 4, 3, 5:], [0, 1, 0, 0])


def test_invalid_boxes_leave_no_trace():
    boxes = jnp.array([[[100.0, 120, 420, 360]] * 2, [[jnp.nan] * 4, [0, 0, 10, 10]]])
    valid = jnp.array([[False, True], [False, True]])
    targets = encode(LECTURE, boxes, jnp.array([[1, 2], [0, 3]]), valid)
    assert_array_equal(targets.collisions, [0, 0])
    assert_allclose(targets.cells[0, 4, 3, 5:], [0, 0, 1, 0])
    assert np.all(np.isfinite(targets.cells)) and jnp.sum(targets.cells[1, ..., 0]) == 1


def test_anchors_separate_shapes_in_one_cell():
    grid = Grid(8, 8, 480, 640, 4, anchors=((30, 30), (300, 300), (10, 100)))
    targets = encode_one(grid, [[100, 120, 420, 360], [245, 220, 275, 250], [255, 190, 265, 285]], [0, 1, 2])
    assert targets.cells.shape == (1, 8, 8, 3, 9)
    assert targets.collisions[0] == 0
    assert_array_equal(jnp.argmax(targets.cells[0, 4, 3, 1, 5:]), 0)
    assert_array_equal(jnp.argmax(targets.cells[0, 3, 3, 0, 5:]), 1)
    assert_array_equal(jnp.argmax(targets.cells[0, 3, 3, 2, 5:]), 2)
    assert jnp.sum(targets.cells[..., 0]) == 3


def test_cells_to_pixels_undoes_encode_on_any_grid():
    grid = Grid(rows=5, columns=9, height=160, width=288, num_classes=2)
    boxes = np.array([[3.0, 4, 50, 90], [100, 20, 280, 150], [250, 130, 287, 159]])
    targets = encode_one(grid, boxes, [0, 1, 0])
    pixels = jax.jit(gr.cells_to_pixels, static_argnums=0)(grid, targets.cells[..., None, 1:5])
    found = pixels[targets.cells[..., 0] == 1][:, 0]
    assert_allclose(np.sort(found, 0), np.sort(boxes, 0), rtol=1e-5)


def test_decode_squared_reads_the_targets_themselves():
    targets = encode_one(LECTURE, [[100, 120, 420, 360], [300, 20, 340, 60]], [1, 3])
    found = jax.jit(gr.decode_squared, static_argnums=0)(LECTURE, targets.cells)
    assert found.boxes.shape == (1, 64, 4)
    best = jnp.argsort(-found.scores[0])[:2]
    assert_allclose(found.scores[0, best], 1)
    assert_allclose(found.boxes[0, best], [[300, 20, 340, 60], [100, 120, 420, 360]], rtol=1e-5)
    assert_array_equal(found.classes[0, best], [3, 1])
    assert jnp.sum(found.scores) == 2


def test_decode_logistic_multiplies_presence_and_class():
    outputs = jnp.full((1, 8, 8, 9), -30.0)
    outputs = outputs.at[0, 2, 5].set(jnp.array([0, 0.5, 0.5, 1, 1, *np.log([0.1, 0.2, 0.6, 0.1])]))
    found = jax.jit(gr.decode_logistic, static_argnums=0)(LECTURE, outputs)
    best = int(jnp.argmax(found.scores[0]))
    assert best == 2 * 8 + 5 and found.classes[0, best] == 2
    assert_allclose(found.scores[0, best], 0.5 * 0.6, rtol=1e-5)
    assert_allclose(found.boxes[0, best], [5 * 80, 2 * 60, 6 * 80, 3 * 60], rtol=1e-6)


def test_decode_yolov1_squares_sizes():
    grid = Grid(7, 7, 448, 448, 20, boxes=2)
    assert grid.num_outputs == 30
    outputs = jnp.zeros((1, 7, 7, 30))
    outputs = (
        outputs.at[0, 1, 2, 5:10].set(jnp.array([0.9, 0.5, 0.5, 0.5, -0.25])).at[0, 1, 2, 10 + 6].set(0.5)
    )
    found = jax.jit(gr.decode_yolov1, static_argnums=0)(grid, outputs)
    assert found.boxes.shape == (1, 98, 4)
    best = int(jnp.argmax(found.scores[0]))
    assert best == 2 * (7 + 2) + 1 and found.classes[0, best] == 6
    assert_allclose(found.scores[0, best], 0.45, rtol=1e-6)
    # Centre (2.5, 1.5) cells of 64 pixels; a quarter and a sixteenth of 448 pixels.
    assert_allclose(found.boxes[0, best], [160 - 56, 96 - 14, 160 + 56, 96 + 14], rtol=1e-6)


def test_shape_iou():
    assert_allclose(gr.shape_iou(jnp.array([[10.0, 20]]), jnp.array([[20.0, 10]])), [100 / 300], rtol=1e-6)


def test_a_centre_on_a_border_belongs_to_the_cell_behind_it_whatever_the_size_of_cells():
    """Also where the inverse of a cell's size is no float, as in XLA's division by a constant."""
    for side, cells in ((416, 32), (147, 49), (91, 7), (448, 7), (605, 55)):
        grid = Grid(rows=cells, columns=cells, height=side, width=side, num_classes=1)
        centre = np.arange(cells) * (side // cells)
        boxes = np.stack([centre - 4, centre - 4, centre + 4, centre + 4], axis=1).astype(np.float32)
        targets = encode_one(grid, boxes.tolist(), [0] * cells)
        taken = np.argwhere(np.asarray(targets.cells[0, ..., 0]) == 1)
        assert_array_equal(taken, np.stack([np.arange(cells)] * 2, axis=1))
        assert_allclose(targets.cells[0, np.arange(cells), np.arange(cells), 1:3], 0)
