"""Feature visualization: exact frames, reproducible pictures, many channels in one program, dead units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.config import ConfigError
from cnnjax.network import Network
from cnnjax.runtime import sharding
from cnnjax.visualization.objectives import channel, diversity, total_variation
from cnnjax.visualization.parameterizations import Fourier, Maco, Pixels, magnitude_template
from cnnjax.visualization.render import render, render_each
from cnnjax.visualization.transforms import none

SGD = optax.sgd(1.0)


@pytest.fixture(scope="module")
def dead(tiny):
    """The tiny network with a bias so low that channel 0 of its first layer never responds."""
    params = jax.tree.map(lambda x: x, tiny.variables["params"])
    params["c1"] = {**params["c1"], "bias": params["c1"]["bias"].at[0].set(-5.0)}
    return Network(tiny.model, {"params": params}, tiny.image_shape, tiny.preprocessing)


def test_a_frame_is_kept_after_exactly_so_many_updates(tiny):
    """Gradient ascent by hand, frame by frame."""
    pixels = Pixels(tiny.image_shape, decorrelate=False)
    start = pixels.init(jax.random.key(3), 1)

    @jax.jit
    def slope(parameters):
        return jax.grad(lambda p: channel("conv1", 2)(tiny.stages(pixels.image(p))))(parameters)

    expected, parameters = {}, start
    for step in range(5):
        expected[step] = pixels.image(parameters)
        parameters = parameters + slope(parameters)
    result = render(
        tiny,
        "conv1:2",
        key=jax.random.key(0),
        steps=(4, 0, 1),
        parameterization=pixels,
        transform=none,
        optimizer=SGD,
        start=start,
        redirect=False,
    )
    assert list(result.frames) == [0, 1, 4]
    for step, frame in result.frames.items():
        np.testing.assert_allclose(frame, expected[step], atol=1e-6)
        value = np.mean(tiny.stages(expected[step])["conv1"][..., 2])
        np.testing.assert_allclose(result.values[step], value, rtol=1e-5)
    np.testing.assert_array_equal(result.images, result.frames[4])


@pytest.mark.full
def test_a_whole_layer_at_once_is_each_channel_alone(tiny):
    objectives = [channel("conv2_pre_relu", c) for c in range(5)]
    together = render_each(tiny, objectives, key=jax.random.key(0), steps=(0, 6), chunk=5)
    chunked = render_each(tiny, objectives, key=jax.random.key(0), steps=(0, 6), chunk=2)
    for c in (0, 4):
        alone = render(tiny, objectives[c], key=jax.random.key(0), steps=(0, 6))
        for other in (together[c], chunked[c]):
            np.testing.assert_allclose(other.frames[6], alone.frames[6], atol=2e-4)
            np.testing.assert_allclose(other.values[6], alone.values[6], rtol=1e-3)
    assert np.abs(together[0].frames[6] - together[4].frames[6]).max() > 0.05


def test_a_key_decides_everything(tiny):
    first, second, other = (
        render(tiny, "conv1:1", key=jax.random.key(seed), steps=(5,)).images for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-3


def test_pictures_of_a_batch_become_different(tiny):
    options: dict = dict(steps=(12,), batch=2, transform=none)
    alike = render(tiny, channel("conv1", 1), key=jax.random.key(0), **options).images
    unlike = render(
        tiny, channel("conv1", 1) - 10 * diversity("conv1"), key=jax.random.key(0), **options
    ).images
    assert alike.shape == (2, 16, 16, 3)
    similarity = [diversity("conv1")(tiny.stages(jnp.asarray(images))) for images in (alike, unlike)]
    assert similarity[1] < similarity[0] - 0.01


def test_a_penalty_makes_the_picture_smoother(tiny):
    options: dict = dict(steps=(12,), transform=none)
    rough = render(tiny, channel("conv1", 1), key=jax.random.key(0), **options).images
    smooth = render(
        tiny, channel("conv1", 1) - 0.01 * total_variation(), key=jax.random.key(0), **options
    ).images
    variation = [total_variation()({"image": jnp.asarray(images)}) for images in (rough, smooth)]
    assert variation[1] < 0.9 * variation[0]


def test_a_dead_unit_is_reported_and_redirected_gradients_wake_it(dead):
    options = dict(steps=(0, 12), transform=none, parameterization=Fourier(dead.image_shape))
    plain = render(dead, "conv1:0", redirect=False, optimizer=SGD, key=jax.random.key(0), **options)
    assert not plain.alive and plain.values[12] == 0
    np.testing.assert_array_equal(plain.frames[12], plain.frames[0])
    assert not plain.transparency.any()
    redirected = render(dead, "conv1:0", key=jax.random.key(0), **options)
    assert redirected.alive and redirected.transparency.any()
    before, after = (pre_activation(dead, redirected.frames[step]) for step in (0, 12))
    assert before.max() < 0  # no ReLU was open
    assert after.mean() > before.mean() + 0.1


def pre_activation(network, images):
    """Channel 0 of the first convolution, before its ReLU."""
    layer = network.variables["params"]["c1"]
    kernel = np.asarray(layer["kernel"])[..., 0]
    windows = np.lib.stride_tricks.sliding_window_view((images - 0.5) / 0.25, (3, 3), axis=(1, 2))
    return np.einsum("nyxcij,ijc->nyx", windows, kernel) + float(layer["bias"][0])


def test_a_start_can_be_given(tiny):
    pixels = Pixels(tiny.image_shape)
    photograph = np.random.default_rng(0).uniform(0.1, 0.9, (1, 16, 16, 3)).astype(np.float32)
    start = pixels.encode(jnp.asarray(photograph))
    result = render(tiny, "conv2", key=jax.random.key(0), steps=(0,), parameterization=pixels, start=start)
    np.testing.assert_allclose(result.frames[0], photograph, atol=1e-5)
    assert result.alive  # nothing was tried


def test_maco_raises_an_objective_with_its_phases(tiny):
    photographs = np.random.default_rng(0).random((4, 16, 16, 3)).astype(np.float32)
    maco = Maco(tiny.image_shape, magnitude_template(photographs, tiny.image_shape))
    result = render(
        tiny,
        "conv1:1",
        key=jax.random.key(0),
        steps=(0, 20),
        parameterization=maco,
        optimizer=optax.nadam(0.5),
        transform=none,
    )
    assert result.values[20] > 1.1 * result.values[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(objective="conv3:1"), "unknown layer 'conv3'"),
        (dict(objective=channel("conv2", 99)), "channels 0 to 7"),
        (dict(objective="conv2", steps=()), "one or more numbers of updates"),
        (dict(objective="conv2", steps=(3, -1)), "0 or more"),
    ],
)
def test_mistakes_are_one_line(tiny, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        render(tiny, key=jax.random.key(0), **options)
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_the_loop_of_accelerators_is_the_loop_of_the_cpu(tiny, monkeypatch):
    """On a GPU the steps between frames are one program."""
    expected = render(tiny, "conv1:1", key=jax.random.key(0), steps=(0, 3, 5))
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: False)
    result = render(tiny, "conv1:1", key=jax.random.key(0), steps=(0, 3, 5))
    for step in (0, 3, 5):
        np.testing.assert_allclose(result.frames[step], expected.frames[step], atol=1e-4)
