"""A mirrored run onto this machine, verified."""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cnnjax.config import ConfigError, is_url
from cnnjax.remote import manifest as manifests
from cnnjax.remote.manifest import Manifest
from cnnjax.remote.store import Store, StoreError, sha256

_TRIES = 3  # of a pull while another machine pushes, which removes what its newest manifest does not name
CONFIG = "config.json"  # a folder with it holds a run
log = logging.getLogger(__name__)


def pull(store: Store, folder: Path, staging: Path) -> Manifest | None:
    """The newest mirrored state into `folder`, which holds no run yet; None if there is none.

    Everything comes into `staging` first, and is verified there; a checkpoint is moved as a whole, and that there is a
    run shows last. Raises ConfigError for the first object that is missing or not what its checksum says.
    """
    for left in reversed(range(_TRIES)):
        found = manifests.newest(store)
        if found is None or CONFIG not in found.files:
            return None
        shutil.rmtree(staging, ignore_errors=True)
        try:
            _fetch(store, found, staging)
        except FileNotFoundError as error:
            now = manifests.newest(store)
            if left and now is not None and now.number != found.number:
                continue
            raise StoreError(f"mirror {store.url}: {_missing(store, found)} is missing") from error
        _verify(store, found, staging)
        _move(staging, folder)
        return found
    return None


def local_folder(path: str) -> str:
    """A folder as it is; of the URL of a mirrored run, a verified copy of its newest state in the cache.

    Raises ConfigError if there is none, or its store cannot be used.
    """
    if not is_url(path):
        return path
    store = Store(path)
    found = manifests.newest(store)
    if found is None or CONFIG not in found.files:
        raise ConfigError(f"{path} holds no mirrored run: give the URL that --mirror had")
    key = hashlib.sha256(store.url.encode()).hexdigest()[:12]
    cache = cache_folder() / "runs"
    folder = cache / f"{Path(store.url).name}-{key}" / f"{found.number:08d}-{found.workdir[:8]}"
    with locked(cache / f"{key}.lock"):
        if not (folder / CONFIG).exists():
            for older in folder.parent.glob("*"):
                shutil.rmtree(older, ignore_errors=True)
            pull(store, folder, folder.with_name(f".{folder.name}"))
    return str(folder)


def cache_folder() -> Path:
    """$CNNJAX_CACHE, else ~/.cache/cnnjax."""
    return Path(os.environ.get("CNNJAX_CACHE") or "~/.cache/cnnjax").expanduser()


def _fetch(store: Store, found: Manifest, staging: Path) -> None:
    objects = found.objects
    files = {objects[path]: staging / path for path in found.files}
    store.get(files, sum(entry.size for entry in found.files.values()))


def _verify(store: Store, found: Manifest, staging: Path) -> None:
    for path, entry in found.files.items():
        if not (staging / path).is_file():
            raise StoreError(f"mirror {store.url}: {found.objects[path]} is missing")
        if sha256(staging / path) != entry.sha256:
            size = (staging / path).stat().st_size
            raise StoreError(
                f"mirror {store.url}: {found.objects[path]} is damaged: {size:,} bytes of another SHA-256 sum than "
                f"that of the {entry.size:,} bytes that were pushed"
            )


def _missing(store: Store, found: Manifest) -> str:
    there = set(store.names(manifests.FILES))
    return next((name for name in found.objects.values() if name not in there), "an object")


def _move(staging: Path, folder: Path) -> None:
    """Each checkpoint by one rename, config.json last."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for checkpoint in (staging / "checkpoints").glob("*"):
        there = folder / "checkpoints" / checkpoint.name
        if there.exists():  # of a pull that was killed here
            shutil.rmtree(there)
        checkpoint.replace(there)
    for file in sorted(staging.rglob("*"), key=lambda path: path == staging / CONFIG):
        if file.is_file():
            there = folder / file.relative_to(staging)
            there.parent.mkdir(parents=True, exist_ok=True)
            file.replace(there)
    shutil.rmtree(staging)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held against other processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
