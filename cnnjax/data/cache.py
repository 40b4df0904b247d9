"""Decoded data on disk, so that only the first start pays for the decoding."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

Arrays = dict[str, np.ndarray]
VERSION = 1  # of how sources turn files into arrays: raise it when the same files would give other arrays


def load_or_build(folder: Path, name: str, key: dict[str, Any], build: Callable[[], Arrays]) -> Arrays:
    """The arrays stored in `folder` under this name and key; if there are none, `build()`, which is stored.

    The file is an npz, never unpickled, whose CRC-32 of each array is checked. A damaged file is built anew;
    a folder that cannot be written costs a warning only.

    Args:
      key: all that the arrays depend on, as JSON values.
    """
    text = json.dumps({"version": VERSION, "name": name, **key}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name.replace('/', '-')}-{digest}.npz"
    arrays = _load(path, text)
    if arrays is None:
        arrays = build()
        _store(path, text, arrays)
    return arrays


def cache_folder(data_dir: Path) -> Path:
    """$CNNJAX_CACHE/data, else `data_dir`/cnnjax_cache, or ~/.cache/cnnjax/data where `data_dir` is read-only."""
    if named := os.environ.get("CNNJAX_CACHE"):
        return Path(named).expanduser() / "data"
    return data_dir / "cnnjax_cache" if writable(data_dir) else Path.home() / ".cache" / "cnnjax" / "data"


def writable(folder: Path) -> bool:
    """Whether files may be made here. Without a write bit they may not, even though root could."""
    return folder.is_dir() and bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def _load(path: Path, text: str) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        logging.warning("%s is damaged and is built anew: %s", path, error)
        return None
    stored = arrays.pop("key", None)
    return arrays if stored is not None and str(stored) == text else None


def _store(path: Path, text: str, arrays: Arrays) -> None:
    """Writes beside the final name and renames, so that a file of that name is always complete."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, key=np.array(text), **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)
    except OSError as error:
        logging.warning("decoded data is not kept for the next start: %s", error)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
