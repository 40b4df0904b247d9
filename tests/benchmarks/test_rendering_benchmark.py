"""Both sides of the rendering benchmark run the same network on the same pictures; its records."""

import jax
import numpy as np
import pytest

from cnnjax.benchmarks import rendering
from cnnjax.benchmarks.options import Options
from cnnjax.visualization.parameterizations import Fourier

SIZE = 32


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the peer is torch")


def test_the_peer_has_our_network_and_our_parameterization(torch):
    from cnnjax.benchmarks.torch_rendering import Renderer, fourier_image

    network = rendering.squeezenet(SIZE)
    renderer = Renderer(network.variables, SIZE)
    fourier = Fourier((SIZE, SIZE, 3))
    parameters = 0.1 * fourier.init(jax.random.key(0), 2) / 0.01
    ours = fourier.image(parameters)
    assert 0.02 < ours.std() < 0.3
    theirs = fourier_image(
        torch.from_numpy(np.moveaxis(np.asarray(parameters), 0, -1).copy()), renderer.scale, SIZE
    )
    np.testing.assert_allclose(theirs.permute(0, 2, 3, 1), ours, atol=1e-5)
    renderer.network((theirs - 0.5) / 0.25)
    stages = jax.jit(lambda network, images: network.stages(images))(network, ours)
    for layer in ("fire2", "fire9"):
        found = renderer.network.stages[layer].permute(0, 2, 3, 1)
        np.testing.assert_allclose(found, stages[layer], atol=1e-3 * np.abs(stages[layer]).max())


def test_the_peer_s_views_are_views(torch):
    """A picture of one colour stays what it is but at its border, which padding and rotation fill."""
    from cnnjax.benchmarks.torch_rendering import transform

    generator = np.random.default_rng(0)
    for _ in range(5):
        view = transform(torch.full((2, 3, 96, 96), 0.8), 96, generator)
        assert view.shape == (2, 3, 96, 96)
        np.testing.assert_allclose(view[:, :, 40:56, 40:56], 0.8, atol=1e-5)
        assert view.min() < 0.6


def test_the_peer_climbs(torch):
    from cnnjax.benchmarks.torch_rendering import Renderer

    network = rendering.squeezenet(SIZE)
    renderer = Renderer(network.variables, SIZE)
    stages = jax.jit(lambda network, images: network.stages(images)["fire2"].mean(axis=(1, 2)))
    start = renderer.render("fire2", [0, 0], 0)
    assert start.shape == (2, SIZE, SIZE, 3)
    before = np.asarray(stages(network, start))
    channels = np.argsort(-before[0])[:2]  # two that are not dead
    after = np.asarray(stages(network, renderer.render("fire2", channels, 8)))
    for i, channel in enumerate(channels):
        assert after[i, channel] > 1.5 * before[i, channel] > 0


@pytest.mark.full
def test_a_record():
    found = rendering.compare("early layer", "fire2", 2, SIZE, 1, Options(repetitions=2))
    assert "fire2" in found.subject and len(found.values["cnnjax, ms"]) == 2
    assert found.values["first call with compilation, s"][0] > 0
    if "Without" not in found.note:
        assert len(found.values["lucent's loop / cnnjax"]) == 2 and "torch" in found.peers
