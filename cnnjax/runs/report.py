"""The self-contained HTML page, with pictures, that a run ends with."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import Dataset
from cnnjax.drawing import pages
from cnnjax.drawing.figures import Picture, image_grid, learning_curves, save
from cnnjax.network import Network
from cnnjax.runs.workdir import Workdir, write_atomically
from cnnjax.runtime import platform
from cnnjax.training.evaluate import Evaluation
from cnnjax.training.recipe import Recipe
from cnnjax.visualization import filters as filter_pictures


def write(
    workdir: Workdir,
    experiment: Experiment,
    dataset: Dataset,
    recipe: Recipe,
    variables: Any,
    evaluation: Evaluation,
    command: str,
    judged: str,
) -> None:
    """Writes plots/*.png and report.html of trained networks; `variables` have a leading axis of seeds.

    judged: the split by whose headline metric the best checkpoint is kept.
    """
    pictures = [learning_curves(workdir.read_metrics(), recipe.task.headline)]
    pictures += recipe.task.pictures(evaluation.predictions, dataset.test)
    image = dataset.test["image"][0]
    first = jax.tree.map(lambda a: a[0], variables)
    pictures += _filters_and_maps(recipe.network(first, image.shape, dataset.classes), image)
    write_page(workdir, experiment, dataset, evaluation, command, pictures, judged)


def write_page(
    workdir: Workdir,
    experiment: Experiment,
    dataset: Dataset,
    evaluation: Evaluation,
    command: str,
    pictures: Sequence[Picture],
    judged: str = "",
) -> None:
    """Writes pictures to plots/*.png, and report.html of them and the numbers; `judged` as in `write`, if anything is."""
    sections = []
    for picture in pictures:
        path = workdir.plots / f"{picture.name}.png"
        save(picture.figure, path)
        sections.append(pages.section(picture, path.read_bytes()))
    write_atomically(
        workdir.path / "report.html", _page(experiment, dataset, evaluation, command, judged, sections)
    )


def _filters_and_maps(network: Network, image: np.ndarray) -> list[Picture]:
    """The learned filters of the first convolution and what the first layer makes of one image, if it has any."""
    try:
        layer = next((name for name, shape in network.layers().items() if len(shape) == 3), None)
        filters = filter_pictures.first_filters(network)
    except ConfigError:  # no convolution, or a model of somebody else that names no stages
        return []
    shown = [(255 * one).astype(np.uint8) for one in filters[:32]]
    height, width, channels = filters.shape[1:]
    pictures = [
        image_grid(
            "filters",
            "Learned filters",
            f"The filters of the first convolution, {height}x{width}x{channels}; grey is 0.",
            shown,
            [str(i) for i in range(len(shown))],
        )
    ]
    if layer:
        maps = [(255 * one).astype(np.uint8) for one in filter_pictures.feature_maps(network, image, layer)]
        titles = ["image", *(str(i) for i in range(len(maps)))]
        caption = f"The image, and the channels of {layer} on one scale from black to white."
        pictures.append(image_grid("feature_maps", "Feature maps", caption, [image, *maps], titles))
    return pictures


def _page(
    experiment: Experiment,
    dataset: Dataset,
    evaluation: Evaluation,
    command: str,
    judged: str,
    sections: Sequence[str],
) -> str:
    table = evaluation.table
    rows = [[name, *(f"{column[name]:.5f}" for column in table.values())] for name in evaluation.mean]
    facts = {
        "command": command,
        "data": f"{dataset.name}: {len(dataset.train['image']):,} training and {len(dataset.test['image']):,} evaluated examples. {dataset.note}",
        "best checkpoint": f"the one of the best evaluation on the {judged} split, which is therefore no independent measure of it",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": ", ".join(f"{name} {version}" for name, version in platform.versions().items()),
        "seeds": f"{experiment.train.seed} to {experiment.train.seed + experiment.train.seeds - 1}",
    }
    if not judged:
        del facts["best checkpoint"]
    if evaluation.notes:
        facts = {"note": "; ".join(evaluation.notes), **facts}
    parts = [
        pages.table(["metric", *table], rows),
        pages.facts(facts),
        *sections,
        pages.folded("Configuration", config.to_json(experiment)),
    ]
    return pages.page(experiment.name, "\n".join(parts))
