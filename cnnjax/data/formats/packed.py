"""Images with one label each as files, of folders and of archives of folders, for mode=prepare."""

import contextlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cnnjax.config import ConfigError, Data
from cnnjax.data import listing
from cnnjax.data.formats import folders
from cnnjax.data.formats.annotations import inside_folder
from cnnjax.data.formats.folders import Files, Inside
from cnnjax.data.formats.records import Raw, RawDataset

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_LARGEST = 2**28  # bytes of a member: more is no image, but would fill the memory


@contextlib.contextmanager
def files(data: Data, path: Path) -> Iterator[RawDataset]:
    """The files of a folder, or of a zip or tar file of one, with a folder of images per class.

    Nothing is unpacked to disk, so names inside an archive lead nowhere. Raises ConfigError as `folders.read` does.
    """
    with contextlib.ExitStack() as stack:
        read: Callable[[Any], bytes] = Path.read_bytes
        title = ""
        if path.is_file():
            if not path.name.lower().endswith(_ARCHIVES):
                raise ConfigError(f"{path}: not a folder, and not one of {', '.join(_ARCHIVES)}")
            names, read = stack.enter_context(_archive(path))
            train, test, classes = _split_names(names, str(path))
            title = f"{path}: "
        else:
            train, test, classes, _ = folders.list_splits(path, data.name)
        splits = {"train": _labelled(train, read, title), "test": _labelled(test, read, title)}
        yield RawDataset(classes, splits, f"prepared from {path}")


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
    paths = sorted(path for path in names if listing.is_image(path))
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
