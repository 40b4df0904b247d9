"""Attribution where the right answer is known: linear models, completeness, maps written out."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.visualization import attribution as at
from cnnjax.visualization.fidelity import area, deletion_curve, insertion_curve

IMAGES = np.random.default_rng(0).random((2, 6, 6, 1)).astype(np.float32)
LABELS = np.asarray([2, 0])


def weights(network):
    """[2, 6, 6, 1], the kernel column of each label: the gradient of a linear model."""
    kernel = np.asarray(network.variables["params"]["out"]["kernel"])
    return kernel[:, LABELS].T.reshape(2, 6, 6, 1)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).random((2, 16, 16, 3)).astype(np.float32)


def test_gradient_of_a_linear_model_is_its_weights(linear):
    np.testing.assert_allclose(at.gradient(linear, IMAGES, LABELS), weights(linear), atol=1e-6)
    smooth = at.smooth_grad(linear, IMAGES, LABELS, jax.random.key(0), samples=3)
    np.testing.assert_allclose(smooth, weights(linear), atol=1e-6)
    integrated = at.integrated_gradients(linear, IMAGES, LABELS, steps=3, baseline=0.25)
    np.testing.assert_allclose(integrated, weights(linear) * (IMAGES - 0.25), atol=1e-6)


def test_bytes_and_floats_are_the_same_picture(tiny):
    images = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
    expected = at.gradient(tiny, images.astype(np.float32) / 255, [1])
    np.testing.assert_allclose(at.gradient(tiny, images, [1]), expected, rtol=1e-6)


def test_smooth_grad_is_the_mean_over_noisy_copies(tiny, pictures):
    key = jax.random.key(0)
    noise = [0.1 * jax.random.normal(k, pictures.shape) for k in jax.random.split(jax.random.key(0), 3)]
    expected = np.mean([at.gradient(tiny, pictures + n, [1, 2]) for n in noise], axis=0)
    result = at.smooth_grad(tiny, pictures, [1, 2], key, samples=3, deviation=0.1)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_integrated_gradients_are_complete(lenet, digits):
    images, labels = digits[0][:3], digits[1][:3]
    maps = at.integrated_gradients(lenet, images, labels, steps=100)
    logits = [np.asarray(lenet.logits(jnp.asarray(x, jnp.float32) / 255)) for x in (images, 0 * images)]
    expected = [logits[0][i, label] - logits[1][i, label] for i, label in enumerate(labels)]
    np.testing.assert_allclose(maps.sum(axis=(1, 2, 3)), expected, rtol=0.01, atol=0.02)


def test_guided_backprop_by_hand(tiny, pictures):
    """Backwards through the tiny network: the mean, ReLU, convolution, pool, ReLU, convolution."""
    result = at.guided_backprop(tiny, pictures, [1, 1])
    params = tiny.variables["params"]
    stages = tiny.stages(jnp.asarray(pictures))
    positions = 4 * 4
    g = jnp.broadcast_to(params["out"]["kernel"][:, 1] / positions, stages["conv2"].shape)
    g = jnp.where((stages["conv2"] > 0) & (g > 0), g, 0.0)

    def second(a):
        pooled = nn.max_pool(a, (3, 3), (2, 2))
        dimensions = ("NHWC", "HWIO", "NHWC")
        kernel = params["c2"]["kernel"]
        return jax.lax.conv_general_dilated(pooled, kernel, (1, 1), "VALID", dimension_numbers=dimensions)

    def first(x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        kernel = params["c1"]["kernel"]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dimensions)

    (g,) = jax.vjp(second, stages["conv1"])[1](g)
    g = jnp.where((stages["conv1"] > 0) & (g > 0), g, 0.0)
    (g,) = jax.vjp(first, jnp.asarray(pictures))[1](g)
    np.testing.assert_allclose(result, g / 0.25, atol=1e-6)  # preprocessing divides by 0.25
    assert np.abs(result - at.gradient(tiny, pictures, [1, 1])).max() > 1e-3


def test_guided_backprop_without_relus_is_refused(linear, lenet, digits):
    with pytest.raises(ConfigError, match="0 ReLUs replaced"):
        at.guided_backprop(linear, IMAGES, LABELS)
    tanh = dataclasses.replace(lenet, model=lenet.model.clone(act=nn.tanh))
    with pytest.raises(ConfigError, match="LeNet5: 0 ReLUs replaced"):
        at.guided_backprop(tanh, digits[0][:1], [1])


def test_class_activation_maps_before_a_global_mean(tiny, pictures):
    """There the gradient of a logit is the output's weight over the number of positions, everywhere."""
    a = np.asarray(tiny.stages(jnp.asarray(pictures))["conv2"])
    kernel = np.asarray(tiny.variables["params"]["out"]["kernel"])[:, 3]
    slope = np.broadcast_to(kernel / 16, a.shape)

    def enlarged(maps):
        return np.asarray(jax.image.resize(np.maximum(maps, 0), (2, 16, 16), "bilinear"))

    result = at.grad_cam(tiny, pictures, [3, 3], "conv2")
    np.testing.assert_allclose(result, enlarged(a @ (kernel / 16)), atol=1e-6)
    alpha = slope**2 / (2 * slope**2 + a.sum(axis=(1, 2), keepdims=True) * slope**3 + 1e-6)
    w = (np.maximum(slope, 0) * alpha).sum(axis=(1, 2))
    result = at.grad_cam_plus_plus(tiny, pictures, [3, 3], "conv2")
    np.testing.assert_allclose(result, enlarged(np.einsum("nhwc,nc->nhw", a, w)), rtol=1e-4, atol=1e-6)


def test_class_activation_maps_need_positions(lenet, digits):
    with pytest.raises(ConfigError, match="fc1 is a vector"):
        at.grad_cam(lenet, digits[0][:1], [0], "fc1")
    with pytest.raises(ConfigError, match="did you mean conv1"):
        at.grad_cam(lenet, digits[0][:1], [0], "conf1")


def test_occlusion_is_the_fall_of_probability_under_each_square(linear):
    result = at.occlusion(linear, IMAGES[:1], LABELS[:1], patch=4, stride=3, value=0.0)

    def probability(image):
        return float(jax.nn.softmax(linear.logits(jnp.asarray(image)[None]))[0, LABELS[0]])

    total, count = np.zeros((6, 6)), np.zeros((6, 6))
    for y in (0, 2):  # 0, then the last place at which the square fits
        for x in (0, 2):
            covered = IMAGES[0].copy()
            covered[y : y + 4, x : x + 4] = 0
            total[y : y + 4, x : x + 4] += probability(IMAGES[0]) - probability(covered)
            count[y : y + 4, x : x + 4] += 1
    np.testing.assert_allclose(result[0], total / count, atol=1e-6)


def test_rise_finds_the_only_pixel_that_matters(linear):
    params = linear.variables["params"]
    kernel = jnp.zeros_like(params["out"]["kernel"]).at[2 * 6 + 4, 1].set(8.0)
    one = dataclasses.replace(linear, variables={"params": {"out": {**params["out"], "kernel": kernel}}})
    result = at.rise(one, np.ones((1, 6, 6, 1), np.float32), [1], jax.random.key(0), masks=1000, cells=6)
    assert np.unravel_index(result[0].argmax(), (6, 6)) == (2, 4)


def test_deleting_and_inserting_by_hand(linear):
    order = np.random.default_rng(3).random((1, 6, 6))
    curve = deletion_curve(linear, IMAGES[:1], LABELS[:1], order, steps=3)
    back = insertion_curve(linear, IMAGES[:1], LABELS[:1], -order, steps=3)
    for i, count in enumerate((0, 12, 24, 36)):
        image = IMAGES[0].copy().reshape(36)
        image[np.argsort(-order.ravel())[:count]] = 0
        logits = linear.logits(jnp.asarray(image).reshape(1, 6, 6, 1))
        np.testing.assert_allclose(curve[0, i], jax.nn.softmax(logits)[0, LABELS[0]], rtol=1e-5)
    np.testing.assert_allclose(back[0], curve[0, ::-1], rtol=1e-5)
    np.testing.assert_allclose(area(curve)[0], ((curve[0, :-1] + curve[0, 1:]) / 2).mean(), rtol=1e-6)


def test_the_true_order_beats_a_random_one(linear):
    truth = weights(linear) * IMAGES
    random = np.random.default_rng(0).random((20, *truth.shape))
    deletion = area(deletion_curve(linear, IMAGES, LABELS, truth, steps=36))
    insertion = area(insertion_curve(linear, IMAGES, LABELS, truth, steps=36))
    for order in random:
        assert (deletion < area(deletion_curve(linear, IMAGES, LABELS, order, steps=36))).all()
        assert (insertion > area(insertion_curve(linear, IMAGES, LABELS, order, steps=36))).all()


def test_maps_of_a_trained_network_beat_random_ones(lenet, digits):
    chosen = slice(1500, 1506)
    images, labels = digits[0][chosen], digits[1][chosen]
    random = np.random.default_rng(0).random((6, 28, 28))
    chance = area(deletion_curve(lenet, images, labels, random)).mean()
    for maps in (
        at.integrated_gradients(lenet, images, labels, steps=10),
        at.occlusion(lenet, images, labels, patch=6, stride=3, value=0.0),
    ):
        assert area(deletion_curve(lenet, images, labels, maps)).mean() < chance - 0.05


@pytest.mark.parametrize("label", [-1, 3, 99])
@pytest.mark.parametrize(
    "explain",
    [
        at.gradient,
        at.integrated_gradients,
        lambda *a: at.smooth_grad(*a, jax.random.key(0), samples=2),
        lambda *a: at.occlusion(*a, patch=2, stride=2),
        lambda *a: at.rise(*a, jax.random.key(0), masks=2),
    ],
)
def test_a_label_that_is_no_class_is_refused(linear, explain, label):
    classes = linear.variables["params"]["out"]["kernel"].shape[1]
    if label >= 0:
        label = max(label, classes)
    with pytest.raises(ConfigError, match=f"class {label}: the network has classes 0 to {classes - 1}"):
        explain(linear, IMAGES[:1], [label])


@pytest.mark.parametrize("steps", [0, 1])
def test_integrated_gradients_need_two_steps(linear, steps):
    with pytest.raises(ConfigError, match=f"integrated gradients of {steps} steps"):
        at.integrated_gradients(linear, IMAGES, LABELS, steps=steps)
