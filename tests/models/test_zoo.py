"""Walks the whole model table: parameter counts of the papers, shapes, stages, gradients, precision, dropout."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import abstract, count, random_variables

from cnnjax.models import MODELS, create_model
from cnnjax.models.layers import avg_pool

IMAGENET, CIFAR, MNIST = (224, 224, 3), (32, 32, 3), (28, 28, 1)


def preact_count(blocks, widths, stem, channels, classes, bottleneck=False):
    """Parameters of a pre-activation ResNet, block by block: normalizations, convolutions, projections."""
    total = stem
    for number, f in zip(blocks, widths, strict=True):
        out = 4 * f if bottleneck else f
        for j in range(number):
            if bottleneck:
                total += 2 * channels + 2 * f + 2 * f + channels * f + 9 * f * f + f * out
            else:
                total += 2 * channels + 2 * f + 9 * channels * f + 9 * f * f
            if j == 0 and (channels != out or f != widths[0]):
                total += channels * out
            channels = out
    return total + 2 * channels + (channels + 1) * classes


preact_imagenet = partial(
    preact_count, widths=(64, 128, 256, 512), stem=64 * 147 + 128, channels=64, classes=1000
)
preact_cifar = partial(preact_count, stem=16 * 27, channels=16, classes=10)

# Image shape, outputs and parameters: of papers, torchvision or timm, or summed up where no source states them.
PUBLISHED = {
    "alexnet": ((227, 227, 3), 1000, 60_965_224),
    "alexnet_ungrouped": ((227, 227, 3), 1000, 62_378_344),
    "alexnet_one_tower": (IMAGENET, 1000, 61_100_840),
    "zfnet": (IMAGENET, 1000, 62_357_608),
    "zfnet_wide": (IMAGENET, 1000, 107_627_624),
    "vgg11": (IMAGENET, 1000, 132_863_336),
    "vgg13": (IMAGENET, 1000, 133_047_848),
    "vgg16": (IMAGENET, 1000, 138_357_544),
    "vgg19": (IMAGENET, 1000, 143_667_240),
    "vgg11_bn": (IMAGENET, 1000, 132_868_840),
    "vgg13_bn": (IMAGENET, 1000, 133_053_736),
    "vgg16_bn": (IMAGENET, 1000, 138_365_992),
    "vgg19_bn": (IMAGENET, 1000, 143_678_248),
    # One layer from 512 features to 10 classes instead of fc6, fc7 and fc8.
    "vgg11_cifar": (CIFAR, 10, 132_868_840 - (102_764_544 + 16_781_312 + 4_097_000) + 5_130),
    "vgg16_cifar": (CIFAR, 10, 138_365_992 - (102_764_544 + 16_781_312 + 4_097_000) + 5_130),
    "googlenet": (IMAGENET, 1000, 6_998_552),
    "googlenet_aux": (IMAGENET, 1000, 13_378_280),
    "googlenet_bn": (IMAGENET, 1000, 6_624_904),
    "googlenet_bn_aux": (IMAGENET, 1000, 13_004_888),
    "inception5h": (IMAGENET, 1008, 7_066_380),
    "inception5h_aux": (IMAGENET, 1008, 13_461_996),
    "resnet18": (IMAGENET, 1000, 11_689_512),
    "resnet34": (IMAGENET, 1000, 21_797_672),
    "resnet50": (IMAGENET, 1000, 25_557_032),
    "resnet101": (IMAGENET, 1000, 44_549_160),
    "resnet152": (IMAGENET, 1000, 60_192_808),
    "resnet50_v1": (IMAGENET, 1000, 25_557_032),
    "resnet101_v1": (IMAGENET, 1000, 44_549_160),
    "resnet152_v1": (IMAGENET, 1000, 60_192_808),
    # A first convolution of 3x3 instead of 7x7 and 10 classes.
    "resnet18_cifar": (CIFAR, 10, 11_689_512 - 64 * 3 * (49 - 9) - 990 * 513),
    "resnet50_cifar": (CIFAR, 10, 25_557_032 - 64 * 3 * (49 - 9) - 990 * 2049),
    "resnet20": (CIFAR, 10, 269_722),
    "resnet32": (CIFAR, 10, 464_154),
    "resnet44": (CIFAR, 10, 658_586),
    "resnet56": (CIFAR, 10, 853_018),
    "resnet110": (CIFAR, 10, 1_727_962),
    "resnet20_b": (CIFAR, 10, 269_722 + 2_752),
    "resnet32_b": (CIFAR, 10, 464_154 + 2_752),
    "resnet44_b": (CIFAR, 10, 658_586 + 2_752),
    "resnet56_b": (CIFAR, 10, 853_018 + 2_752),
    "resnet110_b": (CIFAR, 10, 1_727_962 + 2_752),
    "preact_resnet18": (IMAGENET, 1000, preact_imagenet((2, 2, 2, 2))),
    "preact_resnet34": (IMAGENET, 1000, preact_imagenet((3, 4, 6, 3))),
    "preact_resnet50": (IMAGENET, 1000, preact_imagenet((3, 4, 6, 3), bottleneck=True)),
    "preact_resnet101": (IMAGENET, 1000, preact_imagenet((3, 4, 23, 3), bottleneck=True)),
    "preact_resnet152": (IMAGENET, 1000, preact_imagenet((3, 8, 36, 3), bottleneck=True)),
    "preact_resnet110": (CIFAR, 10, preact_cifar((18, 18, 18), (16, 32, 64))),
    "preact_resnet164": (CIFAR, 10, preact_cifar((18, 18, 18), (16, 32, 64), bottleneck=True)),
    "wrn16_4": (CIFAR, 10, preact_cifar((2, 2, 2), (64, 128, 256))),
    "wrn16_8": (CIFAR, 10, 10_961_370),
    "wrn40_4": (CIFAR, 10, 8_949_210),
    "wrn28_10": (CIFAR, 10, 36_479_194),
    "wrn28_10_dropout": (CIFAR, 10, 36_479_194),
    "densenet121": (IMAGENET, 1000, 7_978_856),
    "densenet169": (IMAGENET, 1000, 14_149_480),
    "densenet201": (IMAGENET, 1000, 20_013_928),
    "densenet161": (IMAGENET, 1000, 28_681_000),
    "densenet264": (IMAGENET, 1000, 33_337_704),
    "densenet40_12": (CIFAR, 10, 1_019_722),
    "densenet100_12": (CIFAR, 10, 6_979_642),
    "densenet_bc100_12": (CIFAR, 10, 769_162),
    "densenet_bc250_24": (CIFAR, 10, 15_324_406),
    "densenet_bc190_40": (CIFAR, 10, 25_624_430),
    "se_resnet50": (IMAGENET, 1000, 28_088_024),
    "se_resnet101": (IMAGENET, 1000, 49_326_872),
    "se_resnet152": (IMAGENET, 1000, 66_821_848),
    "senet154": (IMAGENET, 1000, 115_088_984),
    "squeezenet1_0": (IMAGENET, 1000, 1_248_424),
    "squeezenet1_0_caffe": ((227, 227, 3), 1000, 1_248_424),
    "squeezenet1_1": (IMAGENET, 1000, 1_235_496),
    "nin": (CIFAR, 10, 14_592 + 30_880 + 15_456 + 460_992 + 3 * 37_056 + 331_968 + 1_930),
    "nin_imagenet": (
        IMAGENET,
        1000,
        34_944 + 2 * 9_312 + 614_656 + 2 * 65_792 + 885_120 + 2 * 147_840 + 3_539_968 + 1_049_600 + 1_025_000,
    ),
    "all_cnn": (CIFAR, 10, 2_688 + 2 * 83_040 + 166_080 + 3 * 331_968 + 37_056 + 1_930),
    "mcdnn_mnist": ((29, 29, 1), 10, 76_040),
    "mcdnn_nist": ((29, 29, 1), 62, 76_040 + 52 * 151),
    "mcdnn_gtsrb": ((48, 48, 3), 43, 1_543_443),
    "mcdnn_cifar10": (
        CIFAR,
        10,
        300 * 28 + 300 * 1201 + 300 * 2701 + 300 * 1201 + 300 * 301 + 100 * 301 + 10 * 101,
    ),
    "mcdnn_chinese": ((48, 48, 1), 3755, 3_483_655),
    "dropconnect_mlp": (MNIST, 10, 800 * 785 + 800 * 801 + 10 * 801),
    "dropconnect_mnist": (MNIST, 10, 832 + 64 * 801 + 150 * (49 * 64 + 1) + 10 * 151),
    # 24x24 crops: two pools leave 6x6 places, each with its own 3x3 filters.
    "dropconnect_cifar10": (
        (24, 24, 3),
        10,
        64 * 76 + 64 * 1601 + 36 * (64 * 577 + 32 * 577) + 128 * (36 * 32 + 1) + 10 * 129,
    ),
    "dropconnect_svhn": (
        (28, 28, 3),
        10,
        64 * 76 + 64 * 1601 + 49 * (64 * 577 + 32 * 577) + 512 * (49 * 32 + 1) + 10 * 513,
    ),
    "face_landmarks68": ((112, 112, 3), 136, 356_840),
    "face_landmarks68_tiny": ((112, 112, 3), 136, 77_224),
    "one_layer_full": ((20, 20, 1), 10, 400 * 400 + 10 * 401),
    "one_layer_local": ((20, 20, 1), 10, 400 * 4 * 100 + 10 * 1601),
    "one_layer_shared": ((20, 20, 1), 10, 4 * 100 + 10 * 1601),
    # Four gates, or three with a bias more for the candidate, of 28 numbers and 128 units; 10 classes.
    "lstm_rows": (MNIST, 10, 4 * (28 + 128 + 1) * 128 + 1_290),
    "gru_rows": (MNIST, 10, (3 * (28 + 128) + 4) * 128 + 1_290),
}
LONG_TO_TRACE = {"densenet264", "densenet100_12", "densenet_bc250_24", "densenet_bc190_40"}
TESTED_ELSEWHERE = {
    "softmax_regression", "mlp", "local", "lenet5", "two_stage", "toy_cnn", "worked_example", "mnist_cnn", "mnist_fast",
    "sliding_window", "airbench_laptop", "airbench94", "airbench95", "airbench96",
    "grid8", "grid16", "grid32", "localizer", "yolov1", "maskrcnn_small",
    *(
        f"{kind}_resnet{form}" for kind in ("fasterrcnn", "maskrcnn", "keypointrcnn")
        for form in ("50_fpn", "50_fpn_coco_v1", "101_fpn")
    ),
    "mtcnn_pnet", "mtcnn_rnet", "mtcnn_onet", "point_net", "heatmaps_resnet18", "heatmaps_resnet50", "heatmaps_small",
    "darknet53", "yolov3", "yolov3_spp", "yolov3_tiny",
    "tiny_darknet53", "tiny_yolov3", "tiny_yolov3_spp", "tiny_yolov3_tiny",
}  # fmt: skip

# The smallest images that pass through: small enough for gradients on any machine.
TINY = {
    "tiny_alexnet": (67, 67, 3),
    "tiny_alexnet_one_tower": (63, 63, 3),
    "tiny_zfnet": (63, 63, 3),
    "tiny_vgg": (16, 16, 3),
    "tiny_vgg_bn": (16, 16, 3),
    "tiny_googlenet": (32, 32, 3),
    "tiny_googlenet_bn": (32, 32, 3),
    "tiny_resnet": (16, 16, 3),
    "tiny_resnet18": (32, 32, 3),
    "tiny_resnet50": (32, 32, 3),
    "tiny_preact_resnet": (32, 32, 3),
    "tiny_wrn": (16, 16, 3),
    "tiny_densenet": (32, 32, 3),
    "tiny_se_resnet": (32, 32, 3),
    "tiny_senet": (32, 32, 3),
    "tiny_squeezenet": (40, 40, 3),
    "tiny_nin": (16, 16, 3),
    "tiny_all_cnn": (16, 16, 3),
    "tiny_mcdnn": (29, 29, 1),
    "tiny_dropconnect": (16, 16, 3),
}
SIBLINGS = {
    "tiny_alexnet_one_tower", "tiny_vgg", "tiny_googlenet", "tiny_resnet18", "tiny_preact_resnet", "tiny_se_resnet",
}  # fmt: skip
WITH_DROPOUT = {
    "tiny_alexnet", "tiny_alexnet_one_tower", "tiny_zfnet", "tiny_vgg", "tiny_vgg_bn", "tiny_googlenet",
    "tiny_googlenet_bn", "tiny_wrn", "tiny_densenet", "tiny_senet", "tiny_squeezenet", "tiny_nin", "tiny_all_cnn",
    "tiny_dropconnect",
}  # fmt: skip
WITH_NORM = {
    "tiny_vgg_bn", "tiny_googlenet_bn", "tiny_resnet", "tiny_resnet18", "tiny_resnet50", "tiny_preact_resnet",
    "tiny_wrn", "tiny_densenet", "tiny_se_resnet", "tiny_senet",
}  # fmt: skip


def test_every_model_is_tested():
    assert set(MODELS) == set(PUBLISHED) | set(TINY) | TESTED_ELSEWHERE


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG_TO_TRACE else n for n in PUBLISHED]
)
def test_parameters_and_output(name):
    shape, outputs, parameters = PUBLISHED[name]
    model = create_model(name)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert count(variables["params"]) == parameters
    assert logits.shape == (2, outputs)


@pytest.mark.parametrize(
    ("name", "weights"), [("full", 1_600_000_000), ("local", 16_000_000), ("shared", 400)]
)
def test_connectivity_over_200x200_pixels(name, weights):
    model = create_model(f"one_layer_{name}")
    x = jax.ShapeDtypeStruct((1, 200, 200, 1), jnp.float32)
    assert count(jax.eval_shape(model.init, jax.random.key(0), x)["params"]["layer"]) == weights


def test_connectivity_is_what_it_says():
    """Moving the image moves the output of shared filters, and of nothing else; local filters see 10x10 pixels."""
    x = jnp.zeros((2, 20, 20, 1)).at[0, 8, 8].set(1).at[1, 9, 9].set(1)
    moves, spread = {}, {}
    for name in ("full", "local", "shared"):
        model = create_model(f"one_layer_{name}")
        variables = random_variables(model, x)
        _, state = jax.jit(partial(model.apply, mutable=["stages"]))(variables, x)
        layer = np.asarray(state["stages"]["layer_pre_relu"]).reshape(2, 20, 20, -1)
        moves[name] = np.allclose(layer[0, :-1, :-1], layer[1, 1:, 1:], atol=1e-6)
        spread[name] = (layer[0] != 0).any(-1).sum()
    assert moves == {"full": False, "local": False, "shared": True}
    assert spread == {"full": 400, "local": 100, "shared": 100}


GOOGLENET = (
    "conv2d0 maxpool0 localresponsenorm0 conv2d1 conv2d2 localresponsenorm1 maxpool1 mixed3a mixed3b maxpool4 mixed4a "
    "mixed4b mixed4c mixed4d mixed4e maxpool10 mixed5a mixed5b avgpool0 logits"
)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("alexnet", "conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 logits"),
        ("alexnet_one_tower", "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 logits"),
        ("zfnet", "conv1 pool1 norm1 conv2 pool2 norm2 conv3 conv4 conv5 pool5 fc6 fc7 logits"),
        (
            "vgg16",
            "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 conv4_1 conv4_2 conv4_3 pool4 "
            "conv5_1 conv5_2 conv5_3 pool5 fc6 fc7 logits",
        ),
        ("googlenet", GOOGLENET),
        ("inception5h_aux", GOOGLENET + " aux1 aux2"),
        ("resnet50", "conv1 pool1 stage1 stage2 stage3 stage4 avg_pool logits"),
        ("wrn16_4", "conv1 stage1 stage2 stage3 relu avg_pool logits"),
        (
            "densenet121",
            "conv0 pool0 block1 transition1_relu transition1 block2 transition2_relu transition2 block3 "
            "transition3_relu transition3 block4 norm5 avg_pool logits",
        ),
        ("se_resnet50", "conv1 pool1 stage1 stage2 stage3 stage4 avg_pool logits"),
        (
            "squeezenet1_0",
            "conv1 pool1 fire2_squeeze fire2 fire3_squeeze fire3 fire4_squeeze fire4 pool4 fire5_squeeze fire5 "
            "fire6_squeeze fire6 fire7_squeeze fire7 fire8_squeeze fire8 pool8 fire9_squeeze fire9 conv10 logits",
        ),
        ("nin", "conv1 cccp1_1 cccp1_2 pool1 conv2 cccp2_1 cccp2_2 pool2 conv3 cccp3_1 cccp3_2 logits"),
        ("all_cnn", "conv1 conv2 conv3 conv4 conv5 conv6 conv7 conv8 conv9 logits"),
        ("mcdnn_mnist", "conv1 pool1 conv2 pool2 fc1 logits"),
        ("dropconnect_cifar10", "conv1 pool1 norm1 conv2 norm2 pool2 local3 local4 fc1 logits"),
    ],
)
def test_stages_have_the_names_of_the_papers(name, stages):
    found = abstract(name, PUBLISHED[name][0])[2]
    top = [s for s in found if "/" not in s and not s.endswith("_pre_relu")]
    assert sorted(top) == sorted(stages.split())


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("alexnet", {"conv1": (55, 55, 96), "pool1": (27, 27, 96), "pool2": (13, 13, 256), "pool5": (6, 6, 256)}),
        ("zfnet", {"conv1": (110, 110, 96), "pool1": (55, 55, 96), "conv2": (26, 26, 256), "pool2": (13, 13, 256)}),
        ("googlenet", {"conv2d0": (112, 112, 64), "mixed3a": (28, 28, 256), "mixed4a": (14, 14, 512), "mixed5b": (7, 7, 1024)}),
        ("inception5h", {"mixed4a": (14, 14, 508), "mixed4e": (14, 14, 832), "mixed5a": (7, 7, 832)}),
        ("resnet50", {"pool1": (56, 56, 64), "stage1": (56, 56, 256), "stage4": (7, 7, 2048)}),
        ("densenet121", {"block1": (56, 56, 256), "transition1": (28, 28, 128), "norm5": (7, 7, 1024)}),
        ("squeezenet1_0_caffe", {"conv1": (111, 111, 96), "pool1": (55, 55, 96), "pool8": (13, 13, 512), "conv10": (15, 15, 1000)}),
        ("senet154", {"conv3": (112, 112, 128), "stage1": (56, 56, 256), "stage4": (7, 7, 2048), "block4_1/se/gate": (2048,)}),
        ("mcdnn_gtsrb", {"conv1": (42, 42, 100), "pool1": (21, 21, 100), "pool2": (9, 9, 150), "pool3": (3, 3, 250)}),
        ("mcdnn_cifar10", {"pool1": (15, 15, 300), "pool2": (7, 7, 300), "pool3": (3, 3, 300), "pool4": (1, 1, 300)}),
        ("all_cnn", {"conv3": (16, 16, 96), "conv6": (8, 8, 192), "conv7": (6, 6, 192), "conv9": (6, 6, 10)}),
    ],
)  # fmt: skip
def test_shapes_are_those_of_the_papers(name, shapes):
    stages = abstract(name, PUBLISHED[name][0])[2]
    assert {stage: stages[stage].shape[1:] for stage in shapes} == shapes


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("alexnet_one_tower", (180, 131, 1)),
        ("vgg16", (64, 96, 1)),
        ("vgg16_cifar", (48, 40, 3)),
        ("googlenet_bn_aux", (64, 96, 3)),
        ("resnet50", (48, 33, 1)),
        ("wrn16_4", (28, 28, 1)),
        ("densenet121", (64, 33, 3)),
        ("senet154", (64, 32, 1)),
        ("squeezenet1_1", (50, 61, 3)),
        ("nin", (28, 28, 1)),
        ("all_cnn", (28, 40, 1)),
        ("dropconnect_cifar10", (32, 32, 1)),
    ],
)
def test_other_image_sizes_and_classes(name, shape):
    model = create_model(name, num_outputs=7)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    assert jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0].shape == (2, 7)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full) if n in SIBLINGS else n for n in TINY]
)
def test_gradients_dropout_and_norm(name):
    model = create_model(name, num_outputs=5).clone(act=nn.leaky_relu)  # no unit is dead
    x = jax.random.normal(jax.random.key(0), (4, *TINY[name]))
    variables = random_variables(model, x)
    statistics = variables.get("batch_stats", {})
    assert (name in WITH_NORM) == bool(statistics)

    def loss(params, key):
        logits, state = model.apply(
            {**variables, "params": params},
            x,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats", "stages"],
        )
        aux = sum(jnp.sum(state["stages"][s] ** 2) for s in ("aux1", "aux2") if s in state["stages"])
        return jnp.sum(logits**2) + aux, (logits, state.get("batch_stats", {}))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (logits, after)), grads = step(variables["params"], jax.random.key(1))
    assert logits.shape == (4, 5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    for old, new in zip(jax.tree.leaves(statistics), jax.tree.leaves(after), strict=True):
        assert np.isfinite(new).all() and not np.array_equal(old, new)
    (_, (again, _)), _ = step(variables["params"], jax.random.key(2))
    assert (name in WITH_DROPOUT) == (not np.array_equal(logits, again))


@pytest.mark.parametrize("name", TINY)
def test_evaluation_needs_no_key_and_changes_nothing(name):
    model = create_model(name)
    x = jax.ShapeDtypeStruct((2, *TINY[name]), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    jax.eval_shape(model.apply, variables, x)  # raises if it draws or wants to write statistics


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_everywhere_but_in_the_weights(name):
    variables, logits, stages = abstract(name, TINY[name], dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in stages.values()} | {logits.dtype} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("name", ["tiny_googlenet_bn", "tiny_resnet50", "tiny_densenet", "tiny_dropconnect"])
def test_bfloat16_is_close_to_float32(name):
    x = jax.random.normal(jax.random.key(0), (2, *TINY[name]))
    exact = create_model(name)
    variables = random_variables(exact, x)
    rough = create_model(name, dtype="bfloat16")
    a, b = jax.jit(exact.apply)(variables, x), jax.jit(rough.apply)(variables, x).astype(jnp.float32)
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


def primitives(name, **fields):
    """Names of all operations of the model with these fields changed."""
    model = create_model(name).clone(**fields)
    x = jax.ShapeDtypeStruct((1, *TINY[name]), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return str(jax.make_jaxpr(model.apply)(variables, x)), variables


@pytest.mark.parametrize("name", TINY)
def test_one_field_replaces_every_activation_pool_and_norm(name):
    text, _ = primitives(name)
    relu = "tanh" if name == "tiny_mcdnn" else "relu"
    assert relu in text
    assert relu not in primitives(name, act=lambda x: x)[0]
    model = create_model(name)
    if hasattr(model, "pool") and not getattr(model, "small_images", False):
        max_pools = re.compile("reduce_window_max|name=max_pool")  # the latter: ops/pooling.py
        assert max_pools.search(text)
        assert not max_pools.search(primitives(name, pool=avg_pool)[0])
    if getattr(model, "norm", None):
        replaced = primitives(name, norm=lambda train, name: nn.GroupNorm(1, name=name))[1]
        assert "batch_stats" not in replaced
    if getattr(model, "lrn", None):
        assert "reduce_window_sum" in text
        assert "reduce_window_sum" not in primitives(name, lrn=lambda x: x)[0]


def test_gradient_at_a_stage_through_a_perturbation():
    """The gradient with respect to a zero perturbation of a stage, against a central difference."""
    model = create_model("tiny_resnet50").clone(act=nn.softplus, pool=avg_pool)  # smooth, for the difference
    x = jax.random.normal(jax.random.key(0), (2, *TINY["tiny_resnet50"]))
    variables = random_variables(model, x)
    stages = jax.jit(partial(model.apply, mutable=["stages"]))(variables, x)[1]["stages"]

    @jax.jit
    def score(delta):
        return model.apply({**variables, "perturbations": {"block2_1": {"sum": delta}}}, x)[:, 3].sum()

    value, grad = jax.value_and_grad(score)(jnp.zeros_like(stages["block2_1"]["sum"]))
    np.testing.assert_allclose(value, stages["logits"][:, 3].sum(), rtol=1e-5)
    direction = grad / jnp.linalg.norm(grad)
    slope = (score(0.1 * direction) - score(-0.1 * direction)) / 0.2
    np.testing.assert_allclose(slope, jnp.linalg.norm(grad), rtol=1e-2)
