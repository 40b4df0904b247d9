"""Files of published weights: what tools wrap around names, and refusal of what is damaged or must not be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import draw, same, template
from safetensors.numpy import save_file

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.weights.convert import load_weights, save_torchvision
from cnnjax.weights.files import read_tensors

# Mistakes, and files that must not be trusted


@pytest.mark.parametrize(
    ("name", "shape"),
    [("features.0.weight", (3, 2, 3, 3)), ("features.0.weight", (2, 3)), ("features.0.bias", (1,)), ("classifier.3.weight", (6, 5)), ("classifier.0.weight", (6, 15 * 49))],
)  # fmt: skip
def test_a_misshaped_tensor_is_named(published, name, shape):
    path, tensors, variables = published
    save_file(tensors | {name: np.zeros(shape, np.float32)}, path)
    with pytest.raises(ConfigError, match=f"{name} has shape"):
        load_weights(path, "vgg11_bn", variables)


def test_models_without_published_weights_say_so(published):
    path, _, variables = published
    for name in ("lenet5", "googlenet", "wrn28_10", "alexnet"):
        with pytest.raises(ConfigError, match=f"no torch weights of {name} are known"):
            load_weights(path, name, variables)
    with pytest.raises(ConfigError, match="no caffe weights of vgg11_bn"):
        load_weights(path.with_suffix(".npz"), "vgg11_bn", variables)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".h5"])
def test_damaged_and_missing_files(tmp_path, suffix):
    if suffix in (".pth", ".h5"):
        pytest.importorskip("torch" if suffix == ".pth" else "h5py")
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(ConfigError, match="no such file"):
        read_tensors(path)
    path.write_bytes(b"\x00\x01 not weights" * 9)
    with pytest.raises(ConfigError, match="weights"):
        read_tensors(path)


def test_checkpoints_of_torch(published, tmp_path):
    torch = pytest.importorskip("torch")
    _, tensors, variables = published
    state = {f"module.{name}": torch.from_numpy(value).half().float() for name, value in tensors.items()}
    exact = load_weights_of(tmp_path / "plain.pt", {k: v.clone() for k, v in state.items()}, variables)
    wrapped = {"state_dict": state, "best_prec1": 91.7}
    legacy = tmp_path / "legacy.th"
    torch.save(wrapped, legacy, _use_new_zipfile_serialization=False)
    assert same(load_weights(legacy, "vgg11_bn", variables), exact)
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pth")
    assert same(load_weights(tmp_path / "half.pth", "vgg11_bn", variables), exact)
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_tensors(tmp_path / "other.pth")


def load_weights_of(path, state, variables):
    torch = pytest.importorskip("torch", reason="the file is torch's")

    torch.save(state, path)
    return load_weights(path, "vgg11_bn", variables)


def test_bfloat16_safetensors(published, tmp_path):
    import ml_dtypes

    _, tensors, variables = published
    save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}, tmp_path / "half.safetensors")
    loaded = load_weights(tmp_path / "half.safetensors", "vgg11_bn", variables)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-2)


def test_caffe_squeezenet(tmp_path):
    _, shapes = template("squeezenet1_0_caffe", 64)
    variables = draw(shapes)
    tensors = {}
    for layer, leaves in variables["params"].items():
        name = "conv10" if layer == "output" else layer.replace("_", ".")
        tensors[f"{name}.w"] = np.asarray(leaves["kernel"]).transpose(3, 2, 0, 1)
        tensors[f"{name}.b"] = leaves["bias"]
    assert "fire2.squeeze1x1.w" in tensors
    np.savez(tmp_path / "squeezenet.npz", **tensors)
    assert same(load_weights(tmp_path / "squeezenet.npz", "squeezenet1_0_caffe", shapes), variables)


def test_a_file_that_cannot_be_written(published, tmp_path):
    _, _, variables = published
    with pytest.raises(ConfigError, match="cannot be written"):
        save_torchvision(tmp_path / "missing" / "a.safetensors", "vgg11_bn", variables)


# 9. What tools wrap around names, and files that do not name layers


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod.", "module.model."])
def test_prefixes_of_wrappers_are_taken_off(published, prefix):
    path, tensors, variables = published
    save_file({prefix + name: value for name, value in tensors.items()}, path)
    assert same(load_weights(path, "vgg11_bn", variables), variables)


def test_a_checkpoint_of_lightning_is_read_without_unpickling(published, tmp_path):
    torch = pytest.importorskip("torch", reason="the file is torch's")
    _, tensors, variables = published
    state = {f"model.{name}": torch.from_numpy(value.copy()) for name, value in tensors.items()}
    whole = {
        "epoch": 3,
        "global_step": 10,
        "state_dict": state,
        "hyper_parameters": {"lr": 0.1},
        "loops": {"a": [1]},
    }
    path = tmp_path / "last.ckpt"
    torch.save(whole, path)
    assert same(load_weights(path, "vgg11_bn", variables), variables)
    torch.save({**whole, "callbacks": Callback()}, path)
    with pytest.raises(ConfigError, match="torch refuses to read it as plain weights"):
        load_weights(path, "vgg11_bn", variables)


class Callback:
    """Any object of a class that is not torch's."""


KERAS3_LEAVES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("scale", "bias", "mean", "var"),
}


def write_keras3(path, layers):
    """A file of Keras 3: layers of each kind are numbered in the order of the model's layers."""
    h5py = pytest.importorskip("h5py", reason="the file is HDF5")
    numbers = dict.fromkeys(KERAS3_LEAVES, 0)
    with h5py.File(path, "w") as file:
        for kind, leaves in layers:
            name = kind if numbers[kind] == 0 else f"{kind}_{numbers[kind]}"
            numbers[kind] += 1
            for i, leaf in enumerate(KERAS3_LEAVES[kind]):
                file[f"layers/{name}/vars/{i}"] = leaves[leaf]


def test_files_of_keras_3_are_read_by_the_order_of_layers(tmp_path):
    """The order of ResNet50.layers in Keras 3.15: the shortcut comes between the second and the third convolution."""
    _, shapes = template("resnet50_v1", size=64, width=2, num_outputs=3)
    variables = draw(shapes)
    params, stats = variables["params"], variables["batch_stats"]
    rng = np.random.default_rng(1)
    biases = {}

    def convolution(conv, norm):
        inner, outer = (
            (params, stats) if "/" not in conv else (params[conv.split("/")[0]], stats[conv.split("/")[0]])
        )
        conv, norm = conv.split("/")[-1], norm.split("/")[-1]
        bias = rng.normal(size=inner[norm]["bias"].shape).astype(np.float32)
        biases[id(inner), norm] = bias
        one = ("conv2d", {"kernel": inner[conv]["kernel"], "bias": bias})
        return one, ("batch_normalization", {**inner[norm], **outer[norm]})

    layers = list(convolution("conv1", "bn1"))
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(1, blocks + 1):
            order = ["1", "2", "shortcut", "3"] if block == 1 else ["1", "2", "3"]
            for part in order:
                names = ("shortcut", "shortcut_bn") if part == "shortcut" else (f"conv{part}", f"bn{part}")
                layers += convolution(*(f"block{stage}_{block}/{name}" for name in names))
    layers.append(("dense", params["output"]))
    path = tmp_path / "resnet50.weights.h5"
    write_keras3(path, layers)
    found = load_weights(path, "resnet50_v1", variables)
    jax.tree.map(np.testing.assert_array_equal, found["params"], variables["params"])
    mean = stats["block2_1"]["shortcut_bn"]["mean"] - biases[id(params["block2_1"]), "shortcut_bn"]
    np.testing.assert_allclose(found["batch_stats"]["block2_1"]["shortcut_bn"]["mean"], mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "right"), [("alexnet", "alexnet_one_tower"), ("googlenet", "googlenet_bn")]
)
def test_a_file_of_another_form_of_the_network_names_that_form(tmp_path, wrong, right):
    """torchvision's alexnet and googlenet are not the papers'."""
    model = create_model(right)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    path = tmp_path / f"{wrong}.safetensors"
    save_torchvision(path, right, variables)
    other = jax.eval_shape(create_model(wrong).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    with pytest.raises(ConfigError, match=f"; it has the names of {right}"):
        load_weights(path, wrong, other)
