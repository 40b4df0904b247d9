"""Weights in the files that Keras writes: the outputs are those of the same network written in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, preprocessing

h5py = pytest.importorskip("h5py")
torch = pytest.importorskip("torch")
functional = torch.nn.functional

CONVS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (4, 8, 16, 32, 32)


def tensors_of(name):
    """Kernels (height, width, in, out) and biases by Keras's names of layers, in the order of the network."""
    rng, channels, found = np.random.default_rng(0), 3, {}
    for block, (number, width) in enumerate(zip(CONVS[name], WIDTHS, strict=True), start=1):
        for index in range(1, number + 1):
            kernel = rng.normal(0, (2 / (9 * channels)) ** 0.5, (3, 3, channels, width))
            found[f"block{block}_conv{index}"] = kernel, rng.normal(0, 0.3, width)
            channels = width
    for layer, rows, columns in (("fc1", 49 * channels, 20), ("fc2", 20, 12), ("predictions", 12, 5)):
        found[layer] = rng.normal(0, (2 / rows) ** 0.5, (rows, columns)), rng.normal(0, 0.3, columns)
    return {layer: [value.astype(np.float32) for value in values] for layer, values in found.items()}


def write(path, tensors, form):
    """As Keras 2 writes weights alone, a whole model with its optimizer, and as Keras 1 (2016) wrote weights."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if form == "model" else file
        layers = ["input_1", "block1_pool", "flatten", *tensors]  # those without weights have groups, too
        group.attrs["layer_names"] = np.array(layers, "S")
        for layer in layers:
            inner = group.create_group(layer)
            leaves = ("W_1:0", "b_1:0") if form == "2016" else ("kernel:0", "bias:0")
            names = [f"{layer}_{leaf}" if form == "2016" else f"{layer}/{leaf}" for leaf in leaves]
            inner.attrs["weight_names"] = np.array(names if layer in tensors else [], "S")
            for leaf, value in zip(names, tensors.get(layer, ()), strict=False):
                inner[leaf] = value
        if form == "model":
            file.attrs["keras_version"], file.attrs["model_config"] = "2.15.0", "{}"
            file["optimizer_weights/Adam/iteration:0"] = 7
            file["optimizer_weights/Adam/m/block1_conv1/kernel:0"] = tensors["block1_conv1"][0]


def forward(tensors, images):
    """keras.applications' VGG on RGB bytes [N, H, W, 3]: BGR without the mean; flattened by rows, columns, channels."""
    x = images[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    x, block = torch.tensor(x.transpose(0, 3, 1, 2)), "1"
    for layer, (kernel, bias) in tensors.items():
        kernel, bias = torch.tensor(kernel).double(), torch.tensor(bias).double()
        if layer[:5] == "block":
            if layer[5] != block:
                x, block = functional.max_pool2d(x, 2), layer[5]
            x = functional.relu(functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1))
            continue
        if layer == "fc1":
            x = functional.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        x = x @ kernel + bias
        x = x if layer == "predictions" else functional.relu(x)
    return x.numpy()


@pytest.mark.parametrize(("name", "form"), [("vgg16", "weights"), ("vgg19", "model"), ("vgg16", "2016")])
def test_vgg_of_keras_computes_what_it_computes_in_torch(name, form, tmp_path):
    tensors = tensors_of(name)
    write(tmp_path / "vgg.h5", tensors, form)
    model = create_model(name).clone(width=4, hidden=(20, 12), num_outputs=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    variables = load_weights(tmp_path / "vgg.h5", name, shapes)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    prepare = preprocessing(tmp_path / "vgg.h5", name)
    expected = forward(tensors, images)
    result = jax.jit(model.apply)(variables, prepare(images))
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
