"""Fields of a model by name, and models without their last layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.models import MODELS, create_model, create_trunk

CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
TRUNKS = [
    "tiny_vgg_bn", "tiny_resnet18", "tiny_resnet50", "tiny_resnet", "tiny_preact_resnet", "tiny_densenet",
    "tiny_se_resnet", "tiny_googlenet", "tiny_squeezenet", "grid8", "airbench_laptop", "tiny_mcdnn",
]  # fmt: skip
SHORT = ("tiny_vgg_bn", "tiny_resnet18", "grid8")


def shapes(model, *args):
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), *args)


def test_options_set_fields_of_the_type_they_have():
    model = create_model("grid8", 9, options=("widths=8/16/32", "blocks=1/1/1"))
    assert model.widths == (8, 16, 32) and model.blocks == (1, 1, 1) and model.num_outputs == 9
    assert create_model("tiny_resnet18", options=["width=16"]).width == 16
    assert create_model("tiny_resnet18", options=["small_images=True"]).small_images is True
    assert create_model("vgg11", options=["dropout=0.1"]).dropout == 0.1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "widht=3",
            "'widht=3' is no NAME=VALUE of tiny_resnet18, whose fields are stage_sizes, width, small_images",
        ),
        ("width", "'width' is no NAME=VALUE"),
        ("width=wide", "'width=wide': width is like 4"),
        ("small_images=2", "'small_images=2': small_images is like False"),
        ("num_outputs=3", "is no NAME=VALUE"),
        ("act=tanh", "is no NAME=VALUE"),
        ("stage_sizes=1/x", "stage_sizes is like"),
    ],
)
def test_options_that_do_not_fit_are_refused(option, message):
    with pytest.raises(ConfigError) as error:
        create_model("tiny_resnet18", options=[option])
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.full) for n in TRUNKS]
)
def test_a_trunk_has_the_stages_and_all_variables_but_those_of_the_last_layer(name):
    """The same values as inside of the whole network."""
    whole, trunk = create_model(name, 5), create_trunk(name)
    x = jax.random.normal(jax.random.key(1), CIFAR.shape)
    variables = jax.jit(trunk.init)(jax.random.key(0), x)
    stages = jax.jit(trunk.apply)(variables, x)
    own = {kind: tree["model"] for kind, tree in variables.items()}
    (_, everything) = shapes(whole, CIFAR)
    missing = set(everything["params"]) - set(own["params"])
    assert missing == {"output"} or (name.startswith(("tiny_vgg", "tiny_squeeze")) and "output" in missing)
    draw = np.random.default_rng(2)
    full = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(np.float32), dict(everything))
    full["params"] = {**full["params"], **own["params"]}
    full |= {kind: tree for kind, tree in own.items() if kind != "params"}
    _, found = jax.jit(lambda v, x: whole.apply(v, x, mutable=["stages"]))(full, x)
    assert len(stages) >= 2 and "logits" not in stages
    for stage, value in stages.items():
        np.testing.assert_allclose(value, found["stages"][stage], rtol=1e-4, atol=1e-4 * np.abs(value).max())


def test_models_without_a_form_as_a_trunk_say_so():
    for name in ("one_layer_full", "yolov1", "nin"):
        with pytest.raises(ConfigError, match=f"model {name!r} has no form as a trunk"):
            create_trunk(name)
    assert "resnet50" in MODELS
    stages, _ = shapes(create_trunk("resnet50"), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert {name: value.shape[1:] for name, value in stages.items() if name.startswith("stage")} == {
        "stage1": (16, 16, 256), "stage2": (8, 8, 512), "stage3": (4, 4, 1024), "stage4": (2, 2, 2048),
    }  # fmt: skip
