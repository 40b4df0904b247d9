"""What the launcher shows without training: a model's costs and layers, a training batch, a gallery."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment, Visualize
from cnnjax.data import batches, sources
from cnnjax.data.images import read_image
from cnnjax.drawing import figures
from cnnjax.inspect import slide, summary
from cnnjax.models import create_model
from cnnjax.network import Network
from cnnjax.predict.predict import find_images
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.plan import with_classes_of_run, with_statistics
from cnnjax.runs.run import Run, restore
from cnnjax.runs.workdir import Workdir
from cnnjax.training.step import AUGMENT, augmented, make_recipe, stream
from cnnjax.visualization.addresses import LOGITS, activations
from cnnjax.visualization.batches import map_batches
from cnnjax.visualization.subject import Labelled, Subject
from cnnjax.visualization.visualize import visualize

_PREVIEWED = 24
_EVOLVED = 8  # checkpoints that show how features develop


def summarize_experiment(
    experiment: Experiment, data_dir: str | None, ask_compiler: bool, picture: str | None
) -> str:
    """The table of an experiment's model on one image, as text; `picture` names a file for its bars."""
    shape = sources.image_shape(experiment.data, data_dir)
    named = experiment.model
    model = create_model(named.name, dtype=named.dtype, options=named.options)
    costs = summary.summarize(model, shape)
    text = summary.text_table(costs)
    if ask_compiler:
        found = summary.compiler_costs(model, shape)
        lines = [f"  {name:<16}{value:>20,.0f}" for name, value in found.items()]
        text += "\n".join(["", f"the compiler on {jax.default_backend()}, for one image:", *lines])
    if picture:
        _save(summary.bar_figure(costs, experiment.model.name), picture)
    return text


def preview(experiment: Experiment, data_dir: str | None, path: str) -> None:
    """Draws the first training batch after augmentation, with its labels or boxes."""
    dataset = sources.load(experiment.data, data_dir)
    experiment = with_statistics(experiment, dataset)
    recipe = make_recipe(experiment, dataset.classes, dataset.train["image"].shape[1:], num_steps=1)
    recipe = recipe.of_step(experiment.train.seed, 0)
    count = min(_PREVIEWED, experiment.data.batch_size, len(dataset.train["image"]))
    index, epoch = batches.train_indices(experiment.train.seed, 0, len(dataset.train["image"]), count)
    batch = {name: jnp.asarray(values[index]) for name, values in dataset.train.items()}
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
        else:
            shown.append(image)
            texts.append(dataset.classes[int(changed["label"][i])])
    grid = figures.image_grid("preview", "", "", shown, texts, columns=6)
    _save(grid.figure, path)


def list_layers(run: Run) -> str:
    """Names and shapes of all stages, a line each."""
    layers = run.first.layers()
    width = max(map(len, layers))
    return "\n".join(f"{name:<{width}}  {'x'.join(map(str, shape))}" for name, shape in layers.items())


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
    return run.recipe.preprocessing.frame(
        read_image(path, config.Data(), run.image_shape[-1]), run.image_shape
    )


def _history(workdir: Workdir, count: int) -> list[tuple[int, Network]]:
    """The network of at most `count` checkpoints, from the first to the last."""
    with CheckpointStore(workdir.checkpoints) as store:
        steps = sorted(store.steps())
    chosen = {steps[i] for i in np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)}
    return [(step, restore(workdir, str(step)).first) for step in sorted(chosen)]


def slide_over_canvas(run: Run, data_dir: str | None, folder: Path) -> slide.Slide:
    """Slides a trained classifier over a canvas of images of its evaluated split (see slide.py)."""
    if run.experiment.task != "classification":
        raise ConfigError(f"mode=slide needs a classifier; this run's task is {run.experiment.task}")
    return slide.slide(run, sources.load(run.experiment.data, data_dir).test["image"], folder)


def _save(figure: figures.Figure, path: str | Path) -> None:
    try:
        kind = Path(path).suffix[1:] or "png"  # given, or matplotlib would write to another name
        figures.save(figure, path, kind)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the picture cannot be written: {error}") from error
