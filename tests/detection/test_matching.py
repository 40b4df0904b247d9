"""Matcher, sampler and box coder: the numbers are torchvision's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.detection.box_coding import PLAIN, box_from_deltas, box_to_deltas
from cnnjax.detection.matching import match, match_boxes
from cnnjax.detection.sampling import sample

OVERLAPS = jnp.array([[0.75, 0.2, 0.1, 0.45, 0, 0], [0.1, 0.69, 0, 0.2, 0.05, 0], [0, 0, 0.25, 0, 0.25, 0.1]])


def test_matches_are_those_of_torchvision():
    valid = jnp.ones(3, bool)
    assert_array_equal(match(OVERLAPS, valid, 0.7, 0.3), [0, -2, -1, -2, -1, -1])
    assert_array_equal(match(OVERLAPS, valid, 0.7, 0.3, low_quality=True), [0, 1, 2, -2, 2, -1])


def test_an_object_that_nothing_overlaps_makes_what_ties_at_0_positive():
    overlaps = jnp.array([[0.75, 0.1, 0.1], [0, 0, 0]])
    found = match(overlaps, jnp.ones(2, bool), 0.7, 0.3, low_quality=True)
    assert_array_equal(found, [0, 0, 0])


@pytest.mark.parametrize("low_quality", [True, False])
def test_padding_takes_part_in_nothing(low_quality):
    padded = jnp.concatenate([OVERLAPS, jnp.zeros((1, 6)), jnp.ones((1, 6))])
    valid = jnp.array([True, True, True, False, False])
    expected = match(OVERLAPS, jnp.ones(3, bool), 0.7, 0.3, low_quality)
    assert_array_equal(match(padded, valid, 0.7, 0.3, low_quality), expected)
    assert_array_equal(match(OVERLAPS, jnp.zeros(3, bool), 0.7, 0.3, low_quality), np.full(6, -1))


def test_boxes_match_by_their_iou():
    truths = jnp.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    candidates = jnp.array([[0.0, 0, 10, 7], [21, 20, 31, 30], [50, 50, 60, 60]])
    assert_array_equal(match_boxes(truths, jnp.ones(2, bool), candidates, 0.7, 0.3), [0, 1, -1])


def masks(positive, negative, size=10):
    return tuple(jnp.zeros(size, bool).at[jnp.array(m, jnp.int32)].set(True) for m in (positive, negative))


@pytest.mark.parametrize(
    ("positive", "negative", "expected", "valid"),
    [
        ([1, 4, 7, 8], [0, 2, 3, 5, 6], [1, 4, 0, 2], 4),  # enough of both
        ([7], [3, 0, 9], [7, 0, 3, 9], 4),  # negatives fill up
        ([7], [3], [7, 3], 2),
        ([], [2, 6], [2, 6], 2),
        ([2, 3, 5], [], [2, 3], 2),  # positives do not
        ([], [], [], 0),
    ],
)
def test_the_first_candidates_are_sampled_without_a_key(positive, negative, expected, valid):
    found = jax.jit(lambda p, n: sample(p, n, 4, 0.5))(*masks(positive, negative))
    assert_array_equal(found.indices[: len(expected)], expected)
    assert_array_equal(found.valid, np.arange(4) < valid)
    assert_array_equal(found.positive, np.arange(4) < min(len(positive), 2))


def test_fewer_candidates_than_slots_are_all_taken_once():
    found = sample(*masks([1], [0, 2], size=3), 8, 0.5)
    assert_array_equal(found.indices[:3], [1, 0, 2])
    assert_array_equal(found.valid, np.arange(8) < 3)


def test_random_samples_are_balanced_and_fair():
    positive, negative = masks(range(0, 60, 3), range(1, 60, 3), size=60)
    draw = jax.jit(jax.vmap(lambda key: sample(positive, negative, 16, 0.25, key)))
    found = draw(jax.random.split(jax.random.key(0), 500))
    assert np.all(found.valid)
    assert_array_equal(found.positive, np.broadcast_to(np.arange(16) < 4, (500, 16)))
    indices = np.asarray(found.indices)
    assert all(len(set(row)) == 16 for row in indices.tolist())
    assert np.all(indices[:, :4] % 3 == 0) and np.all(indices[:, 4:] % 3 == 1)
    counts = np.bincount(indices.ravel(), minlength=60)
    # 4 of 20 positive and 12 of 20 negative ones each time; binomial deviations of 9 and 11.
    assert np.all(np.abs(counts[0::3] - 100) < 45) and np.all(np.abs(counts[1::3] - 300) < 55)
    assert np.all(counts[2::3] == 0)


def test_deltas_are_those_of_torchvision():
    anchor = jnp.array([[0.0, 0, 40, 40]])
    deltas = box_to_deltas(jnp.array([[10.0, 10, 50, 70]]), anchor)
    assert_allclose(deltas, [[2.5, 5, 0, 2.0273256]], rtol=1e-6)
    assert_allclose(box_from_deltas(deltas, anchor), [[10, 10, 50, 70]], rtol=1e-6)
    moved = box_from_deltas(jnp.array([[1, -1, 0.5, 0.5]]), anchor)
    assert_allclose(moved, [[1.8965797, -6.1034203, 46.1034203, 38.1034203]], rtol=1e-6)
    assert np.all(np.isfinite(box_from_deltas(jnp.full((1, 4), 1e4), anchor)))


def test_deltas_without_weights_are_those_of_torchvision_and_growth_ends():
    anchor = jnp.array([[0.0, 0, 32, 32]])
    deltas = box_to_deltas(jnp.array([[10.0, 20, 50, 80]]), anchor, PLAIN)
    assert_allclose(deltas, [[0.4375, 1.0625, 0.22314355, 0.62860864]], rtol=1e-6)
    far = box_from_deltas(jnp.array([[0.5, -0.25, 5, -5]]), anchor, PLAIN)
    assert_allclose(far, [[-968.00006, 7.89219, 1032, 8.10781]], rtol=1e-6)
