"""Classes that count differently: against torch's weighted loss and scikit-learn's balanced weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Classification as Options
from cnnjax.config import ConfigError, Data, Experiment, replace
from cnnjax.data.dataset import Dataset
from cnnjax.runs.plan import with_statistics
from cnnjax.runs.refusals import refuse_without_effect
from cnnjax.tasks.classification import Classification

CLASSES = ("a", "b", "c")
LABELS = np.array([0, 0, 0, 0, 0, 1, 2, 2], np.int32)
EXPERIMENT = Experiment(data=Data(name="own:arrays"))


def uneven() -> Dataset:
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(np.uint8)
    return Dataset.of_arrays(x, LABELS, x[:2], LABELS[:2], CLASSES)


def test_the_loss_of_an_example_is_that_of_torch():
    torch = pytest.importorskip("torch")
    weights = (0.5, 2.0, 3.0)
    logits = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    task = Classification(CLASSES, class_weights=weights)
    expected = torch.nn.CrossEntropyLoss(torch.tensor(weights), reduction="none")(
        torch.tensor(logits), torch.tensor(LABELS.astype(np.int64))
    )
    batch = {"label": jnp.asarray(LABELS)}
    np.testing.assert_allclose(task.loss(jnp.asarray(logits), batch), expected.numpy(), rtol=1e-5)
    plain = Classification(CLASSES)
    told, untold = (t.metrics(jnp.asarray(logits), batch)["loss"] for t in (task, plain))
    np.testing.assert_array_equal(told, untold)  # what is told does not depend on them
    mixed = batch | {"label_b": jnp.asarray(LABELS[::-1].copy()), "mix": jnp.full(8, 0.25)}
    other = expected.numpy() * 0.25 + 0.75 * np.asarray(
        task.loss(jnp.asarray(logits), {"label": mixed["label_b"]})
    )
    np.testing.assert_allclose(task.loss(jnp.asarray(logits), mixed), other, rtol=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    asked = replace(EXPERIMENT, {"classification.balanced": True})
    found = with_statistics(asked, uneven())
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(found.classification.class_weights, expected, rtol=1e-12)
    assert np.mean(np.asarray(found.classification.class_weights)[LABELS]) == pytest.approx(1)
    assert with_statistics(found, uneven()) == found  # what is filled stays


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), "classification.class_weights has 2 numbers, data.name='arrays' 3 classes: a, b, c"),
        ((1.0, -1.0, 1.0), "no weight may be negative"),
        ((0.0, 0.0, 0.0), "not all 0"),
    ],
)
def test_weights_that_cannot_be_meant(weights, message):
    with pytest.raises(ConfigError, match=message):
        with_statistics(replace(EXPERIMENT, {"classification.class_weights": weights}), uneven())


def test_weights_beside_balanced_ones_are_refused():
    both = Experiment(classification=Options(class_weights=(1.0,), balanced=True))
    with pytest.raises(ConfigError, match="both say what classes count"):
        refuse_without_effect(both, {"classification.class_weights"})
    refuse_without_effect(both, {"classification.balanced"})  # those that a run was filled with
