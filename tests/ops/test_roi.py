import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.ops.roi import roi_align, roi_align_levels, roi_levels, roi_pool

FEATURES = jnp.arange(64, dtype=jnp.float32).reshape(8, 8, 1)
BOX = jnp.array([[1.0, 1, 5, 5]])


@pytest.mark.parametrize(
    ("aligned", "values"), [(True, [[13.5, 15.5], [29.5, 31.5]]), (False, [[18, 20], [34, 36]])]
)
def test_roi_align_has_the_values_of_torchvision(aligned, values):
    assert_allclose(roi_align(FEATURES, BOX, (2, 2), aligned=aligned)[0, ..., 0], values, rtol=1e-6)


def test_roi_align_on_smaller_features_has_the_values_of_torchvision():
    found = roi_align(FEATURES, jnp.array([[2.0, 4, 30, 26]]), (2, 2), scale=0.25)
    assert_allclose(found[0, ..., 0], [[16.75, 20.25], [38.75, 42.25]], rtol=1e-6)


def test_roi_pool_has_the_values_of_torchvision():
    assert_allclose(roi_pool(FEATURES, BOX, (2, 2))[0, ..., 0], [[27, 29], [43, 45]])


def sampled_by_hand(features, box, size, sampling):
    """The definition, sample by sample, of the aligned form at scale 1."""
    height, width, channels = features.shape
    x0, y0, x1, y1 = np.asarray(box) - 0.5
    total = np.zeros((*size, channels))
    for i in range(size[0] * sampling):
        for j in range(size[1] * sampling):
            y = y0 + (y1 - y0) * (i + 0.5) / (size[0] * sampling)
            x = x0 + (x1 - x0) * (j + 0.5) / (size[1] * sampling)
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            up, left = min(int(y), height - 2), min(int(x), width - 2)
            a, b = y - up, x - left
            corner = features[up : up + 2, left : left + 2]
            value = np.einsum("y,x,yxc->c", [1 - a, a], [1 - b, b], corner)
            total[i // sampling, j // sampling] += value / sampling**2
    return total


def test_roi_align_is_its_definition_also_beyond_the_border():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 9, 3)).astype(np.float32)
    low = rng.uniform(-4, 7, (20, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 8, (20, 2))], axis=1).astype(np.float32)
    found = jax.jit(lambda f, b: roi_align(f, b, (3, 2), sampling=3))(features, boxes)
    expected = [sampled_by_hand(features, box, (3, 2), 3) for box in boxes]
    assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_bins_without_a_pixel_are_empty():
    assert_allclose(roi_pool(FEATURES, BOX + 100, (2, 2)), 0)


def pooled_by_hand(features, box, size, scale):
    """The definition in whole numbers, halves rounded away from zero."""

    def rounded(x):
        return int(np.sign(x) * np.floor(abs(float(x)) + 0.5))

    height, width, channels = features.shape
    x0, y0, x1, y1 = (rounded(np.float32(v) * np.float32(scale)) for v in box)
    tall, wide = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
    out = np.zeros((*size, channels), np.float32)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = [y0 + i * tall // size[0], y0 - (-(i + 1) * tall // size[0])]
            columns = [x0 + j * wide // size[1], x0 - (-(j + 1) * wide // size[1])]
            rows, columns = np.clip(rows, 0, height), np.clip(columns, 0, width)
            part = features[rows[0] : rows[1], columns[0] : columns[1]]
            if part.size:
                out[i, j] = part.max((0, 1))
    return out


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 14])
def test_roi_pool_is_its_definition_in_whole_numbers(bins):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(20, 24, 2)).astype(np.float32)
    low = rng.integers(0, 200, (200, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 200, (200, 2))], axis=1).astype(np.float32)
    found = jax.jit(lambda f, b: roi_pool(f, b, (bins, bins), 1 / 16))(features, boxes)
    assert_allclose(found, [pooled_by_hand(features, box, (bins, bins), 1 / 16) for box in boxes])


def test_roi_pool_has_torchvisions_values_where_floats_and_even_rounding_go_wrong():
    rows = jnp.broadcast_to(jnp.arange(20.0)[:, None, None], (20, 20, 1))
    found = jax.jit(lambda b: roi_pool(rows, b, (7, 7)))(jnp.array([[0.0, 0, 6, 6]]))
    assert_allclose(found[0, :, 0, 0], [0, 1, 2, 3, 4, 5, 6])
    assert roi_pool(rows[:8], jnp.array([[8.0, 8, 40, 40]]), (1, 1), 1 / 16).item() == 3


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_pixel_that_is_not_finite_stays_in_the_boxes_that_see_it(pool, value):
    features = FEATURES.at[6, 6].set(value)
    boxes = jnp.array([[0.0, 0, 3, 3], [5, 5, 8, 8]])
    found = np.asarray(pool(features, boxes, (2, 2)))
    assert_allclose(found[0], pool(FEATURES, boxes, (2, 2))[0])
    assert not np.isfinite(found[1]).all()
    assert np.isnan(value) or found[1].max() == np.inf


@pytest.mark.parametrize("sampling", [0, -1])
def test_an_adaptive_number_of_samples_is_refused(sampling):
    with pytest.raises(ValueError, match="must be 1 or more"):
        roi_align(FEATURES, BOX, (2, 2), sampling=sampling)


@pytest.mark.full
def test_each_box_is_aligned_in_its_own_level():
    rng = np.random.default_rng(3)
    shapes, scales = ((12, 16), (6, 8), (3, 4)), (0.25, 0.125, 0.0625)
    features = [jnp.asarray(rng.normal(size=(*shape, 5)), jnp.float32) for shape in shapes]
    low = rng.uniform(-8, 40, (24, 2))
    boxes = jnp.asarray(np.concatenate([low, low + rng.uniform(1, 40, (24, 2))], axis=1), jnp.float32)
    levels = jnp.arange(24, dtype=jnp.int32) % 3

    def of_levels(features):
        return roi_align_levels(features, boxes, levels, scales, (3, 2), aligned=False)

    def one_by_one(features):
        return jnp.stack(
            [
                roi_align(features[i % 3], boxes[i : i + 1], (3, 2), scales[i % 3], aligned=False)[0]
                for i in range(24)
            ]
        )

    assert_allclose(jax.jit(of_levels)(features), one_by_one(features), rtol=1e-6, atol=1e-6)
    wanted = jax.jit(jax.grad(lambda f: jnp.sum(one_by_one(f) ** 2)))(features)
    for got, want in zip(
        jax.jit(jax.grad(lambda f: jnp.sum(of_levels(f) ** 2)))(features), wanted, strict=True
    ):
        assert_allclose(got, want, atol=1e-5)


def test_levels_are_those_of_torchvision():
    sides = jnp.array([1.0, 111.99, 112, 223.9998, 223.99985, 224, 448, 10000])
    boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    np.testing.assert_array_equal(roi_levels(boxes, 4), [0, 0, 1, 1, 2, 2, 3, 3])
    padding = jnp.zeros((1, 4))
    np.testing.assert_array_equal(roi_levels(padding, 4), [0])
