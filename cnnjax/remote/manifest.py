"""What a mirror holds: which files with which checksums, in one file that is written last.

URL/manifests/00000012.json      the newest is what the mirror holds; each is written once, under a new number
URL/files/metrics.jsonl.<sum>    content, named by path and checksum, so that a name never changes its content
URL/lock.json                    who pushes
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cnnjax.config import ConfigError
from cnnjax.remote.store import Store, StoreError

FOLDER, FILES = "manifests", "files"
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """number: of the push, from 1. workdir: an identity of the folder that pushed. files: by path in the workdir."""

    number: int
    workdir: str
    files: Mapping[str, Entry]

    @property
    def objects(self) -> dict[str, str]:
        """Of each path its name in the store."""
        return {path: object_name(path, entry) for path, entry in self.files.items()}

    @property
    def step(self) -> int:
        """Of the newest checkpoint; 0 if there is none."""
        return max(
            (int(parts[1]) for parts in map(_parts, self.files) if parts[0] == "checkpoints"), default=0
        )


def object_name(path: str, entry: Entry) -> str:
    return f"{FILES}/{path}.{entry.sha256[:16]}"


def name_of(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def newest(store: Store) -> Manifest | None:
    """The newest that was written completely; None if the store holds no mirror. StoreError if all are damaged."""
    problem: StoreError | None = None
    for name in reversed(store.names(FOLDER)):
        content = store.read(name)
        if content is None:  # removed meanwhile: there is a newer one, or nothing any more
            continue
        try:
            return _parse(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = problem or StoreError(f"mirror {store.url}: {name} is damaged ({error})")
            log.warning("%s; looking at the one before it", problem)
    if problem:
        raise problem
    return None


def commit(store: Store, manifest: Manifest) -> None:
    """Writes it, if its number is new, as it is unless another machine pushed meanwhile: ConfigError."""
    tree = {
        "number": manifest.number,
        "workdir": manifest.workdir,
        "files": {path: dataclasses.asdict(entry) for path, entry in sorted(manifest.files.items())},
    }
    text = json.dumps({**tree, "checksum": _checksum(tree)}, indent=1)
    if store.create(name_of(manifest.number), text.encode()):
        return
    there = newest(store)  # an answer that was lost on its way, or another machine
    if there != manifest:
        raise MovedOn(f"mirror {store.url} was moved on by another machine meanwhile: nothing more is pushed")


class MovedOn(ConfigError):
    """Another machine pushed to the mirror."""


def _parse(content: bytes) -> Manifest:
    tree: dict[str, Any] = json.loads(content)
    if tree.pop("checksum", None) != _checksum(tree):
        raise ValueError("it does not match its checksum")
    files = {path: Entry(str(about["sha256"]), int(about["size"])) for path, about in tree["files"].items()}
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in _parts(path):
            raise ValueError(f"{path!r} leads out of the folder")
    return Manifest(int(tree["number"]), str(tree["workdir"]), files)


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts


def _checksum(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
