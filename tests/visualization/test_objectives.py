"""Objectives: the laws of their algebra, and their formulas on small arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.visualization import objectives as o
from cnnjax.visualization.parameterizations import Pixels
from cnnjax.visualization.render import render
from cnnjax.visualization.transforms import none

# One picture of one pixel whose channels are what the objectives A, B and C see.
A, B, C = (o.channel("layer", c) for c in range(3))


def stages(*values):
    return {"layer": jnp.asarray(values, jnp.float32)[None, None, None]}


@pytest.mark.parametrize(
    ("objective", "values", "expected"),
    [
        (A - B, (3, 1, 0), 2),
        (1 * A + 3 * B - 5 * C, (1, 1, 1), -1),
        (0 * A, (7, 0, 0), 0),
        (-A, (3, 0, 0), -3),
        (A * B, (3, 4, 0), 12),
        ((A + B) * C, (1, 2, 5), 15),
        (A + 2.5, (1, 0, 0), 3.5),
        (2.5 - A, (1, 0, 0), 1.5),
        (A / 4, (2, 0, 0), 0.5),
        (sum([A, B, C]), (1, 2, 3), 6),
        (A - (B - C), (1, 2, 3), 2),
        (-(A - B), (1, 5, 0), 4),
    ],
)
def test_algebra_is_that_of_numbers(objective, values, expected):
    assert float(objective(stages(*values))) == expected


def test_operands_are_not_changed_by_using_them():
    first = A - B
    _ = 3 * first + C
    assert float(first(stages(3, 1, 100))) == 2


def test_gradient_is_linear():
    key = jax.random.key(0)
    a = jax.random.normal(key, (2, 4, 4, 3))

    def slope(objective):
        return jax.grad(lambda a: objective({"layer": a}))(a)

    x, y = o.layer("layer"), o.channel("layer", 1)
    np.testing.assert_allclose(slope(2 * x - 3 * y), 2 * slope(x) - 3 * slope(y), atol=1e-7)


def test_objectives_say_what_they_are():
    assert str(o.channel("conv2", 3) - 0.5 * o.total_variation()) == (
        "(channel(conv2, 3) + (-1.0 * (0.5 * total_variation(image))))"
    )


def activation(shape=(6, 5, 4, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value(objective, a, name="layer"):
    return float(objective({name: jnp.asarray(a)}))


def test_neuron_channel_layer():
    a = activation()
    np.testing.assert_allclose(value(o.neuron("layer", 1), a), a[:, 2, 2, 1].mean(), rtol=1e-6)
    np.testing.assert_allclose(value(o.neuron("layer", 1, (4, 0)), a), a[:, 4, 0, 1].mean(), rtol=1e-5)
    np.testing.assert_allclose(value(o.channel("layer", 2), a), a[..., 2].mean(), rtol=1e-5)
    np.testing.assert_allclose(value(o.layer("layer"), a), (a**2).mean(), rtol=1e-5)
    vector = activation((4, 7))
    np.testing.assert_allclose(value(o.channel("layer", 3), vector), vector[:, 3].mean(), rtol=1e-5)
    np.testing.assert_allclose(value(o.neuron("layer", 3), vector), vector[:, 3].mean(), rtol=1e-5)


def test_classes():
    logits = activation((3, 4))
    exponents = np.exp(logits)
    np.testing.assert_allclose(value(o.class_logit(2), logits, "logits"), logits[:, 2].sum(), rtol=1e-5)
    expected = (exponents[:, 2] / exponents.sum(1)).sum()
    np.testing.assert_allclose(value(o.class_probability(2), logits, "logits"), expected, rtol=1e-5)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_direction(power):
    a, v = activation(), activation((3,), seed=1)
    dot = a @ v
    cosine = dot / ((1e-4 + np.linalg.norm(a, axis=-1)) * (1e-4 + np.linalg.norm(v)))
    expected = (dot * np.maximum(cosine, 0.1) ** power).mean()
    np.testing.assert_allclose(value(o.direction("layer", v, power), a), expected, rtol=1e-4)


def test_direction_has_a_gradient_where_nothing_is_active():
    objective = o.direction("layer", jnp.ones(3), 2)
    slope = jax.grad(lambda a: objective({"layer": a}))(jnp.zeros((1, 2, 2, 3)))
    assert np.isfinite(slope).all()


def test_diversity_sums_over_pairs_of_gram_matrices():
    a = activation()
    grams = [x.reshape(-1, 3).T @ x.reshape(-1, 3) for x in a]
    grams = [g / np.linalg.norm(g) for g in grams]
    expected = sum((grams[i] * grams[j]).sum() for i in range(6) for j in range(6) if i != j) / 6
    np.testing.assert_allclose(value(o.diversity("layer"), a), expected, rtol=1e-5)


def test_alignment_compares_neighbours_in_the_batch():
    a = activation()
    expected = -sum(((a[i] - a[i + d]) ** 2).mean() / 2**d for d in range(1, 5) for i in range(6 - d))
    np.testing.assert_allclose(value(o.alignment("layer"), a), expected, rtol=1e-5)


def test_penalties():
    x = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    variation = np.abs(np.diff(x, axis=1)).sum() + np.abs(np.diff(x, axis=2)).sum()
    np.testing.assert_allclose(value(o.total_variation(), x, "image"), variation, rtol=1e-5)
    np.testing.assert_allclose(value(o.l1(0.25), x, "image"), np.abs(x - 0.25).sum(), rtol=1e-5)
    expected = np.sqrt(1e-6 + ((x - 0.5) ** 2).sum())
    np.testing.assert_allclose(value(o.l2(), x, "image"), expected, rtol=1e-5)


def test_blur_is_a_weighted_mean_of_neighbours_that_is_held_fixed():
    x = np.random.default_rng(0).random((1, 4, 5, 2)).astype(np.float32)
    blurred = np.zeros_like(x)
    for y in range(4):
        for column in range(5):
            total, weight = 0, 0
            for i in range(max(y - 1, 0), min(y + 2, 4)):
                for j in range(max(column - 1, 0), min(column + 2, 5)):
                    w = 1.0 if (i, j) == (y, column) else 0.5
                    total, weight = total + w * x[0, i, j], weight + w
            blurred[0, y, column] = total / weight
    np.testing.assert_allclose(o.blur3(jnp.asarray(x)), blurred, rtol=1e-5)
    np.testing.assert_allclose(value(o.blur(), x, "image"), 0.5 * ((x - blurred) ** 2).sum(), rtol=1e-5)
    slope = jax.grad(lambda x: o.blur()({"image": x}))(jnp.asarray(x))
    np.testing.assert_allclose(slope, x - blurred, atol=1e-6)


def test_guided_takes_the_guide_feature_that_matches_best():
    a, guide = activation((1, 2, 2, 3)), activation((5, 3), seed=1)
    products = a.reshape(-1, 3) @ guide.T
    np.testing.assert_allclose(value(o.guided("layer", guide), a), products.max(1).sum(), rtol=1e-5)
    slope = jax.grad(lambda a: o.guided("layer", guide)({"layer": a}))(jnp.asarray(a))
    np.testing.assert_allclose(slope.reshape(-1, 3), guide[products.argmax(1)], rtol=1e-6)


def test_addresses_stand_for_objectives(tiny):
    values = tiny.stages(jax.random.uniform(jax.random.key(0), (1, 16, 16, 3)))
    logits = np.asarray(values["logits"][0])
    expected = {
        "conv2": np.mean(np.square(values["conv2"])),
        "conv2:3": np.mean(values["conv2"][..., 3]),
        "conv2_pre_relu:3@1,2": values["conv2_pre_relu"][0, 1, 2, 3],
        "logits:dog": logits[3],
        "probability:dog": np.exp(logits[3]) / np.exp(logits).sum(),
    }
    for address, number in expected.items():
        np.testing.assert_allclose(o.parse(tiny, address)(values), number, rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (o.channel("conv9", 0), "unknown layer 'conv9'"),
        (o.channel("conv2", 8), "channels 0 to 7"),
        (o.layer("conv1") - 2 * o.neuron("conv2", 0, (4, 4)), "positions 0,0 to 3,3"),
        (o.class_logit(5), "classes 0 to 4"),
        (o.diversity("mixed5a"), "unknown layer"),
    ],
)
def test_an_objective_of_another_network_is_refused(tiny, objective, message):
    with pytest.raises(ConfigError, match=message):
        objective.check(tiny)


def test_only_objectives_of_one_form_are_stacked():
    stacked = o.stack([o.channel("conv2", 1) - 2.0 * o.l1(), o.channel("conv2", 5) - 3.0 * o.l1()])
    assert [leaf.shape for leaf in jax.tree.leaves(stacked)] == [(2,)] * 4
    with pytest.raises(ConfigError, match="must have one form"):
        o.stack([o.channel("conv2", 1), o.channel("conv1", 1)])


@pytest.mark.parametrize(
    "objective",
    [
        o.neuron("conv2_pre_relu", 2),
        o.channel("conv2_pre_relu", 1),
        o.layer("conv2"),
        o.direction("conv1", jnp.arange(6.0), 1),
        o.class_logit(3),
        o.class_probability(3),
        -o.diversity("conv1"),
        o.alignment("conv1"),
        -o.total_variation(),
        -o.l1(0.0),
        -o.l2(0.0),
        -o.blur(),
    ],
    ids=str,
)
def test_every_objective_rises(tiny, objective):
    noise = Pixels(tiny.image_shape, decorrelate=False, deviation=1.0)
    options = dict(parameterization=noise, transform=none, redirect=False)
    result = render(tiny, objective, key=jax.random.key(0), steps=(0, 8), batch=2, **options)
    assert result.values[8] > result.values[0] + 1e-4
