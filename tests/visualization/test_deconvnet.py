"""The deconvnet of Zeiler & Fergus against one written out layer by layer in numpy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models.layers import conv, max_pool, stage
from cnnjax.network import Network
from cnnjax.visualization.deconvnet import evolution, patches, project, strongest_activations
from cnnjax.visualization.receptive_field import receptive_fields


def convolve(x, kernel, bias):
    size = kernel.shape[0]
    height, width = x.shape[0] - size + 1, x.shape[1] - size + 1
    result = np.zeros((height, width, kernel.shape[3]))
    for y in range(height):
        for column in range(width):
            result[y, column] = np.tensordot(x[y : y + size, column : column + size], kernel, 3)
    return result + bias


def transposed(g, kernel):
    """Convolution with the filters flipped vertically and horizontally, over a padded map."""
    size = kernel.shape[0]
    padded = np.pad(g, ((size - 1, size - 1), (size - 1, size - 1), (0, 0)))
    return convolve(padded, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 0)


def pool(x, window, stride):
    """Maxima and their switches."""
    height, width = ((length - window) // stride + 1 for length in x.shape[:2])
    maxima = np.zeros((height, width, x.shape[2]))
    switches = np.zeros((height, width, x.shape[2], 2), int)
    for y, column, c in np.ndindex(*maxima.shape):
        part = x[y * stride : y * stride + window, column * stride : column * stride + window, c]
        i, j = np.unravel_index(part.argmax(), part.shape)
        maxima[y, column, c] = part[i, j]
        switches[y, column, c] = y * stride + i, column * stride + j
    return maxima, switches


def unpool(g, switches, shape, add=True):
    result = np.zeros(shape)
    for y, column, c in np.ndindex(*g.shape):
        i, j = switches[y, column, c]
        result[i, j, c] = result[i, j, c] + g[y, column, c] if add else g[y, column, c]
    return result


def deconvnet(params, x, channel, position, add=True):
    """conv1 - ReLU - 3x3/2 pool - conv2 - ReLU, and back: unpool, rectify, transposed filters."""
    first, second = params["c1"], params["c2"]
    a1 = np.maximum(convolve(x, first["kernel"], first["bias"]), 0)
    pooled, switches = pool(a1, 3, 2)
    a2 = np.maximum(convolve(pooled, second["kernel"], second["bias"]), 0)
    signal = np.zeros_like(a2)
    signal[*position, channel] = a2[*position, channel]  # all other activations are set to zero
    signal = transposed(np.maximum(signal, 0), second["kernel"])
    signal = unpool(signal, switches, a1.shape, add)
    return transposed(np.maximum(signal, 0), first["kernel"])


@pytest.fixture(scope="module")
def plain(tiny):
    """Without preprocessing, so that pixels are the input of the first convolution."""
    return Network(tiny.model, tiny.variables, (16, 16, 3))


def test_an_explicit_deconvnet_is_the_gradient_with_another_relu(plain):
    params = jax.tree.map(np.asarray, plain.variables["params"])
    images = np.random.default_rng(0).random((3, 16, 16, 3)).astype(np.float32)
    activity = np.asarray(plain.stages(images)["conv2"])
    places = [np.unravel_index(a.argmax(), a.shape) for a in activity]
    result = project(plain, images, "conv2", [p[2] for p in places], np.asarray([p[:2] for p in places]))
    for image, place, projection in zip(images, places, result, strict=True):
        expected = deconvnet(params, image, place[2], place[:2])
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(projection, expected, atol=1e-5 * np.abs(expected).max())
    overwritten = deconvnet(params, images[0], places[0][2], places[0][:2], add=False)
    assert np.abs(overwritten - result[0]).max() > 1e-3  # where windows overlap, unpooling has to add


def test_projections_of_a_vector(lenet, digits):
    result = project(lenet, digits[0][:2], "fc2", [1, 5], np.zeros((2, 2), int))
    assert result.shape == (2, 28, 28, 1) and np.isfinite(result).all()


def test_strongest_activations_are_found_over_the_whole_set(plain):
    images = np.random.default_rng(1).integers(0, 256, (23, 16, 16, 3)).astype(np.uint8)
    activity = np.asarray(plain.stages(images.astype(np.float32) / 255)["conv2_pre_relu"])
    best = strongest_activations(plain, images, "conv2_pre_relu", [2, 5], count=4, batch_size=5)
    for row, channel in enumerate((2, 5)):
        maxima = activity[..., channel].max(axis=(1, 2))
        np.testing.assert_array_equal(best.images[row], np.argsort(-maxima)[:4])
        np.testing.assert_allclose(best.values[row], np.sort(maxima)[::-1][:4], rtol=1e-5)
        found = activity[best.images[row], best.y[row], best.x[row], channel]
        np.testing.assert_allclose(found, best.values[row], rtol=1e-5)
    with pytest.raises(ConfigError, match="channels 0 to 7"):
        strongest_activations(plain, images, "conv2", [8])


def test_evolution_follows_a_feature_through_training(plain):
    images = np.random.default_rng(1).random((6, 16, 16, 3)).astype(np.float32)
    then = dataclasses.replace(plain, variables=jax.tree.map(lambda leaf: 2 * leaf, plain.variables))
    result = evolution([plain, then], images, "conv2", [0, 3])
    assert result.shape == (2, 2, 9, 9, 3)  # a neuron of conv2 sees 9x9 pixels
    best = strongest_activations(then, images, "conv2", [3], count=1)
    position = np.concatenate([best.y, best.x], axis=1)
    whole = project(then, images[best.images[:, 0]], "conv2", [3], position)[0]
    seen = np.nan_to_num(result[1, 1])
    expected = np.sort(whole[whole != 0])
    np.testing.assert_allclose(np.sort(seen[seen != 0]), expected, atol=1e-5 * np.abs(expected).max())


def test_a_model_whose_relus_cannot_be_replaced_has_no_deconvnet(lenet, digits):
    tanh = dataclasses.replace(lenet, model=lenet.model.clone(act=nn.tanh))
    with pytest.raises(ConfigError, match="0 ReLUs replaced"):
        project(tanh, digits[0][:1], "conv2", [0], np.zeros((1, 2), int))


class ZFStem(nn.Module):
    """The convolutional layers of ZFNet, which is known for its receptive fields."""

    act: object = nn.relu
    pool: object = max_pool

    @nn.compact
    def __call__(self, x, train=False):
        x = stage(self, "conv1", self.act(conv(1, 7, 2, padding=1, name="c1")(x)))
        x = stage(self, "pool1", self.pool(x, 3, 2, padding=1))
        x = stage(self, "conv2", self.act(conv(1, 5, 2, padding=0, name="c2")(x)))
        x = stage(self, "pool2", self.pool(x, 3, 2, padding=1))
        for i in (3, 4, 5):
            x = stage(self, f"conv{i}", self.act(conv(1, 3, padding=1, name=f"c{i}")(x)))
        return stage(self, "logits", jnp.mean(x, axis=(1, 2)))


@pytest.mark.parametrize(
    ("layer", "size", "stride"),
    [("conv1", 7, 2), ("pool1", 11, 4), ("pool2", 43, 16), ("conv5", 139, 16)],
)
def test_receptive_fields_of_zfnet(layer, size, stride):
    model = ZFStem()
    shape = (225, 225, 1)
    network = Network(model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape))), shape)
    middle = network.layers()[layer][0] // 2
    positions = np.asarray([[middle, middle], [middle, middle + 1], [middle - 1, middle]])
    boxes = receptive_fields(network, layer, positions)
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], size)
    np.testing.assert_array_equal(boxes[1] - boxes[0], [stride, 0, stride, 0])
    np.testing.assert_array_equal(boxes[0] - boxes[2], [0, stride, 0, stride])


def test_receptive_fields_end_at_the_border(plain):
    boxes = receptive_fields(plain, "conv2", np.asarray([[0, 0], [3, 1]]))
    np.testing.assert_array_equal(boxes, [[0, 0, 9, 9], [2, 6, 11, 15]])
    everything = receptive_fields(plain, "logits", np.asarray([[0, 0]]))
    np.testing.assert_array_equal(everything, [[0, 0, 15, 15]])  # the pool does not reach the last row


def test_patches_keep_their_place():
    pictures = np.arange(2 * 5 * 5).reshape(2, 5, 5, 1)
    boxes = np.asarray([[1, 1, 4, 4], [0, 3, 2, 5]])  # the second is cut off at the left and at the bottom
    first, second = patches(pictures, boxes)[..., 0]
    np.testing.assert_array_equal(first, pictures[0, 1:4, 1:4, 0])
    np.testing.assert_array_equal(second[:2, 1:], pictures[1, 3:5, 0:2, 0])
    assert np.isnan(second[2]).all() and np.isnan(second[:, 0]).all()
