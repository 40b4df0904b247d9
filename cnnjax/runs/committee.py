"""Runs that answer as one: networks of any architecture, input size and preprocessing, averaged."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment.views import VIEWS, before_views
from cnnjax.config import ConfigError
from cnnjax.data import images
from cnnjax.data.batches import evaluation_indices
from cnnjax.data.examples import Columns
from cnnjax.network import Batches, Network, Preprocessing, Shape
from cnnjax.runs.run import Run, restore
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import sharding
from cnnjax.tasks import Outputs, Task, average
from cnnjax.tasks.significance import exact_interval, mcnemar
from cnnjax.training.evaluate import members

Frame = tuple[Shape, Preprocessing, str]  # what decides how a picture becomes a network's input


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["networks"],
    meta_fields=["views", "orders", "weights", "task"],
)
@dataclasses.dataclass(frozen=True)
class MixedCommittee:
    """Networks that see the same picture, each in its own frame, and answer with the average of their outputs.

    views: of each network, the test-time views that are averaged.
    orders: of each network, which of its outputs is the committee's first class, second, ...
    weights: of each network; they sum to 1.
    """

    networks: tuple[Network, ...]
    views: tuple[str, ...]
    orders: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    task: Task

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The different frames, in the order of the networks that first need them."""
        return tuple(dict.fromkeys(map(_frame, self.networks, self.views)))

    @property
    def image_shape(self) -> Shape:
        """That of the first network, with colours if any member sees colours."""
        height, width, _ = self.networks[0].image_shape
        return height, width, max(network.image_shape[2] for network in self.networks)

    @property
    def longest_side(self) -> int:
        """That of any of the networks."""
        return max(network.longest_side for network in self.networks)

    def frame(self, image: np.ndarray, views: str = "none") -> np.ndarray:
        """A picture, uint8 [H, W, C], in all frames one after the other, flat: what `outputs` takes."""
        return np.concatenate([_framed(image, frame).ravel() for frame in self.frames])

    def outputs(self, images: Array, views: str = "none") -> Outputs:
        """Of pictures that `frame` packed, [N, ...]."""
        sizes = np.cumsum([int(np.prod(shape)) for shape, _, _ in self.frames])
        parts = jnp.split(images, sizes[:-1], axis=1)
        return self.of_frames(
            [p.reshape(-1, *shape) for p, (shape, _, _) in zip(parts, self.frames, strict=True)]
        )

    def of_frames(self, images: Sequence[Array]) -> Outputs:
        """Of the same pictures in each of the `frames`, [N, H, W, C]."""
        place = {frame: i for i, frame in enumerate(self.frames)}
        each = [
            reordered(network.outputs(images[place[_frame(network, views)]], views), order)
            for network, views, order in zip(self.networks, self.views, self.orders, strict=True)
        ]
        return average(self.task, each, self.weights)

    def predictor(self, views: str = "none") -> Batches:
        """Answers for pictures of any size."""
        return Batches(self, views)


def _frame(network: Network, views: str) -> Frame:
    height, width, channels = network.image_shape
    data = before_views(views, network.preprocessing)
    if views == "ten_crop":
        height = width = data.image_size
    # Normalization is the network's own: it does not tell frames apart.
    framing = Preprocessing(
        image_size=data.image_size,
        resize=data.resize,
        resize_short=data.resize_short,
        image_width=data.image_width,
        interpolation=data.interpolation,
    )
    return (height, width, channels), framing, views if views == "ten_crop" else "none"


def _framed(image: np.ndarray, frame: Frame) -> np.ndarray:
    shape, preprocessing, _ = frame
    return preprocessing.frame(images.grey(image) if shape[2] == 1 else image, shape)


def reordered(outputs: Outputs, order: tuple[int, ...]) -> Outputs:
    """Outputs [..., K] in another order of the classes."""
    if order == tuple(range(len(order))):
        return outputs
    return jnp.take(outputs, np.array(order), axis=-1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A member, or all of them: means over `count` examples, and which of these were right (None: no such thing)."""

    name: str
    count: int
    metrics: dict[str, float]
    right: np.ndarray | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the accuracy, exact, 95 %."""
        return None if self.right is None else exact_interval(int(self.right.sum()), self.count)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Members in the order of the committee, then the committee, over the same examples."""

    members: tuple[Row, ...]
    committee: Row
    predictions: Mapping[str, np.ndarray]  # of the committee
    split: Columns  # as the first member sees it
    notes: tuple[str, ...] = ()
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the first member

    @property
    def best(self) -> Row:
        """The member with most right answers; of equal ones that with the lowest loss."""
        return max(
            self.members, key=lambda row: (row.metrics.get("accuracy", 0.0), -row.metrics.get("loss", 0.0))
        )

    @property
    def p_value(self) -> float | None:
        """McNemar's exact test of the committee against the best member, two-sided."""
        one, other = self.committee.right, self.best.right
        return None if one is None or other is None else mcnemar(one, other)


@dataclasses.dataclass(frozen=True)
class RunCommittee:
    """Runs of one task and the same classes, in the order of `names`, each network with a vote of the run's weight."""

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]  # of a vote of each run

    @classmethod
    def of(cls, runs: Sequence[Run], names: Sequence[str], weights: Sequence[float] = ()) -> "RunCommittee":
        """In an order of its own, so that the order of the arguments changes nothing, not even the last bit.

        A run of several seeds has as many votes. Raises ConfigError for weights that are not one positive number for
        each run, a task without averages, and runs of other tasks or classes.
        """
        weights = tuple(weights) or (1.0,) * len(runs)
        if len(weights) != len(runs) or min(weights) <= 0:
            raise ConfigError(
                f"{len(runs)} runs need as many weights above 0, not {', '.join(map(str, weights))}"
            )
        if len(set(names)) < len(names):
            raise ConfigError("a run is in the committee twice")
        ordered = sorted(zip(names, runs, weights, strict=True), key=lambda row: row[0])
        names, runs, weights = (tuple(column) for column in zip(*ordered, strict=True))
        committee = cls(tuple(runs), tuple(names), tuple(weights))
        committee._check()
        return committee

    def _check(self) -> None:
        first, task = self.runs[0], type(self.runs[0].recipe.task)
        if len(self.runs) > 1 and not (task.has_average() and task.of_classes):
            raise ConfigError(f"{task.__name__} has no average of several networks: give one --workdir")
        for run, name in zip(self.runs, self.names, strict=True):
            if type(run.recipe.task) is not task:
                raise ConfigError(
                    f"{name} is of task {run.experiment.task}, {self.names[0]} of {first.experiment.task}"
                )
            if sorted(run.classes) != sorted(first.classes):
                other = [c for c in run.classes if c not in first.classes] or list(run.classes)
                raise ConfigError(
                    f"{name} has other classes than {self.names[0]}: {len(run.classes)} and {len(first.classes)}, "
                    f"such as {other[0]!r}"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.runs[0].classes

    @property
    def image_shape(self) -> Shape:
        return self.network.image_shape

    @property
    def task(self) -> Task:
        return self.runs[0].recipe.task

    @property
    def network(self) -> MixedCommittee:
        votes = [
            (network, run.experiment.evaluate.augment, self._order(run), weight)
            for run, weight in zip(self.runs, self.weights, strict=True)
            for network in _networks(run)
        ]
        networks, views, orders, weights = zip(*votes, strict=True)
        return MixedCommittee(networks, views, orders, _shares(weights), self.task)

    def predictor(self) -> Batches:
        """Answers for pictures, each member with the views of its own evaluate.augment."""
        return self.network.predictor()

    def evaluate(self, changes: Mapping[str, Any] | None = None, data_dir: str | None = None) -> Comparison:
        """All networks and their average on the same examples; see Run.evaluate.

        Raises ConfigError if runs would be evaluated on other examples than each other.
        """
        data_names = {run.experiment.data.name for run in self.runs}
        if len(data_names) > 1 and "data.name" not in (changes or {}):
            raise ConfigError(
                f"the runs were evaluated on {' and '.join(sorted(data_names))}: say which with --data.name"
            )
        outputs, names, votes = list[Outputs](), list[str](), list[float]()
        notes: tuple[str, ...] = ()
        first: Columns | None = None
        protocol: dict[str, Any] = {}
        for run, name, weight in zip(self.runs, self.names, self.weights, strict=True):
            seen = run.evaluated(changes, data_dir)
            split, notes, settings = seen.split, seen.notes, seen.run.experiment.evaluate
            if first is None:
                first, protocol = split, seen.protocol
            elif not self._same(first, split, run):
                raise ConfigError(
                    f"{name} and {self.names[0]} are evaluated on other examples: "
                    "their data.validation, data.limit or data differ"
                )
            of_run = _all_outputs(seen.run, split, settings.batch_size, settings.augment)
            seeds = [
                f", seed {run.experiment.train.seed + i}" if len(of_run) > 1 else ""
                for i in range(len(of_run))
            ]
            outputs += [reordered(one, self._order(run)) for one in of_run]
            names += [name + seed for seed in seeds]
            votes += [weight] * len(of_run)
        assert first is not None
        rows = tuple(self._row(name, one, first) for name, one in zip(names, outputs, strict=True))
        together = average(self.task, outputs, _shares(votes))
        predictions = jax.device_get(self.task.in_full().predict(together))
        return Comparison(rows, self._row("committee", together, first), predictions, first, notes, protocol)

    def _same(self, first: Columns, split: Columns, run: Run) -> bool:
        if len(first) != len(split) or "label" not in first:
            return len(first) == len(split)
        return bool(
            np.array_equal(np.array(self.classes)[first["label"]], np.array(run.classes)[split["label"]])
        )

    def _order(self, run: Run) -> tuple[int, ...]:
        return tuple(map(run.classes.index, self.classes))

    def _row(self, name: str, outputs: Outputs, split: Columns) -> Row:
        batch = {key: jnp.asarray(values) for key, values in split.items() if key != "image"}
        values = {k: np.asarray(v, np.float64) for k, v in self.task.metrics(outputs, batch).items()}
        right = values["accuracy"] == 1 if "accuracy" in values else None
        return Row(name, len(split), {k: float(v.mean()) for k, v in values.items()}, right)


def _networks(run: Run) -> tuple[Network, ...]:
    network = run.network
    return (network,) if isinstance(network, Network) else network.members


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(weight / sum(weights) for weight in weights)


def _all_outputs(run: Run, split: Columns, batch_size: int, views: str) -> list[Outputs]:
    """The outputs [N, ...] of every seed of a run, on the host."""
    mesh = sharding.evaluation_mesh()
    size = -(-min(max(1, batch_size // VIEWS[views]), len(split)) // mesh.size) * mesh.size
    seeds = jax.tree.leaves(run.state.variables)[0].shape[0]

    @jax.jit
    def step(variables: Any, images: Array) -> list[Outputs]:
        network = run.recipe.network(variables, run.image_shape, run.classes)
        return members(network, images, views, sharding.on_cpu(mesh))[:seeds]

    variables = jax.device_put(run.state.variables, sharding.replicated(mesh))
    batches = []
    for index, mask in evaluation_indices(len(split), size):
        images = jax.device_put(np.asarray(split["image"][index]), sharding.sharded(mesh, 0))
        found = jax.device_get(step(variables, images))
        batches.append(jax.tree.map(lambda a, mask=mask: a[mask], found))
    return jax.tree.map(lambda *a: np.concatenate(a), *batches)


def restore_all(
    paths: Sequence[str | Path],
    checkpoint: str = "",
    weights: Sequence[float] = (),
    changes: Mapping[str, Any] | None = None,
) -> RunCommittee:
    """The committee of the runs in these folders; see `run.restore` and `RunCommittee.of`."""
    runs = [restore(Workdir(path), checkpoint, changes) for path in paths]
    return RunCommittee.of(runs, [str(path).rstrip("/") for path in paths], weights)
