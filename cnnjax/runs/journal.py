"""What a training run evaluates, writes and says on its way."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax.data.dataset import shortcomings
from cnnjax.data.examples import Columns
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.logs import MetricsLog, Progress, describe_metrics
from cnnjax.runs.plan import Plan
from cnnjax.runs.trackers import Told
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import processes
from cnnjax.training.evaluate import Evaluation, Evaluator
from cnnjax.training.loop import Callbacks, Diverged
from cnnjax.training.step import TrainState


class Journal:
    """Of one run, over all of its tries; `following` a try gives the callbacks of the loop."""

    def __init__(
        self,
        plan: Plan,
        workdir: Workdir,
        store: CheckpointStore,
        stopped: threading.Event,
        told: Told,
        saved: Callable[[int], None] = lambda step: None,
    ):
        self.plan, self.workdir, self.store, self.stopped = plan, workdir, store, stopped
        self._told, self._saved = told, saved
        self.evaluation: Evaluation | None = None  # the last one
        self.chosen: dict[str, float] = {}  # what the validation split decided last, by the name of its field
        self.judged: list[float] = []  # headline metrics of the split that chooses, of all evaluations
        self._notes: tuple[str, ...] = ()
        dataset = plan.dataset
        self._tester = self._evaluator(dataset.test)
        apart = dataset.validation is not None and dataset.validation is not dataset.test
        self._validator = self._evaluator(dataset.validation) if apart else self._tester
        self._agreement = processes.Agreement()

    @property
    def judged_by(self) -> str:
        """The split by whose headline metric the best checkpoint is kept."""
        return "test" if self._validator is self._tester else "validation"

    @contextlib.contextmanager
    def following(self, start: int, said: Sequence[str] = ()) -> Iterator[Callbacks]:
        """While the loop goes on from step `start`; `said` tells how it came there."""
        first, settings = processes.is_first(), self.plan.experiment.train
        if first:
            self.workdir.write_config(self.plan.experiment)
            self.workdir.rewind_metrics(start)
            self._told.begin()
        about = self.store.describe(start) if start else {}
        self.chosen, self.judged = about.get("chosen", {}), list(about.get("judged", ()))
        self._clock = _Clock(start)
        self._progress = Progress(self.plan.num_steps, start, quiet=not first)
        path = self.workdir.metrics if first else Path(os.devnull)
        with (
            contextlib.closing(MetricsLog(path, first and settings.tensorboard, self._told)) as self._lines,
            contextlib.closing(self._progress),
        ):
            for line in said if first else ():
                self._progress.say(line)
            yield Callbacks(
                self._metrics, self._evaluate, self._checkpoint, self._should_stop, self.has_enough
            )

    def has_enough(self) -> bool:
        """Whether train.patience is at its end: so many evaluations in a row were not above the best before them."""
        patience, judged = self.plan.experiment.train.patience, self.judged
        return bool(patience and judged) and len(judged) - 1 - judged.index(max(judged)) >= patience

    def take_best(self, step: int) -> None:
        """The result is to be that of the checkpoint of this step, instead of the last evaluation."""
        self.evaluation, self.chosen = None, self.store.describe(step).get("chosen", {})
        early = "training stopped early; " if self.has_enough() else ""
        self._notes = (f"{early}the result is that of the best checkpoint, step {step:,}",)

    def final_evaluation(self, state: TrainState) -> Evaluation:
        """The last evaluation; of a run that had nothing left to do, made now."""
        if self.evaluation is None:
            self.evaluation = self._tester(state.variables)
            self._check_finite(self.evaluation, self.plan.num_steps)
        return dataclasses.replace(self.evaluation, notes=(*shortcomings(self.plan.dataset), *self._notes))

    def _evaluator(self, split: Columns | None) -> Evaluator:
        assert split is not None
        settings = self.plan.experiment.evaluate
        return Evaluator(self.plan.recipe, split, settings.batch_size, self.plan.mesh, settings.augment)

    def _metrics(self, step: int, metrics: dict[str, float]) -> None:
        experiment = self.plan.experiment
        rate = self._clock.lap(step) * experiment.data.batch_size * experiment.train.seeds
        seconds = self._clock.seconds
        self._lines.write(step, "train", {**metrics, "images_per_second": rate, "seconds": seconds})
        shown = ("loss", self.plan.recipe.task.headline)
        self._progress.update(step, **{name: metrics[name] for name in shown if name in metrics})

    def _evaluate(self, step: int, state: TrainState) -> float:
        """Returns the headline of the split that decides which checkpoint is best: validation where there is one."""
        self.evaluation = found = self._tester(state.variables)
        if self._validator is not self._tester:
            found = self._validator(state.variables)
        for evaluation in (self.evaluation, found):
            self._check_finite(evaluation, step)
        seconds = {"seconds": self._clock.seconds}
        self._lines.write(step, "test", {**self.evaluation.mean, **seconds})
        if self.plan.dataset.validation is not None:
            self.chosen = found.chosen
            if found.chosen or found is not self.evaluation:
                self._lines.write(step, "validation", {**found.mean, **found.chosen, **seconds})
        self._progress.say(f"step {step:,}  {describe_metrics(self.evaluation)}")
        self._clock.lap(step)
        headline = found.mean[self.plan.recipe.task.headline]
        self.judged.append(headline)
        if self.has_enough():
            count = self.plan.experiment.train.patience
            self._progress.say(
                f"stopped early: {count} evaluations were not better than the best before them"
            )
        return headline

    def _check_finite(self, evaluation: Evaluation, step: int) -> None:
        """Raises Diverged if a seed's evaluation has a metric that is not finite."""
        for seed, values in enumerate(evaluation.per_seed, start=self.plan.experiment.train.seed):
            for name, value in values.items():
                if not np.isfinite(value):
                    raise Diverged(step, seed, f"the evaluated {name}")

    def _checkpoint(self, step: int, state: TrainState, headline: float | None) -> None:
        self.store.save(
            step, state, headline, {**self.plan.metadata, "chosen": self.chosen, "judged": self.judged}
        )
        self._saved(step)

    def _should_stop(self) -> bool:
        """Processes stop at the same step."""
        return self._agreement.any(self.stopped.is_set())


class _Clock:
    """Steps per second since the last lap, and seconds since the start."""

    def __init__(self, step: int):
        self._start = self._last = time.monotonic()
        self._step = step

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def lap(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._last, 1e-9)
        self._last, self._step = now, step
        return round(rate, 3)
