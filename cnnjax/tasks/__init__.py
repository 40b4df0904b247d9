"""The tasks: one explicit table."""

from collections.abc import Callable

from cnnjax.config import ConfigError, Experiment
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.task import Batch, Outputs, Task

__all__ = ["TASKS", "Batch", "Outputs", "Task", "make_task"]


def _classification(experiment: Experiment, classes: tuple[str, ...]) -> Task:
    return Classification(classes, experiment.classification.label_smoothing)


TASKS: dict[str, Callable[[Experiment, tuple[str, ...]], Task]] = {
    "classification": _classification,
}


def make_task(experiment: Experiment, classes: tuple[str, ...]) -> Task:
    """The task of an experiment on a dataset with these classes. Raises ConfigError for an unknown name."""
    if experiment.task not in TASKS:
        raise ConfigError(f"task={experiment.task!r}: choose one of {', '.join(TASKS)}")
    return TASKS[experiment.task](experiment, classes)
