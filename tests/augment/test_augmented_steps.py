"""A step with augmentation is the step without it on the augmented batch: gradients know nothing of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cnnjax.config import Augment, Data, Experiment, Model, Optimizer, Train
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import AUGMENT, augmented, init_state, stream, train_step


@pytest.mark.full
def test_gradients_are_those_of_the_augmented_images():
    def recipe_of(options: Augment):
        experiment = Experiment(
            data=Data(mean=(0.5,) * 3, std=(0.25,) * 3),
            augment=options,
            model=Model(name="softmax_regression"),
            optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0.0, schedule="constant"),
            train=Train(steps=1),
        )
        return make_recipe(experiment, ("a", "b", "c"), (8, 8, 3), 1)

    changing = recipe_of(Augment(colour_jitter=(0.4, 0.4, 0.0, 0.0), erasing=0.5, flip="random"))
    plain, rng = recipe_of(Augment()), np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (12, 8, 8, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 3, 12), jnp.int32),
        "index": jnp.arange(12),
        "epoch": jnp.zeros(12, jnp.int32),
    }
    state = init_state(plain, (8, 8, 3), jnp.int32(4))
    before = jax.jit(lambda b: augmented(changing, b, stream(state.seed, AUGMENT)))(batch)
    assert (
        jnp.abs(before["image"] - batch["image"].astype(jnp.float32)).max(axis=(1, 2, 3)) > 1
    ).mean() > 0.5
    with_it, metrics = jax.jit(functools.partial(train_step, changing))(state, batch)
    without, expected = jax.jit(functools.partial(train_step, plain))(state, before)
    for found, wanted in zip(jax.tree.leaves(with_it.params), jax.tree.leaves(without.params), strict=True):
        assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-4)
