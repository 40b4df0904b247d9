"""Training in a process of its own, as a user starts it, and how much memory it holds."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cnnjax.benchmarks.records import ROOT
from cnnjax.config import ConfigError


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


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process and its children use at a moment; what they share counts once."""

    seconds: float  # since the first look
    memory: int  # bytes of physical memory
    # bytes of it that come from no file, so that neighbours with the same libraries do not matter
    own_memory: int
    cpu_seconds: float  # of computation so far, by the process itself


@contextlib.contextmanager
def watched(process: subprocess.Popen, seconds: float = 0.5) -> Iterator[list[Sample]]:
    """While active, adds a sample every so often."""
    series: list[Sample] = []
    began, done = time.monotonic(), threading.Event()

    def measure() -> None:
        while not done.wait(seconds):
            memory, own = resident(process.pid)
            series.append(Sample(time.monotonic() - began, memory, own, cpu_seconds(process.pid)))

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


def resident(pid: int) -> tuple[int, int]:
    """Bytes of memory, and of that from no file, that a process and its children hold (proportional set size)."""
    total = {"Pss:": 0, "Pss_Anon:": 0}
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for name, value, *_ in map(str.split, lines):
            if name in total:
                total[name] += int(value) * 1024
    return total["Pss:"], total["Pss_Anon:"]


def cpu_seconds(pid: int) -> float:
    """Computation by a process in user and system mode; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
