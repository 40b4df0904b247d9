"""Our side of the speed benchmarks: the train step and the evaluation that `launch.py` runs, one batch each."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.benchmarks.timing import compiled
from cnnjax.benchmarks.workload import LEARNING_RATE, MOMENTUM, Workload
from cnnjax.config import Augment
from cnnjax.models import create_model
from cnnjax.network import Preprocessing
from cnnjax.runs import convolutions
from cnnjax.runtime import sharding
from cnnjax.tasks import Batch
from cnnjax.tasks.classification import Classification
from cnnjax.training.optimizers import make_optimizer
from cnnjax.training.recipe import Recipe
from cnnjax.training.step import TrainState, compile_init, compile_steps


class Squared(Classification):
    """Outputs that should equal given numbers: a loss that costs nothing beside the network."""

    def loss(self, outputs: Array, batch: Batch) -> Array:
        return jnp.sum((outputs - batch["target"]) ** 2, axis=(1, 2, 3))

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        return {}


def as_in_long_runs(recipe: Recipe, dtype: str, image_shape: tuple[int, ...], mesh: Mesh) -> Recipe:
    """The recipe with the convolutions that a run of minutes has by itself."""
    model = config.Model(dtype=dtype, convolutions="onednn")
    return convolutions.chosen(recipe, model, image_shape, 0, mesh)


class Steps:
    """A network, compiled for one workload; `train` and `infer` return when their work is finished.

    `compile_seconds` says how long the three programs took to trace and compile, without the persistent cache.
    `num_steps` makes so many updates in one call of `train`.
    """

    def __init__(
        self, work: Workload, dtype: str = "float32", augment: Augment | None = None, num_steps: int = 1
    ):
        channels = work.shape[-1]
        sgd = config.Optimizer(
            name="sgd", learning_rate=LEARNING_RATE, momentum=MOMENTUM, schedule="constant"
        )
        task = (Squared if work.dense_targets else Classification)(tuple(map(str, range(work.num_outputs))))
        recipe = Recipe(
            model=create_model(work.model, work.num_outputs, dtype),
            task=task,
            optimizer=make_optimizer(sgd, 1000),
            augment=augment or Augment(),
            preprocessing=Preprocessing((0.5,) * channels, (0.25,) * channels),
        )
        mesh = sharding.make_mesh(work.batch_size)
        self.recipe = as_in_long_runs(recipe, dtype, work.shape, mesh)
        target = "target" if work.dense_targets else "label"
        self.arrays: dict[str, Array] = jax.device_put(
            {"image": work.images, target: work.targets}, sharding.replicated(mesh)
        )
        rows = np.broadcast_to(work.index, (num_steps, 1, work.batch_size))
        self._rows = jax.device_put((rows, np.zeros_like(rows)), sharding.sharded(mesh, 2))
        self._index = jax.device_put(work.index, sharding.sharded(mesh, 0))
        self.compile_seconds: dict[str, float] = {}
        seeds = jnp.zeros(1, jnp.int32)
        self._state: TrainState = self._compiled("init", compile_init(self.recipe, work.shape, mesh), seeds)(
            seeds
        )
        self._train = self._compiled(
            "train", compile_steps(self.recipe, mesh), self._state, self.arrays, *self._rows
        )

    @property
    def variables(self) -> Mapping[str, Any]:
        return jax.tree.map(lambda a: np.asarray(a[0]), self._state.variables)

    def start(self) -> None:
        """Sends the next update on its way; the device may be behind."""
        self._state, _ = self._train(self._state, self.arrays, *self._rows)

    def train(self) -> None:
        self.start()
        jax.block_until_ready(self._state)

    def infer(self) -> Array:
        return jax.block_until_ready(self._infer(self._state.variables, self.arrays["image"], self._index))

    @functools.cached_property
    def _infer(self) -> Any:
        def outputs(variables: Any, images: Array, index: Array) -> Array:
            first = jax.tree.map(lambda a: a[0], variables)
            return self.recipe.network(first, images.shape[1:]).outputs(images[index])

        return self._compiled(
            "infer", jax.jit(outputs), self._state.variables, self.arrays["image"], self._index
        )

    def _compiled(self, name: str, function: Any, *arguments: Any) -> Any:
        program, self.compile_seconds[name] = compiled(function, *arguments)
        return program
