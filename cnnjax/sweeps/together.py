"""Runs of a sweep in one program: those that differ only in their seeds and in numbers that decide no shape.

They follow each other within the compiled step on CPUs, where each is the same arithmetic as alone, and go side by side
under vmap on accelerators. What is compiled and started once is saved; each run is an ordinary one in its own workdir.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.logs import MetricsLog
from cnnjax.runs.plan import Given, Plan, make_plan, with_statistics
from cnnjax.runs.workdir import Workdir
from cnnjax.sweeps.choice import SEED
from cnnjax.sweeps.processes import Ended, in_use
from cnnjax.sweeps.sweep import Member, Sweep, train_here
from cnnjax.training import loop
from cnnjax.training.evaluate import Evaluator
from cnnjax.training.loop import Callbacks, Diverged
from cnnjax.training.recipe import Recipe, Varied, make_recipe
from cnnjax.training.step import TrainState, compile_init

# Settings that a program may be given as values of its runs. Where one is off in some runs these have another program.
SETTINGS = frozenset(
    f"optimizer.{name}"
    for name in (
        "learning_rate", "bias_learning_rate", "dense_learning_rate", "weight_decay", "momentum", "muon_rest_momentum",
        "b2", "initial", "final", "decay", "clip_norm", "ema",
    )
) | {"classification.label_smoothing"} | frozenset(
    f"augment.{name}"
    for name in (
        "random_crop", "rotate", "scale", "translate", "shear", "elastic", "hue", "saturation", "exposure", "brightness",
        "contrast", "mixup", "cutmix",
    )
)  # fmt: skip

Tell = Callable[[Workdir, Ended], None]


def groups(members: Sequence[Member], most: int) -> list[list[Member]]:
    """Members that one program can train, at most so many; those that cannot are groups of one."""
    found: dict[Any, list[Member]] = {}
    for member in members:
        found.setdefault(_kind(member), []).append(member)
    return [some[i : i + most] for some in found.values() for i in range(0, len(some), most)]


def _kind(member: Member) -> Any:
    """Equal for members of one program: all of the experiment but what varies, and the step where they stand."""
    experiment = member.experiment
    train = experiment.train
    alone = (
        experiment.task != "classification" or train.seeds > 1 or train.init_from or train.tensorboard or train.trackers
        or train.debug_nans or train.patience or train.on_nan == "roll_back" or experiment.augment.sizes or experiment.data.stream
        or in_use(member.workdir)
    )  # fmt: skip
    if alone:
        return member.workdir.path
    changes = {
        name: bool(value) for name, _, value in config.fields(experiment) if name in SETTINGS or name == SEED
    }
    changes[SEED] = False
    same = tuple((name, changes.get(name, value)) for name, _, value in config.fields(experiment))
    return same, _newest(member)


def _newest(member: Member) -> int:
    if not member.workdir.checkpoints.exists():
        return 0
    with CheckpointStore(member.workdir.checkpoints) as store:
        return max(store.steps(), default=0)


def train_group(sweep: Sweep, members: Sequence[Member], stopped: threading.Event, tell: Tell) -> None:
    """Trains the members in one program and tells how each ended. One that diverges leaves it; the others begin the
    program anew at their last checkpoint."""
    left = list(members)
    while left:
        try:
            with _Group(sweep, left) as group:
                group.train(stopped)
            break
        except ConfigError as error:
            for member in left:
                tell(member.workdir, Ended(str(error)))
            return
        except Diverged as error:
            lost = left.pop(error.seed - left[0].experiment.train.seed)
            tell(lost.workdir, Ended(f"{_named(error, lost)}; it was trained with others of the sweep"))
    for member in left:
        # What is left to do of a run that is trained: the report. One that was stopped says so.
        ended = Ended(stopped=True) if stopped.is_set() else train_here(sweep, member)
        if ended.stopped:
            stopped.set()  # while it ran, a signal was for its own handler
        tell(member.workdir, ended)


def _named(error: Diverged, member: Member) -> str:
    return str(error).replace(f"seed {error.seed} ", f"seed {member.experiment.train.seed} ")


class _Group:
    """Members as the seeds of one training loop."""

    def __init__(self, sweep: Sweep, members: Sequence[Member]):
        self.sweep, self.members = sweep, members
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "_Group":
        with contextlib.ExitStack() as held:
            self._open(held)
            self._held = held.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    def _open(self, held: contextlib.ExitStack) -> None:
        members = self.members
        for member in members:
            held.enter_context(member.workdir.claim())
        first = make_plan(members[0].experiment, members[0].workdir, self.sweep.data_dir, Given())
        self.plans = [first, *(_alike(first, member.experiment) for member in members[1:])]
        self.recipe = together(first, [plan.experiment for plan in self.plans])
        self.stores = [
            held.enter_context(
                CheckpointStore(one.workdir.checkpoints, first.experiment.train.keep_last, first.experiment.train.keep_best)
            )
            for one in members
        ]  # fmt: skip

    def train(self, stopped: threading.Event) -> None:
        """To the end, or the next step after a signal, with lines and checkpoints in each workdir."""
        first = self.plans[0]
        state = self._state()
        start = int(jax.device_get(state.step)[0])
        if start == first.num_steps:
            return
        count = {"train.seeds": len(self.members)}
        with self._callbacks(start, stopped) as callbacks:
            experiment = config.replace(first.experiment, count)
            loop.train(experiment, self.recipe, first.dataset, first.mesh, state, first.num_steps, callbacks)

    def _state(self) -> TrainState:
        """Where the members stand, all at one step."""
        first = self.plans[0]
        if not self.stores[0].steps():
            seeds = np.array([plan.experiment.train.seed for plan in self.plans], np.int32)
            return compile_init(first.recipe, first.image_shape, first.mesh)(seeds, first.looked_at)
        begun = [plan.begin(store) for plan, store in zip(self.plans, self.stores, strict=True)]
        if len({one.step for one in begun}) > 1:
            raise ConfigError("runs that go on together stand at different steps: a checkpoint is damaged")
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(one.state for one in begun))

    @contextlib.contextmanager
    def _callbacks(self, start: int, stopped: threading.Event) -> Iterator[Callbacks]:
        """As runs.journal has them for one run."""
        with contextlib.ExitStack() as held:
            lines = []
            for member, plan in zip(self.members, self.plans, strict=True):
                member.workdir.write_config(plan.experiment)
                member.workdir.rewind_metrics(start)
                lines.append(held.enter_context(contextlib.closing(MetricsLog(member.workdir.metrics))))
            first, count = self.plans[0], len(self.members)
            data, settings = first.dataset, first.experiment.evaluate
            splits = {"test": data.test}
            if data.validation is not None and data.validation is not data.test:
                splits["validation"] = data.validation
            judges = {
                name: Evaluator(self.recipe, split, settings.batch_size, first.mesh, settings.augment)
                for name, split in splits.items()
            }
            clock = _Clock(start)
            judged = [store.describe(start).get("judged", []) if start else [] for store in self.stores]

            def on_seed(step: int, i: int, metrics: dict[str, float]) -> None:
                rate = round(clock.rate * first.experiment.data.batch_size, 3)
                lines[i].write(
                    step, "train", {**metrics, "images_per_second": rate, "seconds": clock.seconds}
                )

            def on_evaluate(step: int, state: TrainState) -> float:
                for split, judge in judges.items():
                    found = judge(state.variables).per_seed
                    for i, metrics in enumerate(found):
                        _check_finite(step, first.experiment.train.seed + i, metrics)
                        lines[i].write(step, split, {**metrics, "seconds": clock.seconds})
                for so_far, metrics in zip(judged, found, strict=True):
                    so_far.append(metrics[first.recipe.task.headline])
                clock.lap(step)
                return judged[0][-1]

            def on_checkpoint(step: int, state: TrainState, headline: float | None) -> None:
                for i in range(count):
                    own = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], state)
                    best = None if headline is None else judged[i][-1]
                    about = {**self.plans[i].metadata, "chosen": {}, "judged": judged[i]}
                    self.stores[i].save(step, own, best, about)

            yield Callbacks(
                lambda step, _: clock.lap(step), on_evaluate, on_checkpoint, stopped.is_set, on_seed=on_seed
            )


class _Clock:
    """Steps a second, of each run, between the last two laps."""

    def __init__(self, step: int):
        self._start = self._last = time.monotonic()
        self._step, self.rate = step, 0.0

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def lap(self, step: int) -> None:
        now = time.monotonic()
        self.rate = (step - self._step) / max(now - self._last, 1e-9)
        self._last, self._step = now, step


def together(plan: Plan, experiments: Sequence[Experiment]) -> Recipe:
    """The recipe of experiments of one kind, of which `plan` is that of the first."""
    columns = [
        {name: value for name, _, value in config.fields(one) if name in SETTINGS} for one in experiments
    ]
    values = {
        name: tuple(column[name] for column in columns)
        for name in columns[0]
        if len({column[name] for column in columns}) > 1
    }

    def recipe_of(values: Mapping[str, Any]) -> Recipe:
        plain = {name: float(v) if isinstance(v, np.floating) else v for name, v in values.items()}
        one = config.replace(experiments[0], plain)
        return _recipe(plan, one)

    return dataclasses.replace(plan.recipe, varied=Varied(values, recipe_of))


def _recipe(plan: Plan, experiment: Experiment) -> Recipe:
    """That of an experiment of the kind of the plan's, computed in the same way."""
    recipe = make_recipe(experiment, plan.dataset.classes, plan.image_shape, plan.num_steps)
    return recipe.computed_by(plan.recipe.arithmetic)


def _alike(plan: Plan, experiment: Experiment) -> Plan:
    """The plan of another experiment of the same kind, on the same data."""
    full = with_statistics(experiment, plan.dataset)
    recipe = _recipe(plan, full)
    metadata = {**plan.metadata, "experiment": dataclasses.asdict(full)}
    return dataclasses.replace(plan, experiment=full, recipe=recipe, metadata=metadata)


def _check_finite(step: int, seed: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise Diverged(step, seed, f"the evaluated {name}")
