"""The tasks: one explicit table."""

from collections.abc import Callable

from cnnjax.config import ConfigError, Experiment
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.grid_detection import GridDetection
from cnnjax.tasks.localization import Localization
from cnnjax.tasks.task import Batch, Outputs, Task

__all__ = ["TASKS", "Batch", "Outputs", "Task", "make_task"]

Shape = tuple[int, ...]


def _classification(experiment: Experiment, classes: tuple[str, ...], image_shape: Shape) -> Task:
    return Classification(classes, experiment.classification.label_smoothing)


def _localization(experiment: Experiment, classes: tuple[str, ...], image_shape: Shape) -> Task:
    height, width = image_shape[:2]
    options = experiment.localization
    return Localization(classes, height, width, options.loss, options.box_weight)


TASKS: dict[str, Callable[[Experiment, tuple[str, ...], Shape], Task]] = {
    "classification": _classification,
    "localization": _localization,
    "grid_detection": GridDetection.of,
}


def make_task(experiment: Experiment, classes: tuple[str, ...], image_shape: Shape) -> Task:
    """The task of an experiment on images [H, W, C] of these classes. Raises ConfigError for an unknown name."""
    if experiment.task not in TASKS:
        raise ConfigError(f"task={experiment.task!r}: choose one of {', '.join(TASKS)}")
    return TASKS[experiment.task](experiment, classes, image_shape)
