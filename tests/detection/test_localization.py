import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection import localization as loc
from cnnjax.tasks.localization import Localization
from cnnjax.tasks.metrics import sums_and_counts

TARGET = jnp.array([[1, 0.5, 0.7, 0.3, 0.4, 0, 1, 0, 0]])
EMPTY = jnp.zeros((1, 9))
PROBABILITIES = jnp.array([[0.1, 0.7, 0.1, 0.1]])
OUTPUT = jnp.concatenate([jnp.array([[0.8, 0.45, 0.72, 0.35, 0.3]]), PROBABILITIES], 1)
LOGITS = jnp.concatenate(
    [jnp.log(jnp.array([[0.8 / 0.2]])), OUTPUT[:, 1:5], jnp.log(PROBABILITIES)], 1
)  # fmt: skip


def test_squared_loss_by_hand():
    assert_allclose(loc.squared_loss(OUTPUT, TARGET), [0.1754], atol=1e-6)
    assert_allclose(loc.squared_loss(OUTPUT, EMPTY), [0.64], atol=1e-6)


def test_logistic_loss_by_hand():
    assert_allclose(loc.logistic_loss(LOGITS, TARGET), [0.223144 + 0.0154 + 0.356675], rtol=1e-5)
    assert_allclose(loc.logistic_loss(LOGITS, EMPTY), [1.609438], rtol=1e-5)


@pytest.mark.parametrize("loss", [loc.squared_loss, loc.logistic_loss])
def test_without_an_object_only_presence_has_a_gradient(loss):
    # Even if the target holds nonsense there, as a reader may have left it.
    for rest in (0.0, jnp.nan):
        target = EMPTY.at[:, 1:].set(rest)
        gradient = jax.grad(lambda y, t=target: jnp.sum(loss(y, t)))(LOGITS)
        assert_array_equal(gradient[:, 1:], 0)
        assert gradient[0, 0] > 0
    assert np.all(jax.grad(lambda y: jnp.sum(loss(y, TARGET)))(LOGITS) != 0)


@pytest.mark.parametrize("loss", [loc.squared_loss, loc.logistic_loss])
def test_gradients_are_those_of_finite_differences(loss):
    with jax.enable_x64(True):
        y, t = (jnp.asarray(np.asarray(a), jnp.float64) for a in (LOGITS, TARGET))
        gradient = jax.grad(lambda y: loss(y, t)[0])(y)
        for i in range(9):
            step = jnp.zeros((1, 9), jnp.float64).at[0, i].set(1e-6)
            slope = (loss(y + step, t)[0] - loss(y - step, t)[0]) / 2e-6
            assert_allclose(gradient[0, i], slope, rtol=1e-6)


def test_losses_are_per_example():
    outputs, targets = jnp.concatenate([OUTPUT, OUTPUT]), jnp.concatenate([TARGET, EMPTY])
    assert_allclose(loc.squared_loss(outputs, targets), [0.1754, 0.64], atol=1e-6)


def test_encode_is_the_lectures_example():
    # Car, truck, pedestrian, motorcycle in an image of 200 x 100: centre (60, 60), size 80 x 30.
    targets = loc.encode_localization(
        jnp.array([[20.0, 45, 100, 75], [0, 0, 9, 9]]),
        jnp.array([1, 2]),
        jnp.array([True, False]),
        100,
        200,
        4,
    )
    assert_allclose(targets, [[1, 0.3, 0.6, 0.4, 0.3, 0, 1, 0, 0], [0] * 9], atol=1e-6)


def test_decode_returns_what_was_encoded():
    boxes = jnp.array([[20.0, 45, 100, 75]])
    targets = loc.encode_localization(boxes, jnp.array([3]), jnp.array([True]), 100, 200, 4)
    found = loc.decode_localization(targets, 100, 200, logits=False)
    assert_allclose(found.boxes, boxes, rtol=1e-5)
    assert found.scores[0] == 1 and found.classes[0] == 3 and found.classes.dtype == jnp.int32
    assert_allclose(loc.decode_localization(LOGITS, 100, 200).scores, [0.8], rtol=1e-6)


def test_iou_is_over_the_images_with_an_object():
    task = Localization(("car", "truck", "pedestrian", "motorcycle"), height=100, width=200)
    outputs = jnp.concatenate([LOGITS, LOGITS]).at[0, 1:5].set(jnp.array([0.5, 0.7, 0.15, 0.4]))
    # The object fills 60 x 40 pixels around (100, 70), twice what is found; the other image has none.
    batch = {
        "boxes": jnp.array([[[70.0, 50, 130, 90]], [[0, 0, 0, 0]]]),
        "classes": jnp.array([[1], [0]]),
        "valid": jnp.array([[True], [False]]),
    }
    values = task.metrics(outputs, batch)
    (total, count) = sums_and_counts({"iou": values["iou"]}, jnp.ones(2, bool))["iou"]
    assert_allclose(total, 0.5, rtol=1e-6)
    assert count == 1
    # Both presences are said to be 0.8 likely, which is right for the first; its class is right too.
    assert_array_equal(values["accuracy"], [1, 0])
