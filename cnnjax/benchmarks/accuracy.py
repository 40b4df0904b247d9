"""Results on test sets as records: of an experiment, trained from scratch with all its seeds, and of a committee."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from cnnjax import config
from cnnjax.benchmarks.records import make_record
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import join
from cnnjax.runs.committee import RunCommittee, restore_all
from cnnjax.runs.compare import training_seconds
from cnnjax.runs.run import Run
from cnnjax.runs.train import train_run
from cnnjax.runs.workdir import Workdir
from cnnjax.sweeps.sweep import runs_in


def benchmark_accuracy(
    experiment: Experiment, workdir: Workdir, data_dir: str | None, command: str, note: str
) -> dict[str, Any]:
    """Trains all seeds of an experiment from scratch and returns the record of their results."""
    if workdir.has_run():
        raise ConfigError(f"workdir {workdir.path} holds a run already: a benchmark starts in a new one")
    began = time.monotonic()
    evaluation = train_run(experiment, workdir, data_dir, command)
    together = evaluation.committee.get("accuracy")
    return make_record(
        "accuracy",
        experiment.name,
        {name: [m[name] for m in evaluation.per_seed] for name in evaluation.mean}
        | ({} if together is None else {"committee": [together]})
        | {"seconds, all seeds, with compilation": [time.monotonic() - began]},
        command,
        seeds=[experiment.train.seed, experiment.train.seeds],
        note=join(note, *evaluation.notes),
    )


def benchmark_committee(sweep: Path, data_dir: str | None, command: str, note: str) -> dict[str, Any]:
    """The record of the runs of a sweep that are done, and of their average, on the test set.

    Raises ConfigError if they are of a task that has no accuracy, or of other classes than each other.
    """
    trained = restore_all(runs_in(sweep))
    tested = [
        dataclasses.replace(run, experiment=config.replace(run.experiment, {"data.validation": 0.0}))
        for run in trained.runs
    ]
    found = RunCommittee.of(tested, trained.names, trained.weights).evaluate(data_dir=data_dir)
    if found.committee.right is None or found.p_value is None:
        raise ConfigError(f"workdir {sweep}: its runs have no accuracy that a committee could have")
    names = sorted(found.committee.metrics)
    return make_record(
        "committee",
        tested[0].experiment.name,
        {name: [row.metrics[name] for row in found.members] for name in names}
        | {"committee": [found.committee.metrics["accuracy"]]}
        | {"committee, wrong": [found.committee.count - int(found.committee.right.sum())]}
        | {"p of McNemar's test against the best member": [found.p_value]}
        | {"seconds, all members": [sum(map(_seconds, tested))]},
        command,
        note=join(f"{found.committee.count:,} test images.", note, *found.notes),
    )


def _seconds(run: Run) -> float:
    return training_seconds(run.workdir.read_metrics()) if run.workdir else 0.0
