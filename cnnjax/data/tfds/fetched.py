"""Prepared datasets of tensorflow-datasets behind a URL: fetched shard by shard to the cache, once."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from cnnjax.config import ConfigError
from cnnjax.remote.fetch import Fetched, Web, place_at
from cnnjax.remote.pull import locked

_INFO, _FEATURES, _SUMS = "dataset_info.json", "features.json", "SHA256SUMS"
_SHARD = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def local(url: str, name: str) -> Path:
    """A data_dir on this machine with the dataset `name`, as NAME, NAME/CONFIG or with :VERSION, of the one at `url`; none
    of it if there is no name.

    Shards that are here already stay; what was fetched wholly is not asked for again. Where the folder of the dataset
    has a file SHA256SUMS, as sha256sum writes it, all files are compared with it. A server of the web lists no
    folders: there the version must be said. Raises ConfigError if the dataset is not there, or a file is not right.
    """
    dataset, _, version = name.partition(":")
    base = Fetched(url, "data")
    if not name:
        return base.folder
    with locked(base.lock):
        done = [path for path in sorted(base.folder.glob(f"{dataset}/**/.complete"))]
        if any(not version or path.parent.name == version for path in done):
            return base.folder
        folder, files = _files(base, dataset, version)
        sums = _sums(base, folder)
        for file in files:
            base.fetch(f"{folder}/{file}", sums.get(file, ""))
        (base.folder / folder / ".complete").touch()
    return base.folder


def _files(base: Fetched, dataset: str, version: str) -> tuple[str, list[str]]:
    """The folder of the dataset below the URL, and the names of what lies in it."""
    there = place_at(base.url)
    absent = f"{base.url} holds no prepared {dataset}{':' if version else ''}{version} (no {_INFO})"
    if isinstance(there, Web):
        if not version:
            raise ConfigError(
                f"{base.url} cannot be listed: say the version, as in --data.name={dataset}:1.0.0"
            )
        folder = f"{dataset}/{version}"
        if there.read(f"{folder}/{_INFO}") is None:
            raise ConfigError(absent)
        return folder, _named(base, folder)
    names = [PurePosixPath(name) for name in there.names(dataset)]
    folders = [name.parent for name in names if name.name == _INFO and version in ("", name.parent.name)]
    if not folders:
        raise ConfigError(absent)
    if len({folder.parent for folder in folders}) > 1:
        configs = sorted({folder.parent.name for folder in folders})
        raise ConfigError(
            f"{base.url}: {dataset} has several configurations: say {dataset}/{configs[0]}, for one"
        )
    newest = max(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])
    return str(newest), [
        name.name for name in names if name.parent == newest and not name.name.startswith(".")
    ]


def _named(base: Fetched, folder: str) -> list[str]:
    """What the description of a dataset says that its files are."""
    try:
        info, features = (
            json.loads(base.fetch(f"{folder}/{name}").read_bytes()) for name in (_INFO, _FEATURES)
        )
        found = [_INFO, _FEATURES, *_labels(features)]
        for split in info["splits"]:
            count = len(split["shardLengths"])
            parts = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": info["fileFormat"]}
            for i in range(count):
                shard = f"{i:05d}-of-{count:05d}"
                found.append(split.get("filepathTemplate", _SHARD).format(**parts, SHARD_X_OF_Y=shard))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{base.url}/{folder}: its description is damaged: {error!r}") from error
    return found


def _labels(features: Any) -> list[str]:
    """Names of classes, each in a file of its own beside the shards."""
    table = features.get("featuresDict", {}).get("features", {})
    return [f"{key}.labels.txt" for key, about in table.items() if "classLabel" in about]


def _sums(base: Fetched, folder: str) -> dict[str, str]:
    """SHA-256 by name; none where nobody wrote them down."""
    content = place_at(base.url).read(f"{folder}/{_SUMS}") or b""
    lines = re.findall(r"^([0-9a-f]{64}) [ *](\S+)$", content.decode(errors="replace"), re.MULTILINE)
    return {name: checksum for checksum, name in lines}
