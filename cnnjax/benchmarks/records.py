"""Recorded results: one JSON object per line, with all that is needed to judge and repeat it."""

import json
import os
import platform as host
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax.benchmarks import page
from cnnjax.config import ConfigError
from cnnjax.runs.workdir import write_atomically
from cnnjax.runtime import platform, sharding

ROOT = Path(__file__).resolve().parents[2]
# of a checkout, or right here
RECORDS = (ROOT if (ROOT / "launch.py").exists() else Path()) / "results.jsonl"
_FOLDERS = re.compile(r"(?<=[ =:,'])/(?:[^/ ,:']+/)+(?=[^/ ,:'])")  # of paths that begin at the root


def make_record(
    benchmark: str, subject: str, values: Mapping[str, Sequence[float]], command: str, **facts: Any
) -> dict[str, Any]:
    """A result with all that is needed to judge and repeat it. Of paths in its command that begin at the root only the
    last part is kept: where things lie on this machine is nobody else's.

    Args:
      benchmark: the kind of measurement; rows of one kind share a table.
      subject: what was measured, for example an experiment.
      values: every single value of each quantity; the unit is in its name.
      facts: anything else a reader must know.
    """
    return {
        "benchmark": benchmark,
        "subject": subject,
        "values": {name: [float(v) for v in series] for name, series in values.items()},
        "command": _FOLDERS.sub("", command),
        "commit": _commit(),
        "device": device(),
        "versions": {"python": host.python_version(), **platform.versions()},
        **facts,
    }


def append(record: dict[str, Any], path: Path = RECORDS) -> None:
    """Adds a record to the file, and writes the page RESULTS.md beside it again."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")
    write_atomically(path.parent / "RESULTS.md", page.render(read(path)))


def read(path: Path = RECORDS) -> list[dict[str, Any]]:
    """All records; raises ConfigError with the line that is not one."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number} is not a record: {error}") from error
    return records


def parts(path: Path) -> set[str]:
    """The named benchmarks that the file has records of, from this commit and device."""
    here = {"commit": _commit(), "device": device()}
    found = read(path) if path.exists() else []
    return {one["part"] for one in found if "part" in one and here.items() <= one.items()}


def device() -> str:
    """The accelerator, or the processor and how many cores of it this process may use."""
    if not sharding.process_on_cpu():
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    name = host.processor() or host.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} core{'s' * (cores > 1)}"


def _commit() -> str:
    """The commit of this source tree, with a mark if files differ from it."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "cnnjax", "experiments", "launch.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")
