"""Predictions as files: a line of JSON each as they come, and at the end what other programs read."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from cnnjax.runs.workdir import writing_atomically
from cnnjax.tasks.result import Result, coco_annotations, coco_categories, coco_image


class Lines:
    """predictions.jsonl of a folder, which begins with the first result; then predictions.json and coco.json.

    These are written from the lines: however many there are, one at a time is in memory.
    """

    def __init__(self, folder: Path):
        self.count = 0
        self._folder, self._path = folder, folder / "predictions.jsonl"
        self._file: IO[str] | None = None
        self._classes: tuple[str, ...] | None = None  # of detections

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, file: str, result: Result) -> None:
        """Adds a line, which a reader sees at once."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
            self._classes = result.classes if result.boxes is not None else None
        self._file.write(json.dumps({"file": file, **result.to_json()}) + "\n")
        self._file.flush()
        self.count += 1

    def finish(self) -> list[str]:
        """Writes predictions.json, a list, and of detections coco.json. Returns the names of all files."""
        with writing_atomically(self._folder / "predictions.json") as out:
            _write_list(out, self._entries())
            out.write("\n")
        if self._classes is None:
            return [self._path.name, "predictions.json"]
        with writing_atomically(self._folder / "coco.json") as out:
            out.write('{"images": ')
            _write_list(out, (coco_image(number, entry) for number, entry in enumerate(self._entries(), 1)))
            out.write(', "annotations": ')
            _write_list(out, self._annotations())
            out.write(f', "categories": {json.dumps(coco_categories(self._classes))}}}\n')
        return [self._path.name, "predictions.json", "coco.json"]

    def _entries(self) -> Iterator[dict[str, Any]]:
        with open(self._path, encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def _annotations(self) -> Iterator[dict[str, Any]]:
        first = 1
        for number, entry in enumerate(self._entries(), 1):
            found = coco_annotations(number, entry, first)
            first += len(found)
            yield from found


def _write_list(out: IO[str], items: Iterable[Any]) -> None:
    """As json.dumps(items, indent=2), item by item."""
    begin = "[\n"
    for item in items:
        out.write(begin + textwrap.indent(json.dumps(item, indent=2), "  "))
        begin = ",\n"
    out.write("[]" if begin == "[\n" else "\n]")
