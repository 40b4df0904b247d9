"""Runs of models that are fitted in one go: their folder holds a file of the model in place of checkpoints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax import config
from cnnjax.config import ConfigError, Data, Experiment
from cnnjax.data.dataset import shortcomings_of_evaluated
from cnnjax.data.images import read_image
from cnnjax.data.sources import load, load_evaluated
from cnnjax.drawing.figures import Picture
from cnnjax.faces.fitted import FITTED, Fitted
from cnnjax.predict.predict import Found, thumbnail
from cnnjax.runs import refusals, report
from cnnjax.runs.workdir import Workdir, write_atomically
from cnnjax.training.evaluate import Evaluation


def fit_run(experiment: Experiment, workdir: Workdir, data_dir: str | None, command: str) -> Evaluation:
    """Fits in `workdir`, unless its model is there already; judges it and writes the report."""
    with workdir.claim():
        if workdir.has_run():
            refusals.refuse_another_experiment(workdir, experiment)
        # Photographs are read whole by who needs them, not as squares beside the faces.
        dataset = load(config.replace(experiment, {"data.backgrounds": ""}).data, data_dir)
        _check(experiment, dataset.train)
        if not workdir.has_run():  # which it does only with its model
            FITTED[experiment.task].fit(experiment, dataset, workdir.path, print).save(workdir.path)
            workdir.write_config(experiment)
        metrics, pictures = restore(workdir, experiment).judge(dataset.test)
        write_atomically(workdir.metrics, json.dumps({"step": 0, "split": "test", **metrics}) + "\n")
        evaluation = Evaluation([metrics], {}, {}, {})
        report.write_page(workdir, experiment, dataset, evaluation, command, pictures)
    return evaluation


def evaluate_run(
    workdir: Workdir, changes: Mapping[str, Any], data_dir: str | None
) -> tuple[Evaluation, Sequence[Picture]]:
    """Judges the model in `workdir` on the split that is evaluated, also of other data (data.name), with pictures."""
    experiment = config.check(config.replace(workdir.read_config(), changes))
    data = config.replace(experiment, {"data.backgrounds": ""}).data
    split, classes = load_evaluated(data, data_dir, 3, False)
    _check(experiment, split)
    metrics, pictures = restore(workdir, experiment).judge(split)
    return Evaluation([metrics], {}, {}, {}, shortcomings_of_evaluated(split, classes)), pictures


def restore(workdir: Workdir, experiment: Experiment | None = None) -> Fitted:
    """The model in a folder. Raises ConfigError if there is none, or it is damaged."""
    experiment = experiment or workdir.read_config()
    method = FITTED[experiment.task]
    try:
        return method.load(experiment, workdir.path)
    except FileNotFoundError as error:
        raise ConfigError(f"workdir {workdir.path} has no {Path(error.filename or '').name} yet") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"workdir {workdir.path}: its {method.file} is damaged: {error}") from error


def predictions(model: Fitted, paths: Sequence[Path]) -> Iterator[tuple[Path, Found]]:
    """Of every file, in order, a small copy of the image and what the model says of it; or the error of reading it."""
    for path in paths:
        try:
            image = read_image(path, Data())
            yield path, (thumbnail(image), model.result(image))
        except ConfigError as error:
            yield path, error


def _check(experiment: Experiment, split: Mapping[str, Any]) -> None:
    what = FITTED[experiment.task].targets
    if not {*what} <= set(split):
        raise ConfigError(
            f"data.name={experiment.data.name!r} has no {what[0]}; task={experiment.task} learns them"
        )
