import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import grid_losses, localization
from cnnjax.detection.grid import Grid, encode

SMALL = Grid(rows=3, columns=4, height=48, width=64, num_classes=3, boxes=2)
ONE = Grid(rows=3, columns=4, height=48, width=64, num_classes=3)


yolov1 = jax.jit(grid_losses.yolov1_loss, static_argnums=0)
yolov1_gradient = jax.jit(jax.grad(lambda y, t: jnp.sum(grid_losses.yolov1_loss(SMALL, y, t))))


def targets_of(grid):
    boxes = jnp.array([[[2.0, 4, 30, 20], [40, 28, 62, 46]], [[1, 1, 5, 5], [0, 0, 0, 0]]])
    return jax.jit(encode, static_argnums=0)(
        grid, boxes, jnp.array([[2, 0], [1, 0]]), jnp.array([[True, True], [False, False]])
    )


def outputs_of(grid, seed=0):
    values = np.random.default_rng(seed).normal(0.4, 0.3, (2, grid.rows, grid.columns, grid.num_outputs))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("name", ["squared_loss", "logistic_loss"])
def test_lecture_losses_are_the_sum_over_cells(name):
    outputs, targets = outputs_of(ONE), targets_of(ONE)
    losses = getattr(grid_losses, name)(ONE, outputs, targets)
    cell = getattr(localization, name)
    for n in range(2):
        total = sum(
            float(cell(outputs[n, r, c][None], targets.cells[n, r, c][None])[0])
            for r in range(3)
            for c in range(4)
        )
        assert_allclose(losses[n], total, rtol=1e-5)


def test_gradient_of_empty_cells_is_zero_but_for_presence():
    outputs, targets = outputs_of(ONE), targets_of(ONE)
    empty = targets.cells[..., 0] == 0
    for loss in (grid_losses.squared_loss, grid_losses.logistic_loss):
        gradient = jax.grad(lambda y, f=loss: jnp.sum(f(ONE, y, targets)))(outputs)
        assert_array_equal(gradient[empty][:, 1:], 0)
        assert np.all(gradient[..., 0] != 0) and np.all(gradient[~empty] != 0)


def yolov1_reference(outputs, cells):
    """Equation 3, term by term, for one image: outputs and cells as nested loops over torch scalars."""
    torch = pytest.importorskip("torch")
    total = torch.zeros((), dtype=torch.float64)
    for r in range(3):
        for c in range(4):
            real, cell = cells[r, c], outputs[r, c]
            boxes = [cell[5 * b : 5 * b + 5] for b in range(2)]
            if real[0] == 0:
                total = total + sum(0.5 * box[0] ** 2 for box in boxes)
                continue

            def corners(x, y, w, h):
                return x - w / 2, y - h / 2, x + w / 2, y + h / 2

            # In shares of the image.
            want = corners((c + real[1]) / 4, (r + real[2]) / 3, real[3] / 4, real[4] / 3)
            overlaps = []
            for box in boxes:
                fixed = box.detach()
                have = corners((c + fixed[1]) / 4, (r + fixed[2]) / 3, fixed[3] ** 2, fixed[4] ** 2)
                side = [
                    max(0.0, float(min(have[i + 2], want[i + 2]) - max(have[i], want[i]))) for i in (0, 1)
                ]
                inter = side[0] * side[1]
                area = [float((k[2] - k[0]) * (k[3] - k[1])) for k in (have, want)]
                overlaps.append(inter / (sum(area) - inter))
            best = int(np.argmax(overlaps))
            for b, box in enumerate(boxes):
                if b != best:
                    total = total + 0.5 * box[0] ** 2
                    continue
                total = total + (box[0] - overlaps[b]) ** 2
                total = total + 5 * ((box[1] - real[1]) ** 2 + (box[2] - real[2]) ** 2)
                total = total + 5 * (
                    (box[3] - (real[3] / 4) ** 0.5) ** 2 + (box[4] - (real[4] / 3) ** 0.5) ** 2
                )
            total = total + ((cell[10:] - real[5:]) ** 2).sum()
    return total


def test_yolov1_loss_and_gradient_equal_the_papers_equation():
    torch = pytest.importorskip("torch")
    outputs, targets = outputs_of(SMALL), targets_of(SMALL)
    losses = yolov1(SMALL, outputs, targets)
    gradient = yolov1_gradient(outputs, targets)
    for n in range(2):
        y = torch.tensor(np.asarray(outputs[n], np.float64), requires_grad=True)
        reference = yolov1_reference(y, torch.tensor(np.asarray(targets.cells[n], np.float64)))
        reference.backward()
        assert_allclose(losses[n], reference.item(), rtol=1e-5)
        assert_allclose(gradient[n], y.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_yolov1_gives_no_gradient_where_nobody_cares():
    outputs, targets = outputs_of(SMALL), targets_of(SMALL)
    gradient = yolov1_gradient(outputs, targets)
    boxes = np.asarray(gradient[..., :10]).reshape(2, 3, 4, 2, 5)
    present = np.asarray(targets.cells[..., 0]) == 1
    assert present.sum() == 2
    assert_array_equal(boxes[~present][..., 1:], 0)
    assert_array_equal(np.asarray(gradient[..., 10:])[~present], 0)
    assert np.all(boxes[..., 0] != 0)
    # In a cell with an object exactly one predictor learns its box.
    assert_array_equal(np.any(boxes[present][..., 1:] != 0, axis=-1).sum(-1), 1)


def test_yolov1_without_overlap_the_nearest_predictor_is_responsible():
    targets = targets_of(SMALL)
    # Points: the first predictor's in the corner of its cell, the second's in the middle. The objects' centres
    # are at (0, 0.75) and (0.19, 0.31) of their cells.
    outputs = jnp.zeros((2, 3, 4, 13)).at[..., 6:8].set(0.5)
    gradient = yolov1_gradient(outputs, targets)
    learns = np.any(np.asarray(gradient[..., :10]).reshape(2, 3, 4, 2, 5)[..., 1:] != 0, axis=-1)
    assert_array_equal(learns[np.asarray(targets.cells[..., 0]) == 1], [[False, True], [True, False]])


def test_yolov1_perfect_outputs_cost_nothing():
    targets = targets_of(SMALL)
    cells = np.asarray(targets.cells)
    outputs = np.zeros((2, 3, 4, 13), np.float32)
    outputs[..., :5] = cells[..., :5]
    outputs[..., 3] = np.sqrt(cells[..., 3] / 4)
    outputs[..., 4] = np.sqrt(cells[..., 4] / 3)
    outputs[..., 10:] = cells[..., 5:]
    assert_allclose(yolov1(SMALL, jnp.asarray(outputs), targets), 0, atol=1e-9)
