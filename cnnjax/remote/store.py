"""A folder behind a URL, in any store that fsspec knows. Each call ends in time, and each failure is one line."""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cnnjax.config import ConfigError

PATIENCE = 30.0  # seconds within which a store has to answer
SLOWEST = 250_000  # bytes a second: what is slower counts as no answer
_AT_A_TIME = 8  # transfers
# Each library has its own way to be told; the time that all calls have is measured here in any case.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 20, "retries": {"max_attempts": 2}}},
    "file": {"auto_mkdir": True},
}
_EXTRA = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
T = TypeVar("T")


class StoreError(ConfigError):
    """A store that cannot be used, or not now."""


class NoAnswer(StoreError):
    """A store that hangs."""


class Store:
    """The folder at `url`. Names of what is in it are relative, with "/"."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._ready: tuple[Any, str] | None = None

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is no such file, or no such folder or bucket."""
        try:
            return self._timed(lambda fs, root: fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, whatever was there."""
        self._told(lambda fs, root: fs.pipe_file(f"{root}/{name}", content), len(content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes a small file that must be new; False if there is one already."""
        try:
            self._timed(lambda fs, root: fs.pipe_file(f"{root}/{name}", content, mode="create"), len(content))
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: {_reason(error)}") from error
        except StoreError as error:
            # refused for another reason than that it is there
            if isinstance(error, NoAnswer) or self.read(name) is None:
                raise
            return False
        return True

    def put(self, files: Mapping[str, Path]) -> None:
        """Copies local files to these names."""
        self._told(self._transfer("put", files), sum(path.stat().st_size for path in files.values()))

    def get(self, files: Mapping[str, Path], size: int) -> None:
        """Copies files of these names, so many bytes together, to local paths. FileNotFoundError if one is missing."""
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._timed(self._transfer("get", {name: path for name, path in files.items()}), size)

    def names(self, folder: str) -> list[str]:
        """Of all files below a folder, sorted; none if it is not there."""

        def find(fs: Any, root: str) -> list[str]:
            fs.invalidate_cache()
            return [str(path).removeprefix(f"{root}/") for path in fs.find(f"{root}/{folder}")]

        try:
            return sorted(self._timed(find))
        except FileNotFoundError:
            return []

    def info(self, name: str) -> dict[str, Any] | None:
        """What the store knows of a file, its size at least; None if there is none."""
        try:
            return dict(self._timed(lambda fs, root: fs.info(f"{root}/{name}")))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        try:
            self._timed(lambda fs, root: fs.rm_file(f"{root}/{name}"))
        except FileNotFoundError:
            pass

    def _transfer(self, how: str, files: Mapping[str, Path]) -> Callable[[Any, str], None]:
        def transfer(fs: Any, root: str) -> None:
            here, there = [str(path) for path in files.values()], [f"{root}/{name}" for name in files]
            few = {"batch_size": _AT_A_TIME} if fs.async_impl else {}
            pair = (here, there) if how == "put" else (there, here)
            if here:
                getattr(fs, how)(*pair, **few)

        return transfer

    def _told(self, function: Callable[[Any, str], T], size: int = 0) -> T:
        try:
            return self._timed(function, size)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: {_reason(error)}") from error

    def _timed(self, function: Callable[[Any, str], T], size: int = 0) -> T:
        """The result for the file system and the path of this folder in it. Raises what says that a file is there or is
        missing as it comes, all else as StoreError."""
        outcome: list[T] = []
        problem: list[Exception] = []

        def call() -> None:
            try:
                outcome.append(function(*self._connect()))
            except Exception as error:
                problem.append(error)

        # A daemon: what never comes back must not keep the program from ending.
        thread = threading.Thread(target=call, daemon=True, name="store")
        limit = PATIENCE + size / SLOWEST
        thread.start()
        thread.join(limit)
        if outcome:
            return outcome[0]
        if not problem:
            raise NoAnswer(f"{self.url}: no answer within {limit:.0f} seconds")
        if isinstance(problem[0], FileNotFoundError | FileExistsError | ConfigError):
            raise problem[0]
        raise StoreError(f"{self.url}: {_reason(problem[0])}") from problem[0]

    def _connect(self) -> tuple[Any, str]:
        if self._ready is None:
            import fsspec

            for name in ("s3fs", "gcsfs", "fsspec", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # what they warn of is told here
            scheme = self.url.partition("://")[0] if "://" in self.url else "file"
            options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(scheme, {})}
            try:
                fs, root = fsspec.core.url_to_fs(self.url, **options)
            except ImportError as error:
                extra = _EXTRA.get(scheme)
                needed = f"{scheme}:// needs {extra}: pip install 'cnnjax[cloud]'"
                raise StoreError(f"{self.url}: {needed if extra else error}") from error
            self._ready = fs, str(root).rstrip("/")
        return self._ready


def _reason(error: BaseException) -> str:
    """What went wrong in a few words, from exceptions of many libraries."""
    kinds = {type(one).__name__ for one in _chain(error)}
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    if (
        kinds & {"NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"}
        or "credentials" in text
    ):
        return f"no credentials were found ({text})"
    if kinds & {"PermissionError", "ForbiddenError"}:
        return f"access is refused ({text})"
    if isinstance(error, FileNotFoundError):
        return f"no such bucket or folder ({text})"
    if kinds & {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ClientConnectorError",
        "ConnectionRefusedError",
    }:
        return f"cannot be reached ({text})"
    return text or type(error).__name__


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
