"""The one loop."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.buckets import Buckets, train_indices
from cnnjax.data.dataset import Dataset
from cnnjax.data.examples import read_ahead
from cnnjax.data.stream import TrainRows
from cnnjax.data.windows import smallest_window
from cnnjax.runtime import sharding
from cnnjax.tasks import Batch
from cnnjax.training.recipe import Recipe
from cnnjax.training.resident import as_rows
from cnnjax.training.step import Arrays, Metrics, TrainState, batch_of, compile_steps


class Diverged(RuntimeError):
    """The loss, the gradient, the weights or an evaluation stopped being finite.

    With train.debug_nans, `before` is what the step followed and was given: the recipe, the state and the batch of
    the seed.
    """

    before: tuple[Recipe, TrainState, Batch] | None = None

    def __init__(self, step: int, seed: int, name: str, skipped: int = 0):
        after = f", after {skipped} skipped updates in a row" if skipped else ""
        super().__init__(f"{name} of seed {seed} is not finite at step {step}{after}")
        self.step = step
        self.seed = seed


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """What the loop tells the outside; it does no output of its own."""

    # steps done, means over the steps since the last call and all seeds
    on_metrics: Callable[[int, dict[str, float]], None]
    on_evaluate: Callable[[int, TrainState], float]  # evaluates, returns the headline metric
    on_checkpoint: Callable[[int, TrainState, float | None], None]  # None: not evaluated at this step
    should_stop: Callable[[], bool] = lambda: False
    # asked after an evaluation: whether there is no use in more
    has_enough: Callable[[], bool] = lambda: False
    # As on_metrics, of each seed by its place.
    on_seed: Callable[[int, int, dict[str, float]], None] | None = None


def train(
    experiment: Experiment,
    recipe: Recipe,
    dataset: Dataset,
    mesh: Mesh,
    state: TrainState,
    num_steps: int,
    callbacks: Callbacks,
) -> TrainState:
    """The loop: from `state` (leading axis: seeds) to `num_steps` updates, or to where it is enough; returns the final
    state.

    Order within an interval: dispatch steps; read the metrics of the interval before while the device works;
    check that they are finite; then evaluate; then checkpoint. So a checkpoint never holds a diverged state.
    With train.debug_nans each step is waited for, and the state before it kept.
    """
    settings = experiment.train
    if dataset.streamed and settings.seeds > 1:
        raise ConfigError("data.stream trains one seed at a time: set train.seeds=1")
    pace = _Pace.of(experiment, recipe, dataset, mesh, num_steps)
    seeds = jax.device_get(state.seed).tolist()
    done = int(jax.device_get(state.step).reshape(-1)[0])
    buckets = recipe.buckets(dataset.train)
    calls = _Calls(experiment, recipe, dataset, mesh, pace, seeds, buckets)
    meter = _Meter(settings, callbacks)
    with contextlib.closing(_feed(experiment, dataset, mesh, seeds, done, num_steps, buckets)) as feed:
        while done < num_steps:
            until = pace.until(done)
            before, arrays = state, next(feed)
            state, metrics = calls(state, arrays, done, until)
            meter.settle()  # the call before: the devices are busy with this one
            meter.add(done, until, metrics)
            if settings.debug_nans:
                with calls.remembering(before, arrays, done):
                    meter.settle()
            del before, arrays  # of a donated state nothing may be left
            done = until
            stopping = callbacks.should_stop()
            evaluating, saving = pace.evaluates(done), pace.saves(done) or stopping
            saving = saving or (evaluating and bool(settings.patience))  # one of these will be the best
            if evaluating or saving:
                meter.flush(done)  # so that a resumed run writes the same lines
            headline = callbacks.on_evaluate(done, state) if evaluating else None
            if saving:
                callbacks.on_checkpoint(done, state, headline)
            if stopping or (evaluating and callbacks.has_enough()):
                break
    return state


@dataclasses.dataclass(frozen=True)
class _Pace:
    """How many steps each compiled call makes, and after which of them is evaluated and saved."""

    num_steps: int
    per_call: int
    evaluate_every: int
    checkpoint_every: int
    on_cpu: bool

    @classmethod
    def of(
        cls, experiment: Experiment, recipe: Recipe, dataset: Dataset, mesh: Mesh, num_steps: int
    ) -> "_Pace":
        settings, on_cpu = experiment.train, sharding.on_cpu(mesh)
        per_epoch = len(dataset.train["image"]) / experiment.data.batch_size
        per_call = settings.steps_per_call or (1 if on_cpu else math.ceil(per_epoch))
        if settings.debug_nans or dataset.streamed or recipe.sized:
            per_call = 1
        evaluate_every = _interval(settings.evaluate_every, per_epoch, num_steps)
        checkpoint_every = _interval(settings.checkpoint_every, per_epoch, num_steps)
        return cls(num_steps, per_call, evaluate_every, checkpoint_every, on_cpu)

    def until(self, done: int) -> int:
        """Where the call ends that begins after `done` steps: at most at the next evaluation or checkpoint."""
        events = (
            _next(done, every, self.num_steps) for every in (self.evaluate_every, self.checkpoint_every)
        )
        until = min(done + self.per_call, *events)
        # On a CPU calls of one and of all steps are compiled only; elsewhere one program serves every number.
        return done + 1 if self.on_cpu and until < done + self.per_call else until

    def evaluates(self, done: int) -> bool:
        return done == self.num_steps or done % self.evaluate_every == 0

    def saves(self, done: int) -> bool:
        return done == self.num_steps or done % self.checkpoint_every == 0


class _Calls:
    """The compiled steps, each compiled when it is first called: one, or one for each of augment.sizes or bucket."""

    def __init__(
        self,
        experiment: Experiment,
        recipe: Recipe,
        dataset: Dataset,
        mesh: Mesh,
        pace: _Pace,
        seeds: Sequence[int],
        buckets: Buckets | None,
    ):
        self._buckets = buckets
        self._recipe, self._pace, self._seeds, self._streamed = recipe, pace, seeds, dataset.streamed
        self._count, self._batch_size = len(dataset.train["image"]), experiment.data.batch_size
        self._first_seed = experiment.train.seed
        self._place = sharding.sharded(mesh, 2)
        donate = not experiment.train.debug_nans
        self._steps = {one: compile_steps(one, mesh, dataset.streamed, donate) for one in recipe.programs}

    def __call__(
        self, state: TrainState, arrays: Arrays, start: int, stop: int
    ) -> tuple[TrainState, Metrics]:
        """The steps from `start` to `stop`, dispatched: nothing here waits for their results."""
        index, epoch = self._rows(start, stop)
        taken = None
        if not self._pace.on_cpu:
            index, epoch = (_padded(rows, self._pace.per_call) for rows in (index, epoch))
            taken = np.int32(stop - start)
        steps = self._steps[self._follows(start)]
        return steps(state, arrays, *sharding.place((index, epoch), self._place), taken)

    @contextlib.contextmanager
    def remembering(self, state: TrainState, arrays: Arrays, start: int) -> Iterator[None]:
        """Gives a Diverged that is raised inside what the call of one step at `start` was given for that seed."""
        try:
            yield
        except Diverged as error:
            seed = error.seed - self._first_seed
            index, epoch = (jnp.asarray(rows[0, seed]) for rows in self._rows(start, start + 1))
            batch = batch_of(arrays, index, epoch, self._streamed)
            error.before = (self._follows(start), jax.tree.map(lambda a: a[seed], state), batch)
            raise

    def _rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return train_rows(self._seeds, start, stop, self._count, self._batch_size, self._buckets)

    def _follows(self, step: int) -> Recipe:
        return self._recipe.of_step(self._seeds[0], step, self._buckets)


class _Meter:
    """Reads the metrics of a call, which waits until it has run; checks them, and hands on means over many steps."""

    def __init__(self, settings: config.Train, callbacks: Callbacks):
        self._check, self._every, self._callbacks = _Check(settings), settings.log_every, callbacks
        self._window: list[Metrics] = []
        self._pending: tuple[int, int, Metrics] | None = None

    def add(self, start: int, stop: int, metrics: Metrics) -> None:
        """Of a call that was dispatched: metrics [K, seeds], of which the first stop - start are of its steps."""
        self._pending = start, stop, metrics

    def settle(self) -> None:
        """Raises Diverged if the call that was added last had a step that is not finite."""
        if self._pending is None:
            return
        start, stop, found = self._pending
        self._pending = None
        metrics = {name: values[: stop - start] for name, values in jax.device_get(found).items()}
        self._check(stop, metrics)
        self._window.append({name: values for name, values in metrics.items() if name != "finite"})
        if stop % self._every < len(metrics["loss"]):
            self._hand_on(stop)

    def flush(self, step: int) -> None:
        """Settles, and hands on what is left."""
        self.settle()
        self._hand_on(step)

    def _hand_on(self, step: int) -> None:
        if not self._window:
            return
        self._callbacks.on_metrics(step, _means(self._window))
        if on_seed := self._callbacks.on_seed:
            for i in range(self._window[0]["loss"].shape[1]):
                own = [{name: values[:, i : i + 1] for name, values in of.items()} for of in self._window]
                on_seed(step, i, _means(own))
        self._window.clear()


def _feed(
    experiment: Experiment,
    dataset: Dataset,
    mesh: Mesh,
    seeds: Sequence[int],
    start: int,
    stop: int,
    buckets: Buckets | None,
) -> Generator[Arrays, None, None]:
    """What each compiled call is given: all examples, on the devices; or, streamed, the batch of the next step."""
    if not dataset.streamed:
        sharding.check_fits(dataset.train.learned, mesh)
        arrays = sharding.place(as_rows(dataset.train.learned), sharding.replicated(mesh))
        while True:
            yield arrays
    batch_size, count = experiment.data.batch_size, len(dataset.train["image"])
    local, smallest = sharding.local_rows(mesh, batch_size), smallest_window(experiment)
    rows = TrainRows(seeds[0], start, stop, count, batch_size, local, smallest, buckets)
    with contextlib.closing(read_ahead(dataset.train, rows, experiment.data.workers)) as found:
        for batch in found:
            yield {k: sharding.place_local_rows(v, mesh, batch_size) for k, v in batch.items()}


def _interval(epochs: float, per_epoch: float, num_steps: int) -> int:
    return max(1, round(epochs * per_epoch)) if epochs else num_steps


def _next(step: int, every: int, num_steps: int) -> int:
    return min((step // every + 1) * every, num_steps)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, the last one repeated: one shape of a call, whatever it does."""
    return np.concatenate([rows, rows[-1:].repeat(count - len(rows), axis=0)])


def train_rows(
    seeds: Sequence[int], start: int, stop: int, count: int, batch_size: int, buckets: Buckets | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Index and epoch of the steps from start to stop, int32 [steps, seeds, batch]."""
    rows = [
        [train_indices(buckets, seed, step, count, batch_size, seeds[0]) for seed in seeds]
        for step in range(start, stop)
    ]
    stacked = np.asarray(rows)
    return stacked[:, :, 0], stacked[:, :, 1]


def _means(window: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all steps and seeds [steps, seeds], without the skipped ones, which are counted."""
    rows = {name: np.concatenate([metrics[name] for metrics in window]) for name in window[0]}
    if "skipped" not in rows:
        return {name: float(np.mean(values)) for name, values in rows.items()}
    skipped = rows.pop("skipped")
    used = skipped == 0
    means = {name: float(np.mean(values[used])) for name, values in rows.items()} if used.any() else {}
    return {**means, "skipped": float(np.sum(skipped))}


class _Check:
    """Raises Diverged at the first step that is not finite or, where such updates are skipped, at too many."""

    def __init__(self, settings: config.Train):
        self._settings = settings
        self._in_a_row = np.zeros(settings.seeds, int)

    def __call__(self, end: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Of the metrics [steps, seeds] of the steps up to `end`."""
        bad = {name: ~np.isfinite(metrics[name]) for name in ("loss", "grad_norm")}
        finite = metrics["finite"]
        allowed = self._settings.nan_limit if "skipped" in metrics else 0
        first = end - len(metrics["loss"]) + 1
        for row, step in enumerate(range(first, end + 1)):
            self._in_a_row = np.where(finite[row], 0, self._in_a_row + 1)
            for seed in np.flatnonzero(self._in_a_row > allowed):
                name = next((name for name, where in bad.items() if where[row, seed]), "the updated state")
                raise Diverged(step, self._settings.seed + int(seed), name, skipped=allowed)
