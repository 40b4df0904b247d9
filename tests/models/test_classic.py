"""The lecture's first networks: counts, shapes and stage names from the slides; the CIFAR ResNet's blocks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import abstract, count, random_variables

from cnnjax.config import ConfigError
from cnnjax.models import create_model


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("softmax_regression", (28, 28, 1), 784 * 10 + 10),
        ("mlp", (28, 28, 1), 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
        ("local", (28, 28, 1), 28 * 28 * 8 * (25 + 1) + 14 * 14 * 8 * 10 + 10),
        ("lenet5", (28, 28, 1), 61_706),
        ("lenet5", (32, 32, 1), 61_706),
        ("two_stage", (28, 28, 1), 832 + 32 * 25 * 32 + 32 + 7 * 7 * 32 * 10 + 10),
        ("two_stage", (32, 32, 3), 2_432 + 32 * 25 * 32 + 32 + 8 * 8 * 32 * 10 + 10),
        ("toy_cnn", (64, 64, 3), 2_432 + 12_816 + 12_832 + 51_264 + 4 * 4 * 64 * 10 + 10),
        ("worked_example", (32, 32, 3), 280 + 910 + 455 + 920 + 1810 + 5020 + 3210),
        ("mnist_cnn", (28, 28, 1), 320 + 18_496 + 3136 * 256 + 256 + 2_570),
        ("mnist_fast", (28, 28, 1), 624 + 6_944 + 800 * 256 + 256 + 2_570),
    ],
)
def test_parameters_and_output(name, shape, parameters):
    variables, logits, stages = abstract(name, shape)
    assert count(variables["params"]) == parameters
    assert logits.shape == (2, 10)
    assert stages["logits"].shape == (2, 10)


def test_worked_example_layer_by_layer():
    variables, _, stages = abstract("worked_example", (32, 32, 3))
    counts = {name: count(layer) for name, layer in variables["params"].items()}
    assert counts == {
        "conv1_1": 280, "conv1_2": 910, "conv2_1": 455, "conv2_2": 920, "conv3_1": 1810, "conv3_2": 5020, "output": 3210,
    }  # fmt: skip
    shapes = {name: value.shape[1:] for name, value in stages.items() if not name.endswith("_pre_relu")}
    assert shapes == {
        "conv1_1": (32, 32, 10), "conv1_2": (32, 32, 10), "pool1": (16, 16, 10),
        "conv2_1": (16, 16, 5), "conv2_2": (16, 16, 20), "pool2": (8, 8, 20),
        "conv3_1": (8, 8, 10), "conv3_2": (8, 8, 20), "pool3": (4, 4, 20),
        "logits": (10,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("softmax_regression", ["logits"]),
        ("mlp", ["fc1", "fc2", "logits"]),
        ("local", ["local1", "pool1", "logits"]),
        ("lenet5", ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "logits"]),
        ("two_stage", ["conv1", "pool1", "conv2", "pool2", "logits"]),
        ("mnist_cnn", ["conv1", "pool1", "conv2", "pool2", "fc1", "logits"]),
        (
            "tiny_resnet",
            ["conv1", "block1_1/relu1", "block1_1/sum", "stage1", "block2_1/relu1", "block2_1/sum", "stage2",
             "block3_1/relu1", "block3_1/sum", "stage3", "avg_pool", "logits"],
        ),
    ],
)  # fmt: skip
def test_stages(name, stages):
    found = abstract(name, (32, 32, 3))[2]
    assert {s for s in found if not s.endswith("_pre_relu")} == set(stages)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (8, 8, 1)),
        ("local", (9, 7, 3)),
        ("toy_cnn", (20, 31, 1)),
        ("mnist_cnn", (8, 8, 1)),
        ("tiny_resnet", (11, 17, 1)),
    ],
)
def test_other_image_sizes_and_classes(name, shape):
    _, logits, _ = abstract(name, shape, num_outputs=3)
    assert logits.shape == (2, 3)


def test_too_small_an_image_is_refused():
    with pytest.raises(ConfigError, match="too small"):
        abstract("toy_cnn", (8, 8, 1))


def test_unknown_model():
    with pytest.raises(ConfigError, match="did you mean resnet20"):
        create_model("resnet-20")


def test_option_a_shortcut_is_the_paper_s():
    """A block whose convolutions are zero is its shortcut: every second pixel, zero channels on both sides."""
    model = create_model("tiny_resnet")
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 3))
    variables = random_variables(model, x)
    zero = jax.tree.map(jnp.zeros_like, variables["params"]["block2_1"])
    variables["params"]["block2_1"] = zero
    _, state = jax.jit(partial(model.apply, mutable=["stages"]))(variables, x)
    before, after = np.asarray(state["stages"]["stage1"]), np.asarray(state["stages"]["stage2"])
    np.testing.assert_array_equal(after[..., 8:24], before[:, ::2, ::2])
    assert not after[..., :8].any() and not after[..., 24:].any() and after.any()


def test_batch_norm_normalizes_in_training_and_remembers():
    model = create_model("tiny_resnet")
    x = 3 + 5 * jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = random_variables(model, x)
    _, state = jax.jit(partial(model.apply, train=True, mutable=["stages", "batch_stats"]))(variables, x)
    bn1 = variables["params"]["bn1"]
    normal = np.asarray(state["stages"]["conv1_pre_relu"])
    normal = (normal - np.asarray(bn1["bias"])) / np.asarray(bn1["scale"])
    np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-3)
    before, after = variables["batch_stats"]["bn1"]["mean"], state["batch_stats"]["bn1"]["mean"]
    assert np.abs(after - before).max() > 0.01
    evaluate = jax.jit(model.apply)
    assert not np.allclose(evaluate(variables, x), evaluate({**variables, **state}, x), atol=1e-2)


@pytest.mark.parametrize("name", ["mlp", "local", "lenet5", "two_stage", "tiny_resnet"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(name):
    model = create_model(name, dtype="bfloat16")
    x = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    variables = random_variables(model, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, state = jax.jit(partial(model.apply, mutable=["stages"]))(variables, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("bfloat16")}
    exact = jax.jit(create_model(name).apply)(variables, x)
    np.testing.assert_allclose(logits.astype(jnp.float32), exact, atol=0.1 * np.abs(exact).max())
