"""Classification: what counts as right, and averages of sure networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import top_k_accuracy_score

from cnnjax.drawing import figures
from cnnjax.tasks import losses
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.metrics import in_top_k

TASK = Classification(tuple("0123456789"))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_a_dead_network_is_right_about_the_first_class_only(dtype, value):
    label = jnp.arange(10)
    found = TASK.metrics(jnp.full((10, 10), value, dtype), {"label": label})
    assert_array_equal(found["accuracy"], np.arange(10) == 0)
    assert_array_equal(found["top5"], np.arange(10) < 5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_metrics_predictions_and_confusion_matrix_break_ties_alike(dtype):
    """Logits with many ties, some so far apart that their probabilities are equal."""
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.integers(0, 3, (500, 10)) * rng.choice([1.0, 200.0], (500, 1)), dtype)
    label = rng.integers(0, 10, 500)
    right = np.asarray(in_top_k(outputs, jnp.asarray(label), 1))
    found = {name: np.asarray(value) for name, value in TASK.predict(outputs).items()}
    assert_array_equal(right, found["label"][:, 0] == label)
    assert_array_equal(in_top_k(outputs, jnp.asarray(label), 5), (found["label"] == label[:, None]).any(1))
    assert right.sum() == np.trace(TASK.confusion(found, {"label": label}))
    first = np.argmax(np.asarray(outputs, np.float32), axis=1)
    assert_array_equal(found["label"][:, 0], first)


def test_without_ties_it_is_what_scikit_learn_counts():
    rng = np.random.default_rng(1)
    outputs, label = rng.normal(size=(300, 10)).astype(np.float32), rng.integers(0, 10, 300)
    for k in (1, 5):
        expected = top_k_accuracy_score(label, outputs, k=k)
        assert np.mean(in_top_k(jnp.asarray(outputs), jnp.asarray(label), k)) == pytest.approx(expected)


def test_the_average_of_sure_networks_is_finite_and_exact():
    rng = np.random.default_rng(2)
    outputs = (1000 * rng.normal(size=(3, 50, 10))).astype(np.float32)
    weights = np.array([0.5, 0.3, 0.2], np.float32)
    found = np.asarray(TASK.average(jnp.asarray(outputs), jnp.asarray(weights)))
    exact = log_softmax(outputs.astype(np.float64), axis=-1)
    expected = logsumexp(exact, axis=0, b=weights.astype(np.float64)[:, None, None])
    assert np.isfinite(found).all()
    assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    loss = losses.softmax_cross_entropy(jnp.asarray(found), jnp.zeros(50, jnp.int32))
    assert_allclose(loss, -expected[:, 0], rtol=1e-5, atol=1e-4)


def test_without_smoothing_an_impossible_class_costs_nothing():
    """A class that is impossible, such as one that a network does not have."""
    logits = jnp.array([[0.0, -jnp.inf, 0.0]])
    assert_allclose(losses.softmax_cross_entropy(logits, jnp.array([0])), np.log(2), rtol=1e-6)
    gradient = jax.grad(lambda x: losses.softmax_cross_entropy(x, jnp.array([0]))[0])(jnp.zeros((1, 3)))
    assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize(("wrong", "drawn"), [(100, 100), (101, 32)])
def test_every_mistake_is_drawn_the_most_confident_first(monkeypatch, wrong, drawn):
    grids = []
    monkeypatch.setattr(figures, "image_grid", lambda *arguments: grids.append(arguments))
    count = 200
    image = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    label = np.zeros((count, 2), np.int32)
    label[50 : 50 + wrong, 0] = 1
    sure = np.linspace(0.5, 1, count)
    split = {"image": image, "label": np.zeros(count, np.int32)}
    Classification(("a", "b")).pictures({"label": label, "probability": np.stack([sure, 1 - sure], 1)}, split)
    ((_, title, caption, images, texts),) = grids
    last = 49 + wrong
    assert [int(one.squeeze()) for one in images] == list(range(last, last - drawn, -1))
    assert texts[0] == f"b  {100 * sure[last]:.0f} %\n(is a)" and len(texts) == drawn
    assert caption.startswith(f"{wrong} of 200 examples are wrong") and ("confident" in title) == (
        drawn < wrong
    )
