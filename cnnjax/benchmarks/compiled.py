"""What is counted by compiling for devices that are not here, which a process of its own does."""

import json
import os
import subprocess
import sys
from typing import Any

from cnnjax.benchmarks.options import Measured
from cnnjax.benchmarks.records import ROOT

_IN_A_PROCESS = """
import importlib, json, sys
from cnnjax.runtime import compile_for
compile_for.start()
benchmark = importlib.import_module("cnnjax.benchmarks." + sys.argv[1])
print(json.dumps(benchmark.count(*json.loads(sys.argv[2]))))
"""


def counted(benchmark: str, subject: str, *arguments: Any) -> Measured:
    """One row: what `count` of the module of this benchmark returns for arguments that JSON can hold."""
    command = [sys.executable, "-c", _IN_A_PROCESS, benchmark, json.dumps(arguments)]
    found_there = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=found_there, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        return Measured(benchmark, subject, skipped=last[-300:])
    found = json.loads(done.stdout.splitlines()[-1])
    values = {quantity: [float(value)] for quantity, value in found.items()}
    return Measured(benchmark, subject, values, note="Counted by the compiler; times by the roofline.")
