"""Several processes here, each on a core of its own: what the machine, collectives and input take from each."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax.benchmarks import launched
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.benchmarks.records import ROOT
from cnnjax.config import ConfigError
from cnnjax.runs.workdir import Workdir

COUNTS = (2, 4)  # processes, of which those are measured that have a core each
# Of a process: the images of a step, and how many steps are one value of the speed.
NETWORKS = {"resnet20": (64, 4), "lenet5": (64, 40)}
_SPEEDS = 4  # values of a run, of which the first has the start in it
_FLAGS = ("--experiment=digits_lenet", "--train.evaluate_every=0", "--train.checkpoint_every=1000000")
_DECODES = "from cnnjax.benchmarks import scale; print(scale.decoded_a_second())"


def several_processes(options: Options) -> Iterator[Measured]:
    """2 and 4 processes, each on a core of its own, against one: training joined and apart, and decoding.

    --benchmark.repetitions turns of all of them. A core that others use as well spoils it.
    """
    cores = sorted(os.sched_getaffinity(0))
    for count in COUNTS:
        for name in NETWORKS:
            subject = f"{name}, {count} processes"
            if count > len(cores):
                reason = f"each process needs a core of its own, here are {len(cores)}"
                yield Measured("processes", subject, skipped=reason)
                continue
            with tempfile.TemporaryDirectory() as folder:
                yield joined(Path(folder), name, cores[:count], options.repetitions)


def joined(folder: Path, name: str, cores: Sequence[int], repetitions: int) -> Measured:
    """One row. All are rates of images, so a ratio of 1 says that each process is as fast as one that is alone."""
    count = len(cores)
    sides: dict[str, Callable[[Path], float]] = {
        "alone": lambda turn: _apart(turn, name, cores[:1]),
        "apart": lambda turn: _apart(turn, name, cores),
        "joined": lambda turn: _joined(turn, name, cores),
        "decode alone": lambda turn: _decoded(cores[:1]),
        "decode": lambda turn: _decoded(cores),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(-1, repetitions):  # the first compiles
        for side, measure in sides.items():
            inside = folder / f"{side}{turn}"
            inside.mkdir(parents=True)
            rate = measure(inside)
            if turn >= 0:
                rates[side].append(rate)
    note = "Each process has a core of its own and as many images a step as one alone; apart: at once, but each a run of its own."
    return Measured("processes", f"{name}, {count} processes", _ratios(rates, count), note=note)


def _ratios(rates: Mapping[str, Sequence[float]], count: int) -> dict[str, list[float]]:
    def over(side: str, other: str, times: int = 1) -> list[float]:
        return [a / (times * b) for a, b in zip(rates[side], rates[other], strict=True)]

    return {
        "joined / alone, each process": over("joined", "alone", count),
        "apart / alone, each process: the machine": over("apart", "alone", count),
        "joined / apart: collectives": over("joined", "apart"),
        "decoding at once / alone, each process: input": over("decode", "decode alone", count),
        "alone, images/s": list(rates["alone"]),
        "joined, images/s": list(rates["joined"]),
    }


def _apart(folder: Path, name: str, cores: Sequence[int]) -> float:
    """Images a second of all together, at the same time."""
    workdirs = [folder / f"{core}" for core in cores]
    _train([(core, workdir, _flags(name, 1)) for core, workdir in zip(cores, workdirs, strict=True)])
    return sum(map(_speed, workdirs))


def _joined(folder: Path, name: str, cores: Sequence[int]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        where = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    flags = (*_flags(name, len(cores)), where, f"--num_processes={len(cores)}")
    _train([(core, folder / "run", (*flags, f"--process_id={i}")) for i, core in enumerate(cores)])
    return _speed(folder / "run")


def _flags(name: str, processes: int) -> tuple[str, ...]:
    batch, steps = NETWORKS[name]
    return (
        *_FLAGS, f"--model.name={name}", f"--data.batch_size={batch * processes}", f"--train.log_every={steps}",
        f"--train.steps={_SPEEDS * steps}",
    )  # fmt: skip


def _train(runs: Sequence[tuple[int, Path, Sequence[str]]]) -> None:
    processes = []
    try:
        for core, workdir, flags in runs:
            with _on(core):
                processes.append(launched.start(workdir, *flags))
        for process in processes:
            launched.finish(process)
    finally:
        for process in processes:
            process.kill()


def _speed(workdir: Path) -> float:
    """The median of the values after the first."""
    lines = [line for line in Workdir(workdir).read_metrics() if line["split"] == "train"]
    if len(lines) < 2:
        raise ConfigError(f"{workdir}: a run ended without a speed")
    return float(np.median([line["images_per_second"] for line in lines[1:]]))


def _decoded(cores: Sequence[int]) -> float:
    """Photographs that processes decode in a second of their cores, all at once."""
    processes = []
    for core in cores:
        with _on(core):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", _DECODES], cwd=ROOT, stdout=subprocess.PIPE, text=True
                )
            )
    return sum(float(process.communicate()[0].split()[-1]) for process in processes)


@contextlib.contextmanager
def _on(core: int) -> Iterator[None]:
    """What is started inside stays on the core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
