"""What libraries say that is no news: filters and hooks of the whole process, set by a program and by no import."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging


def hush_libraries() -> None:
    """Leaves out what Orbax and Pillow tell beside the errors that they raise. For programs, such as the launcher."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_for_the_user)
    sys.unraisablehook = _ignore_unfinished_reads(sys.unraisablehook)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    # Pillow warns of sizes that are refused here, and of damage beside the pixels, such as in EXIF.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def speak_plainly() -> None:
    """Warnings, of logging and of Python, as one line "warning: ..." each on stderr, without places in the code."""
    handler = absl.logging.get_absl_handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for level in (logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())
    warnings.showwarning = _show


def _show(message: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _for_the_user(record: logging.LogRecord) -> bool:
    """False for what Orbax logs of exceptions, which it raises too, and of guesses about what it reads.

    Nothing but Orbax runs in asyncio here.
    """
    if record.name != "asyncio" and "orbax" not in Path(record.pathname).parts:
        return True
    told = bool(record.exc_info) or "Failed to json parse" in record.getMessage()
    return record.levelno >= logging.ERROR and not told


def _ignore_unfinished_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """When one read of a damaged checkpoint fails, Orbax leaves, and each of its other reads complains of that."""

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return report
