import numpy as np
import pytest

from cnnjax.data import batches
from cnnjax.data.batches import evaluation_indices, train_indices


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (7, 7), (5, 12)])
def test_every_epoch_has_each_example_once(count, batch):
    steps = 4 * count  # whole epochs, whatever the batch size
    index, epoch = map(
        np.concatenate, zip(*[train_indices(3, s, count, batch) for s in range(steps)], strict=True)
    )
    assert index.dtype == epoch.dtype == np.int32
    for e in range(epoch.max() + 1):
        assert sorted(index[epoch == e]) == list(range(count))


def test_batches_are_a_function_of_seed_and_step():
    first = train_indices(0, 5, 100, 10)[0]
    np.testing.assert_array_equal(first, train_indices(0, 5, 100, 10)[0])
    assert (first != train_indices(1, 5, 100, 10)[0]).any()
    assert (first != train_indices(0, 15, 100, 10)[0]).any()


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (10, 10), (3, 8)])
def test_evaluation_covers_each_example_once(count, batch):
    seen = [index[mask] for index, mask in evaluation_indices(count, batch)]
    assert list(np.concatenate(seen)) == list(range(count))


def test_many_seeds_do_not_shuffle_anew_at_each_step(monkeypatch):
    drawn = []
    generator = np.random.Generator
    monkeypatch.setattr(batches.np.random, "Generator", lambda bits: drawn.append(1) or generator(bits))
    for step in range(6):
        for seed in range(1000, 1060):
            batches.train_indices(seed, step, 40, 10)
    assert len(drawn) == 60 * 2  # two epochs of each seed
