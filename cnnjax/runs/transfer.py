"""Published weights in, as an ordinary run; trained weights out, for others to use."""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.runs.beginning import published_preprocessing, with_preprocessing
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.run import Run
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import platform
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import init_state
from cnnjax.weights.convert import load_weights, save_torchvision
from cnnjax.weights.darknet import is_darknet, load_darknet, save_darknet
from cnnjax.weights.hub import Published


def import_weights(
    experiment: Experiment,
    weights: str | os.PathLike | Published,
    workdir: Workdir,
    classes: tuple[str, ...],
    said: Collection[str] = (),
) -> Experiment:
    """Writes a run whose checkpoint, of step 0, holds the weights of a published file with its preprocessing.

    weights: a file, or what `weights.hub.find` found.

    said: fields of the experiment, such as "data.resize_short", that stay as they are whatever the weights' own
    preprocessing is; data.mean and data.std go together. Unless it is said or not of float32, model.precision becomes
    "highest": the outputs are those that were published, on every device.

    Returns the experiment as it is stored. Raises ConfigError if the file does not fit the experiment's model.
    """
    with workdir.claim():
        if workdir.has_run():
            raise ConfigError(f"workdir {workdir.path} holds a run already: import into a new one")
        if isinstance(weights, Published):
            name, channels, data, weights = weights.name, weights.channels, weights.data, weights.weights
        else:
            name, channels, data = Path(weights).name, 3, published_preprocessing(experiment, weights)
        experiment = with_preprocessing(experiment, data, said)
        if "model.precision" not in said and experiment.model.dtype == "float32":
            experiment = config.replace(experiment, {"model.precision": "highest"})
        side = experiment.data.image_size or 32
        image_shape = (side, experiment.data.image_width or side, channels)
        recipe = make_recipe(experiment, classes, image_shape, num_steps=1)
        state = jax.eval_shape(lambda: init_state(recipe, image_shape, jnp.int32(0)))
        template = {"params": state.params, **state.model_state}
        variables = (
            load_darknet(weights, recipe.model, template)
            if is_darknet(weights)
            else load_weights(weights, experiment.model.name, template)
        )
        params = variables.pop("params")
        state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), state)
        averaged = {"params": params, **variables} if recipe.ema else {}
        state = dataclasses.replace(state, params=params, model_state=variables, ema=averaged)
        seed = jnp.int32(experiment.train.seed)
        state = dataclasses.replace(state, opt_state=recipe.optimizer.init(params), seed=seed)
        metadata: dict[str, Any] = {
            "experiment": dataclasses.asdict(experiment),
            "classes": list(classes),
            "image_shape": list(image_shape),
            "versions": platform.versions(),
            "weights": name,
        }
        with CheckpointStore(workdir.checkpoints) as store:
            store.save(0, jax.tree.map(lambda a: jnp.asarray(a)[None], state), None, metadata)
        workdir.write_config(experiment)
    return experiment


def export_weights(run: Run, path: str | os.PathLike) -> None:
    """Writes the first seed's weights: as safetensors with torchvision's names, or, of darknet's networks, as a file
    that ends in .weights. ConfigError if the model has no such form."""
    if is_darknet(path):
        save_darknet(path, run.recipe.model, run.first.variables)
        return
    save_torchvision(path, run.experiment.model.name, run.first.variables)


def read_classes(path: str | os.PathLike) -> tuple[str, ...]:
    """Class names, one per line."""
    try:
        names = tuple(line.strip() for line in Path(path).read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of class names: {error}") from error
    if not names:
        raise ConfigError(f"{path} holds no class names")
    return names
