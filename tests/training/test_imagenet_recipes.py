"""The experiments for ImageNet have the learning rates of their papers, in proportion to the batch."""

import pytest

from cnnjax import config, experiments
from cnnjax.config import Optimizer
from cnnjax.training.optimizers import make_schedule, scaled_rates

IMAGES = 1_281_167


def rates(name: str, epochs: list[float], **changes) -> list[float]:
    """The rates of a named experiment after so many epochs."""
    experiment = config.replace(
        experiments.EXPERIMENTS[name](), {k.replace("__", "."): v for k, v in changes.items()}
    )
    batch_size = experiment.data.batch_size
    steps = config.total_steps(experiment.train, IMAGES, batch_size)
    schedule = make_schedule(scaled_rates(experiment.optimizer, batch_size), steps)
    return [float(schedule(round(epoch * IMAGES / batch_size))) for epoch in epochs]


@pytest.mark.parametrize(("batch", "peak"), [(256, 0.1), (8192, 3.2), (64, 0.025)])
def test_resnets_are_trained_as_by_goyal(batch, peak):
    """Goyal et al. 2017, sections 2 and 5.1: five epochs of warm-up, a tenth after 30, 60 and 80 of 90."""
    found = rates(
        "imagenet_resnet50", [0, 2.5, 5.01, 29.9, 30.1, 59.9, 60.1, 79.9, 80.1, 89.9], data__batch_size=batch
    )
    shares = [0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert found == pytest.approx([share * peak for share in shares], rel=1e-2, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("imagenet_alexnet", [0, 21, 23, 46, 69], [0.01, 0.01, 0.01 / 250 ** (1 / 3), 0.01 / 250 ** (2 / 3), 0.01 / 250]),
        ("imagenet_vgg16", [5.1, 36, 38, 57, 73], [0.01, 0.01, 1e-3, 1e-4, 1e-5]),
        ("imagenet_densenet121", [5.1, 29, 31, 61, 89], [0.1, 0.1, 0.01, 1e-3, 1e-3]),
        ("imagenet_squeezenet", [0, 34, 68], [0.04, 0.02, 0.0]),
        ("imagenet_googlenet", [5.01, 32.5, 60], [0.08, 0.04, 0.0]),
        ("imagenet_inception5h", [5.01, 32.5, 60], [0.01, 0.005, 0.0]),
    ],
)  # fmt: skip
def test_others_have_the_rates_of_their_sources(name, epochs, expected):
    assert rates(name, epochs) == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_every_rate_is_in_proportion_and_counts_what_is_accumulated():
    given = Optimizer(learning_rate=0.1, bias_learning_rate=0.2, reference_batch=256, accumulate=2)
    found = scaled_rates(given, 512)
    assert (found.learning_rate, found.bias_learning_rate, found.dense_learning_rate) == pytest.approx(
        (0.4, 0.8, 0)
    )
    assert scaled_rates(Optimizer(learning_rate=0.1), 512).learning_rate == 0.1
