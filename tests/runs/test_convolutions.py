"""Who computes the convolutions of a run, and that it ends alike whenever it is interrupted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Data, Experiment, Model, Optimizer, Train
from cnnjax.inspect import step_costs
from cnnjax.ops import onednn
from cnnjax.ops.arithmetic import Arithmetic
from cnnjax.runs import convolutions, run, train
from cnnjax.runs.plan import Given, make_plan
from cnnjax.runs.workdir import Workdir
from cnnjax.training.step import compile_init, compile_steps

needs_it = pytest.mark.skipif(not onednn.available(), reason="this jaxlib does not hold oneDNN's convolution")


def experiment(convolutions="onednn", steps=4, parallel=False):
    return Experiment(
        name="small",
        data=Data(name="digits", batch_size=16),
        model=Model(name="resnet20", options=("blocks=1",), convolutions=convolutions),
        optimizer=Optimizer(name="sgd", learning_rate=0.01, schedule="constant"),
        train=Train(steps=steps, epochs=0, evaluate_every=0, checkpoint_every=0, data_parallel=parallel),
    )


@needs_it
def test_work_decides_unless_the_user_does(tmp_path, monkeypatch):
    def by_onednn(asked, worth):
        monkeypatch.setattr(convolutions, "_WORTH_COMPILING", worth)
        return make_plan(experiment(asked), Workdir(tmp_path), None, Given()).recipe

    recipe = by_onednn("xla", 0)
    work = 3 * 4 * 16 * convolutions._flops(recipe, (8, 8, 1), 10**12)  # gradients count twice
    assert not recipe.arithmetic.onednn
    assert not by_onednn("auto", 1.1 * work).arithmetic.onednn
    assert by_onednn("auto", 0.9 * work).arithmetic.onednn
    assert by_onednn("onednn", 1e13).arithmetic.onednn
    shared = make_plan(experiment("onednn", parallel=True), Workdir(tmp_path), None, Given())
    assert shared.mesh.size > 1 and not shared.recipe.arithmetic.onednn
    half = dataclasses.replace(experiment("auto"), model=Model(name="resnet20", dtype="bfloat16"))
    monkeypatch.setattr(convolutions, "_WORTH_COMPILING", 0)
    assert not make_plan(half, Workdir(tmp_path), None, Given()).recipe.arithmetic.onednn


@needs_it
def test_training_and_evaluation_have_its_calls(tmp_path):
    plan = make_plan(experiment(), Workdir(tmp_path), None, Given())
    recipe, mesh = plan.recipe, plan.mesh
    state = compile_init(recipe, plan.image_shape, mesh)(jnp.zeros(1, jnp.int32))
    arrays = {"image": jnp.zeros((16, 32, 32, 1), jnp.uint8), "label": jnp.zeros(16, jnp.int32)}
    rows = jnp.zeros((1, 1, 16), jnp.int32)
    training = compile_steps(recipe, mesh).lower(state, arrays, rows, rows).as_text()
    assert training.count("__onednn$convolution") > 7  # layers, forward and back; equal ones count once
    network = recipe.network(jax.tree.map(lambda a: a[0], state.variables), (32, 32, 1))
    assert "__onednn$convolution" in jax.jit(network.outputs).lower(arrays["image"]).as_text()
    as_ever = dataclasses.replace(network, arithmetic=Arithmetic())
    assert "onednn" not in jax.jit(as_ever.outputs).lower(arrays["image"]).as_text()


@pytest.mark.full
@needs_it
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    whole, parted = Workdir(tmp_path / "whole"), Workdir(tmp_path / "parted")
    train.train_run(experiment(), whole)
    train.train_run(experiment(steps=2), parted)
    train.train_run(experiment(), parted)
    one, other = (jax.tree.leaves(run.restore(at).state) for at in (whole, parted))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.full
@needs_it
def test_it_is_said_which_convolutions_go_where():
    for whose, wanted in (("onednn", {"oneDNN", "XLA"}), ("xla", {"XLA"})):
        training = step_costs.describe_training(experiment(whose), None)
        found = step_costs.convolutions_here(training)
        assert set().union(*found.values()) == wanted
        head, *rows = step_costs.describe_convolutions(training).splitlines()
        assert head.startswith("convolutions of a training step, batch 16, on this CPU: ")
        assert len(rows) == len(found)
        forward = next(row for row in rows if "/conv1 " in row and "backward" not in row)
        assert forward.endswith("1 oneDNN" if whose == "onednn" else "1 XLA")
