"""Addresses, stages and preprocessing of a network."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models.layers import conv, stage
from cnnjax.network import Network, Preprocessing
from cnnjax.visualization.addresses import Address, class_index, parse_address, relus, with_relu
from cnnjax.visualization.relu_rules import guided


class Nested(nn.Module):
    """A stage inside a submodule, a ReLU that is not `act`, and an activation that is not ReLU at all."""

    act: object = nn.relu
    hard: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = stage(self, "stem", self.act(conv(2, name="c")(x)))
        x = Block(name="block")(x)
        x = nn.relu(x) if self.hard else x
        return stage(self, "logits", jnp.mean(x, axis=(1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return stage(self, "inner", 2 * x)


class Silent(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


def build(model, shape=(8, 8, 3), **options):
    return Network(model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape))), shape, **options)


def test_layers_come_in_forward_order_with_shapes(tiny):
    assert list(tiny.layers().items()) == [
        ("conv1", (14, 14, 6)),
        ("pool1", (6, 6, 6)),
        ("conv2_pre_relu", (4, 4, 8)),
        ("conv2", (4, 4, 8)),
        ("logits", (5,)),
    ]


def test_stages_of_submodules_have_paths():
    network = build(Nested())
    assert list(network.layers()) == ["stem", "block/inner", "logits"]
    stages = network.stages(jnp.ones((2, 8, 8, 3)))
    np.testing.assert_allclose(stages["block/inner"], 2 * stages["stem"], rtol=1e-6)


def test_a_perturbation_is_added_to_the_stage_it_names():
    network = build(Nested())
    images = jnp.ones((1, 8, 8, 3))
    delta = jnp.zeros((1, 8, 8, 2)).at[0, 0, 0, 1].set(64.0)
    change = network.stages(images, {"block/inner": delta})["logits"] - network.logits(images)
    np.testing.assert_allclose(change, [[0, 1]], atol=1e-5 * np.abs(network.logits(images)).max())


def test_preprocessing_is_in_the_channel_order_of_the_model():
    network = Network(None, {}, (1, 1, 3), Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), "bgr"))
    red, green, blue = 0.5, 0.6, 0.7
    images = jnp.asarray([red, green, blue])[None, None, None]
    expected = [(blue - 0.1) / 1, (green - 0.2) / 2, (red - 0.3) / 4]
    np.testing.assert_allclose(network.preprocessing.of_shares(images)[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("conv2", Address("conv2")),
        ("conv2:7", Address("conv2", 7)),
        ("conv1:0@13,2", Address("conv1", 0, (13, 2))),
        ("logits:4", Address("logits", 4)),
        ("logits:dog", Address("logits", 3)),
        ("probability:bee", Address("probability", 1)),
    ],
)
def test_addresses(tiny, text, address):
    assert parse_address(tiny, text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convv2", "did you mean conv2.*Known: conv1, pool1"),
        ("zzz", "unknown layer 'zzz'; Known: conv1"),
        ("conv2:8", "channels 0 to 7"),
        ("conv2:dog", "channels of conv2 are numbers from 0 to 7"),
        ("conv2:1@4,0", "positions 0,0 to 3,3"),
        ("conv2@1,1", "cannot read the address"),
        ("conv2:1@2", "cannot read the address"),
        ("", "cannot read the address"),
        ("logits:5", "classes 0 to 4"),
        ("logits:dgo", "unknown class 'dgo'; did you mean dog"),
        ("probability", "probability needs a class"),
        ("logits:1@0,0", "logits is a vector of 5"),
    ],
)
def test_a_wrong_address_names_the_right_ones_in_one_line(tiny, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_address(tiny, text)
    assert "\n" not in str(error.value)


def test_class_names_are_needed_to_use_them(linear):
    with pytest.raises(ConfigError, match="no class names, give 0 to 2"):
        class_index(linear, "dog")


def test_images_that_are_too_small_or_do_not_fit_are_one_line(tiny, lenet):
    with pytest.raises(ConfigError, match="images of 4x4 are too small: nothing is left at pool1"):
        tiny.at_size(4, 4)
    with pytest.raises(ConfigError, match="LeNet5 cannot be run on 40x40 images") as error:
        lenet.at_size(40, 40)
    assert "\n" not in str(error.value)
    assert tiny.at_size(20, 24).layers()["conv1"] == (18, 22, 6)


def test_a_model_without_stages_is_told_how_to_name_them():
    network = build(Silent(), (4, 4, 1))
    with pytest.raises(ConfigError, match=r"Silent names no stages: call cnnjax.models.layers.stage"):
        network.layers()


def test_preprocessing_is_checked():
    with pytest.raises(ConfigError, match="mean has 2 values for images of 3 channels"):
        Network(None, {}, (8, 8, 3), Preprocessing(mean=(0.1, 0.2)))
    with pytest.raises(ConfigError, match="choose rgb or bgr"):
        Network(None, {}, (8, 8, 3), Preprocessing(channel_order="gbr"))


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        (Nested(), (1, 0)),
        (Nested(act=lambda x: jnp.maximum(x, 0)), (1, 0)),
        (Nested(act=lambda x: jnp.maximum(x, jnp.zeros_like(x))), (1, 0)),
        (Nested(hard=True), (1, 1)),
        (Nested(act=nn.tanh), (0, 0)),
        (Nested(act=nn.relu6), (0, 1)),
        (Silent(), (0, 0)),
    ],
)
def test_relus_that_can_and_cannot_be_replaced_are_counted(model, counts):
    network = build(model)
    if isinstance(model, Silent):
        with pytest.raises(ConfigError):
            relus(network)
        return
    assert relus(network) == counts
    if counts != (1, 0):
        with pytest.raises(ConfigError, match=f"{counts[0]} ReLUs replaced, {counts[1]} not"):
            with_relu(network, guided)


def test_another_relu_rule_does_not_change_the_output(tiny):
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    np.testing.assert_array_equal(with_relu(tiny, guided).logits(images), tiny.logits(images))


def test_only_what_is_used_is_computed(tiny):
    """The program for the first convolution has no trace of the second."""

    def stage_sum(network, images):
        return jnp.sum(network.stages(images)["conv1"])

    cost = jax.jit(stage_sum).lower(tiny, jnp.zeros((1, 16, 16, 3))).compile().cost_analysis()
    first, second = 2 * 14 * 14 * 6 * 27, 2 * 4 * 4 * 8 * 54
    assert first <= cost["flops"] < first + second


def test_variables_are_the_leaves(tiny):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, tiny)
    assert dataclasses.replace(doubled, variables=None) == dataclasses.replace(tiny, variables=None)
    np.testing.assert_array_equal(
        doubled.variables["params"]["c1"]["kernel"], 2 * tiny.variables["params"]["c1"]["kernel"]
    )
