"""The German traffic signs (GTSRB, Stallkamp et al. 2012) as their authors give them: .ppm files and GT-*.csv."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data import images, listing
from cnnjax.data.dataset import Dataset, some
from cnnjax.data.examples import Columns
from cnnjax.data.formats.annotations import inside_folder, read_text
from cnnjax.data.splits import TEST_SHARE, order, role

_LIMITS = (20, 30, 50, 60, 70, 80)
SIGNS = (
    *(f"speed limit {v}" for v in _LIMITS), "end of speed limit 80", "speed limit 100", "speed limit 120",
    "no passing", "no passing of trucks", "right of way at the next crossing", "priority road", "yield", "stop",
    "no vehicles", "no trucks", "no entry", "danger", "curve to the left", "curve to the right", "double curve",
    "bumpy road", "slippery road", "road narrows on the right", "road work", "traffic signals", "pedestrians",
    "children crossing", "bicycles crossing", "ice or snow", "wild animals", "end of all limits", "turn right ahead",
    "turn left ahead", "ahead only", "straight or right", "straight or left", "keep right", "keep left",
    "roundabout", "end of no passing", "end of no passing of trucks",
)  # fmt: skip
COLUMNS = ("Filename", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")


@dataclasses.dataclass(frozen=True)
class Sign:
    """A photograph; the box around the sign in it, in pixels, exclusive at the right and bottom; and its class."""

    path: Path
    box: tuple[int, int, int, int]
    label: int

    @property
    def track(self) -> str:
        """The approach to one sign, of which there are up to 30 photographs; "" where the name does not tell."""
        name, underscore, _ = self.path.stem.partition("_")
        return f"{self.label:05}/{name}" if underscore else ""


def read(data: Data, folder: Path) -> Dataset:
    """Photographs cropped to their box, of the folders whose names mean train and test, such as Final_Training.

    A training split of its own is parted by whole tracks: photographs of one sign are nearly alike, and must not be
    learned and judged. data.validation, and a fifth for the test where there is none, are held out so.

    Raises:
      ConfigError: no such folders or tables, columns that are missing, a box outside of its photograph, a track that
        is in two splits, no data.image_size.
    """
    if not data.image_size:
        raise ConfigError(f"data.name={data.name!r} has images of many sizes: give --data.image_size")
    train, test = _splits(folder, data.name)
    note = f"signs of {folder}"
    share = data.validation or (0.0 if test else TEST_SHARE)
    if share:
        train, test = hold_out_tracks(train, share)
        note += f"; {len(test):,} photographs, whole tracks, held out of the training split"
    refuse_shared_tracks(train, test, data.name)
    of_train, of_test = _read(train, data, "train"), _read(test, data, "test")
    validation = of_test if data.validation else None
    return Dataset(data.name, of_train, of_test, SIGNS, note, validation)


def refuse_shared_tracks(train: Sequence[Sign], test: Sequence[Sign], name: str) -> None:
    """Raises ConfigError if photographs of one track are in both splits."""
    both = sorted({sign.track for sign in train} & {sign.track for sign in test} - {""})
    if both:
        raise ConfigError(f"data.name={name!r}: photographs of the track {some(both)} are in both splits")


def hold_out_tracks(signs: Sequence[Sign], share: float) -> tuple[list[Sign], list[Sign]]:
    """All but a fixed share of the tracks of each class, and these; a class with one track keeps it."""
    tracks: dict[int, list[str]] = {}
    for sign in signs:
        if sign.track not in tracks.setdefault(sign.label, []):
            tracks[sign.label].append(sign.track)
    held: set[str] = set()
    for of_class in tracks.values():
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1)
        held |= {of_class[i] for i in order(len(of_class))[:count]}
    return [s for s in signs if s.track not in held], [s for s in signs if s.track in held]


def _splits(folder: Path, name: str) -> tuple[list[Sign], list[Sign]]:
    found: dict[str, list[Sign]] = {"train": [], "test": []}
    root = folder / "GTSRB" if (folder / "GTSRB").is_dir() else folder
    for child in sorted(p for p in root.iterdir() if p.is_dir()):
        split = role(child.name.lower().removeprefix("final_"))
        if split:
            found["train" if split == "train" else "test"] += read_tables(child)
    if not found["train"]:
        raise ConfigError(
            f"data.name={name!r}: {root} has no folder Final_Training with GT-*.csv and photographs"
        )
    return found["train"], found["test"]


def read_tables(folder: Path) -> list[Sign]:
    """The photographs of all GT-*.csv below a folder. Raises ConfigError."""
    tables = listing.list_files(folder, {".csv"})
    if not tables:
        raise ConfigError(f"{folder} has no GT-*.csv that says where the signs are")
    return [sign for table in tables for sign in _table(table)]


def _table(path: Path) -> list[Sign]:
    rows = list(csv.reader(io.StringIO(read_text(path)), delimiter=";"))
    names = [cell.strip() for cell in rows[0]] if rows else []
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ConfigError(f"{path}: no column {missing[0]}, but {', '.join(names) or 'nothing'}")
    signs = []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        if not row:
            continue
        if len(row) != len(names):
            raise ConfigError(f"{where}: {len(row)} cells, not {len(names)}")
        file, *cells = (row[names.index(name)].strip() for name in COLUMNS)
        if not all(cell.isdecimal() for cell in cells):
            raise ConfigError(f"{where}: {';'.join(cells)} are not whole numbers")
        x1, y1, x2, y2, label = map(int, cells)
        if label >= len(SIGNS):
            raise ConfigError(f"{where}: class {label}, of {len(SIGNS)}")
        signs.append(Sign(path.parent / inside_folder(file, where), (x1, y1, x2, y2), label))
    return signs


def _read(signs: Sequence[Sign], data: Data, what: str) -> Columns:
    """In one fixed shuffled order, so that data.limit meets all classes."""
    chosen = [signs[i] for i in order(len(signs))[: data.limit or None]]

    def read_one(index: int) -> np.ndarray:
        sign = chosen[index]
        whole = images.read_image(sign.path, Data())
        x1, y1, x2, y2 = sign.box
        if not (x1 < x2 <= whole.shape[1] and y1 < y2 <= whole.shape[0]):
            raise ConfigError(
                f"{sign.path}: the box {sign.box} is not in {whole.shape[1]}x{whole.shape[0]} pixels"
            )
        return np.asarray(images.fit(Image.fromarray(whole[y1:y2, x1:x2]), data))

    pixels = images.column(read_one, len(chosen), f"reading {what}")
    labels = np.array([sign.label for sign in chosen], np.int32)
    return Columns({"image": pixels, "label": labels}, files=[sign.path for sign in chosen])
