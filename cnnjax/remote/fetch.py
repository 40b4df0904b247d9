"""Files behind URLs, fetched once to the cache and verified: from the web, or from any store."""

import hashlib
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cnnjax.config import ConfigError
from cnnjax.remote import store as stores
from cnnjax.remote.pull import cache_folder, locked
from cnnjax.remote.store import NoAnswer, Store, StoreError, sha256
from cnnjax.runs.workdir import write_atomically

_RECORD = "fetched.json"
_BLOCK = 2**16
log = logging.getLogger(__name__)


class Web:
    """A folder behind http:// or https://, which cannot be listed."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        try:
            return b"".join(self._blocks(name))
        except FileNotFoundError:
            return None

    def get(self, files: Mapping[str, Path], size: int = 0) -> None:
        """Copies files of these names to local paths. FileNotFoundError if one is missing."""
        for name, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                for block in self._blocks(name):
                    file.write(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """A server that hangs, or sends less than stores.SLOWEST, is told when stores.PATIENCE has passed."""
        url, began, received = f"{self.url}/{name}", time.monotonic(), 0
        try:
            with urllib.request.urlopen(url, timeout=stores.PATIENCE) as answer:
                length = answer.headers.get("Content-Length")
                while block := answer.read1(_BLOCK):
                    received += len(block)
                    yield block
                    if time.monotonic() - began > stores.PATIENCE + received / stores.SLOWEST:
                        raise NoAnswer(f"{url}: only {received:,} bytes within {stores.PATIENCE:.0f} seconds")
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(url) from error
            raise StoreError(f"{url}: {error.code} {error.reason}") from error
        except TimeoutError as error:
            raise NoAnswer(f"{url}: no answer within {stores.PATIENCE:.0f} seconds") from error
        except (OSError, ValueError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise NoAnswer(f"{url}: no answer within {stores.PATIENCE:.0f} seconds") from error
            raise StoreError(f"{url}: cannot be reached ({reason})") from error
        if length is not None and int(length) != received:
            raise StoreError(f"{url}: the connection ended after {received:,} of {int(length):,} bytes")


def place_at(url: str) -> Store | Web:
    return Web(url) if url.startswith(("http://", "https://")) else Store(url)


class Fetched:
    """The cache's copy of the folder at `url`. What it has is not asked for again; it must be `locked` to fetch."""

    def __init__(self, url: str, kind: str):
        self.url = url.rstrip("/")
        key = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_folder() / kind / key
        self.lock = self.folder.with_name(f"{key}.lock")

    def fetch(self, name: str, checksum: str = "") -> Path:
        """The local path of a file. checksum: of SHA-256, or how it begins.

        Raises ConfigError if there is no such file, it has another checksum, or the server does not answer in time.
        """
        path, record = self.folder / name.partition("?")[0], self._record()
        if path.is_file() and record.get(name) == [path.stat().st_size, path.stat().st_mtime_ns]:
            if not checksum or sha256(path).startswith(checksum):
                return path
        there, partial = place_at(self.url), path.with_name(f".{path.name}.partial")
        log.info("fetching %s/%s", self.url, name)
        try:
            size, md5 = _told_by(there, name)
            there.get({name: partial}, size)
        except FileNotFoundError as error:
            raise ConfigError(f"{self.url}/{name}: there is no such file") from error
        found = sha256(partial)
        if not found.startswith(checksum):
            partial.unlink()
            raise ConfigError(
                f"{self.url}/{name}: SHA-256 is {found}, not {checksum}...: not the file that is meant"
            )
        if md5 and _md5(partial) != md5:
            partial.unlink()
            raise ConfigError(f"{self.url}/{name} is damaged: its MD5 is not the one that the store tells")
        partial.replace(path)
        record[name] = [path.stat().st_size, path.stat().st_mtime_ns]
        write_atomically(self.folder / _RECORD, json.dumps(record, indent=1))
        return path

    def _record(self) -> dict[str, list[int]]:
        """Size and time of each file when it was verified."""
        try:
            return dict(json.loads((self.folder / _RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return {}


def file(url: str) -> Path:
    """The local copy of a file: URL, or URL#sha256=SUM to be sure. A sum that its name tells, as torch's do
    (resnet50-0676ba61.pth), is checked, too; of TensorFlow.js's manifest the shards come along.

    Raises ConfigError as `Fetched.fetch` does.
    """
    url, _, fragment = url.partition("#")
    parts = urlsplit(url)
    folder, _, name = parts.path.rpartition("/")
    if not name:
        raise ConfigError(f"{url}: names no file")
    base = Fetched(f"{parts.scheme}://{parts.netloc}{folder}", "files")
    told = re.search(r"-([0-9a-f]{8,64})\.", name)
    in_name = told[1] if told and re.search("[a-f]", told[1]) else ""
    with locked(base.lock):
        path = base.fetch(
            f"{name}?{parts.query}" if parts.query else name, fragment.removeprefix("sha256=") or in_name
        )
        if path.suffix == ".json":
            for shard in _shards(path):
                base.fetch(shard)
    return path


def _shards(manifest: Path) -> list[str]:
    try:
        groups = json.loads(manifest.read_bytes())
        names = [str(name) for group in groups for name in group["paths"]]
    except (ValueError, KeyError, TypeError):
        return []  # whoever reads it says so
    return [name for name in names if Path(name).name == name]


def _told_by(there: Store | Web, name: str) -> tuple[int, str]:
    """Size and MD5, in base 64, as far as the store tells them."""
    if isinstance(there, Web):
        return 0, ""
    about = there.info(name)
    if about is None:
        raise FileNotFoundError(name)
    return int(about.get("size") or 0), str(about.get("md5Hash") or "")


def _md5(path: Path) -> str:
    import base64

    with open(path, "rb") as content:
        return base64.b64encode(hashlib.file_digest(content, "md5").digest()).decode()
