"""The one evaluator: the same code while training, from a checkpoint and for a committee of networks."""

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cnnjax.augment.views import VIEWS
from cnnjax.config import ConfigError
from cnnjax.data import stream
from cnnjax.data.buckets import Frame, cut, evaluation_order
from cnnjax.data.examples import Columns, read_ahead
from cnnjax.network import Network
from cnnjax.runtime import sharding
from cnnjax.tasks import Batch, Outputs, Task, metrics
from cnnjax.training.recipe import Recipe
from cnnjax.training.step import for_each_seed


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results over a whole split: of each seed and, with several, of their committee (averaged outputs)."""

    per_seed: list[dict[str, float]]
    committee: dict[str, float]  # empty with one seed, or where outputs have no average
    chosen: dict[str, float]  # by the predictions: fields of the experiment (Judgement)
    predictions: dict[str, np.ndarray]  # of the committee, else of the first seed; one row per example
    notes: tuple[str, ...] = ()  # what a reader of these results must know of the data

    @property
    def mean(self) -> dict[str, float]:
        return {name: float(np.mean([m[name] for m in self.per_seed])) for name in self.per_seed[0]}

    @property
    def std(self) -> dict[str, float]:
        """Sample standard deviation over seeds; 0 for one seed."""
        ddof = min(1, len(self.per_seed) - 1)
        return {name: float(np.std([m[name] for m in self.per_seed], ddof=ddof)) for name in self.per_seed[0]}

    @property
    def table(self) -> dict[str, dict[str, float]]:
        """The columns that a table of this result has: mean, and for several seeds std and committee."""
        columns = {"mean": self.mean}
        if len(self.per_seed) > 1:
            columns["std"] = self.std
        if self.committee:
            columns["committee"] = self.committee
        return columns


def members(network: Network, images: Array, views: str = "none", unroll: bool = True) -> list[Outputs]:
    """The outputs [N, ...] of every seed and, if there are several, of their committee last; pure.

    The network's variables have a leading axis of seeds; `unroll` as in for_each_seed.
    """
    outputs = for_each_seed(lambda one: one.outputs(images, views), network, unroll=unroll)
    seeds = jax.tree.leaves(outputs)[0].shape[0]
    each = [jax.tree.map(lambda a, i=i: a[i], outputs) for i in range(seeds)]
    if seeds > 1 and network.task:
        with contextlib.suppress(ConfigError):  # outputs of this task cannot be averaged
            each.append(network.task.average(outputs, jnp.full((seeds,), 1 / seeds, jnp.float32)))
    return each


def evaluate_step(
    task: Task, network: Network, batch: Batch, views: str = "none", unroll: bool = True
) -> list[tuple[metrics.Sums, dict[str, Array]]]:
    """Sums and predictions of every member for one batch of "image", targets and "mask"; pure."""
    return [
        (metrics.sums_and_counts(task.metrics(outputs, batch), batch["mask"]), task.predict(outputs))
        for outputs in members(network, batch["image"], views, unroll)
    ]


class Evaluator:
    """Evaluates on one split that lives on the devices; compiled once, called as often as wanted."""

    def __init__(
        self,
        recipe: Recipe,
        split: Mapping[str, Any],
        batch_size: int,
        mesh: Mesh,
        views: str,
    ):
        count = len(split["image"])
        # Views of an image count as images, and a batch divides evenly over the devices; what is too much is masked.
        wanted = min(max(1, batch_size // VIEWS[views]), count)
        self.batch_size = -(-wanted // mesh.size) * mesh.size
        self.recipe = recipe
        self.split = split
        self.mesh = mesh
        self._buckets = recipe.buckets(split)
        self._streamed = not isinstance(split["image"], np.ndarray)
        if not self._streamed:
            arrays = Columns.of(split).learned
            sharding.check_fits(arrays, mesh)
            self._arrays = sharding.place(arrays, sharding.replicated(mesh))

        # Results on every device: a process can read only what its own devices hold.
        @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh), static_argnums=4)
        def step(variables: Any, arrays: Any, index: Array, mask: Array, frame: Frame | None) -> Any:
            batch = arrays if self._streamed else {k: v[index] for k, v in arrays.items()}
            batch = cut(batch, frame) if frame else batch
            network = recipe.network(variables, split["image"].shape[1:])
            return evaluate_step(recipe.task, network, {**batch, "mask": mask}, views, sharding.on_cpu(mesh))

        self._step = step

    def __call__(self, variables: Any) -> Evaluation:
        """Evaluates the variables, which have a leading axis of seeds, on every example exactly once."""
        place = sharding.sharded(self.mesh, 0)
        count = len(self.split["image"])
        running: list[Any] = []
        results: list[Any] = []
        rows = []  # of what is computed, the examples that count
        with contextlib.closing(self._feed()) as feed:
            order = evaluation_order(self._buckets, count, self.batch_size)
            for (frame, index, mask), arrays in zip(order, feed, strict=False):
                rows.append(np.where(mask, index, count))
                index, mask = sharding.place((index, mask), place)
                running.append(self._step(variables, arrays, index, mask, frame))
                if len(running) > 1:  # one batch is computed while the one before comes to the host
                    results.append(jax.device_get(running.pop(0)))
        results += jax.device_get(running)
        stacked = jax.tree.map(lambda *a: np.stack(a), *results)
        computed = np.argsort(np.concatenate(rows), kind="stable")[:count]
        task = self.recipe.task
        found = []
        for sums, predictions in stacked:
            joined = {
                name: value.reshape(-1, *value.shape[2:])[computed] for name, value in predictions.items()
            }
            judged = task.judge(joined, self.split)
            found.append((metrics.means(_total(sums)) | judged.metrics, judged.chosen, joined))
        seeds = jax.tree.leaves(variables)[0].shape[0]
        return Evaluation(
            per_seed=[values for values, _, _ in found[:seeds]],
            committee=found[-1][0] if len(found) > seeds else {},
            chosen=found[-1][1] if len(found) > seeds else found[0][1],
            predictions=found[-1][2] if len(found) > seeds else found[0][2],
        )

    def _feed(self) -> Generator[Mapping[str, Any], None, None]:
        """What each call of the step is given: all examples, on the devices; or, streamed, the next batch."""
        if not self._streamed:
            while True:
                yield self._arrays
        rows = stream.EvaluationRows(
            len(self.split["image"]),
            self.batch_size,
            sharding.local_rows(self.mesh, self.batch_size),
            self._buckets,
        )
        found = read_ahead(Columns.of(self.split), rows, self.recipe.workers)
        with contextlib.closing(found):
            for batch in found:
                yield {k: sharding.place_local_rows(v, self.mesh, self.batch_size) for k, v in batch.items()}


def _total(sums: Any) -> Any:
    """Adds over batches, in float64: the result should not depend on their number."""
    return jax.tree.map(lambda a: np.sum(a, axis=0, dtype=np.float64), sums)
