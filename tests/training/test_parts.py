"""Layers that stay as they are or learn more slowly: by names, against torch and against a step computed by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.config import ConfigError, Data, Experiment, Model, Optimizer, Train
from cnnjax.models import create_model
from cnnjax.models.layers import batch_norm, stage
from cnnjax.training import optimizers
from cnnjax.training.parts import frozen_variables, in_trunk
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state, train_step

SHAPE = (8, 8, 3)
RESNET = (32, 32, 3)


class Small(nn.Module):
    """Names that begin alike; a norm; a head."""

    num_outputs: int = 3

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(4, (3, 3), name="conv1")(x)
        x = stage(self, "conv1_pre_relu", batch_norm(train, name="bn1")(x))
        x = stage(self, "conv1", nn.relu(x))
        x = stage(self, "deep", nn.relu(nn.Conv(4, (3, 3), name="conv10")(x)))
        return stage(self, "logits", nn.Dense(self.num_outputs, name="output")(x.mean((1, 2))))


class Theirs(nn.Module):
    """With linen's own norms, told in both of its ways whether they train."""

    num_outputs: int = 3

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(
            nn.BatchNorm(use_running_average=not train, name="bn1")(nn.Conv(4, (3, 3), name="conv1")(x))
        )
        x = nn.relu(nn.BatchNorm(name="bn2")(x, use_running_average=not train))
        return nn.Dense(self.num_outputs, name="output")(x.mean((1, 2)))


def layers(paths):
    return {path.rpartition("/")[0] for path in paths}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("conv1",), {"conv1", "bn1"}),  # the stage, in which the norm lies, and not conv10
        (("conv1*",), {"conv1", "bn1", "conv10"}),
        (("deep",), {"conv10"}),
        (("bn1", "conv10/kernel"), {"bn1", "conv10"}),
        (("trunk",), {"conv1", "bn1", "conv10"}),
        (("*/bias",), {"conv1", "bn1", "conv10", "output"}),
    ],
)
def test_patterns_name_stages_layers_and_parameters(patterns, expected):
    assert layers(frozen_variables(Small(), SHAPE, patterns)) == expected


def test_a_stage_of_a_resnet_is_all_of_its_blocks():
    model = create_model("tiny_resnet18")  # one block in each stage
    found = frozen_variables(model, RESNET, ("stage1",))
    assert {path.split("/")[0] for path in found} == {"block1_1"}
    assert layers(frozen_variables(model, RESNET, ("conv1",))) == {"conv1", "bn1"}
    assert "output" not in layers(in_trunk(model, RESNET))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("conv",), "'conv' matches no layer, parameter or stage: did you mean conv1 or conv10"),
        (("deep", "nowhere"), "'nowhere' matches no layer, parameter or stage: --mode=summarize"),
        (("*",), "nothing is left to learn"),
        (("trunk/conv1",), "matches no layer"),
    ],
)
def test_mistakes_are_told(patterns, message):
    with pytest.raises(ConfigError, match="optimizer.frozen.*" + message.replace("*", r"\*")):
        frozen_variables(Small(), SHAPE, patterns)


def test_a_model_that_is_all_head_has_no_trunk():
    with pytest.raises(ConfigError, match=r"has a head only \(output\), and no trunk"):
        in_trunk(create_model("softmax_regression"), SHAPE)


def begun(model=None, **optimizer):
    experiment = Experiment(
        data=Data(batch_size=6, mean=(0.5,), std=(0.25,)),
        model=Model(name="own:Small"),
        optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0.0, schedule="constant", **optimizer),
        train=Train(steps=4),
    )
    recipe = make_recipe(experiment, ("a", "b", "c"), SHAPE, 4, model=model or Small())
    draw = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(draw.integers(0, 256, (6, *SHAPE)), jnp.uint8),
        "label": jnp.asarray(draw.integers(0, 3, 6), jnp.int32),
        "index": jnp.arange(6, dtype=jnp.int32),
        "epoch": jnp.zeros(6, jnp.int32),
    }
    return recipe, jax.jit(lambda: init_state(recipe, SHAPE, jnp.int32(0)))(), batch


@pytest.mark.parametrize(("clip", "model"), [(0.0, Small()), (0.05, Small()), (0.0, Theirs())])
def test_the_head_of_a_frozen_trunk_learns_as_softmax_regression_on_what_the_trunk_says(clip, model):
    """The gradient by hand, of features of the network in evaluation; the frozen count in no norm."""
    recipe, state, batch = begun(model, frozen=("trunk",), clip_norm=clip)
    features = []
    with nn.intercept_methods(lambda f, a, k, c: features.append(a[0]) or f(*a, **k) if c.module.name == "output" else f(*a, **k)):  # fmt: skip
        recipe.model.apply(state.variables, recipe.preprocessing(batch["image"]))
    x, head = np.asarray(features[0], np.float64), state.params["output"]
    logits = x @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[np.asarray(batch["label"])]
    of_kernel, of_bias = x.T @ error / 6, error.mean(0)
    norm = np.sqrt((of_kernel**2).sum() + (of_bias**2).sum())
    share = min(1, clip / norm) if clip else 1
    new, metrics = jax.jit(lambda s, b: train_step(recipe, s, b))(state, batch)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    for name, gradient in (("kernel", of_kernel), ("bias", of_bias)):
        expected = np.asarray(head[name]) - 0.1 * share * gradient
        np.testing.assert_allclose(new.params["output"][name], expected, rtol=1e-4, atol=1e-6)
    still = {**state.params, "output": None}, state.model_state
    jax.tree.map(np.testing.assert_array_equal, ({**new.params, "output": None}, new.model_state), still)


@pytest.mark.full
def test_norms_that_are_not_frozen_go_on():
    recipe, state, batch = begun(frozen=("conv1/kernel", "bn1/scale"), weight_decay=0.5)
    new, _ = train_step(recipe, state, batch)
    np.testing.assert_array_equal(new.params["conv1"]["kernel"], state.params["conv1"]["kernel"])
    np.testing.assert_array_equal(new.params["bn1"]["scale"], state.params["bn1"]["scale"])
    for old, changed in (
        (state.params["conv10"]["kernel"], new.params["conv10"]["kernel"]),
        (state.params["bn1"]["bias"], new.params["bn1"]["bias"]),
        (state.model_state["batch_stats"]["bn1"]["mean"], new.model_state["batch_stats"]["bn1"]["mean"]),
    ):
        assert bool(jnp.any(old != changed))


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_groups_of_rates_and_frozen_parameters_match_torch(rule):
    """Frozen ones are not given to torch's optimizer; the clip is of the others; accumulation of two batches."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(3).standard_normal
    params = {name: {"kernel": jnp.asarray(draw((4, 5)), jnp.float32)} for name in ("a", "b", "head")}
    gradients = [jax.tree.map(lambda p: jnp.asarray(draw(p.shape), jnp.float32), params) for _ in range(6)]
    settings = Optimizer(
        rule, 0.1, schedule="constant", momentum=0.9, weight_decay=0.3, clip_norm=2.0, accumulate=2,
        trunk_learning_rate=0.2,
    )  # fmt: skip
    transform = optimizers.make_optimizer(settings, 6, frozen={"a/kernel"}, trunk={"a/kernel", "b/kernel"})
    tensors = {name: torch.nn.Parameter(torch.tensor(np.array(p["kernel"]))) for name, p in params.items()}
    learned = {name: tensors[name] for name in ("b", "head")}
    given = [
        {"params": [tensor], "lr": 0.1 * (0.2 if name == "b" else 1)} for name, tensor in learned.items()
    ]
    optimizer = (
        torch.optim.SGD(given, momentum=0.9, weight_decay=0.3)
        if rule == "sgd"
        else torch.optim.AdamW(given, weight_decay=0.3)
    )
    state, found = transform.init(params), params
    step = jax.jit(transform.update)
    for i, gradient in enumerate(gradients):
        updates, state = step(gradient, state, found)
        found = optax.apply_updates(found, updates)
        if i % 2:
            for name, tensor in learned.items():
                both = [np.asarray(g[name]["kernel"]) for g in gradients[i - 1 : i + 1]]
                tensor.grad = torch.tensor((both[0] + both[1]) / 2)
            torch.nn.utils.clip_grad_norm_(learned.values(), 2.0)
            optimizer.step()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(found[name]["kernel"], tensor.detach().numpy(), rtol=2e-5, atol=1e-6)
    held = [leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "shape", ()) == (4, 5)]
    # accumulated gradients and moments, of two of three
    assert len(held) == 2 * (3 if rule == "adamw" else 2)


@pytest.mark.slow
def test_the_late_program_of_a_whitened_network_does_the_same():
    """Once its rate is zero the whitening's bias has no gradient; all that moves still moves as before."""
    experiment = Experiment(
        data=Data(name="digits", batch_size=8, mean=(0.5,), std=(0.25,)),
        model=Model("airbench_laptop"),
        optimizer=Optimizer("sgd", 0.1, schedule="linear", whitening=0.25),
    )
    recipe = make_recipe(experiment, ("a", "b", "c"), (32, 32, 3), num_steps=200)
    assert recipe.of_step(0, 49) is recipe and recipe.of_step(0, 50) is recipe.late
    assert len(recipe.programs) == 2 and recipe.late.programs == (recipe.late,)
    state = init_state(recipe, (32, 32, 3), jnp.int32(0))
    late = optax.tree.set(state.opt_state, count=jnp.int32(60))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "label": np.arange(8, dtype=np.int32) % 3,
        "index": np.arange(8, dtype=np.int32),
        "epoch": np.zeros(8, np.int32),
    }
    state = dataclasses.replace(state, opt_state=late, step=jnp.int32(60))
    results = [jax.jit(functools.partial(train_step, one))(state, batch)[0] for one in recipe.programs]
    for ours, theirs, before in zip(*(jax.tree.leaves(one.params) for one in (*results, state)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        assert np.isfinite(before).all()
    moved = [one.params["whitening"]["bias"] - state.params["whitening"]["bias"] for one in results]
    np.testing.assert_array_equal(moved, 0)
    short = make_recipe(experiment, ("a", "b", "c"), (32, 32, 3), num_steps=100)
    assert short.programs == (short,)
