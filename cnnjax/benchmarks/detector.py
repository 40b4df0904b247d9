"""Our side of the speed benchmarks of detectors: training steps and final answers, as `launch.py` computes them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.benchmarks.steps import as_in_long_runs
from cnnjax.benchmarks.timing import compiled
from cnnjax.config import Experiment
from cnnjax.runtime import sharding
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import compile_init, compile_steps

OBJECTS = 4  # of an image


def workload(side: int, batch: int, classes: int) -> dict[str, np.ndarray]:
    """Random images, uint8 [batch, side, side, 3], with the boxes of their objects."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, side / 2, (batch, OBJECTS, 2))
    high = low + rng.uniform(side / 8, side / 2, low.shape)
    return {
        "image": rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8),
        "boxes": np.concatenate([low, high], axis=-1).astype(np.float32),
        "classes": rng.integers(0, classes, (batch, OBJECTS)).astype(np.int32),
        "valid": np.ones((batch, OBJECTS), bool),
    }


class Detector:
    """A network with one batch of images; `train` and `infer` return when their work is finished."""

    def __init__(self, experiment: Experiment, arrays: dict[str, np.ndarray], classes: int):
        self._shape = arrays["image"].shape[1:]
        recipe = make_recipe(experiment, tuple(map(str, range(classes))), self._shape, 1000)
        self._mesh = sharding.make_mesh(len(arrays["image"]), data_parallel=False)
        self.recipe = as_in_long_runs(recipe, experiment.model.dtype, self._shape, self._mesh)
        self._arrays = jax.device_put(arrays, sharding.replicated(self._mesh))
        rows = np.arange(len(arrays["image"]), dtype=np.int32)[None, None]
        self._rows = jax.device_put((rows, np.zeros_like(rows)), sharding.sharded(self._mesh, 2))
        self._state = compile_init(self.recipe, self._shape, self._mesh)(jnp.zeros(1, jnp.int32), None)

    @property
    def variables(self) -> Any:
        return jax.tree.map(lambda a: np.asarray(a[0]), self._state.variables)

    def outputs(self) -> Any:
        """What the task makes its answers of."""
        network = self.recipe.network(self.variables, self._shape)
        return jax.jit(network.outputs)(self._arrays["image"])

    def change(self, changed: Callable[[Any], Any]) -> None:
        """Takes other variables than the random ones: what becomes of these, parameters and collections beside them."""
        found = dict(changed(self._state.variables))
        self._state = dataclasses.replace(self._state, params=found.pop("params"), model_state=found)

    def limit(self, score: float) -> None:
        """Only what has a higher score is a detection."""
        task: Any = self.recipe.task
        settings = dataclasses.replace(task.settings, score_threshold=score)
        self.recipe = dataclasses.replace(self.recipe, task=dataclasses.replace(task, settings=settings))

    @functools.cached_property
    def _train(self) -> tuple[Any, float]:
        return compiled(compile_steps(self.recipe, self._mesh), self._state, self._arrays, *self._rows)

    @functools.cached_property
    def _infer(self) -> tuple[Any, float]:
        def predict(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
            network = self.recipe.network(jax.tree.map(lambda a: a[0], variables), self._shape)
            return self.recipe.task.predict(network.outputs(images))

        return compiled(jax.jit(predict), self._state.variables, self._arrays["image"])

    @property
    def train_compilation(self) -> float:
        return self._train[1]

    @property
    def infer_compilation(self) -> float:
        return self._infer[1]

    def train(self) -> None:
        self._state, _ = self._train[0](self._state, self._arrays, *self._rows)
        jax.block_until_ready(self._state)

    def infer(self) -> int:
        """The number of detections."""
        found = self._infer[0](self._state.variables, self._arrays["image"])
        return int(jax.device_get(jax.block_until_ready(found)["counts"]).sum())
