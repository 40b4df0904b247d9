"""Files and folders in; predictions.json and a contact sheet out."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cnnjax.config import ConfigError, Data
from cnnjax.data.images import list_files, read_image
from cnnjax.drawing import figures
from cnnjax.drawing.results import draw
from cnnjax.runs.committee import RunCommittee
from cnnjax.runs.run import Run
from cnnjax.runs.workdir import write_atomically
from cnnjax.tasks.result import Result, to_coco

_BATCH = 64
_SHOWN = 100  # images on the contact sheet
_THUMBNAIL = 480  # pixels


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The named files, and the image files below the named folders in sorted order, without hidden ones.

    Raises ConfigError if nothing is named, a name does not exist or a folder has no image file at all.
    """
    if not inputs:
        raise ConfigError("nothing to predict: name files and folders with --inputs=photo.png,folder/")
    found: list[Path] = []
    for name in itertools.chain.from_iterable(map(_names, inputs)):
        path = Path(name)
        if path.is_dir():
            inside = list_files(path)
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


# A small copy of an image, of the first of them, and what is said of it; or why it could not be read.
Found = tuple[np.ndarray | None, Result] | ConfigError


def predict_files(run: Run | RunCommittee, paths: Sequence[Path], output: Path) -> tuple[int, list[str]]:
    """What `write_predictions` does with the predictions of a run, or of several."""
    return write_predictions(predictions(run, paths), output)


def write_predictions(found_in: Iterable[tuple[Path, Found]], output: Path) -> tuple[int, list[str]]:
    """Writes `output`/predictions.json and contact_sheet.png for images of any size; of detections also coco.json.

    Of the images no more are held at full size than threads read at once. Returns how many were predicted and one
    line for each file that could not be read.
    """
    files: list[str] = []
    results: list[Result] = []
    drawn: list[tuple[np.ndarray, str]] = []
    problems: list[str] = []
    for path, found in found_in:
        if isinstance(found, ConfigError):
            problems.append(str(found))
            continue
        thumbnail, result = found
        files.append(str(path))
        results.append(result)
        if thumbnail is not None:
            drawn.append(draw(thumbnail, result, path.name))
    if not results:
        raise ConfigError(f"none of {len(problems)} files could be read; the first: {problems[0]}")
    entries = [{"file": file, **result.to_json()} for file, result in zip(files, results, strict=True)]
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "predictions.json", json.dumps(entries, indent=2) + "\n")
    if results[0].boxes is not None:
        detected = json.dumps(to_coco(files, results, results[0].classes), indent=2)
        write_atomically(output / "coco.json", detected + "\n")
    title = (
        "Predictions" if len(drawn) == len(files) else f"The first {len(drawn)} of {len(files):,} predictions"
    )
    shown, texts = [image for image, _ in drawn], [text for _, text in drawn]
    sheet = figures.image_grid("contact_sheet", title, "", shown, texts, columns=5)
    figures.save(sheet.figure, output / "contact_sheet.png")
    return len(files), problems


def predictions(run: Run | RunCommittee, paths: Sequence[Path]) -> Iterator[tuple[Path, Found]]:
    """Of every file, in order, a small copy of the image (of the first 100; else None) and what the network says of it;
    or the error where it cannot be read. Reads one batch ahead of the network, in threads."""
    predictor = run.predictor()

    def read(number: int) -> tuple[np.ndarray, tuple[int, ...], np.ndarray | None] | ConfigError:
        try:
            original = read_image(paths[number], Data(), channels=run.image_shape[-1])
            return (
                predictor.framed(original),
                original.shape,
                thumbnail(original) if number < _SHOWN else None,
            )
        except ConfigError as error:
            return error

    chunks = [range(start, min(start + _BATCH, len(paths))) for start in range(0, len(paths), _BATCH)]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="predicting", unit=" images", delay=2, leave=False, disable=None) as bar,
    ):
        ahead = [pool.submit(read, number) for number in chunks[0]] if chunks else []
        for chunk, following in zip(chunks, [*chunks[1:], range(0)], strict=True):
            opened = [future.result() for future in ahead]
            ahead = [pool.submit(read, number) for number in following]
            whole = [one for one in opened if not isinstance(one, ConfigError)]
            stacked = [image for image, _, _ in whole]
            rows = iter(predictor.predictions(np.stack(stacked)) if whole else ())
            for number, one in zip(chunk, opened, strict=True):
                if isinstance(one, ConfigError):
                    yield paths[number], one
                else:
                    yield paths[number], (one[2], predictor.result(next(rows), one[1]))
            bar.update(len(chunk))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] shrunk, in proportion, to at most _THUMBNAIL pixels on a side."""
    small = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    array = np.asarray(small)
    return array if array.ndim == 3 else array[..., None]
