"""The first training batch of an experiment, as the network sees it; of files only those of this batch are read."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import config
from cnnjax.config import Experiment
from cnnjax.data import sources
from cnnjax.data.buckets import Buckets
from cnnjax.data.images import on_demand
from cnnjax.data.statistics import channel_stats
from cnnjax.data.stream import TrainRows
from cnnjax.data.windows import smallest_window
from cnnjax.drawing import figures
from cnnjax.drawing.points import draw_points, lines_of
from cnnjax.network import Preprocessing
from cnnjax.runs import refusals
from cnnjax.runs.plan import with_statistics
from cnnjax.training.loop import train_rows
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import AUGMENT, augmented, stream

_PREVIEWED = 24
_CELL = 2.2  # inches of 100 pixels, the least that an image has


def preview(experiment: Experiment, data_dir: str | None, path: str | Path) -> None:
    """Draws the first training batch after augmentation, with its labels, boxes or points.

    Raises ConfigError for a name that means nothing before any data are read.
    """
    refusals.check_names(experiment)
    with on_demand():
        dataset = sources.load(experiment.data, data_dir)
    count = min(_PREVIEWED, experiment.data.batch_size, len(dataset.train["image"]))
    seed, everything = experiment.train.seed, np.arange(count)
    buckets = Buckets.find(dataset.train, experiment.data.resize, config.frame_of(experiment.data))
    (index,), (epoch,) = (
        rows[0] for rows in train_rows([seed], 0, 1, len(dataset.train["image"]), count, buckets)
    )
    rows = TrainRows(seed, 0, 1, len(dataset.train), count, everything, smallest_window(experiment))
    windows = rows.windows(0)
    read = dataset.train[index] if windows is None else dataset.train.through(index, windows)
    experiment = _with_statistics_of(read["image"], experiment)
    experiment = with_statistics(experiment, dataset)
    recipe = make_recipe(experiment, dataset.classes, dataset.train["image"].shape[1:], num_steps=1)
    recipe = recipe.of_step(seed, 0, buckets)
    batch = {name: jnp.asarray(values) for name, values in read.items()}
    batch |= {"index": jnp.asarray(index), "epoch": jnp.asarray(epoch)}
    changed = jax.jit(lambda b: augmented(recipe, b, stream(jnp.int32(seed), AUGMENT)))(batch)
    images = np.clip(np.asarray(changed["image"]), 0, 255).astype(np.uint8)
    shown, texts = [], []
    for i, image in enumerate(images):
        if "boxes" in changed:
            real = np.asarray(changed["valid"][i])
            names = [dataset.classes[c] for c in np.asarray(changed["classes"][i])[real]]
            boxes = figures.Boxes(np.asarray(changed["boxes"][i])[real], names, ["lime"] * len(names))
            shown.append(figures.draw_boxes(image, boxes))
            texts.append(f"{len(names)} objects")
        elif "points" in changed:
            visible = np.asarray(changed["visible"][i])
            points, lines = np.asarray(changed["points"][i]), lines_of(dataset.classes)
            shown.append(draw_points(image, points, visible, lines, "lime"))
            texts.append(f"{visible.sum()} points")
        else:
            shown.append(image)
            texts.append(dataset.classes[int(changed["label"][i])])
    cell = max(_CELL, 1.1 * max(image.shape[1] for image in shown) / 100)
    columns = max(1, min(6, round(13 / cell)))
    grid = figures.image_grid("preview", "", "", shown, texts, columns, cell)
    figures.write(grid.figure, path)


def _with_statistics_of(images: np.ndarray, experiment: Experiment) -> Experiment:
    """With data.mean and data.std of these images, if the experiment leaves them to the data: nothing that is drawn
    depends on more than roughly these."""
    if experiment.data.mean and experiment.data.std:
        return experiment
    mean, std = channel_stats(images)
    in_order = Preprocessing.of(experiment.data).in_rgb
    std = tuple(value or 1.0 for value in std)
    return config.replace(experiment, {"data.mean": in_order(mean), "data.std": in_order(std)})
