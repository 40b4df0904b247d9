"""A prepared data set: a folder of array_record files of images as they were, and what is known of them beside.

  dataset.json              format, kind (the names of the targets), classes, channels, which split thresholds are chosen
                            on (or ""), and per split its files, the number of images and the CRC-32 of its targets
  train.npz                 targets as examples.ENTRIES has them, such as label int32 [N]. With size among them, places are
                            in pixels of the images as they were: of boxes, what annotations.padded returns
  train-00000.array_record  one record per image: its file (JPEG, PNG, ...), byte for byte

Targets are small and stay in memory; images are read one at a time, so a set may be larger than memory.
"""

import dataclasses
import json
import shutil
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cnnjax.config import SHORT_SIDE, ConfigError, Data, frame_of
from cnnjax.data import images
from cnnjax.data.dataset import Dataset, join, of_the_first
from cnnjax.data.examples import ENTRIES, Columns
from cnnjax.data.formats.annotations import at_most
from cnnjax.data.ragged import Ragged
from cnnjax.data.splits import order as fixed_order
from cnnjax.data.stream import StreamedImages, read_one

FORMAT = 2
SHARD_BYTES = 2**28
_ABOUT = "dataset.json"
_BOXES = (
    "boxes",
    "classes",
    "valid",
    "ignored",
    "area",
    "size",
)  # what the kind "boxes" of earlier versions means
_LENGTHS = "_lengths"  # follows the name of what is Ragged
_CHUNK = 64  # images that are checked at a time


@dataclasses.dataclass(frozen=True)
class Raw:
    """A split to prepare: image files in order, with the targets of each."""

    files: Iterable[tuple[str, bytes]]  # name for messages, content
    targets: dict[str, Any]
    count: int


class RawDataset(NamedTuple):
    """A data set to prepare; `validation` names the split on which thresholds are chosen, or is ""."""

    classes: tuple[str, ...]
    splits: dict[str, Raw]
    note: str
    validation: str = ""


def write(
    folder: Path, classes: tuple[str, ...], splits: dict[str, Raw], note: str, validation: str = ""
) -> dict[str, int]:
    """Writes a prepared data set; every image is decoded once to be sure of it. Returns images per split.

    Nothing is left behind if it fails. Raises ConfigError if the folder exists, an image is damaged, or is not of
    the size that its annotation says, or if a target is not one of examples.ENTRIES.
    """
    if unknown := {name for raw in splits.values() for name in raw.targets} - set(ENTRIES):
        raise ConfigError(f"{', '.join(sorted(unknown))}: no target that a prepared data set can hold")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: prepare into a new folder with --output=DIR")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        about: dict[str, Any] = {"format": FORMAT, "classes": list(classes), "note": note}
        about |= {"validation": validation, "splits": {}}
        all_grey = True
        for name, raw in splits.items():
            files, grey = _write_images(partial, name, raw)
            all_grey = all_grey and grey
            with open(partial / f"{name}.npz", "wb") as file:
                np.savez(file, **_saved(raw.targets))  # type: ignore[arg-type]
            sums = zlib.crc32((partial / f"{name}.npz").read_bytes())
            about["splits"][name] = {"count": raw.count, "files": files, "targets_crc32": sums}
            about["kind"] = ",".join(raw.targets)
        about["channels"] = 1 if all_grey and not _framed(about) else 3
        (partial / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {name: raw.count for name, raw in splits.items()}


def _write_images(folder: Path, name: str, raw: Raw) -> tuple[list[str], bool]:
    """Names of the files, and whether all images are grey."""
    from array_record.python.array_record_module import ArrayRecordWriter

    sizes = raw.targets.get("size")
    files: list[str] = []
    all_grey, done, room = True, 0, 0
    writer = None
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=raw.count, desc=f"preparing {name}", unit=" images", leave=False, disable=None) as bar,
    ):
        for chunk in _chunks(raw.files):
            grey = [images.check_header(content, label) for label, content in chunk]
            all_grey = all_grey and all(grey)
            shapes = list(pool.map(lambda one: images.decode(one[1], one[0], Data(), 3).shape[:2], chunk))
            for (label, content), shape in zip(chunk, shapes, strict=True):
                if sizes is not None and shape != tuple(sizes[done]):
                    raise ConfigError(
                        f"{label} is {shape[1]}x{shape[0]}, its annotation says {sizes[done][1]}x{sizes[done][0]}"
                    )
                if writer is None or room < len(content):
                    if writer is not None:
                        writer.close()
                    files.append(f"{name}-{len(files):05d}.array_record")
                    writer, room = (
                        ArrayRecordWriter(str(folder / files[-1]), "group_size:1,uncompressed"),
                        SHARD_BYTES,
                    )
                writer.write(content)
                room, done = room - len(content), done + 1
            bar.update(len(chunk))
    if writer is not None:
        writer.close()
    if done != raw.count or not done:
        raise ConfigError(f"{folder.name}: {done:,} images of {raw.count:,} in the split {name}")
    return files, all_grey


def _chunks(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    chunk: list[tuple[str, bytes]] = []
    for one in files:
        chunk.append(one)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class RecordFiles:
    """Random access to the records of array_record files. Goes to other processes by pickle."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = [str(path) for path in paths]
        self._open()

    def _open(self) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._source = ArrayRecordDataSource(self._paths)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        with self._lock:
            return self._source[index]


def read(data: Data, folder: Path) -> Dataset:
    """What `write` wrote: decoded into memory, or with data.stream as StreamedImages.

    Images whose targets tell their sizes are letterboxed, or brought to buckets, and their targets with them. Others come in the same fixed
    shuffled order as from the folder they were prepared from, resized as `data` says.

    Raises ConfigError if the folder holds no prepared data set, or a damaged one.
    """
    about = _about(folder)
    if data.stream_crop and (_framed(about) or not data.image_size):
        why = "images with places in them are read whole" if _framed(about) else "set data.image_size"
        raise ConfigError(f"data.stream_crop of data.name={data.name!r}: {why}")
    if _framed(about):
        from cnnjax.data.letterbox import framed, in_memory, stored  # imports jax

        if not data.image_size:
            raise ConfigError(
                f"data.name={data.name!r} needs --data.image_size, the height of the frame in pixels"
            )
        how = SHORT_SIDE if data.resize == SHORT_SIDE else "letterbox"
        data = dataclasses.replace(data, resize=how)
    elif data.resize == SHORT_SIDE:
        raise ConfigError(f"data.resize={data.resize} is for images with boxes, not for {data.name!r}")

    left_out: list[str] = []

    def split(name: str) -> Columns:
        entry = about["splits"][name]
        targets = _targets(folder, name, about)
        try:
            encoded = RecordFiles([folder / file for file in entry["files"]])
            count = len(encoded)
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise ConfigError(f"{folder}: the records of {name} cannot be read: {error}") from error
        if count != entry["count"] or any(len(values) != count for values in targets.values()):
            raise ConfigError(f"{folder}: {count:,} records of {name}, {_ABOUT} says {entry['count']:,}")
        order = (np.arange(count) if _framed(about) else fixed_order(count))[: data.limit or None]
        targets = {key: values[order] for key, values in targets.items()}
        where = f"{name} in {folder}"
        if _framed(about):
            if name == "train" and data.max_objects:
                targets, told = at_most(targets, data.max_objects)
                left_out.append(told)
            limits = frame_of(data)
            shape = (*stored(limits, data.resize), 3)
            try:
                targets = framed(targets, limits, data.resize)
                targets = targets if data.stream else in_memory(targets)
            except (KeyError, IndexError, TypeError, ValueError, ArithmeticError) as error:
                raise ConfigError(f"{folder}: damaged: the targets of {name}: {error}") from error
        elif data.image_size:
            shape = (data.image_size, data.image_size, about["channels"])
        else:
            shape = images.decode(encoded[int(order[0])], where, data, about["channels"]).shape
        pixels: Any = StreamedImages(encoded, order, data, shape, where)
        if not data.stream:
            pixels = images.stack(_reader(encoded, order, data, shape, where), len(order), f"reading {name}")
        return Columns({"image": pixels, **targets})

    splits = {name: split(name) for name in about["splits"]}
    validation = splits.get(about["validation"])
    classes = tuple(about["classes"])
    fewer = of_the_first(data.limit, [entry["count"] for entry in about["splits"].values()])
    note = join(*left_out, about["note"], fewer)
    try:
        return Dataset(data.name, splits["train"], splits["test"], classes, note, validation)
    except ValueError as error:
        raise ConfigError(f"{folder}: damaged: {error}") from error


def _kind(about: dict[str, Any]) -> tuple[str, ...]:
    """The names of the targets."""
    return _BOXES if about["kind"] == "boxes" else tuple(about["kind"].split(","))


def _framed(about: dict[str, Any]) -> bool:
    """Whether images have sizes of their own, and targets are in pixels of these."""
    return "size" in _kind(about)


def _reader(
    encoded: RecordFiles, order: np.ndarray, data: Data, shape: tuple[int, ...], where: str
) -> Callable[[int], np.ndarray]:
    return lambda index: read_one(encoded, int(order[index]), data, shape, where)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / _ABOUT
    if not path.is_file():
        raise ConfigError(f"{folder} holds no prepared data set: {_ABOUT} is missing; see --mode=prepare")
    try:
        about = json.loads(path.read_text())
        if about["format"] != FORMAT:
            raise ConfigError(f"{path}: format {about['format']}, this version reads {FORMAT}")
        splits = list(about["splits"].values())
        kinds = set(_kind(about)) <= set(ENTRIES) and about["channels"] in (1, 3)
        texts = [about["note"], *about["classes"], *(name for split in splits for name in split["files"])]
        names = all(
            split["files"] and all(Path(file).name == file for file in split["files"]) for split in splits
        )
        counts = all(isinstance(split["count"], int) for split in splits)
        known = {"train", "test", about["validation"]} <= {"", *about["splits"]}
        if not (kinds and names and counts and known and all(isinstance(text, str) for text in texts)):
            raise ValueError("its entries are not those of a prepared data set")
        return about
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: damaged: {error}") from error


def _saved(targets: dict[str, Any]) -> dict[str, np.ndarray]:
    """Targets as arrays; of codes of different lengths two."""
    arrays: dict[str, np.ndarray] = {}
    for name, values in targets.items():
        if isinstance(values, Ragged):
            arrays[name], arrays[f"{name}{_LENGTHS}"] = values.packed()
        else:
            arrays[name] = values
    return arrays


def _restored(name: str, arrays: Any) -> Any:
    """Undoes `_saved`. Raises ValueError if lengths do not fit."""
    lengths = arrays[f"{name}{_LENGTHS}"] if f"{name}{_LENGTHS}" in arrays else None
    if lengths is None:
        return arrays[name]
    if lengths.ndim != 2 or lengths.min(initial=0) < 0 or int(lengths.sum()) != len(arrays[name]):
        raise ValueError(f"the lengths of {name} do not fit")
    return Ragged(arrays[name], lengths)


def _targets(folder: Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{name}.npz"
    try:
        if zlib.crc32(path.read_bytes()) != about["splits"][name]["targets_crc32"]:
            raise ValueError("it does not match its checksum")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: _restored(key, arrays) for key in _kind(about)}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ConfigError(f"{path}: damaged: {error}") from error
