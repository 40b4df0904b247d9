import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import anchors as an
from cnnjax.detection import grid as gr
from cnnjax.detection.grid import Grid

encode = jax.jit(gr.encode, static_argnums=0)

GRID = Grid(rows=3, columns=4, height=48, width=64, num_classes=3, anchors=((12, 12), (30, 18)))
BOXES = jnp.array([[[2.0, 4, 30, 20], [40, 30, 52, 46]], [[1, 1, 5, 5], [0, 0, 0, 0]]])
TARGETS = encode(GRID, BOXES, jnp.array([[2, 0], [1, 0]]), jnp.array([[True, True], [False, False]]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_and_gradient(loss, grid, outputs, targets):
    """[N] losses, and the gradient of their sum."""
    losses, pull = jax.vjp(lambda y: loss(grid, y, targets), outputs)
    return losses, pull(jnp.ones_like(losses))[0]


OUTPUTS = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 3, 4, 16)), jnp.float32)


def test_decode_is_that_of_yolov3():
    # Cell (5, 7) of 13 x 13 at stride 32, prior 116 x 90.
    grid = Grid(13, 13, 416, 416, 2, anchors=((10.0, 13.0), (116.0, 90.0)))
    outputs = jnp.zeros((1, 13, 13, 14)).at[0, 7, 5, 7:].set(jnp.array([1, 0.2, -0.3, 0.1, -0.2, -1, 2]))
    found = jax.jit(an.decode_anchors, static_argnums=0)(grid, outputs)
    assert found.boxes.shape == (1, 13 * 13 * 2, 4)
    x, y, w, h = 177.59469, 237.61784, 128.19983, 73.68577
    place = 2 * (13 * 7 + 5) + 1
    assert_allclose(found.boxes[0, place], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rtol=1e-5)
    assert_allclose(found.scores[0, place], 1 / (1 + np.exp(-1)) / (1 + np.exp(-2)), rtol=1e-5)
    assert found.classes[0, place] == 1


def test_loss_by_hand_in_one_cell():
    grid = Grid(1, 1, 32, 32, 2, anchors=((16, 16),))
    box = jnp.array([[[8.0, 8, 24, 24]]])
    targets = encode(grid, box, jnp.array([[1]]), jnp.array([[True]]))
    # sigmoid(0) puts the centre in the middle, exp(0) takes the anchor: the box is perfect, the rest undecided.
    loss = loss_and_gradient(an.AnchorLoss(), grid, jnp.zeros((1, 1, 1, 7)), targets)[0]
    assert_allclose(loss, [3 * np.log(2)], rtol=1e-6)
    # Twice as wide: IoU 1/2, same centre; v = 4 / pi^2 (atan 2 - atan 1)^2.
    wide = jnp.zeros((1, 1, 1, 7)).at[..., 3].set(jnp.log(2.0))
    v = 4 / np.pi**2 * (np.arctan(2) - np.arctan(1)) ** 2
    ciou = 0.5 - v * v / (0.5 + v)
    assert_allclose(
        loss_and_gradient(an.AnchorLoss(), grid, wide, targets)[0],
        [5 * (1 - ciou) + 3 * np.log(2)],
        rtol=1e-6,
    )


def test_focal_presence_has_the_values_of_torchvision():
    grid = Grid(1, 3, 10, 30, 1, anchors=((6, 6),))
    boxes = jnp.array([[[12.0, 2, 18, 8], [22, 2, 28, 8]]])
    targets = encode(grid, boxes, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))
    outputs = jnp.zeros((1, 1, 3, 6)).at[0, 0, :, 0].set(jnp.array([-2.0, 0, 2]))
    loss = an.AnchorLoss(box=0, classes=0, focal_gamma=2)
    assert_allclose(
        loss_and_gradient(loss, grid, outputs, targets)[0], [0.00135267 + 0.04332170 + 0.00045089], rtol=1e-5
    )


@pytest.mark.parametrize(("logit", "value"), [(-2.0, 0.00135267), (0.0, 0.04332170), (2.0, 0.00045089)])
def test_each_focal_value_is_that_of_torchvision(logit, value):
    grid = Grid(1, 1, 10, 10, 1, anchors=((6, 6),))
    box = jnp.array([[[2.0, 2, 8, 8]]])
    targets = encode(grid, box, jnp.zeros((1, 1), jnp.int32), jnp.array([[logit >= 0]]))
    outputs = jnp.zeros((1, 1, 1, 6)).at[..., 0].set(logit)
    loss = an.AnchorLoss(box=0, classes=0, focal_gamma=2)
    assert_allclose(loss_and_gradient(loss, grid, outputs, targets)[0], [value], rtol=1e-5)


def test_gradient_is_zero_where_there_is_no_object():
    _, gradient = loss_and_gradient(an.AnchorLoss(), GRID, OUTPUTS, TARGETS)
    gradient = gradient.reshape(2, 3, 4, 2, 8)
    present = TARGETS.cells[..., 0] == 1
    assert jnp.sum(present) == 2
    assert_array_equal(gradient[~present][:, 1:], 0)
    assert np.all(gradient[present] != 0)


@pytest.mark.full
def test_outputs_that_overlap_an_object_are_left_alone():
    grid = Grid(1, 2, 20, 40, 1, anchors=((16, 16),))
    targets = encode(
        grid, jnp.array([[[2.0, 2, 18, 18]]]), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    )
    # The second cell's box lies 0.5 pixels beside the first cell's object: centre at its left border.
    outputs = jnp.zeros((1, 1, 2, 6)).at[0, 0, 1, 1].set(-20.0)
    for share, left_alone in [(0.2, True), (0.3, False)]:
        gradient = jax.grad(lambda y, s=share: jnp.sum(an.AnchorLoss(ignore_iou=s)(grid, y, targets)))(
            outputs
        )
        # Boxes [2, 18] and [12, 28] in 16 rows: IoU 6 / 26 = 0.23.
        assert (gradient[0, 0, 1, 0] == 0) == left_alone
        assert gradient[0, 0, 0, 0] != 0


def test_absurd_sizes_stay_finite():
    outputs = OUTPUTS.at[..., 3].set(1e4)
    losses, gradient = loss_and_gradient(an.AnchorLoss(), GRID, outputs, TARGETS)
    assert np.all(np.isfinite(losses)) and np.all(np.isfinite(gradient))


def test_weights_scale_their_part():
    def value(**weights):
        zero = dict(box=0.0, presence=0.0, classes=0.0)
        return np.asarray(
            loss_and_gradient(
                dataclasses.replace(an.AnchorLoss(), **(zero | weights)), GRID, OUTPUTS, TARGETS
            )[0]
        )

    parts = value(box=5.0) + value(presence=1.0) + value(classes=1.0)
    whole, _ = loss_and_gradient(an.AnchorLoss(), GRID, OUTPUTS, TARGETS)
    assert_allclose(whole, parts, rtol=1e-6)
    assert value(box=5.0)[1] == 0 and value(presence=1.0)[1] > 0


def test_kmeans_finds_separate_shapes():
    rng = np.random.default_rng(0)
    real = np.array([[10, 12], [60, 20], [80, 90.0]])
    sizes = np.concatenate([s * rng.uniform(0.95, 1.05, (40, 2)) for s in real])
    anchors = an.kmeans_anchors(sizes, 3)
    assert_allclose(anchors, real, rtol=0.03)
    assert an.mean_best_iou(sizes, anchors) > 0.93
    assert an.mean_best_iou(sizes, anchors) > an.mean_best_iou(sizes, an.kmeans_anchors(sizes, 2))


def test_kmeans_is_stationary_and_seeded():
    sizes = np.random.default_rng(1).uniform(5, 100, (200, 2))
    anchors = np.array(an.kmeans_anchors(sizes, 5, seed=3))
    # Each anchor is the mean of the boxes that are nearest to it.
    both = np.minimum(sizes[:, None], anchors).prod(-1)
    nearest = (both / (sizes.prod(-1)[:, None] + anchors.prod(-1) - both)).argmax(1)
    assert_allclose([sizes[nearest == i].mean(0) for i in range(5)], anchors)
    assert an.kmeans_anchors(sizes, 5, seed=3) == an.kmeans_anchors(sizes, 5, seed=3)


def test_kmeans_refuses_too_few_shapes():
    with pytest.raises(ValueError, match="3 anchors need 3 different"):
        an.kmeans_anchors(np.array([[1, 2], [1, 2], [3, 4.0]]), 3)
    assert an.kmeans_anchors(np.array([[1, 2], [1, 2], [3, 4.0]]), 2) == ((1.0, 2.0), (3.0, 4.0))
