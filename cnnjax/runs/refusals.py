"""What is told before a run begins or goes on: names that mean nothing, other settings, data that are not its own."""

import logging
from collections.abc import Mapping
from typing import Any

from cnnjax import config
from cnnjax.config import OWN, RESUMABLE, ConfigError, Experiment
from cnnjax.data import identity
from cnnjax.data.sources import check_folder
from cnnjax.models import create_model
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import processes
from cnnjax.tasks import task_class

log = logging.getLogger(__name__)


def check_names(experiment: Experiment) -> None:
    """Raises ConfigError if the task, the model or the folder of the data is not there."""
    if not experiment.task.startswith(OWN):
        task_class(experiment.task)
    if not experiment.model.name.startswith(OWN):
        create_model(experiment.model.name, options=experiment.model.options)
    check_folder(experiment.data.name)


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
    there = workdir.read_config()
    decided = {
        "data.mean": there.data.mean,
        "data.std": there.data.std,
        "detection.anchors": there.detection.anchors,
    }
    empty = {name for name, _, value in config.fields(experiment) if name in decided and not value}
    changed = config.differences(there, config.replace(experiment, {name: decided[name] for name in empty}))
    moved = {"data.name"} if identity.is_moved(there.data.name, experiment.data.name) else set()
    blocking = [line for line in changed if line.split(":")[0] not in RESUMABLE | moved]
    if blocking:
        raise ConfigError(
            f"workdir {workdir.path} holds another experiment; use another --workdir. It differs in {'; '.join(blocking)}"
        )
