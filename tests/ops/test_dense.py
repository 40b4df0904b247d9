import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.models.classic import LeNet5
from cnnjax.models.grid import SlidingWindow
from cnnjax.models.layers import conv, fully_connected, max_pool
from cnnjax.ops.dense import check_dense_equivalence, to_dense


def image(height, width, channels=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(height, width, channels)), jnp.float32)


def variables_of(model, window):
    """Random weights, without the time it takes to compile `init`."""
    rng = np.random.default_rng(1)

    def draw(leaf):
        if leaf.ndim == 1:  # biases, and means and variances of batch norm
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *window))))


@pytest.fixture(scope="module")
def lecture():
    return SlidingWindow(), variables_of(SlidingWindow(), (14, 14, 3))


def test_the_shapes_of_the_lecture(lecture):
    model, variables = lecture
    dense, converted, windows = to_dense(model, variables, (14, 14, 3))
    assert model.apply(variables, image(14, 14)[None]).shape == (1, 4)
    assert dense.apply(converted, image(14, 14)[None]).shape == (1, 1, 1, 4)
    _, state = dense.apply(converted, image(28, 28)[None], mutable=["stages"])
    shapes = {name: value.shape[1:] for name, value in state["stages"].items()}
    assert shapes == {
        "conv1": (24, 24, 16),
        "pool1": (12, 12, 16),
        "fc1": (8, 8, 400),
        "fc2": (8, 8, 400),
        "logits": (8, 8, 4),
    }
    assert windows == ((14, 14), (2, 2))


def test_64_windows_in_one_pass_equal_64_crops(lecture):
    model, variables = lecture
    dense, converted, windows = to_dense(model, variables, (14, 14, 3))
    picture = image(28, 28)
    once = jax.jit(dense.apply)(converted, picture[None])[0]
    boxes = windows.boxes(8, 8)
    alone = jax.jit(model.apply)
    rounding = 1e-5 * float(abs(once).max())
    for i in range(8):
        for j in range(8):
            x1, y1, x2, y2 = (int(v) for v in boxes[i, j])
            assert_allclose(alone(variables, picture[None, y1:y2, x1:x2])[0], once[i, j], atol=rounding)
    assert (x2, y2) == (28, 28)
    assert check_dense_equivalence(model, variables, picture, (14, 14, 3)) < rounding


def test_conversion_only_reshapes(lecture):
    model, variables = lecture
    converted = to_dense(model, variables, (14, 14, 3))[1]["params"]
    assert converted["f1"]["kernel"].shape == (5, 5, 16, 400)
    assert converted["f2"]["kernel"].shape == (1, 1, 400, 400)
    for name in ("c1", "f1", "f2", "output"):
        assert_array_equal(converted[name]["kernel"].ravel(), variables["params"][name]["kernel"].ravel())


def test_lenet5_on_a_rectangle():
    model = LeNet5()
    variables = variables_of(model, (32, 32, 1))
    dense, converted, windows = to_dense(model, variables, (32, 32, 1))
    assert windows == ((32, 32), (4, 4))
    shape = jax.eval_shape(dense.apply, converted, image(40, 44, 1)[None]).shape
    assert shape == (1, 3, 4, 10)
    assert check_dense_equivalence(model, variables, image(40, 44, 1), (32, 32, 1)) < 1e-5


def test_lenet5_trained_on_padded_images_of_28():
    # The same weights serve 28x28 images, which the model pads, and windows of 32x32.
    model = LeNet5()
    variables = variables_of(model, (28, 28, 1))
    dense, converted, _ = to_dense(model, variables, (32, 32, 1))
    picture = image(28, 28, 1)
    padded = jnp.pad(picture, ((2, 2), (2, 2), (0, 0)))
    alone = model.apply(variables, picture[None])[0]
    assert_allclose(dense.apply(converted, padded[None])[0, 0, 0], alone, atol=1e-5 * float(abs(alone).max()))


class Padded(nn.Module):
    """The form of AlexNet and VGG in small: padded convolutions, pooling, FC over the last map, batch norm."""

    dense: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = max_pool(nn.relu(conv(8, 3, name="c1")(x)))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = max_pool(nn.relu(conv(8, 3, name="c2")(x)))
        x = nn.relu(fully_connected(x, 16, window=4, dense=self.dense, name="f1"))
        return fully_connected(x, 3, dense=self.dense, name="output")


def test_padding_is_found_out():
    variables = variables_of(Padded(), (16, 16, 3))
    dense, converted, windows = to_dense(Padded(), variables, (16, 16, 3))
    assert windows.stride == (4, 4)
    # One window alone is exact, with its padding; the windows of a larger image see their neighbours.
    assert check_dense_equivalence(Padded(), variables, image(16, 16), (16, 16, 3)) < 3e-6
    assert check_dense_equivalence(Padded(), variables, image(24, 24), (16, 16, 3)) > 1e-3
    assert converted["batch_stats"] == variables["batch_stats"]


def test_mistakes_are_named(lecture):
    model, variables = lecture
    with pytest.raises(ConfigError, match="Dense has no convolutional form"):
        to_dense(nn.Dense(3), variables, (14, 14, 3))
    with pytest.raises(ConfigError, match="not trained on windows of 14x14x1"):
        to_dense(model, variables, (14, 14, 1))
    with pytest.raises(ConfigError, match="outputs for one window"):
        to_dense(model, variables, (16, 16, 3))


# A model, what changes, and the image that leaves a last map of this grid without padding.
UNPADDED = {
    "alexnet": ("tiny_alexnet", {"grid": 1}, 195),
    "alexnet_one_tower": ("tiny_alexnet_one_tower", {"grid": 1}, 195),
    "zfnet": ("tiny_zfnet", {"grid": 1}, 171),
    "vgg": ("tiny_vgg_bn", {"grid": 3}, 22),
}


@pytest.mark.full
@pytest.mark.parametrize("name", UNPADDED)
def test_published_architectures_without_padding_are_exact(name):
    table, fields, size = UNPADDED[name]
    model = create_model(table, 5).clone(padded=False, **fields)
    variables = variables_of(model, (size, size, 3))
    windows = to_dense(model, variables, (size, size, 3))[2]
    stride = 4 if name == "vgg" else 32
    assert windows.stride == (stride, stride)
    picture = image(size + stride, size + 2 * stride + 1)
    once = dense_outputs(model, variables, (size, size, 3), picture)
    assert once.shape == (2, 3, 5)
    difference = check_dense_equivalence(model, variables, picture, (size, size, 3))
    assert difference < 1e-5 * np.abs(once).max() < 1
    assert np.std(once, axis=(0, 1)).max() > 1e-3  # windows differ


def dense_outputs(model, variables, window, picture):
    dense, converted, _ = to_dense(model, variables, window)
    return np.asarray(jax.jit(dense.apply)(converted, picture[None])[0])


@pytest.mark.full
@pytest.mark.parametrize(
    ("table", "fields", "size"),
    [
        ("alexnet", {"features": (4, 4, 6, 6, 6), "hidden": 8}, 227),
        ("alexnet_one_tower", {"features": (4, 4, 6, 6, 6), "hidden": 8}, 224),
        ("vgg11", {"width": 2, "hidden": (8, 8)}, 224),
    ],
)
def test_published_architectures_at_their_own_size(table, fields, size):
    """One window is exact with its padding; the geometry is that of the papers: stride 32."""
    model = create_model(table, 5).clone(**fields)
    variables = variables_of(model, (size, size, 3))
    picture = image(size, size)
    alone = jax.jit(model.apply)(variables, picture[None])[0]
    once = dense_outputs(model, variables, (size, size, 3), picture)
    assert_allclose(once[0, 0], alone, atol=1e-5 * float(abs(alone).max()))
    dense, converted, windows = to_dense(model, variables, (size, size, 3))
    assert windows == ((size, size), (32, 32))
    larger = jax.eval_shape(dense.apply, converted, jnp.zeros((1, size + 64, size + 32, 3)))
    assert larger.shape == (1, 3, 2, 5)


def test_padded_windows_see_their_neighbours():
    """An output of padded VGG is that of the unpadded network on its receptive field, where that is inside."""
    padded = create_model("tiny_vgg", 5).clone(grid=4)
    variables = variables_of(padded, (16, 16, 3))
    picture = image(40, 40)
    once = dense_outputs(padded, variables, (16, 16, 3), picture)
    # Convolutions at strides 1, 2 and 2 look 1 + 2 + 2 pixels beyond the window.
    unpadded = padded.clone(padded=False)
    rounding = 1e-5 * float(abs(once).max())
    for i, j in [(2, 2), (3, 4)]:
        y, x = 4 * i - 5, 4 * j - 5
        field = picture[None, y : y + 26, x : x + 26]
        assert_allclose(jax.jit(unpadded.apply)(variables, field)[0], once[i, j], atol=rounding)
    alone = jax.jit(padded.apply)(variables, picture[None, 8:24, 8:24])[0]
    assert abs(alone - once[2, 2]).max() > 1e-3
    assert check_dense_equivalence(padded, variables, picture[:16, :16], (16, 16, 3)) < 1e-5
