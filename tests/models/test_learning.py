"""Every family of the zoo learns handwritten digits in its tiny form, with the train step of real runs. Minutes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Data, Experiment, Model, Optimizer, Train
from cnnjax.data.batches import train_indices
from cnnjax.data.sources import load
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state, train_step

# Side of the image, epochs, peak learning rate of Adam. Batches of 64, a cosine to zero, no augmentation.
RECIPES = {
    "tiny_alexnet": (67, 25, 5e-3),
    "tiny_alexnet_one_tower": (63, 25, 5e-3),
    "tiny_zfnet": (63, 20, 5e-3),
    "tiny_vgg": (16, 20, 5e-3),
    "tiny_vgg_bn": (16, 15, 5e-3),
    "tiny_googlenet": (32, 80, 8e-3),
    "tiny_googlenet_bn": (32, 20, 5e-3),
    "tiny_resnet": (16, 5, 1e-2),
    "tiny_resnet18": (32, 12, 1e-2),
    "tiny_resnet50": (32, 12, 1e-2),
    "tiny_preact_resnet": (32, 16, 1e-2),
    "tiny_wrn": (16, 20, 1e-2),
    "tiny_densenet": (32, 14, 1e-2),
    "tiny_se_resnet": (32, 14, 1e-2),
    "tiny_senet": (32, 8, 1e-2),
    "tiny_squeezenet": (40, 80, 2e-3),
    "tiny_nin": (16, 15, 5e-3),
    "tiny_all_cnn": (16, 60, 2e-3),
    "tiny_mcdnn": (29, 16, 5e-3),
    "tiny_dropconnect": (16, 10, 5e-3),
}
BATCH = 64
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_learns_digits(name):
    size, epochs, rate = RECIPES[name]
    data = Data(name="digits", image_size=size, batch_size=BATCH, mean=(0.3,), std=(0.35,))
    dataset = load(data)
    steps = epochs * len(dataset.train["image"]) // BATCH
    experiment = Experiment(
        data=data,
        model=Model(name=name),
        optimizer=Optimizer(name="adam", learning_rate=rate, schedule="cosine"),
        train=Train(steps=steps),
    )
    recipe = make_recipe(experiment, dataset.classes, (size, size, 1), steps)
    init = jax.jit(functools.partial(init_state, recipe, (size, size, 1)), compiler_options=QUICK)
    state = init(jnp.int32(0))
    step = jax.jit(functools.partial(train_step, recipe), donate_argnums=0)
    losses = []
    for i in range(steps):
        index, epoch = train_indices(0, i, len(dataset.train["image"]), BATCH)
        batch = {key: values[index] for key, values in dataset.train.items()}
        state, metrics = step(state, batch | {"index": index, "epoch": epoch})
        losses.append(metrics["loss"])
    losses = np.asarray(jax.device_get(losses))
    logits = jax.jit(recipe.network(state.variables, dataset.test["image"].shape[1:]).outputs)(
        dataset.test["image"]
    )
    accuracy = np.mean(np.asarray(logits).argmax(axis=-1) == dataset.test["label"])
    print(
        f"{name}: loss {losses[:5].mean():.2f} -> {losses[-20:].mean():.2f}, accuracy {100 * accuracy:.1f} %"
    )
    assert losses[-20:].mean() < losses[:5].mean() / 2
    assert len(logits) >= 300 and accuracy > 0.9
