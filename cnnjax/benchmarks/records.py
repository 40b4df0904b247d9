"""Recorded results: one JSON object per line, and RESULTS.md made from them."""

import json
import os
import platform as host
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.config import ConfigError
from cnnjax.runs.workdir import write_atomically
from cnnjax.runtime import platform

ROOT = Path(__file__).resolve().parents[2]
RECORDS = (
    ROOT if (ROOT / "launch.py").exists() else Path()
) / "results.jsonl"  # of a checkout, or right here

_HEAD = """# Results

Written by `python launch.py --mode=benchmark` from the runs recorded in `results.jsonl`; not edited by hand.
Each row is one recorded run: n values, their mean and sample standard deviation.
"""


def make_record(
    benchmark: str, subject: str, values: Mapping[str, Sequence[float]], command: str, **facts: Any
) -> dict[str, Any]:
    """A result with all that is needed to judge and repeat it.

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
        "command": command,
        "commit": _commit(),
        "device": device(),
        "versions": {"python": host.python_version(), **platform.versions()},
        **facts,
    }


def append(record: dict[str, Any], path: Path = RECORDS) -> None:
    """Adds a record to the file, and writes the page RESULTS.md beside it again."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")
    write_atomically(path.parent / "RESULTS.md", render(read(path)))


def read(path: Path = RECORDS) -> list[dict[str, Any]]:
    """All records; raises ConfigError with the line that is not one."""
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{number} is not a record: {error}") from error
    return records


def render(records: Sequence[dict[str, Any]]) -> str:
    """The page: a table per benchmark with the newest record of each subject and device."""
    newest = {(r["benchmark"], r["subject"], r["device"]): r for r in records}
    parts = [_HEAD]
    for benchmark in dict.fromkeys(key[0] for key in newest):
        rows = [r for r in newest.values() if r["benchmark"] == benchmark]
        parts.append(f"\n## {benchmark}\n")
        parts += ["| what | quantity | mean | std | n |", "|---|---|---|---|---|"]
        for record in rows:
            parts += [_row(record["subject"], name, values) for name, values in record["values"].items()]
        parts.append("")
        parts += [_conditions(record) for record in rows]
    return "\n".join(parts) + "\n"


def describe(record: Mapping[str, Any]) -> str:
    """One line: each quantity with its mean and, of several values, their standard deviation."""
    parts = []
    for name, values in record["values"].items():
        spread = f" +- {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
        parts.append(f"{name} {np.mean(values):.4g}{spread}")
    return f"{record['subject']}: " + "; ".join(parts)


def _row(subject: str, quantity: str, values: Sequence[float]) -> str:
    std = f"{np.std(values, ddof=1):.4g}" if len(values) > 1 else ""
    return f"| {subject} | {quantity} | {np.mean(values):.5g} | {std} | {len(values)} |"


def _conditions(record: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in {**record["versions"], **record.get("peers", {})}.items()
    )
    note = f" {record['note']}" if record.get("note") else ""
    return f"- {record['subject']}: `{record['command']}` on {record['device']}; commit {record['commit']}; {versions}.{note}"


def device() -> str:
    """The accelerator, or the processor and how many cores of it this process may use."""
    if jax.default_backend() != "cpu":
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
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _commit() -> str:
    """The commit of this source tree, with a mark if files differ from it."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "cnnjax", "experiments", "launch.py")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")
