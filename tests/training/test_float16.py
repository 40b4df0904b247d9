"""Steps in float16: gradients of the sum over a batch, for those of the mean are too small for it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import config
from cnnjax.config import Experiment, Model, Optimizer
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state, train_step

SHAPE, COUNT = (8, 8, 3), 64


def step(dtype: str, **changes):
    """Before and after a step of plain SGD on noise, and its metrics."""
    experiment = config.replace(
        Experiment(
            model=Model("tiny_wrn", dtype), optimizer=Optimizer("sgd", 1.0, schedule="constant", momentum=0.0)
        ),
        {
            "data.mean": (0.5,),
            "data.std": (0.25,),
            "data.batch_size": COUNT,
            "model.options": ("dropout=0.0",),
        },
    )
    recipe = dataclasses.replace(make_recipe(experiment, tuple("0123456789"), SHAPE, 1), **changes)
    rng = np.random.default_rng(0)
    rows = np.arange(COUNT, dtype=np.int32)
    batch = {"image": rng.integers(0, 256, (COUNT, *SHAPE), np.uint8), "label": rows % 10, "index": rows}
    before = init_state(recipe, SHAPE, jnp.int32(0))
    batch["epoch"] = np.zeros_like(rows)
    after, metrics = jax.jit(functools.partial(train_step, recipe))(before, batch)
    return before, after, metrics


@pytest.mark.full
def test_a_step_in_float16_is_that_of_float32_to_its_digits():
    before, wide, metrics = step("float32")
    _, half, found = step("float16")
    for name in ("loss", "grad_norm"):
        assert float(found[name]) == pytest.approx(float(metrics[name]), rel=5e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves((half.params, half.model_state))} == {jnp.dtype("float32")}
    moved, error = (jax.tree.map(jnp.subtract, a.params, b.params) for a, b in ((wide, before), (half, wide)))
    assert float(optax.tree.norm(error) / optax.tree.norm(moved)) < 0.05
