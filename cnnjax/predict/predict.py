"""Files and folders in; predictions.json and a contact sheet out."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.augment.examples import VIEWS, before_views
from cnnjax.config import ConfigError, Data
from cnnjax.data.batches import evaluation_indices
from cnnjax.data.images import SUFFIXES, read_image, resize
from cnnjax.drawing import figures
from cnnjax.drawing.results import draw
from cnnjax.runs.run import Restored
from cnnjax.runs.workdir import write_atomically
from cnnjax.runtime import sharding
from cnnjax.tasks.result import to_coco
from cnnjax.training.evaluate import spoken_for

_BATCH = 64
_SHOWN = 100  # images on the contact sheet


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The named files, and the image files below the named folders in sorted order.

    Raises ConfigError if nothing is named, a name does not exist or there is no image file at all.
    """
    if not inputs:
        raise ConfigError("nothing to predict: name files and folders with --inputs=photo.png,folder/")
    found: list[Path] = []
    for name in itertools.chain.from_iterable(map(_names, inputs)):
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise ConfigError(f"no image files in folder {path}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise ConfigError(f"no such file or folder: {path}")
    return found


def _names(text: str) -> Iterator[str]:
    """The names in a list separated by commas; a comma of a name that exists separates nothing."""
    parts = text.split(",")
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if Path(",".join(parts[:end])).exists()), 1)
        yield ",".join(parts[:end])
        parts = parts[end:]


def predict_files(run: Restored, paths: Sequence[Path], output: Path) -> tuple[int, list[str]]:
    """Writes `output`/predictions.json and contact_sheet.png for images of any size; of detections also coco.json.

    Returns how many images were predicted and one line for each file that could not be read.
    """
    data = before_views(run.experiment.evaluate.augment, run.recipe.data)
    images, originals, read, problems = [], [], [], []
    for path in paths:
        try:
            original = read_image(path, Data(), channels=run.image_shape[-1])
            images.append(resize(original, data, run.image_shape))
            originals.append(original)
            read.append(path)
        except ConfigError as error:
            problems.append(str(error))
    if not images:
        raise ConfigError(f"none of {len(paths)} files could be read; the first: {problems[0]}")
    task = run.recipe.task
    predictions = _rows(_predict(run, np.stack(images)))
    results = [task.result(one, image.shape) for one, image in zip(predictions, originals, strict=True)]
    files = list(map(str, read))
    entries = [{"file": file, **result.to_json()} for file, result in zip(files, results, strict=True)]
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "predictions.json", json.dumps(entries, indent=2) + "\n")
    if results[0].boxes is not None:
        detected = json.dumps(to_coco(files, results, run.classes), indent=2)
        write_atomically(output / "coco.json", detected + "\n")
    drawn = [
        draw(image, result, path.name)
        for image, path, result in zip(originals[:_SHOWN], read[:_SHOWN], results[:_SHOWN], strict=True)
    ]
    sheet = figures.image_grid(
        "contact_sheet",
        "Predictions",
        "",
        [image for image, _ in drawn],
        [text for _, text in drawn],
        columns=5,
    )
    figures.save(sheet.figure, output / "contact_sheet.png")
    return len(read), problems


def _predict(run: Restored, images: np.ndarray) -> dict[str, np.ndarray]:
    views = run.experiment.evaluate.augment

    @jax.jit
    def predict(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return run.recipe.task.predict(spoken_for(run.recipe, variables, images, views))

    results = []
    mesh = sharding.evaluation_mesh()
    variables = jax.device_put(run.state.variables, sharding.replicated(mesh))
    wanted = min(_BATCH // VIEWS[views], len(images))
    for index, _ in evaluation_indices(len(images), -(-wanted // mesh.size) * mesh.size):
        batch = jax.device_put(images[index], sharding.sharded(mesh, 0))
        results.append(jax.device_get(predict(variables, batch)))
    return {name: np.concatenate([r[name] for r in results])[: len(images)] for name in results[0]}


def _rows(predictions: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(predictions.values())))
    return [{name: values[i] for name, values in predictions.items()} for i in range(count)]
