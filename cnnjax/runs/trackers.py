"""Experiment trackers: MLflow and Weights & Biases are told what metrics.jsonl is told, the experiment and the report.

Each has a thread of its own: one that fails, waits for a network or never answers does not stop a run, or slow it. It
is left out from then on, with one warning. Where trackers write, their own environment variables say:
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; WANDB_MODE, WANDB_PROJECT and the like.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnnjax import config
from cnnjax.config import ConfigError, Experiment, Stopped
from cnnjax.runs.workdir import Workdir, write_atomically

PROJECT = "cnnjax"  # what runs are filed under unless the environment says otherwise
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
# Seconds that the end of a run waits for all trackers to take the rest; a scheduler does not wait long for a run that
# it stops.
_PATIENCE = {FINISHED: 60.0, FAILED: 60.0, STOPPED: 5.0}
_AT_ONCE = 100  # parameters that MLflow takes at once
_LONGEST = 6000  # characters that it takes of one
log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One run in a tracker; all calls come from one thread, which made it."""

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None: ...
    def report(self, path: Path) -> None: ...
    def end(self, status: str) -> None: ...


class MLflow:
    """A run of MLflow, called like the workdir. A run that goes on here goes on there, if it is known there."""

    def __init__(self, experiment: Experiment, workdir: Workdir):
        import mlflow

        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        self._id = self._going_on(workdir) or self._new(experiment, workdir)
        self._client.log_text(self._id, config.to_json(experiment), "config.json")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        now, metric = round(1000 * time.time()), self._mlflow.entities.Metric
        rows = [metric(f"{split}/{name}", value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=rows)

    def report(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def end(self, status: str) -> None:
        named = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}
        self._client.set_terminated(self._id, named[status])

    def _going_on(self, workdir: Workdir) -> str | None:
        known = _known(workdir, "mlflow")
        if known:
            try:
                self._client.update_run(known, "RUNNING")
            except self._mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return known

    def _new(self, experiment: Experiment, workdir: Workdir) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        group = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(group, run_name=workdir.path.resolve().name).info.run_id
        values = [(name, str(value)[:_LONGEST]) for name, _, value in config.fields(experiment)]
        parameters = [self._mlflow.entities.Param(name, value) for name, value in values if value]
        for start in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(run, params=parameters[start : start + _AT_ONCE])
        _remember(workdir, "mlflow", run)
        return run


class WeightsAndBiases:
    """A run of Weights & Biases, called like the workdir, in which it keeps its files. A run that goes on here goes on
    there."""

    def __init__(self, experiment: Experiment, workdir: Workdir):
        import wandb

        known = _known(workdir, "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=workdir.path.resolve().name,
            id=known,
            resume="allow",
            dir=str(workdir.path),
            config=dataclasses.asdict(experiment),
            settings=wandb.Settings(console="off", silent=True),
        )
        if not known:
            _remember(workdir, "wandb", self._run.id)
        # Steps of their own: a run that was killed tells some steps again, which those of W&B may not.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in metrics.items()}})

    def report(self, path: Path) -> None:
        copy = shutil.copy(path, self._run.dir)  # where what is saved must lie
        self._run.save(copy, base_path=self._run.dir, policy="now")

    def end(self, status: str) -> None:
        self._run.finish(exit_code=int(status != FINISHED))


# By the name in train.trackers, which is that of the package, too.
TRACKERS: dict[str, Callable[[Experiment, Workdir], Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases}


class Told:
    """Tells all trackers of one run, as a file of metrics is written; never waits, never raises."""

    def __init__(self, threads: Sequence["_Thread"] = ()):
        self._threads = threads

    def begin(self) -> None:
        """Runs are made known when training begins, once."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    def write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        for thread in self._threads:
            thread.tell(lambda tracker: tracker.write(step, split, numbers))

    def report(self, path: Path) -> None:
        for thread in self._threads:
            thread.tell(lambda tracker: tracker.report(path))

    def end(self, status: str) -> None:
        """Waits until they have taken everything, or some time has passed."""
        until = time.monotonic() + _PATIENCE[status]
        begun = [thread for thread in self._threads if thread.ident is not None]
        for thread in begun:
            thread.tell(lambda tracker: tracker.end(status), last=True)
        for thread in begun:
            thread.wait(until)


def refuse_missing(names: Sequence[str]) -> None:
    """Raises ConfigError if the package of a tracker is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"train.trackers={name} needs its package: pip install {name}")


@contextlib.contextmanager
def following(experiment: Experiment, workdir: Workdir, names: Sequence[str]) -> Iterator[Told]:
    """What tells the trackers of these names while a run goes on in the block; they are told how it ended, too."""
    makers = {name: functools.partial(TRACKERS[name], experiment, workdir) for name in names}
    told = Told([_Thread(name, make) for name, make in makers.items()])
    status = FAILED
    try:
        yield told
        status = FINISHED
    except (Stopped, KeyboardInterrupt):
        status = STOPPED
        raise
    finally:
        told.end(status)


class _Thread(threading.Thread):
    """Makes one tracker and calls it in the order of what it is to be told."""

    def __init__(self, tracker: str, make: Callable[[], Tracker]):
        super().__init__(name=f"tracker {tracker}", daemon=True)
        self._tracker, self._make, self._left_out = tracker, make, False
        self._calls: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()

    def tell(self, call: Callable[[Tracker], None], last: bool = False) -> None:
        if not self._left_out:
            self._calls.put(call)
            if last:
                self._calls.put(None)

    def wait(self, until: float) -> None:
        self.join(max(0.0, until - time.monotonic()))
        if self.is_alive():
            self._leave_out("it has not taken all that it was told")

    def run(self) -> None:
        try:
            tracker = self._make()
            while (call := self._calls.get()) is not None:
                call(tracker)
        except (Exception, SystemExit) as error:  # whatever a package may raise
            text = " ".join(str(error).split()) or type(error).__name__
            self._leave_out(text[:300])

    def _leave_out(self, reason: str) -> None:
        if not self._left_out:
            self._left_out = True
            log.warning("%s is left out, the run goes on: %s", self._tracker, reason)


def _known(workdir: Workdir, tracker: str) -> str | None:
    """What a tracker calls the run in this folder, if it had been told of it."""
    path = workdir.path / "trackers" / tracker
    return path.read_text().strip() if path.is_file() else None


def _remember(workdir: Workdir, tracker: str, name: str) -> None:
    path = workdir.path / "trackers" / tracker
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, name + "\n")
