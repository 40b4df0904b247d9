"""The archives of a tensorflow-datasets builder: found or downloaded, and verified either way."""

import hashlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from absl import logging

from cnnjax.config import ConfigError
from cnnjax.data.cache import writable
from cnnjax.data.tfds.builder import quiet

_CONNECT_SECONDS = 15


def fetch(builder: Any, data_dir: Path) -> dict[str, Path]:
    """All archives of the builder by the file name in their URLs.

    They are looked for in `data_dir`/downloads, under the names that tensorflow-datasets gives them or, in
    the folder of the dataset, their own; what is missing is downloaded to there. Sizes and SHA-256 sums are
    compared with those that tensorflow-datasets has on record.

    Raises:
      ConfigError: no network, no right to write, or a file that is not the recorded one.
    """
    downloads = data_dir / "downloads"
    found = {
        url: _find(downloads, builder.name, url, info.checksum) for url, info in builder.url_infos.items()
    }
    paths = {url: path for url, path in found.items() if path}
    if missing := found.keys() - paths.keys():
        paths |= _download(builder, downloads, missing)
    for url, path in paths.items():
        _verify(path, builder.url_infos[url])
    return {_file_name(url): path for url, path in paths.items()}


def _find(downloads: Path, dataset: str, url: str, checksum: str) -> Path | None:
    import tensorflow_datasets as tfds

    name = tfds.download.resource.get_dl_fname(url, checksum)
    places = (downloads / dataset / name, downloads / name, downloads / dataset / _file_name(url))
    return next((path for path in places if path.is_file()), None)


def _download(builder: Any, downloads: Path, urls: Collection[str]) -> dict[str, Path]:
    import requests
    import tensorflow_datasets as tfds

    by_hand = f"or put {', '.join(sorted(map(_file_name, urls)))} into {downloads / builder.name}"
    existing = next(folder for folder in (downloads, *downloads.parents) if folder.exists())
    if not writable(existing):
        raise ConfigError(
            f"{builder.name} is not in {downloads}, which cannot be written: give another data_dir"
        )
    for host, url in {urlsplit(url).netloc: url for url in urls}.items():
        try:  # tensorflow-datasets tries for minutes before it gives up
            requests.head(url, timeout=_CONNECT_SECONDS)
        except requests.exceptions.RequestException as error:
            raise ConfigError(
                f"{builder.name} is not in {downloads}, and {host} cannot be reached: go online, {by_hand}"
            ) from error

    size = sum(builder.url_infos[url].size for url in urls) / 2**20
    logging.info("downloading %s (%.0f MiB) to %s", builder.name, size, downloads)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with quiet():
            manager = tfds.download.DownloadManager(
                download_dir=downloads,
                extract_dir=downloads,  # nothing is extracted, but the folder is made
                url_infos=builder.url_infos,
                dataset_name=builder.name,
            )
            return {url: Path(path) for url, path in manager.download({url: url for url in urls}).items()}
    except tfds.download.download_manager.NonMatchingChecksumError as error:
        raise ConfigError(f"{builder.name}: a server sent another file than the one on record") from error
    except (OSError, requests.exceptions.RequestException, tfds.download.DownloadError) as error:
        raise ConfigError(f"{builder.name}: download failed ({error}): try again, {by_hand}") from error


def _verify(path: Path, info: Any) -> None:
    size = path.stat().st_size
    if size != info.size:
        raise ConfigError(
            f"{path} is damaged: {size:,} bytes, not {int(info.size):,}; delete it to have it downloaded again"
        )
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != info.checksum:
            raise ConfigError(f"{path} is damaged: wrong SHA-256 sum; delete it to have it downloaded again")


def _file_name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]
