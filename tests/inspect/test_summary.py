"""The numbers of published tables and papers, from the models themselves."""

import math

import jax
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.inspect.summary import bar_figure, compiler_costs, summarize, text_table
from cnnjax.models import create_model

IMAGENET = (224, 224, 3)


def rows_of(name, shape, **kwargs):
    return {row.name: row for row in summarize(create_model(name, **kwargs), shape).rows}


def test_vgg16_row_by_row():
    """The table of the lecture, and its true sum: 15.2 million values, not the 24 million that are often quoted."""
    summary = summarize(create_model("vgg16"), IMAGENET)
    assert [(row.name, math.prod(row.shape), row.parameters) for row in summary.rows] == [
        ("image", 150_528, 0),
        ("conv1_1", 3_211_264, 1_792), ("conv1_2", 3_211_264, 36_928), ("pool1", 802_816, 0),
        ("conv2_1", 1_605_632, 73_856), ("conv2_2", 1_605_632, 147_584), ("pool2", 401_408, 0),
        ("conv3_1", 802_816, 295_168), ("conv3_2", 802_816, 590_080), ("conv3_3", 802_816, 590_080), ("pool3", 200_704, 0),
        ("conv4_1", 401_408, 1_180_160), ("conv4_2", 401_408, 2_359_808), ("conv4_3", 401_408, 2_359_808), ("pool4", 100_352, 0),
        ("conv5_1", 100_352, 2_359_808), ("conv5_2", 100_352, 2_359_808), ("conv5_3", 100_352, 2_359_808), ("pool5", 25_088, 0),
        ("fc6", 4_096, 102_764_544), ("fc7", 4_096, 16_781_312), ("logits", 1_000, 4_097_000),
    ]  # fmt: skip
    assert summary.parameters == 138_357_544
    assert summary.activations == 15_237_608
    assert summary.activation_bytes == 4 * 15_237_608
    assert summary.multiply_adds == 15_470_264_320
    assert all(row.bytes == 4 * math.prod(row.shape) for row in summary.rows)


def test_worked_example_of_the_lecture():
    rows = list(rows_of("worked_example", (32, 32, 3)).values())
    assert [(row.parameters, math.prod(row.shape)) for row in rows[1:]] == [
        (280, 32 * 32 * 10), (910, 32 * 32 * 10), (0, 16 * 16 * 10),
        (455, 16 * 16 * 5), (920, 16 * 16 * 20), (0, 8 * 8 * 20),
        (1810, 8 * 8 * 10), (5020, 8 * 8 * 20), (0, 4 * 4 * 20),
        (3210, 10),
    ]  # fmt: skip
    assert rows[1].multiply_adds == 32 * 32 * 10 * 27 and rows[8].multiply_adds == 8 * 8 * 20 * 250


def test_alexnet_with_two_groups():
    rows = rows_of("alexnet", (227, 227, 3))
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "logits")
    assert [rows[name].parameters for name in layers] == [
        34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000,
    ]  # fmt: skip
    # 27x27x256 outputs, each of 5x5 pixels and half of the 96 channels.
    assert rows["conv2"].multiply_adds == 27 * 27 * 256 * 25 * 48


@pytest.mark.parametrize(
    ("name", "shape", "billions"),
    [
        # He et al. 2016, table 1, whose bottlenecks have the stride in the first convolution
        ("resnet18", IMAGENET, 1.8),
        ("resnet34", IMAGENET, 3.6),
        ("resnet50_v1", IMAGENET, 3.8),
        pytest.param("resnet101_v1", IMAGENET, 7.6, marks=pytest.mark.full),
        pytest.param("resnet152_v1", IMAGENET, 11.3, marks=pytest.mark.full),
        # and its text: "VGG-19 (19.6 billion FLOPs)"
        ("vgg19", IMAGENET, 19.6),
        # Szegedy et al. 2015: "1.5 billion multiply-adds at inference time"
        ("googlenet", IMAGENET, 1.5),
    ],
)
def test_multiply_adds_of_the_papers(name, shape, billions):
    """Papers round, some by cutting off, and count the shortcuts or do not: within 0.1 and 3 per cent."""
    found = summarize(create_model(name), shape).multiply_adds / 1e9
    assert found == pytest.approx(billions, abs=0.1, rel=0.03)


@pytest.mark.parametrize(
    ("name", "shape", "fields"),
    [
        (
            "zfnet",
            IMAGENET,
            {"conv1": (7, 2), "pool1": (11, 4), "conv2": (27, 8), "pool2": (43, 16), "conv3": (75, 16), "conv4": (107, 16), "conv5": (139, 16)},
        ),
        ("inception5h", IMAGENET, {"mixed4a": (171, 16)}),
        ("alexnet", (227, 227, 3), {"pool5": (195, 32)}),
        ("vgg16", IMAGENET, {"image": (1, 1), "conv1_2": (5, 1), "pool1": (6, 2), "conv5_3": (196, 16), "pool5": (212, 32)}),
        # Two 3x3 convolutions in each of 3 blocks of 3 stages, at strides 1, 2 and 4.
        ("resnet20", (32, 32, 3), {"stage1": (3 + 12, 1), "stage2": (15 + 2 + 20, 2), "stage3": (37 + 4 + 40, 4)}),
        ("one_layer_local", (50, 50, 1), {"layer": (10, 1)}),
        # whitening 2x2, then convolution, 2x2 pool by reshaping, convolution
        ("airbench94", (32, 32, 3), {"whiten": (2, 1), "stage1": (2 + 2 + 1 + 4, 2)}),
    ],
)  # fmt: skip
def test_receptive_fields(name, shape, fields):
    rows = rows_of(name, shape)
    assert {layer: (rows[layer].receptive_field, rows[layer].stride) for layer in fields} == fields
    assert rows["logits"].receptive_field is None and rows["logits"].stride is None


@pytest.mark.parametrize(
    ("name", "size"), [("tiny_vgg", 24), ("tiny_googlenet", 64), ("tiny_resnet18", 64), ("all_cnn", 32)]
)
def test_receptive_field_is_what_a_gradient_reaches(name, size):
    """The pixels that move the middle of the deepest map, with averages for maxima and nothing rectified."""
    from cnnjax.models.layers import avg_pool

    model = create_model(name)
    model = model.clone(act=lambda x: x, **({"pool": avg_pool} if hasattr(model, "pool") else {}))
    if hasattr(model, "lrn"):
        model = model.clone(lrn=None)
    row = [
        r
        for r in summarize(model, (size, size, 3)).rows
        if r.receptive_field and r.receptive_field < 0.6 * size
    ][-1]
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)

    def middle(x):
        stages = model.apply(ones, x, mutable=["stages"])[1]["stages"]
        for part in row.name.split("/"):
            stages = stages[part]
        return stages[0, stages.shape[1] // 2, stages.shape[2] // 2].sum()

    reached = np.flatnonzero(
        np.abs(jax.jit(jax.grad(middle))(np.zeros(image.shape, np.float32))).sum((0, 1, 3))
    )
    assert row.receptive_field > 8
    assert reached[-1] - reached[0] + 1 == row.receptive_field


def test_the_largest_models_cost_nothing_to_summarize():
    rows = rows_of("one_layer_full", (200, 200, 1))
    assert rows["layer"].parameters == rows["layer"].multiply_adds == 1_600_000_000
    rows = rows_of("one_layer_local", (200, 200, 1))
    assert rows["layer"].parameters == rows["layer"].multiply_adds == 16_000_000
    rows = rows_of("one_layer_shared", (200, 200, 1))
    assert rows["layer"].parameters == 400 and rows["layer"].multiply_adds == 16_000_000
    senet = summarize(create_model("senet154"), IMAGENET)
    assert senet.parameters == 115_088_984


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (28, 28, 1)), ("wrn16_4", (32, 32, 3)), ("densenet40_12", (32, 32, 3)), ("se_resnet50", IMAGENET),
     ("squeezenet1_1", IMAGENET), ("googlenet_bn_aux", IMAGENET), ("dropconnect_cifar10", (24, 24, 3)), ("mcdnn_gtsrb", (48, 48, 3))],
)  # fmt: skip
def test_rows_add_up_to_all_parameters(name, shape):
    model = create_model(name)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    assert summarize(model, shape).parameters == sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )


def test_half_precision_halves_activations():
    exact, half = (rows_of("lenet5", (28, 28, 1), dtype=d) for d in ("float32", "bfloat16"))
    assert half["conv1"].bytes * 2 == exact["conv1"].bytes == 4 * 28 * 28 * 6
    assert half["conv1"].parameters == exact["conv1"].parameters


def test_images_that_do_not_fit():
    with pytest.raises(ConfigError, match="too small"):
        summarize(create_model("alexnet"), (32, 32, 3))


def test_text_table():
    lines = text_table(summarize(create_model("vgg16"), IMAGENET)).splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "memory", "multiply-adds", "field", "stride"]
    assert len({len(line.rstrip()) for line in lines if line.startswith("-")}) == 1
    (row,) = [line for line in lines if line.startswith("conv1_2")]
    assert row.split() == ["conv1_2", "224x224x64", "36,928", "12.85", "MB", "1,849,688,064", "5", "1"]
    (row,) = [line for line in lines if line.startswith("fc6")]
    assert row.split() == ["fc6", "4096", "102,764,544", "16.38", "kB", "102,760,448", "all"]
    assert lines[-1].split() == [
        "total",
        "15,237,608",
        "values",
        "138,357,544",
        "60.95",
        "MB",
        "15,470,264,320",
    ]


@pytest.mark.parametrize(
    ("name", "shape", "bars"), [("vgg16", IMAGENET, 22), ("resnet110", (32, 32, 3), 1 + 1 + 54 + 3 + 2)]
)
def test_figure(name, shape, bars, tmp_path):
    """Bars are the rows, or for deep networks the blocks, and none is lost: their lengths add up."""
    summary = summarize(create_model(name), shape)
    figure = bar_figure(summary, name)
    figure.savefig(tmp_path / "costs.png")
    assert (tmp_path / "costs.png").stat().st_size > 10_000
    memory, parameters = ([bar.get_width() for bar in axis.patches] for axis in figure.axes)
    assert len(memory) == bars
    assert sum(memory) == pytest.approx(summary.activation_bytes / 1e6)
    assert sum(parameters) == pytest.approx(summary.parameters / 1e6)


def test_compiler_agrees_with_the_count():
    model = create_model("mnist_cnn")
    summary, costs = summarize(model, (28, 28, 1)), compiler_costs(model, (28, 28, 1), batch_size=4)
    assert costs["argument_bytes"] == 4 * (summary.parameters + 4 * 784)
    assert costs["output_bytes"] == 4 * 4 * 10
    # Two operations per multiply-add and few others; zeros of the padding may be left out.
    assert 0.9 < costs["flops"] / (2 * 4 * summary.multiply_adds) < 1.1
    assert costs["temporary_bytes"] >= summary.rows[1].bytes
