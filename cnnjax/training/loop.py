"""The one loop."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data import batches
from cnnjax.data.dataset import Dataset
from cnnjax.data.stream import TrainRows, read_ahead
from cnnjax.runtime import sharding
from cnnjax.tasks import Batch
from cnnjax.training.step import Arrays, Metrics, Recipe, TrainState, batch_of, compile_steps


def _of_seed(
    seed: int, states: TrainState, arrays: Arrays, index: np.ndarray, epoch: np.ndarray, streamed: bool
) -> tuple[TrainState, Batch]:
    """What `train_step` was given for one seed by a call of one step."""
    batch = batch_of(arrays, jnp.asarray(index[0, seed]), jnp.asarray(epoch[0, seed]), streamed)
    return jax.tree.map(lambda a: a[seed], states), batch


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

    on_metrics: Callable[
        [int, dict[str, float]], None
    ]  # steps done, means over the steps since the last call
    on_evaluate: Callable[[int, TrainState], float]  # evaluates, returns the headline metric
    on_checkpoint: Callable[[int, TrainState, float | None], None]  # None: not evaluated at this step
    should_stop: Callable[[], bool] = lambda: False


def train(
    experiment: Experiment,
    recipe: Recipe,
    dataset: Dataset,
    mesh: Mesh,
    state: TrainState,
    num_steps: int,
    callbacks: Callbacks,
) -> TrainState:
    """The loop: from `state` (leading axis: seeds) to `num_steps` updates; returns the final state.

    Order within an interval: dispatch steps; read the metrics of the interval before while the device works;
    check that they are finite; then evaluate; then checkpoint. So a checkpoint never holds a diverged state.
    With train.debug_nans each step is waited for, and the state before it kept.
    """
    settings = experiment.train
    debug = settings.debug_nans
    batch_size, count = experiment.data.batch_size, len(dataset.train["image"])
    split_rows = sharding.sharded(mesh, 2)
    # Compiled when first called, so once for each size.
    steps = {
        one: compile_steps(one, mesh, dataset.streamed, donate=not debug) for one in recipe.sized or (recipe,)
    }
    per_epoch = count / batch_size
    eval_every = _interval(settings.evaluate_every, per_epoch, num_steps)
    save_every = _interval(settings.checkpoint_every, per_epoch, num_steps)
    on_cpu = sharding.on_cpu(mesh)
    per_call = settings.steps_per_call or (1 if on_cpu else math.ceil(per_epoch))
    if debug or dataset.streamed or recipe.sized:
        per_call = 1
    if dataset.streamed and settings.seeds > 1:
        raise ConfigError("data.stream trains one seed at a time: set train.seeds=1")
    window: list[Metrics] = []
    pending: tuple[int, int, Metrics] | None = None
    done = int(jax.device_get(state.step).reshape(-1)[0])
    headline: float | None = None
    seeds = jax.device_get(state.seed).tolist()
    feed = _feed(experiment, dataset, mesh, seeds, done, num_steps)
    check = _Check(settings)

    def settle() -> None:
        """Reads the metrics of the call before, which blocks until it has run."""
        nonlocal pending
        if pending is not None:
            end, taken, metrics = pending[0], pending[1], jax.device_get(pending[2])
            metrics = {name: values[:taken] for name, values in metrics.items()}
            pending = None
            check(end, metrics)
            window.append({name: values for name, values in metrics.items() if name != "finite"})
            if end % settings.log_every < len(metrics["loss"]):
                flush(end)

    def flush(step: int) -> None:
        if window:
            callbacks.on_metrics(step, _means(window))
            window.clear()

    try:
        while done < num_steps:
            stop_at = min(
                done + per_call, *(_next(done, every, num_steps) for every in (eval_every, save_every))
            )
            if on_cpu and stop_at < done + per_call:  # where only calls of one and of all steps are compiled
                stop_at = done + 1
            index, epoch = train_rows(seeds, done, stop_at, count, batch_size)
            rows = (index, epoch) if on_cpu else (_padded(index, per_call), _padded(epoch, per_call))
            taken = None if on_cpu else np.int32(len(index))
            before, arrays = state, next(feed)
            followed = recipe.of_step(seeds[0], done)
            state, metrics = steps[followed](state, arrays, *sharding.place(rows, split_rows), taken)
            settle()
            pending, done = (stop_at, len(index), metrics), stop_at
            if debug:
                try:
                    settle()
                except Diverged as error:
                    error.before = (
                        followed,
                        *_of_seed(error.seed - settings.seed, before, arrays, index, epoch, dataset.streamed),
                    )
                    raise
            del before, arrays  # of a donated state nothing may be left
            stopping = callbacks.should_stop()
            evaluating = done == num_steps or done % eval_every == 0
            saving = done == num_steps or done % save_every == 0 or stopping
            if evaluating or saving:
                # Also the window of metrics ends here, so that a resumed run writes the same lines.
                settle()
                flush(done)
            if evaluating:
                headline = callbacks.on_evaluate(done, state)
            if saving:
                callbacks.on_checkpoint(done, state, headline if evaluating else None)
            if stopping:
                break
    finally:
        feed.close()
    return state


def _feed(
    experiment: Experiment, dataset: Dataset, mesh: Mesh, seeds: Sequence[int], start: int, stop: int
) -> Generator[Arrays, None, None]:
    """What each compiled call is given: all examples, on the devices; or, streamed, the batch of the next step."""
    if not dataset.streamed:
        sharding.check_fits(dataset.train, mesh)
        arrays = sharding.place(dict(dataset.train), sharding.replicated(mesh))
        while True:
            yield arrays
    targets = {name: values for name, values in dataset.train.items() if name != "image"}
    batch_size, count = experiment.data.batch_size, len(dataset.train["image"])
    rows = TrainRows(seeds[0], start, stop, count, batch_size, sharding.local_rows(mesh, batch_size))
    images = read_ahead(dataset.train["image"], rows, experiment.data.workers)
    with contextlib.closing(images):
        for number, local in enumerate(images):
            mine = rows[number]
            batch = {"image": local, **{name: values[mine] for name, values in targets.items()}}
            yield {k: sharding.place_local_rows(v, mesh, batch_size) for k, v in batch.items()}


def _interval(epochs: float, per_epoch: float, num_steps: int) -> int:
    return max(1, round(epochs * per_epoch)) if epochs else num_steps


def _next(step: int, every: int, num_steps: int) -> int:
    return min((step // every + 1) * every, num_steps)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, the last one repeated: one shape of a call, whatever it does."""
    return np.concatenate([rows, rows[-1:].repeat(count - len(rows), axis=0)])


def train_rows(
    seeds: Sequence[int], start: int, stop: int, count: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Index and epoch of the steps from start to stop, int32 [steps, seeds, batch]."""
    rows = [
        [batches.train_indices(seed, step, count, batch_size) for seed in seeds]
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
