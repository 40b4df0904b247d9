"""The tasks: one explicit table."""

from cnnjax.config import ConfigError, Experiment
from cnnjax.tasks.classification import Classification
from cnnjax.tasks.grid_detection import GridDetection
from cnnjax.tasks.heatmaps import Heatmaps
from cnnjax.tasks.localization import Localization
from cnnjax.tasks.multiscale_detection import MultiscaleDetection
from cnnjax.tasks.points import Points
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Batch, Judgement, Outputs, Task, average
from cnnjax.tasks.two_stage import TwoStageDetection

__all__ = ["TASKS", "Batch", "Judgement", "Outputs", "Result", "Task", "average", "make_task", "task_class"]

Shape = tuple[int, ...]


TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "localization": Localization,
    "grid_detection": GridDetection,
    "multiscale_detection": MultiscaleDetection,
    "two_stage": TwoStageDetection,
    "points": Points,
    "heatmaps": Heatmaps,
}


def task_class(name: str) -> type[Task]:
    """The task of a name. Raises ConfigError if the table has none."""
    if name not in TASKS:
        raise ConfigError(f"task={name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


def make_task(experiment: Experiment, classes: tuple[str, ...], image_shape: Shape) -> Task:
    """The task of an experiment on images [H, W, C] of these classes. Raises ConfigError for an unknown name."""
    return task_class(experiment.task).of(experiment, classes, image_shape)
