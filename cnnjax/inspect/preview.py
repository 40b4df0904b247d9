"""The first training batch of an experiment, as the network sees it."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import batches, sources
from cnnjax.data.stream import TrainRows
from cnnjax.data.windows import smallest_window
from cnnjax.drawing import figures
from cnnjax.drawing.points import draw_points, lines_of
from cnnjax.runs.plan import with_statistics
from cnnjax.training.step import AUGMENT, augmented, make_recipe, stream

_PREVIEWED = 24


def preview(experiment: Experiment, data_dir: str | None, path: str) -> None:
    """Draws the first training batch after augmentation, with its labels, boxes or points."""
    dataset = sources.load(experiment.data, data_dir)
    experiment = with_statistics(experiment, dataset)
    recipe = make_recipe(experiment, dataset.classes, dataset.train["image"].shape[1:], num_steps=1)
    recipe = recipe.of_step(experiment.train.seed, 0)
    count = min(_PREVIEWED, experiment.data.batch_size, len(dataset.train["image"]))
    everything = np.arange(count)
    rows = TrainRows(
        experiment.train.seed, 0, 1, len(dataset.train), count, everything, smallest_window(experiment)
    )
    index, epoch = batches.train_indices(experiment.train.seed, 0, len(dataset.train), count)
    windows = rows.windows(0)
    read = dataset.train[index] if windows is None else dataset.train.through(index, windows)
    batch = {name: jnp.asarray(values) for name, values in read.items()}
    batch |= {"index": jnp.asarray(index), "epoch": jnp.asarray(epoch)}
    seed = jnp.int32(experiment.train.seed)
    changed = jax.jit(lambda b: augmented(recipe, b, stream(seed, AUGMENT)))(batch)
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
    grid = figures.image_grid("preview", "", "", shown, texts, columns=6)
    figures.write(grid.figure, path)
