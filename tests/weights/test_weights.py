"""Import of published weights: each way in which it commonly goes wrong, and refusal of what does not fit."""

from functools import partial

import jax
import numpy as np
import pytest
from drawn import draw, same, template
from safetensors.numpy import load_file, save_file

from cnnjax.config import ConfigError
from cnnjax.models import create_model
from cnnjax.models.layers import batch_norm, conv, max_pool
from cnnjax.weights.convert import load_weights, preprocessing, save_torchvision

# 1. Layout


def test_names_and_layout_of_torch(published):
    path, tensors, variables = published
    assert tensors["features.0.weight"].shape == (2, 3, 3, 3)
    assert tensors["features.1.running_var"].shape == (2,)
    kernel = np.asarray(variables["params"]["conv1_1"]["kernel"])
    for o, i, h, w in [(0, 2, 1, 0), (1, 0, 2, 1)]:
        assert tensors["features.0.weight"][o, i, h, w] == kernel[h, w, i, o]
    assert same(load_weights(path, "vgg11_bn", variables), variables)


def test_first_layer_after_flattening_is_reordered(published):
    """Torch's input i of fc6 is channel, row, column; ours is row, column, channel."""
    path, tensors, variables = published
    weight, kernel = tensors["classifier.0.weight"], np.asarray(variables["params"]["fc6"]["kernel"])
    assert weight.shape == (6, 16 * 49) and kernel.shape == (16 * 49, 6)
    for channel, row, column in [(3, 0, 0), (5, 2, 6), (15, 6, 1)]:
        assert weight[4, channel * 49 + row * 7 + column] == kernel[(row * 7 + column) * 16 + channel, 4]
    np.testing.assert_array_equal(tensors["classifier.3.weight"], variables["params"]["fc7"]["kernel"].T)


def test_grouped_convolutions_keep_their_groups():
    """Torch (out, in / groups, h, w) is (h, w, in / groups, out) here; see also SENet-154 in test_torch_equality."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(1, 5, 5, 8)).astype(np.float32)
    theirs = torch.nn.Conv2d(8, 6, 3, groups=2, bias=False)
    kernel = theirs.weight.detach().numpy().transpose(2, 3, 1, 0)
    ours = conv(6, 3, padding=0, feature_group_count=2, use_bias=False).apply(
        {"params": {"kernel": kernel}}, x
    )
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


# 2. Padding


def test_same_padding_of_strided_layers_is_not_torch_s():
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 2))
    params = {"params": {"kernel": jax.random.normal(jax.random.key(1), (7, 7, 2, 3))}}
    apply = lambda padding: conv(3, 7, 2, padding, use_bias=False).apply(params, x)  # noqa: E731
    assert apply(3).shape == apply("SAME").shape and not np.allclose(apply(3), apply("SAME"), atol=0.1)
    np.testing.assert_allclose(
        apply("SAME"), apply(((2, 3), (2, 3))), atol=1e-5 * np.abs(apply("SAME")).max()
    )
    assert max_pool(x, 3, 2, 1).shape == max_pool(x, 3, 2, "SAME").shape
    assert not np.array_equal(max_pool(x, 3, 2, 1), max_pool(x, 3, 2, "SAME"))


# 3. Batch normalization


def test_batch_norm_has_torch_s_epsilon_and_momentum():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0.02, 0.01, size=(4, 3, 3, 5)).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(5)
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy().transpose(0, 2, 3, 1)
    norm = batch_norm(train=True)
    ours, state = norm.apply(norm.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    # A variance of 1e-4: an epsilon of 1e-3 is far off.
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
    stats = state["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    # Torch keeps the unbiased variance, Flax the biased one: n = 36 values, a share of 0.1 is new.
    unbiased = 0.9 + (np.asarray(stats["var"]) - 0.9) * 36 / 35
    np.testing.assert_allclose(unbiased, theirs.running_var.numpy(), rtol=1e-6)


def test_epsilon_of_torchvision_s_googlenet():
    assert create_model("googlenet_bn").norm(train=False).epsilon == 1e-3
    assert create_model("resnet50").norm(train=False).epsilon == 1e-5


# 4. Local response normalization: its formula is in models/test_layers, here its place


@pytest.mark.parametrize(
    ("name", "size", "fields", "before", "after"),
    [
        ("alexnet", 67, {"features": (4, 4, 4, 4, 4), "hidden": 4}, "conv1", "norm1"),
        ("zfnet", 63, {"features": (4, 4, 4, 4, 4), "hidden": 4}, "pool1", "norm1"),
        ("tiny_googlenet", 32, {}, "maxpool0", "localresponsenorm0"),
        ("tiny_googlenet", 32, {}, "conv2d2", "localresponsenorm1"),
    ],
)
def test_place_of_local_response_normalization(name, size, fields, before, after):
    model, shapes = template(name, size, **fields)
    x = jax.random.normal(jax.random.key(0), (1, size, size, 3))
    stages = jax.jit(partial(model.apply, mutable=["stages"]))(draw(shapes), x)[1]["stages"]
    np.testing.assert_allclose(stages[after], model.lrn(stages[before]), rtol=1e-5)
    assert not np.allclose(stages[after], stages[before], rtol=1e-3)


# 5. Preprocessing


@pytest.mark.parametrize(
    ("file", "model", "size", "pixel", "expected"),
    [
        ("a.pth", "resnet50", 224, (255, 0, 128), (2.2489, -2.0357, 0.4265)),
        ("a.safetensors", "vgg16", 224, (0, 0, 0), (-2.1179, -2.0357, -1.8044)),
        ("a.pth", "googlenet_bn", 224, (255, 0, 51), (1.0, -1.0, -0.6)),
        ("a.th", "resnet20", 32, (0, 0, 0), (-2.1179, -2.0357, -1.8044)),
        ("a.h5", "vgg16", 224, (255, 0, 100), (100 - 103.939, -116.779, 255 - 123.68)),
        ("a.npz", "squeezenet1_0_caffe", 227, (255, 0, 100), (100 - 104, -117, 255 - 123)),
        ("a.safetensors", "inception5h", 224, (255, 0, 117), (138, -117, 0)),
    ],
)
def test_preprocessing_belongs_to_the_weights(file, model, size, pixel, expected):
    prepare = preprocessing(file, model)
    image = np.broadcast_to(np.array(pixel, np.uint8), (1, 2, 2, 3))
    # Some are written down with four decimals.
    np.testing.assert_allclose(prepare(image)[0, 0, 0], expected, atol=3e-5 * np.abs(expected).max())
    assert prepare.image_size == size


def test_transform_input_of_torchvision_s_googlenet():
    """It turns ImageNet's normalization into (x - 0.5) / 0.5: the numbers of its source, one after the other."""
    x = np.array([0.1, 0.5, 0.9])
    imagenet = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    undone = (
        imagenet * (np.array([0.229, 0.224, 0.225]) / 0.5) + (np.array([0.485, 0.456, 0.406]) - 0.5) / 0.5
    )
    prepare = preprocessing("a.pth", "googlenet_bn")
    np.testing.assert_allclose(undone, (x - prepare.mean) / prepare.std)


# 6. Classes


@pytest.mark.parametrize("classes", [1, 4, 1001])
def test_another_number_of_classes_is_named(published, classes):
    path, tensors, _ = published
    _, shapes = template("vgg11_bn", width=2, hidden=(6, 5), num_outputs=classes)
    with pytest.raises(
        ConfigError, match=r"classifier\.6\.(weight|bias) has shape \(3,.*does not fit output/"
    ):
        load_weights(path, "vgg11_bn", shapes)


# 7. ResNet v1 and v1.5, Keras, DenseNet


def test_v1_and_v1_5_differ_in_the_stride_alone():
    small = {"stage_sizes": (1, 1), "width": 4}
    new, shapes = template("resnet50", 32, **small)
    old, old_shapes = template("resnet50_v1", 32, **small)
    assert jax.tree.structure(shapes) == jax.tree.structure(old_shapes)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = draw(shapes)
    run = lambda model: jax.jit(partial(model.apply, mutable=["stages"]))(variables, x)  # noqa: E731
    (a, a_state), (b, b_state) = run(new), run(old)
    assert a_state["stages"]["block2_1"]["relu1"].shape == (1, 8, 8, 8)
    assert b_state["stages"]["block2_1"]["relu1"].shape == (1, 4, 4, 8)
    assert not np.allclose(a, b, rtol=1e-3)


def keras_file(path, tensors, nested):
    """The layout of Keras: layer/layer/kernel:0, or as in 2016 layer/layer_W_1:0."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for (layer, leaf), value in tensors.items():
            old = {"kernel": "W", "bias": "b"}.get(leaf, leaf)
            file[f"{layer}/{layer}/{leaf}:0" if nested else f"{layer}/{layer}_{old}_1:0"] = value


def test_keras_resnet50(tmp_path):
    """Against the function that Keras computes: convolutions with biases, epsilon 1.001e-5, stride in the first."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model, shapes = template("resnet50_v1", 32, stage_sizes=(1, 1), width=4, num_outputs=3)
    tensors = {}
    for stage, channels, block in [("conv1", (3, 4), None), *((f"conv{s}_block1", c, i) for s, c in ((2, (4, 4)), (3, (16, 8))) for i in range(4))]:  # fmt: skip
        c, f = channels
        size, inputs, out = {None: (7, 3, 4), 0: (1, c, 4 * f), 1: (1, c, f), 2: (3, f, f), 3: (1, f, 4 * f)}[
            block
        ]
        name = stage if block is None else f"{stage}_{block}"
        tensors[f"{name}_conv", "kernel"] = rng.normal(
            0, (2 / (size * size * inputs)) ** 0.5, (size, size, inputs, out)
        )
        tensors[f"{name}_conv", "bias"] = rng.normal(0, 0.3, out)
        for leaf, low in [("gamma", 0.5), ("beta", -0.5), ("moving_mean", -0.5), ("moving_variance", 1e-4)]:
            tensors[f"{name}_bn", leaf] = rng.uniform(low, low + 1, out)
    tensors["predictions", "kernel"], tensors["predictions", "bias"] = (
        rng.normal(size=(32, 3)),
        rng.normal(size=3),
    )
    keras_file(tmp_path / "resnet50.h5", tensors, nested=True)

    t = {key: torch.from_numpy(value) for key, value in tensors.items()}
    F = torch.nn.functional

    def layer(x, name, stride=1, padding=0):
        kernel = t[f"{name}_conv", "kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, t[f"{name}_conv", "bias"], stride, padding)
        bn = [t[f"{name}_bn", leaf] for leaf in ("moving_mean", "moving_variance", "gamma", "beta")]
        return F.batch_norm(x, *bn, eps=1.001e-5)

    images = rng.normal(size=(2, 32, 32, 3))
    x = F.relu(layer(torch.from_numpy(images.transpose(0, 3, 1, 2)), "conv1", 2, 3))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for name, stride in (("conv2_block1", 1), ("conv3_block1", 2)):
        y = F.relu(layer(x, f"{name}_1", stride))
        y = layer(F.relu(layer(y, f"{name}_2", padding=1)), f"{name}_3")
        x = F.relu(y + layer(x, f"{name}_0", stride))
    expected = x.mean((2, 3)) @ t["predictions", "kernel"] + t["predictions", "bias"]

    variables = load_weights(tmp_path / "resnet50.h5", "resnet50_v1", shapes)
    ours = jax.jit(model.apply)(variables, images.astype(np.float32))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nested", [True, False])
def test_keras_vgg16(tmp_path, nested):
    model, shapes = template("vgg16", 32, width=2, hidden=(6, 5), num_outputs=3)
    variables = draw(shapes)
    layers = {
        f"conv{i}_{j}": f"block{i}_conv{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)
    }
    layers |= {"fc6": "fc1", "fc7": "fc2", "output": "predictions"}
    leaves = {
        (theirs, leaf): variables["params"][ours][leaf]
        for ours, theirs in layers.items()
        for leaf in ("kernel", "bias")
    }
    keras_file(tmp_path / "vgg16.h5", leaves, nested)
    assert same(load_weights(tmp_path / "vgg16.h5", "vgg16", shapes), variables)


def test_densenet_names_of_before_and_after_2018(tmp_path):
    _, shapes = template("densenet121", 32, blocks=(2, 1), growth=4, stem=8)
    variables = draw(shapes)
    save_torchvision(tmp_path / "new.safetensors", "densenet121", variables)
    tensors = load_file(tmp_path / "new.safetensors")
    assert "features.denseblock1.denselayer2.norm1.weight" in tensors
    for part in ("norm1", "norm2", "conv1", "conv2"):
        old = f".{part[:-1]}.{part[-1]}."
        tensors = {(k.replace(f".{part}.", old) if "denselayer" in k else k): v for k, v in tensors.items()}
    assert "features.denseblock1.denselayer2.norm.1.weight" in tensors
    save_file(tensors, tmp_path / "old.safetensors")
    assert same(load_weights(tmp_path / "old.safetensors", "densenet121", shapes), variables)


def test_vgg_of_timm(published, tmp_path):
    path, tensors, variables = published
    timm = {}
    for name, value in tensors.items():
        name = name.replace("classifier.0.", "pre_logits.fc1.").replace("classifier.3.", "pre_logits.fc2.")
        name = name.replace("classifier.6.", "head.fc.")
        if name == "pre_logits.fc1.weight":
            value = value.reshape(6, 16, 7, 7)
        if name == "pre_logits.fc2.weight":
            value = value.reshape(5, 6, 1, 1)
        timm[name] = value
    save_file(timm, tmp_path / "timm.safetensors")
    assert same(load_weights(tmp_path / "timm.safetensors", "vgg11_bn", variables), variables)


# 8. What is in the file and not in the model


def test_counters_are_passed_over(published, tmp_path):
    path, tensors, variables = published
    save_file(tensors | {"features.1.num_batches_tracked": np.int64(7)[None]}, path)
    assert same(load_weights(path, "vgg11_bn", variables), variables)


def test_auxiliary_heads_are_passed_over_only_where_the_model_has_none(tmp_path):
    from cnnjax.models.googlenet import TINY

    _, shapes = template("googlenet_bn_aux", **TINY)
    variables = draw(shapes)
    path = tmp_path / "googlenet.safetensors"
    save_torchvision(path, "googlenet_bn_aux", variables)
    assert any(name.startswith("aux1.") for name in load_file(path))
    _, without = template("googlenet_bn", **TINY)
    main = load_weights(path, "googlenet_bn", without)
    assert same(main["params"], {k: v for k, v in variables["params"].items() if "aux" not in k})
    assert same(load_weights(path, "googlenet_bn_aux", shapes), variables)
    save_torchvision(path, "googlenet_bn", main)
    with pytest.raises(ConfigError, match=r"no tensor aux1\.conv.* more"):
        load_weights(path, "googlenet_bn_aux", shapes)
