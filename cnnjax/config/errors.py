"""Mistakes of users, told in one line."""

import difflib
import re
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake in what the user asked for; its text is one clear line for them."""

    status = 1  # of a program that ends with it


class Stopped(ConfigError):
    """A run that was asked to end and has saved its state: there is more to do."""

    status = 75  # EX_TEMPFAIL of sysexits.h, at which schedulers can put a job into their queue again


def did_you_mean(name: str, known: Iterable[str], otherwise: str, most: int = 3, cutoff: float = 0.6) -> str:
    """A hint at the names that are like one that is unknown; `otherwise` if none is."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def is_url(path: str) -> bool:
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path))


def check_local(name: str, path: str) -> None:
    """Raises ConfigError if a path is a URL, which would be taken for a folder called "s3:"."""
    if is_url(path):
        mirror = " and the URL as --mirror, a copy in a store" if name.endswith("workdir") else ""
        raise ConfigError(f"{name}={path}: a URL cannot be used here; give a path on this machine{mirror}")
