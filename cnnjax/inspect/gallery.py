"""The gallery of a run: what its network learned, shown on images of the user's or of its evaluated split."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError, Data, Visualize
from cnnjax.data import sources
from cnnjax.data.images import read_image
from cnnjax.network import Network
from cnnjax.predict.predict import find_images
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.plan import with_classes_of_run
from cnnjax.runs.run import Run, restore
from cnnjax.runs.workdir import Workdir
from cnnjax.visualization.addresses import LOGITS, activations
from cnnjax.visualization.batches import map_batches
from cnnjax.visualization.subject import Labelled, Subject
from cnnjax.visualization.visualize import visualize

_EVOLVED = 8  # checkpoints that show how features develop


def make_gallery(
    workdir: Workdir,
    checkpoint: str,
    inputs: Sequence[str],
    data_dir: str | None,
    options: Visualize,
    folder: Path,
    command: str,
) -> int:
    """Writes the gallery of a trained classifier; returns the number of pictures. Tells of each page when it is done.

    It looks at the files and folders `inputs`, labelled by the network itself, or else at the evaluated split.
    """
    run = restore(workdir, checkpoint)
    if run.experiment.task != "classification":
        raise ConfigError(f"mode=visualize looks at classifiers; this run's task is {run.experiment.task}")
    training = None
    if inputs:
        images = np.stack([_read(run, path) for path in find_images(inputs)])
        logits = map_batches(lambda batch: activations(run.first, batch, LOGITS), images)
        labels = np.argmax(logits, axis=-1).astype(np.int32)
    else:
        try:
            dataset = with_classes_of_run(workdir, sources.load(run.experiment.data, data_dir))
        except ConfigError as error:
            raise ConfigError(
                f"{error}; or look at images of your own: --inputs=photo.png,folder/"
            ) from error
        images, labels = dataset.test["image"], dataset.test["label"]
        training = Labelled(dataset.train["image"], dataset.train["label"])
    history = functools.partial(_history, workdir, _EVOLVED)
    guide = _read(run, find_images([options.guide])[0]) if options.guide else None
    subject = Subject(run.first, images, labels, options, command, training, history, guide)
    return len(visualize(subject, folder, print))


def _read(run: Run, path: Path) -> np.ndarray:
    """An image file as the network of a run takes it, uint8 [H, W, C]."""
    return run.recipe.preprocessing.frame(read_image(path, Data(), run.image_shape[-1]), run.image_shape)


def _history(workdir: Workdir, count: int) -> list[tuple[int, Network]]:
    """The network of at most `count` checkpoints, from the first to the last."""
    with CheckpointStore(workdir.checkpoints) as store:
        steps = sorted(store.steps())
    chosen = {steps[i] for i in np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)}
    return [(step, restore(workdir, str(step)).first) for step in sorted(chosen)]
