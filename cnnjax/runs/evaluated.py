"""The files of an evaluation, beside the run: numbers, what was said of each example, tables, pictures and a page."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data.examples import Columns
from cnnjax.drawing import pages
from cnnjax.drawing.figures import Picture, save
from cnnjax.predict.output import Lines
from cnnjax.runs.workdir import write_atomically
from cnnjax.runtime import platform
from cnnjax.tasks import Task
from cnnjax.tasks.significance import exact_interval
from cnnjax.tasks.task import Table

_ROWS = 100  # of a table on the page; longer ones are files only


@dataclasses.dataclass(frozen=True)
class Findings:
    """What an evaluation found.

    columns: of the table of metrics, such as "mean", or of each network: the metrics by name.
    about: what the numbers mean nothing without: data, how images were read, the checkpoint, the command.
    """

    title: str
    columns: Mapping[str, Mapping[str, float]]
    about: Mapping[str, Any]
    pictures: Sequence[Picture] = ()
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def of_task(
    task: Task, split: Columns, predictions: Mapping[str, np.ndarray]
) -> tuple[dict[str, Table], list[Picture]]:
    """Tables and pictures of what a task predicted of a split, in full (Task.in_full)."""
    return dict(task.tables(predictions, split)), task.pictures(predictions, split)


def interval(split: Columns, predictions: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Of the accuracy of these predictions the exact 95 % interval; nothing where there is no label."""
    if "label" not in split or "label" not in predictions:
        return {}
    right = predictions["label"][:, 0] == split["label"]
    return {"accuracy_interval_95": list(exact_interval(int(right.sum()), len(right)))}


def write_predictions(
    folder: Path, task: Task, split: Columns, predictions: Mapping[str, np.ndarray]
) -> list[str]:
    """predictions.jsonl and .json of every example, as mode=predict writes them but in full, and of detections coco.json.
    Returns their names."""
    task, files = task.in_full(), split.files
    sizes = split["size"].tolist() if "size" in split else None
    with Lines(folder) as lines:
        for i, file in enumerate(files):
            shape = tuple(sizes[i]) if sizes else split["image"].shape[1:3]
            prediction = {name: values[i] for name, values in predictions.items()}
            lines.write(file, task.result(prediction, (*shape, 3)))
        return lines.finish()


class Unwritable(ConfigError):
    """A folder that takes no files."""


def write(folder: Path, found: Findings) -> list[str]:
    """Writes metrics.json, a .csv of each table, a .png of each picture, and report.html; returns their names.

    Raises Unwritable if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        about = {**found.about, "notes": list(found.notes), "versions": platform.versions()}
        numbers = {"metrics": {name: dict(column) for name, column in found.columns.items()}, **about}
        write_atomically(folder / "metrics.json", json.dumps(numbers, indent=2, default=str) + "\n")
        for name, table in found.tables.items():
            write_atomically(folder / f"{name}.csv", as_csv(table))
        sections = []
        for picture in found.pictures:
            path = folder / f"{picture.name}.png"
            save(picture.figure, path)
            sections.append(pages.section(picture, path.read_bytes()))
        write_atomically(folder / "report.html", _page(found, sections))
    except OSError as error:
        raise Unwritable(f"{folder} cannot be written: {error.strerror}; choose another --output") from error
    return [
        "metrics.json",
        *(f"{name}.csv" for name in found.tables),
        *(f"{picture.name}.png" for picture in found.pictures),
        "report.html",
    ]


def as_csv(table: Table) -> str:
    """Numbers with six digits; None is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(table.head)
    lines.writerows(cells(table))
    return text.getvalue()


def cells(table: Table) -> list[list[str]]:
    """The rows of a table as they are shown: numbers with six digits; None is empty."""
    return [[_cell(value) for value in row] for row in table.rows]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _page(found: Findings, sections: Sequence[str]) -> str:
    names = list(next(iter(found.columns.values())))
    rows = [[name, *(f"{column[name]:.5f}" for column in found.columns.values())] for name in names]
    facts = {name: _fact(value) for name, value in found.about.items()}
    facts |= {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}
    if found.notes:
        facts = {"note": "; ".join(found.notes), **facts}
    shown = {
        name: table
        for name, table in found.tables.items()
        if name == "per_class" and len(table.rows) <= _ROWS
    }
    tables = [
        f"<h2>{name.replace('_', ' ').capitalize()}</h2>" + pages.table(list(table.head), cells(table))
        for name, table in shown.items()
    ]
    parts = [pages.table(["metric", *found.columns], rows), *sections, *tables, pages.facts(facts)]
    return pages.page(found.title, "\n".join(parts))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
