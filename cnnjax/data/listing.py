"""Which files of a folder or an archive are read."""

import os
from collections.abc import Collection
from pathlib import Path, PurePath

from cnnjax.config import ConfigError

# Of images, which are told by their content: the suffix only decides whether a file is tried.
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)
# Folders that systems leave beside images, with more images in them: of macOS in archives, of Synology, of Windows.
_LEFTOVERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})


def is_hidden(path: PurePath | str) -> bool:
    """Whether something in a folder that was named is to be passed over: it, or a folder it is in, is hidden.

    Args:
      path: relative to that folder, which itself may be hidden.
    """
    return any(part.startswith(".") or part in _LEFTOVERS for part in PurePath(path).parts)


def is_image(path: PurePath | str) -> bool:
    """Whether a file in a folder or archive that was named is to be read: it is not hidden and its name ends so."""
    return PurePath(path).suffix.lower() in SUFFIXES and not is_hidden(path)


def list_files(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The files below a folder whose names end so, in upper or lower case; sorted, without hidden ones.

    Links to folders are followed. None if there is no such folder.

    Raises ConfigError for a link that leads to a folder around it, or nowhere, and a folder that may not be read.
    """
    found: list[Path] = []
    for name, inside, files in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        here = Path(name)
        inside[:] = [entry for entry in inside if not is_hidden(entry)]
        for entry in inside:
            _refuse_loop(here / entry, folder)
        for entry in files:
            path = here / entry
            if is_hidden(entry):
                continue
            if path.suffix.lower() in suffixes:
                found.append(path)
            else:
                refuse_dangling(path)
    return sorted(found)


def refuse_dangling(path: Path) -> None:
    """Raises ConfigError if the path may be that of a folder, and is a link that leads nowhere."""
    if not path.suffix and path.is_symlink() and not path.exists():
        raise ConfigError(f"{path}: a link that leads nowhere")


def _refuse_loop(path: Path, folder: Path) -> None:
    if not path.is_symlink():
        return
    target = path.resolve()
    way = [path.parent, *path.parent.parents][: len(path.parts) - len(folder.parts)]
    for real in (place.resolve() for place in way):
        if target == real or target in real.parents:
            raise ConfigError(f"{path}: a link to {target}, in which it lies itself")


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
