"""What a user waits for before anything happens: the first step of a run, and compilations."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cnnjax.benchmarks.options import Measured, Options
from cnnjax.benchmarks.records import ROOT
from cnnjax.benchmarks.steps import Steps
from cnnjax.benchmarks.workload import CPU_WORKLOADS, Workload
from cnnjax.config import ConfigError


def first_step(options: Options) -> list[Measured]:
    """Seconds from the start of `python launch.py` to the first finished step: LeNet on digits, cache cold and warm."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = [
            seconds_to_first_step(Path(folder), number) for number in range(max(2, options.repetitions))
        ]
    return [
        Measured(
            "start",
            "python launch.py to the first finished step, LeNet-5 on digits",
            {"empty compilation cache, s": seconds[:1], "warm compilation cache, s": seconds[1:]},
        )
    ]


def compilation(options: Options) -> list[Measured]:
    """Seconds to trace and compile initialization and the training step, without any cache."""
    works = {"lenet5": Workload("lenet5", (28, 28, 1), 128), "resnet20": CPU_WORKLOADS["resnet20"]}
    return [compile_times(name, work, min(3, options.repetitions)) for name, work in works.items()]


def compile_times(name: str, work: Workload, repetitions: int) -> Measured:
    found = [Steps(work).compile_seconds for _ in range(repetitions)]
    values = {
        "initialization, s": [seconds["init"] for seconds in found],
        "training step, s": [seconds["train"] for seconds in found],
        "training step / initialization": [seconds["train"] / seconds["init"] for seconds in found],
    }
    return Measured("start", f"compilation, {name}", values)


def seconds_to_first_step(folder: Path, number: int, flags: Sequence[str] = ()) -> float:
    """Starts a run of one step in a process of its own, and stops it when its first metrics are on disk.

    The compilation cache is in `folder`, so the first call finds it empty and later ones warm.
    """
    workdir = folder / f"run{number}"
    command = [
        sys.executable, str(ROOT / "launch.py"), f"--workdir={workdir}", "--train.steps=1",
        "--train.log_every=1", "--train.evaluate_every=0", "--train.checkpoint_every=0", *flags,
    ]  # fmt: skip
    environment = {
        **os.environ,
        "CNNJAX_CACHE": str(folder / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
    }
    metrics = workdir / "metrics.jsonl"
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None and not metrics.exists():
                raise ConfigError(
                    f"the run ended before its first step: {(process.communicate()[0] or '')[-300:]}"
                )
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        if number == 0:
            process.communicate()  # to the end, so that the cache is complete
        else:
            process.kill()
    return seconds
