"""The benchmarks of reliability, at a small size: real runs, really killed."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from cnnjax.benchmarks import faults, launched
from cnnjax.benchmarks.faults import Saboteur, survived
from cnnjax.benchmarks.prediction import predicted
from cnnjax.benchmarks.soak import soaked
from cnnjax.benchmarks.streaming import streamed
from cnnjax.config import ConfigError


def only(measured) -> dict[str, float]:
    return {name: values[0] for name, values in measured.values.items()}


@pytest.mark.slow
def test_a_run_that_is_killed_and_damaged_ends_as_if_nothing_had_happened(tmp_path):
    """`survived` itself compares the states and the metrics, and raises where they differ."""
    found = only(survived(tmp_path, kills=6, steps=200))
    assert sum(found[name] for name in found if name.startswith("kills during")) == 6 == found["kills -9"]
    assert found["runs, all equal to the undisturbed one to the last bit"] >= 1


def test_a_difference_would_be_found(tmp_path, monkeypatch):
    """What the runs left is made up here: a state, and one that differs in the last bit."""
    outcomes = iter([(4, {"w": 1}, []), (4, {"w": 2}, [])])
    monkeypatch.setattr(faults, "_outcome", lambda workdir: next(outcomes))
    monkeypatch.setattr(
        launched, "start", lambda workdir, *flags: subprocess.Popen(["true"], stderr=-1, text=True)
    )
    with pytest.raises(ConfigError, match="killed on its way, ended differently"):
        survived(tmp_path, kills=1)


def test_kills_are_as_many_as_asked_for_and_at_most_ten_a_run(tmp_path, monkeypatch):
    """`disturb` is made up: it kills whenever it may."""
    asked = []

    def disturb(self, process, workdir, kill):
        process.communicate()
        workdir.path.mkdir(exist_ok=True)
        asked.append(kill)
        self.kills -= kill
        return not kill

    monkeypatch.setattr(Saboteur, "disturb", disturb)
    monkeypatch.setattr(faults, "_outcome", lambda workdir: "the same")
    monkeypatch.setattr(
        launched, "start", lambda workdir, *flags: subprocess.Popen(["true"], stderr=-1, text=True)
    )
    found = only(survived(tmp_path, kills=23))
    assert asked == [*[True] * 10, False] * 2 + [*[True] * 3, False]
    assert found["runs, all equal to the undisturbed one to the last bit"] == 3


def test_a_launch_that_fails_by_itself_is_no_kill(tmp_path):
    from cnnjax.runs.workdir import Workdir

    command = [sys.executable, "-c", "raise SystemExit('error: no')"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with pytest.raises(ConfigError, match="status 1: error: no"):
        Saboteur(np.random.default_rng(0), 1).disturb(process, Workdir(tmp_path), kill=False)


@pytest.mark.slow
def test_memory_and_step_time_of_a_run(tmp_path):
    found = only(soaked(tmp_path / "run", seconds=8))
    assert found["steps"] > 20
    assert 100 < found["memory in the last tenth, MB"] < 2000
    last = "of a step in the last quarter"
    assert 0 < found[f"time {last}, 10% quantile, ms"] <= found[f"time {last}, 90% quantile, ms"]
    assert found[f"processor time {last}, ms"] > 0


def test_memory_counts_children():
    code = "import subprocess, sys; x = bytearray(30_000_000); x[::4096] = b'1' * len(x[::4096]);"
    inner = code + "print('ready', flush=True); sys.stdin.read()"
    outer = code + f"subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    with launched.watched(process, seconds=0.01) as series:
        time.sleep(0.2)
    process.communicate(b"")
    assert 60e6 < max(sample.own_memory for sample in series) < 200e6
    assert all(sample.own_memory <= sample.memory for sample in series) and series[-1].cpu_seconds > 0


@pytest.mark.slow
def test_records_larger_than_memory_allows_stream_in_less_than_two_gigabytes(tmp_path):
    """CNNJAX_STREAM_GB (default 4) of records, each read once, at a peak below 2 GB of all processes."""
    size = 10**9 * int(os.environ.get("CNNJAX_STREAM_GB", "4"))
    found = only(streamed(tmp_path, size))
    assert found["size, GB"] > 0.99 * size / 1e9
    assert 0.1 < found["peak memory of all processes, GB"] < 2


@pytest.mark.slow
def test_photographs_are_predicted_in_less_memory_than_they_have(tmp_path):
    """300 photographs of 12 megapixels are 10.8 GB of pixels."""
    found = only(predicted(tmp_path, 300))
    assert len((tmp_path / "predictions" / "predictions.jsonl").read_text().splitlines()) == 300
    assert found["peak memory, GB"] < 1.5
    assert found["seconds to the first answer"] < 300 / found["photographs/s"]
