"""Results on test sets as records: of an experiment, trained from scratch with all its seeds, and of runs that are there."""

import time
from collections.abc import Sequence
from typing import Any

from cnnjax import config
from cnnjax.benchmarks.records import make_record
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import join
from cnnjax.faces.fitted import FITTED
from cnnjax.runs import fitted
from cnnjax.runs.committee import restore_all
from cnnjax.runs.compare import training_seconds
from cnnjax.runs.run import Run, restore
from cnnjax.runs.train import train_run
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks import task_class
from cnnjax.training.evaluate import Evaluation

_TESTED = {"data.validation": 0.0}  # not what was held out


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


def benchmark_runs(paths: Sequence[str], data_dir: str | None, command: str, note: str) -> dict[str, Any]:
    """The record of trained runs on the test set, and of several classifiers also that of their average.

    Raises ConfigError for runs of other tasks or classes than each other, and if runs that are no classifiers differ in
    more than their seeds.
    """
    task = Workdir(paths[0]).read_config().task
    if task in FITTED:
        return _fitted(paths, data_dir, command, note)
    classifies = task_class(task).headline == "accuracy"
    record = _together if classifies and len(paths) > 1 else _apart
    return record(paths, data_dir, command, note)


def _fitted(paths: Sequence[str], data_dir: str | None, command: str, note: str) -> dict[str, Any]:
    folders = [Workdir(path) for path in paths]
    experiments = [folder.read_config() for folder in folders]
    _check_seeds(experiments)
    found = [fitted.evaluate_run(folder, _TESTED, data_dir)[0] for folder in folders]
    subject = experiments[0].name + (", weights given" if experiments[0].mtcnn.weights else "")
    return _of_seeds(subject, experiments, found, {}, command, note)


def _apart(paths: Sequence[str], data_dir: str | None, command: str, note: str) -> dict[str, Any]:
    runs = [restore(Workdir(path)) for path in paths]
    experiments = [run.experiment for run in runs]
    _check_seeds(experiments)
    found = [run.evaluate(_TESTED, data_dir) for run in runs]
    seconds = {"seconds, all seeds": [sum(map(_seconds, runs))]}
    return _of_seeds(experiments[0].name, experiments, found, seconds, command, note)


def _of_seeds(
    subject: str,
    experiments: Sequence[Experiment],
    found: Sequence[Evaluation],
    seconds: dict[str, list[float]],
    command: str,
    note: str,
) -> dict[str, Any]:
    each = [metrics for evaluation in found for metrics in evaluation.per_seed]
    return make_record(
        "accuracy",
        subject,
        {name: [metrics[name] for metrics in each] for name in found[0].mean} | seconds,
        command,
        seeds=[experiment.train.seed for experiment in experiments],
        note=join(note, *found[0].notes),
    )


def _check_seeds(experiments: Sequence[Experiment]) -> None:
    for other in experiments[1:]:
        if other != config.replace(experiments[0], {"train.seed": other.train.seed}):
            raise ConfigError(
                "the runs differ in more than their seeds, and only classifiers make a committee"
            )


def _together(paths: Sequence[str], data_dir: str | None, command: str, note: str) -> dict[str, Any]:
    committee = restore_all(paths)
    found = committee.evaluate(_TESTED, data_dir)
    assert found.committee.right is not None and found.p_value is not None
    names = sorted(found.committee.metrics)
    return make_record(
        "committee",
        committee.runs[0].experiment.name,
        {name: [row.metrics[name] for row in found.members] for name in names}
        | {"committee": [found.committee.metrics["accuracy"]]}
        | {"committee, wrong": [found.committee.count - int(found.committee.right.sum())]}
        | {"p of McNemar's test against the best member": [found.p_value]}
        | {"seconds, all members": [sum(map(_seconds, committee.runs))]},
        command,
        note=join(f"{found.committee.count:,} test images.", note, *found.notes),
    )


def _seconds(run: Run) -> float:
    return training_seconds(run.workdir.read_metrics()) if run.workdir else 0.0
