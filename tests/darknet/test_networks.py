"""Darknet-53 and YOLOv3 against the counts of their files, darknet's own C program, and configurations read."""

import hashlib
import json
import math
from functools import partial

import cfgs
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.detection.multiscale import Scales, candidates
from cnnjax.detection.nms import multi_label_nms
from cnnjax.models import create_model
from cnnjax.models.darknet import DarknetConv, DarknetNorm, darknet_max_pool, darknet_norm, upsample
from cnnjax.models.darknet_network import ACTIVATIONS
from cnnjax.weights.darknet import Header, count_numbers, leaves_in_order, load_darknet

TINY_BLOCKS = (1, 1, 1, 1, 1)


@pytest.fixture
def write(tmp_path):
    def to_file(text, name="net.cfg"):
        path = tmp_path / name
        path.write_text(text)
        return f"darknet:{path}"

    return to_file


def init(model, side=64):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "trainable", "all_numbers"),
    [
        ("darknet53", 41_609_928, 41_645_640),
        ("yolov3", 61_949_149, 62_001_757),
        ("yolov3_spp", 62_998_749, 63_052_381),
        ("yolov3_tiny", 8_852_366, 8_858_734),
    ],
)
def test_parameters_of_the_published_files(name, trainable, all_numbers):
    variables = init(create_model(name))[1]
    assert count(variables["params"]) == trainable
    assert count(variables) == all_numbers


def test_parameters_for_pascal_voc():
    """20 classes: 75 channels in each head."""
    assert count(init(create_model("yolov3", 75))[1]["params"]) == 61_626_049


@pytest.mark.parametrize(
    ("text", "all_numbers"), [(cfgs.yolov4_tiny, 6_062_814), (cfgs.yolov4, 64_429_405)], ids=["tiny", "large"]
)
def test_parameters_of_yolov4(write, text, all_numbers):
    assert count_numbers(create_model(write(text()))) == all_numbers


def test_maps_at_strides_32_16_and_8():
    maps = init(create_model("yolov3", dtype="bfloat16"), 416)[0]
    assert [m.shape[1:] for m in maps] == [(13, 13, 255), (26, 26, 255), (52, 52, 255)]
    assert {m.dtype for m in maps} == {jnp.dtype("bfloat16")}


def test_stages_are_named():
    model = create_model("tiny_yolov3_spp")
    variables = init(model)[1]
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    _, state = jax.eval_shape(partial(model.apply, mutable=["stages"]), variables, image)
    own = {name: value.shape[1:] for name, value in state["stages"].items()}
    assert {"conv1", "down5", "block5_1", "spp", "neck1_6", "lateral2", "concat3", "logits3"} <= own.keys()
    assert own["spp"] == (2, 2, 4 * 64) and own["concat3"] == (8, 8, 16 + 32)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiny_darknet53", cfgs.darknet53(4, TINY_BLOCKS)),
        ("tiny_yolov3", cfgs.yolov3(4, TINY_BLOCKS)),
        ("tiny_yolov3_spp", cfgs.yolov3(4, TINY_BLOCKS, spp=True)),
        ("tiny_yolov3_tiny", cfgs.yolov3_tiny(2)),
    ],
)
def test_named_and_read_networks_are_the_same(write, name, text):
    """The numbers of one file in both; in training, one of them."""
    named, read = create_model(name), create_model(write(text))
    x = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    numbers = np.random.default_rng(0).uniform(0.5, 1.5, count_numbers(named)).astype(np.float32)
    results = []
    for model in (named, read):
        shapes = flax.traverse_util.flatten_dict(init(model)[1])
        flat, start = {}, 0
        for leaf in leaves_in_order(model, shapes):
            shape = shapes[leaf].shape
            part = numbers[start : start + math.prod(shape)]
            start += len(part)
            flat[leaf] = jnp.asarray(part - (1 if leaf[-1] in ("kernel", "bias") else 0)).reshape(shape)
        assert start == len(numbers)
        training = name == "tiny_yolov3_tiny"
        apply = jax.jit(partial(model.apply, train=training, mutable=["batch_stats"]))
        results.append(apply(flax.traverse_util.unflatten_dict(flat), x)[0])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())
    if name != "tiny_darknet53":
        assert (named.anchors, named.heads) == (read.anchors, read.heads)


def test_darknets_pool_of_stride_1_pads_below_and_right():
    """An independent loop: the window of a pixel is itself, the next and those below, never padding's zero."""
    x = -np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    wanted = np.empty_like(x)
    for i in range(5):
        for j in range(4):
            wanted[:, i, j] = x[:, i : i + 2, j : j + 2].max((1, 2))
    np.testing.assert_array_equal(darknet_max_pool(jnp.asarray(x), 2, 1), wanted)


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(6, 2, 2), (7, 2, 2), (9, 3, 2), (8, 5, 1), (4, 9, 1)]
)
def test_darknets_pool_by_loops(size, window, stride):
    """offset -(window - 1) // 2, (size - 1) // stride + 1 outputs, nothing outside of the image counts."""
    x = np.random.default_rng(1).standard_normal((1, size, size, 2)).astype(np.float32)
    low, outputs = (window - 1) // 2, (size - 1) // stride + 1
    wanted = np.empty((1, outputs, outputs, 2), np.float32)
    for i in range(outputs):
        for j in range(outputs):
            rows = slice(max(0, i * stride - low), i * stride - low + window)
            columns = slice(max(0, j * stride - low), j * stride - low + window)
            wanted[:, i, j] = x[:, rows, columns].max((1, 2))
    np.testing.assert_array_equal(darknet_max_pool(jnp.asarray(x), window, stride), wanted)


def test_upsampling_repeats_pixels():
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(upsample(jnp.asarray(x), 3), x.repeat(3, 1).repeat(3, 2))


def test_activations_against_torch():
    torch = pytest.importorskip("torch")
    x = np.linspace(-30, 30, 61, dtype=np.float32)
    functional = torch.nn.functional
    wanted = {
        "linear": lambda x: x,
        "leaky": lambda x: functional.leaky_relu(x, 0.1),
        "mish": functional.mish,
        "swish": functional.silu,
        "logistic": torch.sigmoid,
        "relu": functional.relu,
    }
    assert wanted.keys() == ACTIVATIONS.keys()
    for name, function in wanted.items():
        value = function(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cpu_form", [False, True])
def test_normalization_of_both_programs(cpu_form):
    """sqrt(var + 1e-5) on CUDA, sqrt(var) + 1e-6 on the CPU: apart where the variance is small."""
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 2)).astype(np.float32)
    mean, var, scale, bias = (np.array(v, np.float64) for v in ([0.1, -2], [1e-6, 3], [1.5, 0.5], [0.2, -1]))
    deviation = np.sqrt(var) + 1e-6 if cpu_form else np.sqrt(var + 1e-5)
    wanted = (x - mean) / deviation * scale + bias
    variables = {
        "params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)},
        "batch_stats": {"mean": jnp.float32(mean), "var": jnp.float32(var)},
    }
    found = darknet_norm(False, cpu_form=cpu_form).apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_normalization_in_training_divides_by_the_unbiased_variance():
    x = np.random.default_rng(0).standard_normal((2, 2, 1, 3)).astype(np.float32)
    norm = DarknetNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    found, after = norm.apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    flat = x.reshape(4, 3).astype(np.float64)
    wanted = (flat - flat.mean(0)) / np.sqrt(flat.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(found.reshape(4, 3), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["batch_stats"]["var"], 0.99 + 0.01 * flat.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(after["batch_stats"]["mean"], 0.01 * flat.mean(0), rtol=1e-5, atol=1e-9)


def seeded(path, name, scale, sha256):
    """Writes the file of seeded numbers that darknet's C program was given."""
    model, r = create_model(name), np.random.RandomState(0)
    shapes = flax.traverse_util.flatten_dict(init(model)[1])
    with path.open("wb") as file:
        file.write(Header(0, 2, 0, 32_013_312).pack())
        for leaf in leaves_in_order(model, shapes):
            shape = shapes[leaf].shape
            size, gain = math.prod(shape), math.sqrt(2 / math.prod(shape[:-1])) if len(shape) == 4 else 0.1
            values = r.random_sample(size) * 0.5 + 1 if leaf[-1] == "var" else r.standard_normal(size) * gain
            file.write((values + (scale if leaf[-1] == "scale" else 0)).astype("<f4").tobytes())
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(sha256)
    return path


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    return seeded(tmp_path_factory.mktemp("tiny") / "seeded.weights", "yolov3_tiny", 1.0, "1f0a31b9")


def answers(shared):
    detections = json.loads(shared("fixtures/yolo_detections.json").read_text())
    with np.load(shared("fixtures/yolo_fixture.npz")) as file:
        return dict(file), detections


def image(side):
    values = np.random.RandomState(1).random_sample((3, side, side)).astype(np.float32)
    return jnp.asarray(values.transpose(1, 2, 0)[None])


def outputs(name, path, side, cpu_form=True):
    model = create_model(name).clone(norm=partial(darknet_norm, cpu_form=cpu_form))
    variables = load_darknet(path, model, init(model, side)[1])
    maps, state = jax.jit(partial(model.apply, mutable=["stages"]))(variables, image(side))
    channels_first = [np.asarray(m[0]).transpose(2, 0, 1) for m in maps]
    return model, maps, channels_first, state["stages"]


def assert_detections(model, maps, side, threshold, wanted, priors):
    @jax.jit
    def detect(maps):
        found = candidates(Scales(model.anchors, model.heads, 80), maps, (side, side))
        chosen = multi_label_nms(found.boxes[0], found.scores[0], 0.45, 300, threshold)
        return found, chosen

    found, (indices, labels, number) = jax.device_get(detect(maps))
    assert np.sum(found.objectness > threshold) == priors
    assert number == len(wanted)
    indices, labels = indices[:number], labels[:number]
    mine = np.column_stack([labels, found.scores[0][indices, labels], found.boxes[0][indices]])
    wanted = np.array(wanted)
    np.testing.assert_allclose(mine[0], wanted[0], rtol=1e-4, atol=1e-3)
    for row in wanted:  # in another order where scores are equal
        assert np.any(np.all(np.isclose(mine, row, rtol=1e-4, atol=2e-3), axis=1)), row


def test_tiny_equals_darknets_c_program(shared, tiny_file, write):
    wanted, detections = answers(shared)
    path, cfg = tiny_file, write(cfgs.yolov3_tiny())
    assert path.stat().st_size == 35_434_956
    read, maps, channels_first, stages = outputs(cfg, path, 96)
    sums = {"layer0": 43452.195, "layer9": 2169.844, "layer11": 3779.114, "layer20": 7282.006}
    for name, total in sums.items():
        np.testing.assert_allclose(np.asarray(stages[name], np.float64).sum(), total, rtol=1e-6)
    for found, key in zip(channels_first, ("tiny_conv15", "tiny_conv22"), strict=True):
        np.testing.assert_allclose(found, wanted[key], rtol=1e-4, atol=5e-5)
    assert_detections(read, maps, 96, 0.75, detections["tiny_96_thresh_0.75"], 44)
    _, named, _, _ = outputs("yolov3_tiny", path, 96)
    for one, other in zip(named, maps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    _, _, gpu, _ = outputs("yolov3_tiny", path, 96, cpu_form=False)
    apart = max(
        np.abs(a - wanted[key]).max() for a, key in zip(gpu, ("tiny_conv15", "tiny_conv22"), strict=True)
    )
    np.testing.assert_allclose(apart, 1.2e-4, rtol=0.1)


@pytest.mark.slow  # a file of 248 MB
def test_yolov3_equals_darknets_c_program(shared, tmp_path):
    wanted, detections = answers(shared)
    path = seeded(tmp_path / "seeded.weights", "yolov3", 0.8, "ddb77992")
    assert path.stat().st_size == 248_007_048
    model, maps, channels_first, _ = outputs("yolov3", path, 64)
    for found, key in zip(channels_first, ("full_conv81", "full_conv93"), strict=False):
        np.testing.assert_allclose(found, wanted[key], rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(
        channels_first[2].ravel()[::8], wanted["full_conv105_every8"], rtol=1e-4, atol=5e-5
    )
    np.testing.assert_allclose(np.abs(channels_first[2]).sum(), 5052.9189, rtol=1e-5)
    assert_detections(model, maps, 64, 0.7, detections["full_64_thresh_0.7"], 14)


def test_groups_have_their_own_filters():
    """A depthwise convolution against a sum over each channel by itself."""
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 3)).astype(np.float32)
    layer = DarknetConv(3, 3, groups=3, norm=None, act=lambda x: x)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    kernel = np.asarray(variables["params"]["conv"]["kernel"])
    assert kernel.shape == (3, 3, 1, 3)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = sum(padded[:, i : i + 4, j : j + 4] * kernel[i, j, 0] for i in range(3) for j in range(3))
    np.testing.assert_allclose(layer.apply(variables, jnp.asarray(x)), wanted, rtol=1e-5, atol=1e-6)


def _pool_with(fill, low):
    """A pool of stride 1 with another padding than darknet's, in place of it."""

    def pool(x, window, stride):
        if stride == 2:
            return darknet_max_pool(x, window, stride)
        ends = (low, 1 - low)
        padded = jnp.pad(x, ((0, 0), ends, ends, (0, 0)), constant_values=fill)
        height, width = x.shape[1:3]
        return jnp.maximum(
            jnp.maximum(padded[:, :height, :width], padded[:, 1:, :width]),
            jnp.maximum(padded[:, :height, 1:], padded[:, 1:, 1:]),
        )

    return pool


@pytest.mark.parametrize(
    ("what", "function", "moved"),
    [
        ("darknet_max_pool", _pool_with(0.0, 0), 0.13),
        ("darknet_max_pool", _pool_with(-jnp.inf, 1), 1.77),
        ("darknet_max_pool", lambda x, window, stride: x if stride == 1 else darknet_max_pool(x, 2, 2), 1.67),
        (
            "upsample",
            lambda x: jax.image.resize(x, (1, 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "bilinear"),
            0.42,
        ),
    ],
    ids=["zeros", "top left", "no pool", "bilinear"],
)
def test_what_is_not_darknet_gives_other_numbers(shared, tiny_file, monkeypatch, what, function, moved):
    wanted, _ = answers(shared)
    monkeypatch.setattr(f"cnnjax.models.darknet.{what}", function)
    _, _, found, _ = outputs("yolov3_tiny", tiny_file, 96)
    apart = [np.abs(a - wanted[k]).max() for a, k in zip(found, ("tiny_conv15", "tiny_conv22"), strict=True)]
    np.testing.assert_allclose(max(apart), moved, rtol=0.05)
