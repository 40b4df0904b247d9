"""Training in a process of its own, as a user starts it, and how much memory it holds."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cnnjax.config import ConfigError
from cnnjax.results import ROOT


def start(workdir: Path, *flags: str) -> subprocess.Popen:
    """Starts `python launch.py`; what it compiles is kept beside the workdir, for the next one there."""
    folder = workdir.parent
    environment = {
        **os.environ,
        "CNNJAX_CACHE": str(folder / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
    }
    command = [sys.executable, str(ROOT / "launch.py"), f"--workdir={workdir}", *flags]
    silent = subprocess.DEVNULL  # a pipe that nobody reads would fill and stop the run
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=silent, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for its end; returns what it wrote to stderr. Raises ConfigError if it failed or was not silent."""
    _, err = process.communicate()
    if process.returncode or "Traceback" in err:
        raise ConfigError(f"training ended with status {process.returncode}: {err.strip()[-500:]}")
    return err


@contextlib.contextmanager
def watched(process: subprocess.Popen, seconds: float = 0.5) -> Iterator[list[tuple[float, int]]]:
    """While active, adds (seconds since then, bytes of memory of it and its children) every so often."""
    series: list[tuple[float, int]] = []
    began, done = time.monotonic(), threading.Event()

    def measure() -> None:
        while not done.wait(seconds):
            series.append((time.monotonic() - began, resident(process.pid)))

    watcher = threading.Thread(target=measure)
    watcher.start()
    try:
        yield series
    finally:
        done.set()
        watcher.join()


def family(pid: int) -> list[int]:
    """A process and all below it, whichever of its threads started them."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            children += (thread / "children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def resident(pid: int) -> int:
    """Bytes of memory that a process and its children hold; what they share counts once."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
