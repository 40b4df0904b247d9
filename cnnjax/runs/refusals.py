"""What is told before a run begins or goes on: names that mean nothing, other settings, data that are not its own."""

import dataclasses
import functools
import logging
from collections.abc import Collection, Mapping
from typing import Any

from cnnjax import config
from cnnjax.augment.augment import check
from cnnjax.config import OWN, RESUMABLE, ConfigError, Experiment
from cnnjax.data import identity
from cnnjax.data.dataset import Dataset
from cnnjax.data.images import FRAMING
from cnnjax.data.sources import check_folder, parse
from cnnjax.faces.fitted import FITTED, Fitted
from cnnjax.models import create_model
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import processes
from cnnjax.tasks import TASKS, Task, task_class

# Of images with boxes: what they always are, whatever is said, and what their source and task judge (Task.framing).
_FRAMED = {("data.resize", how) for how in FRAMING}
# What a model that is fitted in one go reads beside its own section.
_OF_FITTED = (
    "name",
    "task",
    "data.name",
    "data.image_size",
    "data.backgrounds",
    "data.limit",
    "data.validation",
    "train.seed",
)
log = logging.getLogger(__name__)


def check_names(experiment: Experiment) -> None:
    """Raises ConfigError if the task, the model or the folder of the data is not there, and if examples of this task
    cannot be augmented so."""
    refuse_fitted(experiment.task, f"experiment {experiment.name}")
    if not experiment.task.startswith(OWN):
        check(experiment.augment, task_class(experiment.task).targets)
    if not experiment.model.name.startswith(OWN):
        create_model(experiment.model.name, options=experiment.model.options)
    check_folder(experiment.data.name)


def refuse_fitted(task: str, what: str) -> None:
    """Raises ConfigError for a task that is fitted in one go; `what` is for networks that are trained step by step."""
    if task in FITTED:
        raise ConfigError(
            f"{what}: task={task} is fitted in one go, and this needs a network that is trained step by step"
        )


def refuse_without_effect(experiment: Experiment, said: Collection[str]) -> None:
    """Raises ConfigError for the first of the fields `said`, such as "data.keep", that would change nothing.

    A field that is left at, or set back to, what it is by itself asks for nothing, and is none of these.
    """
    if "detection.anchors" in said and experiment.detection.anchors and experiment.detection.kmeans:
        raise ConfigError(
            "detection.anchors and detection.kmeans both say which anchors: give --nodetection.kmeans for your own"
        )
    if "classification.class_weights" in said and experiment.classification.balanced:
        raise ConfigError(
            "classification.class_weights and classification.balanced both say what classes count: give one of them"
        )
    defaults = {name: value for name, _, value in config.fields(Experiment())}
    tasks = _readers(experiment)
    for name, field, value in config.fields(experiment):
        if name not in said or value == defaults[name] or (name, value) in _FRAMED:
            continue
        if experiment.task in FITTED and not name.startswith(
            (*_OF_FITTED, *(f"{section}." for section in FITTED[experiment.task].options))
        ):
            raise ConfigError(f"--{name} has no effect with task={experiment.task}: it is fitted in one go")
        needs = _needs(name, field)
        for what, allowed in needs.items():
            if experiment.task in needs.get("task", ()) and experiment.task not in (
                tasks.get(what) or needs["task"]
            ):
                continue  # a field that this task reads, whatever the value of one that it does not read
            have = _values(experiment, what)
            if not allowed and not any(have):
                raise ConfigError(f"--{name} has no effect without {what}")
            if allowed and not {*allowed} & {*have}:
                shown, only = (", ".join(map(str, values)) for values in (have, allowed))
                raise ConfigError(f"--{name} has no effect with {what}={shown}: it is for {what}={only}")


def _readers(experiment: Experiment) -> dict[str, Collection[str] | None]:
    """Of each field the tasks that read it, None where all do."""
    return {name: _needs(name, field).get("task") for name, field, _ in config.fields(experiment)}


def _needs(name: str, field: dataclasses.Field) -> config.Needs:
    """What must hold for a field to have an effect: of the task, whose class says which sections it reads and which
    targets it learns, and what the field says itself."""
    needs = dict(field.metadata["needs"]) if "needs" in field.metadata else {}
    learners: dict[str, type[Task] | type[Fitted]] = {**TASKS, **FITTED}
    readers = [task for task, of in learners.items() if name.partition(".")[0] in of.options]
    if targets := needs.pop("targets", ()):
        readers = [task for task, of in learners.items() if {*targets} & {*of.targets}]
    return {"task": tuple(readers), **needs} if readers else needs


def _values(experiment: Experiment, what: str) -> tuple[Any, ...]:
    """The value, or values, of a field, or the kinds of the data."""
    if what == "data":
        return tuple(one.kind or "tensorflow-datasets" for one in parse(experiment.data.name))
    value = functools.reduce(getattr, what.split("."), experiment)
    return value if isinstance(value, tuple) else (value,)


def refuse_patience_without_validation(experiment: Experiment, dataset: Dataset) -> None:
    """Raises ConfigError if train.patience would stop by the split that the result is told of."""
    if experiment.train.patience and dataset.validation is None:
        raise ConfigError(
            f"train.patience needs a validation split, which data.name={dataset.name!r} has not: give --data.validation=0.1"
        )


def refuse_other_data(store: CheckpointStore, experiment: Experiment, here: Mapping[str, Any]) -> None:
    """Raises ConfigError if data.name is another than that of the newest checkpoint, and the data are not the same.

    What changed under the same name is told. `here` is what the next checkpoint will say of its data.
    """
    if not store.steps():
        return
    about = store.describe()
    old, new = about["experiment"]["data"]["name"], experiment.data.name
    if "data" not in about:  # a checkpoint of an earlier version, or of published weights
        if old != new and processes.is_first():
            log.warning(
                "the checkpoint does not tell its images: of data.name=%r only classes were compared", new
            )
        return
    problem = identity.difference(about["data"], here)
    if problem and old != new:
        raise ConfigError(
            f"data.name={new!r} does not hold what the run was trained on as {old!r}: {problem}"
        )
    if problem and processes.is_first():
        log.warning("data.name=%r has changed since the last checkpoint: %s", new, problem)


def refuse_another_experiment(workdir: Workdir, experiment: Experiment) -> None:
    """Raises ConfigError if the run is of other settings. Those that the data decide may be empty still."""
    there = workdir.read_config()  # of a run that never began, it has the same gaps
    changed = config.differences(_filled(there, experiment), _filled(experiment, there))
    moved = {"data.name"} if identity.is_moved(there.data.name, experiment.data.name) else set()
    allowed = RESUMABLE | moved | _of_other_tasks(experiment)
    blocking = [line for line in changed if line.split(":")[0] not in allowed]
    if blocking:
        raise ConfigError(
            f"workdir {workdir.path} holds another experiment; use another --workdir. It differs in {'; '.join(blocking)}"
        )


def _of_other_tasks(experiment: Experiment) -> set[str]:
    """The fields that only other tasks read: their defaults may change between versions. Of one's own task, none."""
    if experiment.task.startswith(OWN):
        return set()
    return {name for name, tasks in _readers(experiment).items() if tasks and experiment.task not in tasks}


def _filled(experiment: Experiment, other: Experiment) -> Experiment:
    """With the values of the other in place of those that the data decide and that are empty."""
    values = {name: value for name, _, value in config.fields(other)}
    decided = ("data.mean", "data.std", "detection.anchors", "classification.class_weights")
    gaps = [name for name, _, value in config.fields(experiment) if name in decided and not value]
    return config.replace(experiment, {name: values[name] for name in gaps})
