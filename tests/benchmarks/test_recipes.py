"""The reduced speed runs and their originals in torch, in a tiny form; and what both must compute alike."""

import dataclasses

import numpy as np
import pytest

from cnnjax import experiments
from cnnjax.benchmarks import recipes
from cnnjax.data.dataset import Dataset


def squares(count: int, side: int, channels: int, seed: int):
    """Images with a bright half, whose label says which one."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 10).astype(np.int32)
    images = rng.integers(0, 100, (count, side, side, channels), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 150
    return images, labels


@pytest.mark.slow
@pytest.mark.parametrize("reduction", recipes.REDUCTIONS, ids=lambda one: one.experiment)
def test_both_sides_of_a_reduced_recipe_learn(reduction):
    pytest.importorskip("torch")
    side, channels = (32, 3) if reduction.widths[0] else (28, 1)
    dataset = Dataset.of_arrays(*squares(400, side, channels, 0), *squares(100, side, channels, 1))
    tiny = dataclasses.replace(
        reduction, widths=(8, 8, 16) if channels == 3 else (0, 0, 0), epochs=16, batch=20
    )
    experiment = tiny.of(experiments.named(tiny.experiment))
    assert (
        experiment.data.batch_size == 20
        and experiment.train.epochs == 16
        and experiment.model.dtype == "float32"
    )
    found = recipes.compare(tiny, experiment, dataset, seeds=2)
    assert set(found.values) == {"accuracy, cnnjax", "accuracy, torch"} and "Means differ by" in found.note
    for side_of, accuracies in found.values.items():
        assert len(accuracies) == 2 and min(accuracies) > 0.3, (side_of, accuracies)


def test_rates_of_a_sum_follow_the_batch():
    """airbench gives rates for the sum over a batch, ours are for its mean."""
    one = recipes.Reduction("cifar10_airbench", (16, 64, 64), epochs=8, batch=500)
    rule = one.of(experiments.cifar10_airbench()).optimizer
    assert rule.learning_rate == 0.24 and rule.bias_learning_rate == pytest.approx(0.053 * 500)
    assert rule.dense_learning_rate == pytest.approx(0.67 * 500) and rule.whitening == 3 / 8
    # What the head and the biases lose in a step is 2e-6 * batch / (1 - momentum) of their value.
    for rate, decay in (
        (rule.bias_learning_rate, rule.bias_weight_decay),
        (rule.dense_learning_rate, rule.weight_decay),
    ):
        assert rate * decay == pytest.approx(2e-6 * 500 / 0.15, rel=0.01)
    other = dataclasses.replace(one, experiment="cifar10_airbench96", epochs=6)
    sgd = other.of(experiments.cifar10_airbench96()).optimizer
    scale = 1 + 1 / (1 - 0.85)
    assert sgd.learning_rate == pytest.approx(9 * 500 / 1024 / scale) and sgd.whitening == 0.5
    assert sgd.bias_learning_rate == pytest.approx(64 * sgd.learning_rate)


def test_means_are_apart_in_their_standard_error():
    assert recipes.apart([0.9], [0.8]) == ""
    assert recipes.apart([0.90, 0.92], [0.90, 0.90]) == (
        "Means differ by +1.00 points; the standard error of that is 1.00."
    )
