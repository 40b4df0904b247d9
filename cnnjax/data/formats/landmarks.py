"""Landmarks of faces: tables (csv), and 300-W's .pts files."""

import csv
import io
import math
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data import listing
from cnnjax.data.formats.annotations import inside_folder, read_text
from cnnjax.data.formats.points import PointSet, mirror_of

MIRROR_FILE = "mirror.txt"


def read_csv(path: str | Path, folder: str | Path) -> PointSet:
    """A table with a column `file` and two for each point: x0, y0, x1, ... or NAME_x, NAME_y, ...; images in `folder`.

    Cells left empty are a point that is not visible. The mirror list is that of mirror.txt beside the table, or
    follows from left_ and right_ in the names, or from 68 or 5 points. Raises ConfigError.
    """
    source = str(path)
    rows = [row for row in csv.reader(io.StringIO(read_text(Path(path)))) if row]
    if not rows:
        raise ConfigError(f"{source}: the file is empty")
    names, columns, file_column = _columns([cell.strip() for cell in rows[0]], source)
    values = np.full((len(rows) - 1, len(names), 2), np.nan)
    visible = np.zeros(values.shape[:2], bool)
    for number, row in enumerate(rows[1:]):
        if len(row) != len(rows[0]):
            raise ConfigError(f"{source}, row {number + 2}: {len(row)} cells, not {len(rows[0])}")
        for k, pair in enumerate(columns):
            cells = [row[column].strip() for column in pair]
            visible[number, k] = any(cells)
            if any(cells):
                values[number, k] = [
                    _number(cell, f"{source}, row {number + 2}, {names[k]}") for cell in cells
                ]
    files = tuple(inside_folder(row[file_column].strip(), source) for row in rows[1:])
    mirror = mirror_of(names, source, Path(path).parent / MIRROR_FILE)
    return PointSet(source, Path(folder), files, values, visible, names, mirror)


def read_pts(folder: str | Path) -> PointSet:
    """A folder of images with a .pts file of the same name beside each, as 300-W, LFPW, HELEN and iBUG come.

    These files count pixels from 1; the points here from 0. Raises ConfigError.
    """
    root = Path(folder)
    found = listing.list_files(root, {".pts"})
    photographs = {path.with_suffix(""): path for path in listing.list_files(root)}
    points, files = [], []
    for path in found:
        if path.with_suffix("") not in photographs:
            raise ConfigError(f"{path}: no image of that name beside it")
        points.append(read_pts_file(path))
        files.append(photographs[path.with_suffix("")].relative_to(root).as_posix())
        if len(points[-1]) != len(points[0]):
            raise ConfigError(f"{path}: {len(points[-1])} points, {found[0].name} has {len(points[0])}")
    if not points:
        raise ConfigError(f"{root}: no .pts files")
    names = tuple(map(str, range(len(points[0]))))
    mirror = mirror_of(names, str(root), root / MIRROR_FILE)
    values = np.stack(points)
    return PointSet(str(root), root, tuple(files), values, np.ones(values.shape[:2], bool), names, mirror)


def read_pts_file(path: Path) -> np.ndarray:
    """The points [K, 2] of one .pts file, counted from 0: "n_points: K", and K lines "x y" between braces."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if "{" not in lines or "}" not in lines:
        raise ConfigError(f"{path}: not a .pts file: its points are to stand between {{ and }}")
    heads = [line.partition(":") for line in lines[: lines.index("{")]]
    said = next((value.strip() for key, _, value in heads if key.strip() == "n_points"), "")
    rows = [line.split() for line in lines[lines.index("{") + 1 : lines.index("}")]]
    if said != str(len(rows)):
        raise ConfigError(f"{path}: n_points is {said or 'missing'}, but {len(rows)} points follow")
    for number, row in enumerate(rows):
        if len(row) != 2:
            raise ConfigError(f"{path}: point {number} is not two numbers")
    values = [[_number(cell, f"{path}, point {i}") for cell in row] for i, row in enumerate(rows)]
    return np.array(values).reshape(-1, 2) - 1.0


def _columns(header: list[str], source: str) -> tuple[tuple[str, ...], list[tuple[int, int]], int]:
    """Names of the points, the columns of their x and y, and that of the file."""
    if "file" not in header:
        raise ConfigError(f"{source}: no column is called file")
    places = {name: i for i, name in enumerate(header)}
    if len(places) != len(header):
        raise ConfigError(f"{source}: two columns have the same name")
    names, columns = [], []
    for name in header:
        is_numbered = name[:1] == "x" and name[1:].isdigit()
        if not is_numbered and not name.endswith("_x"):
            continue
        other = f"y{name[1:]}" if is_numbered else f"{name[:-1]}y"
        if other not in places:
            raise ConfigError(f"{source}: column {name} has no column {other} beside it")
        names.append(name[1:] if is_numbered else name[:-2])
        columns.append((places[name], places[other]))
    if len(header) != 1 + 2 * len(names) or not names:
        used = {places["file"], *(column for pair in columns for column in pair)}
        extra = next((name for i, name in enumerate(header) if i not in used), "none")
        raise ConfigError(
            f"{source}: columns are to be file, and x0, y0, ... or NAME_x, NAME_y, ..., not {extra}"
        )
    return tuple(names), columns, places["file"]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {text!r} is not a number")
    return value
