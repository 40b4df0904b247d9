"""From folders and archives of images, and annotated sets, to prepared ones (records.py): mode=prepare."""

import contextlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.dataset import join
from cnnjax.data.formats import folders, records
from cnnjax.data.formats.annotations import Annotations, Problem, inside_folder, padded, tell_problems
from cnnjax.data.formats.folders import Files, Inside
from cnnjax.data.formats.records import Raw
from cnnjax.data.tfds import builder as tfds_builder
from cnnjax.data.tfds import read as prepared
from cnnjax.data.tfds.boxes import Boxes, annotate, boxes_of

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_LARGEST = 2**28  # bytes of a member: more is no image, but would fill the memory


def prepare(data: Data, output: Path, data_dir: str | None = None) -> dict[str, int]:
    """Writes the data set that `data.name` names as array_record to the folder `output`; images per split.

    Names: folder:PATH, where PATH is a folder, or a zip or tar file of one, with a folder of images per class;
    voc:PATH, coco:PATH, yolo:PATH; or what tensorflow-datasets has prepared as array_record. Splits are those that
    training on the name itself has. Nothing is unpacked to disk, so names inside an archive lead nowhere.
    """
    layout, _, path = data.name.partition(":")
    source = Path(path).expanduser()
    note = f"prepared from {source}"
    if layout == "folder" and source.is_file():
        if not source.name.lower().endswith(_ARCHIVES):
            raise ConfigError(f"{source}: not a folder, and not one of {', '.join(_ARCHIVES)}")
        with _archive(source) as (names, read):
            train, test, classes = _split_names(names, str(source))
            raw = {
                name: _labelled(files, read, f"{source}: ")
                for name, files in (("train", train), ("test", test))
            }
            return records.write(output, classes, raw, note)
    if layout == "folder" and path:
        train, test, classes, _ = folders.list_splits(source, data.name)
        raw = {
            name: _labelled(files, Path.read_bytes, "") for name, files in (("train", train), ("test", test))
        }
        return records.write(output, classes, raw, note)
    if layout in ("voc", "coco", "yolo") and path:
        from cnnjax.data import detection_sources  # imports jax

        found = detection_sources.read_splits(data)
        room = max(len(truth.boxes) for split in found.splits.values() for truth in split.truths)
        splits = {name: _annotated(split, room) for name, split in found.splits.items()}
        note = join(note, found.note)
        return records.write(output, found.splits["train"].classes, splits, note, found.validation)
    if layout not in (
        "folder",
        "voc",
        "coco",
        "yolo",
        "records",
        "digits",
        "synthetic",
        "shapes",
        "digit_scenes",
    ):
        return _from_tfds(data, tfds_builder.data_folder(data_dir), output)
    raise ConfigError(
        f"data.name={data.name!r} cannot be prepared: give folder:PATH (a folder of class folders, or a zip or tar "
        "file of one), voc:PATH, coco:PATH or yolo:PATH"
    )


def _from_tfds(data: Data, data_dir: Path, output: Path) -> dict[str, int]:
    """Copies the encoded images and labels or boxes of what tensorflow-datasets has prepared, without its wrapping."""
    builder = tfds_builder.builder(data.name, data_dir, ())
    if not prepared.is_prepared(builder):
        raise ConfigError(tfds_builder.not_prepared(data.name, data_dir, builder))
    boxes = boxes_of(builder.info)
    if not boxes:
        prepared.check_features(builder.info)
    found, evaluated = prepared.open_sources(builder, boxes, data.split)
    if not evaluated or builder.name == "emnist":
        why = "has no labelled test split" if not evaluated else "holds its images mirrored"
        raise ConfigError(f"data.name={data.name!r} {why}: it cannot be prepared for streaming")

    def raw(name: str) -> Raw:
        source = found[name]
        if boxes:
            return _annotated_records(source, name, boxes)
        labels = np.zeros(len(source), np.int32)  # known when the images have been read

        def files() -> Iterator[tuple[str, bytes]]:
            for index in range(len(source)):
                record = source[index]
                labels[index] = record["label"]
                yield f"image {index} of {name}", record["image"]

        return Raw(files(), {"label": labels}, len(source))

    note = f"{builder.info.full_name}, evaluated on its {evaluated} split"
    classes = boxes.classes if boxes else tuple(builder.info.features["label"].names)
    splits = {"train": raw("train"), "test": raw(evaluated)}
    if evaluated == "test" and "validation" in found:
        splits["validation"] = raw("validation")
    validation = "validation" if "validation" in splits else "test" if evaluated == "validation" else ""
    return records.write(output, classes, splits, note, validation)


def _annotated_records(source: Any, name: str, boxes: Boxes) -> Raw:
    """Reads all records once for their boxes; their images are read again when they are copied."""
    problems: list[Problem] = []
    annotated = {}
    for index in range(len(source)):
        record, place = source[index], f"image {index} of {name}"
        found = annotate(record, place, images.size(record["image"], place), boxes, problems)
        if found is not None:
            annotated[index] = found
    kept = list(annotated.values())
    tell_problems(problems, sum(len(image.truth.boxes) for image in kept), len(kept))
    files = ((image.path, source[index]["image"]) for index, image in annotated.items())
    return Raw(files, padded(kept), len(kept))


def _annotated(annotations: Annotations, room: int) -> Raw:
    def files() -> Iterator[tuple[str, bytes]]:
        for image in annotations.images:
            path = annotations.folder / image.path
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from error

    return Raw(files(), padded(annotations.images, room), len(annotations.images))


def _labelled(files: Files, read: Callable[[Any], bytes], title: str) -> Raw:
    def contents() -> Iterator[tuple[str, bytes]]:
        for path in files.paths:
            name = f"{title}{path}"
            try:
                content = read(path)
            except Exception as error:  # damaged archives make their modules raise almost anything
                raise ConfigError(f"{name}: cannot be read: {error}") from error
            yield name, content

    return Raw(contents(), {"label": files.labels}, len(files.paths))


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[tuple[list[PurePosixPath], Callable[[PurePosixPath], bytes]]]:
    """The files in a zip or tar file, without links, and how to read one.

    Raises ConfigError if it is neither, or damaged, or a name leads out of it, or a file is too large.
    """
    with contextlib.ExitStack() as stack:
        read: Callable[[Any], bytes]
        entries: Iterator[tuple[str, int, Any]]
        members: dict[PurePosixPath, Any] = {}
        try:
            if path.suffix.lower() == ".zip":
                packed = stack.enter_context(zipfile.ZipFile(path))
                entries = (
                    (one.filename, one.file_size, one) for one in packed.infolist() if not one.is_dir()
                )
                read = packed.read
            else:
                tar = stack.enter_context(tarfile.open(path))
                entries = ((one.name, one.size, one) for one in tar if one.isfile())
                read = lambda member: tar.extractfile(member).read()  # type: ignore[union-attr]  # noqa: E731
            for name, size, member in entries:
                if size > _LARGEST:  # before anything behind it is looked for
                    raise ConfigError(f"{path}: {name} of {size:,} bytes is too large for an image")
                members[PurePosixPath(inside_folder(name, str(path)))] = member
        except ConfigError:
            raise
        except Exception as error:  # damaged archives make their modules raise almost anything
            raise ConfigError(f"{path}: cannot be read as an archive: {error}") from error
        yield list(members), lambda name: read(members[name])


def _split_names(names: list[PurePosixPath], title: str) -> tuple[Files, Files, tuple[str, ...]]:
    """Splits and classes of the names in an archive, by the rules for folders (folders.py).

    One folder around everything is no class; what does not end like an image, or is hidden, is passed over.
    """
    paths = sorted(path for path in names if images.is_image(path))
    parts = [path.parts for path in paths]
    depth = 0
    while parts and len({one[depth] for one in parts}) == 1 and all(len(one) > depth + 2 for one in parts):
        depth += 1
    training, evaluated = folders.split_folders(_look_into(paths, depth), title)
    at = depth + bool(training)

    def members(top: str) -> list[PurePosixPath]:
        inside = [path for path in paths if len(path.parts) > at + 1]
        return [path for path in inside if not top or path.parts[depth] == top]

    found = members(training)
    inside = _look_into(found, at)
    folders.refuse_splits(inside, title)
    classes = tuple(sorted(inside))
    if len(classes) < 2:
        raise ConfigError(f"{title} needs folders of images, one per class, and two of them at least")

    def files(chosen: list[PurePosixPath]) -> Files:
        for path in chosen:
            if path.parts[at] not in classes:
                raise ConfigError(f"{title}: {path}: no class of that name in the training split")
        return Files(chosen, np.array([classes.index(path.parts[at]) for path in chosen], np.int32))

    if not evaluated:
        return *folders.hold_out(files(found), title), classes
    if not (test := members(evaluated)):
        raise ConfigError(f"{title}: {evaluated} has no folders of images, one per class")
    return files(found), files(test), classes


def _look_into(paths: list[PurePosixPath], depth: int) -> dict[str, Inside]:
    """What each folder holds whose name is part `depth` of the paths, by their sorted names."""
    below: dict[str, set[str]] = {}
    for path in paths:
        if len(path.parts) > depth + 1:
            below.setdefault(path.parts[depth], set()).add("/".join(path.parts[depth + 1 : -1][:1]))
    return {name: Inside(frozenset(below[name] - {""}), "" in below[name]) for name in sorted(below)}
