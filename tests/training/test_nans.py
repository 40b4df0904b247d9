"""Values that are not finite: where the first one appeared, and what a run does about them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Data, Experiment, Model, Train
from cnnjax.data import batches
from cnnjax.runs.run import restore
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks.classification import Classification
from cnnjax.training.nonfinite import first_appearance
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state

SHAPE = (8, 8, 1)
FLAGS = (
    "--model.name=softmax_regression", "--data.limit=80", "--data.batch_size=16", "--train.steps=16", "--train.log_every=1",
    "--train.evaluate_every=0", "--train.checkpoint_every=1", "--optimizer.warmup=0",
)  # fmt: skip


@pytest.fixture
def spoil(monkeypatch):
    """Adds `extra(outputs, batch)` to the losses."""
    loss = Classification.loss

    def begin(extra):
        monkeypatch.setattr(
            Classification, "loss", lambda s, out, batch: loss(s, out, batch) + extra(out, batch)
        )

    return begin


def look(change=lambda params: params, std=0.25, model="mlp"):
    experiment = Experiment(
        data=Data(name="synthetic", mean=(0.5,), std=(std,)), model=Model(name=model), train=Train(steps=1)
    )
    recipe = make_recipe(experiment, tuple("0123456789"), SHAPE, num_steps=1)
    state = init_state(recipe, SHAPE, jnp.int32(0))
    state = dataclasses.replace(state, params=change(state.params))
    index = jnp.arange(4, dtype=jnp.int32)
    image = jax.random.randint(jax.random.key(0), (4, *SHAPE), 0, 256).astype(jnp.uint8)
    batch = {"image": image, "label": index, "index": index, "epoch": jnp.zeros_like(index)}
    return first_appearance(recipe, state, batch)


def filled(layer, value):
    return lambda params: {
        **params,
        layer: {**params[layer], "kernel": params[layer]["kernel"].at[0, 0].set(value)},
    }


def test_weights_images_and_layers_by_name():
    assert look() == "computed again layer by layer, every value is finite"
    text = "the first such value is in the "
    assert look(filled("fc1", jnp.nan)) == f"{text}weights fc1/kernel (1 in all)"
    assert look(std=0.0).startswith(f"{text}images after augmentation (")
    large = look(filled("output", 3e38))
    assert (
        large.startswith(f"{text}layer logits (")
        and "what goes in reaches" in large
        and "in the layer fc" in large
    )


def test_losses_and_gradients_by_name(spoil):
    spoil(lambda outputs, batch: jnp.where(batch["index"] == 3, jnp.inf, 0))
    assert "in the losses (1 in all); what goes in reaches" in look()
    spoil(lambda outputs, batch: jnp.where(batch["index"] == 3, jnp.sqrt(0 * outputs[:, 0]), 0))
    assert "in the gradient of the layer logits (" in look()


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.full
def test_a_run_that_diverges_names_the_layer_and_relaunched_skips(launch, tmp_path, spoil):
    spoil(lambda outputs, batch: jnp.where(batch["index"] == 3, jnp.inf, 0))
    plain = launch(*FLAGS, f"--workdir={tmp_path}")
    assert plain.code == 1 and "--train.debug_nans names the layer" in plain.err
    found = launch("--train.debug_nans=true", f"--workdir={tmp_path}")
    assert found.code == 1 and "the first such value is in the losses (1 in all)" in found.err
    assert len(found.err.splitlines()) == 1
    skipped = launch("--train.on_nan=skip", f"--workdir={tmp_path}")
    assert skipped.code == 0, skipped.err
    counts = [line["skipped"] for line in lines(tmp_path) if "skipped" in line]
    assert 3 <= sum(counts) <= 4 and lines(tmp_path)[-1]["step"] == 16  # once in each epoch of 5 steps


@pytest.mark.slow
def test_rolling_back_goes_on_in_another_order_which_a_later_launch_keeps(launch, tmp_path, spoil, caplog):
    first, second = batches.train_indices(0, step=7, num_examples=80, batch_size=16)[0][:2]
    spoil(
        lambda _, batch: jnp.where((batch["index"][0] == first) & (batch["index"][1] == second), jnp.inf, 0)
    )
    flags = (*FLAGS, "--train.on_nan=roll_back", "--optimizer.schedule=constant")
    whole = launch(*flags, f"--workdir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert "not finite at step 8; going back to step 5 (1 of 10)" in caplog.text
    assert [line["step"] for line in lines(tmp_path / "whole")] == [*range(1, 17), 16]
    for steps in (12, 16):
        assert launch(*flags, f"--train.steps={steps}", f"--workdir={tmp_path / 'parts'}").code == 0
    a, b = (restore(Workdir(tmp_path / name)).state for name in ("whole", "parts"))
    assert int(a.seed[0]) > 0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_rolling_back_ends_after_the_limit(launch, tmp_path, spoil, caplog):
    spoil(lambda outputs, batch: jnp.where(batch["index"] >= 0, jnp.inf, 0))
    result = launch(*FLAGS, "--train.on_nan=roll_back", "--train.nan_limit=2", f"--workdir={tmp_path}")
    assert result.code == 1
    assert [record.getMessage().count("of 2)") for record in caplog.records] == [1, 1]
    assert result.err.startswith(
        "error: loss of seed 0 is not finite at step 1; no checkpoint was written yet"
    )
