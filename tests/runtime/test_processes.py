"""Several processes on this machine as one run: like one process, one line when one of them dies, and resumption."""

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjax import modes
from cnnjax.config import ConfigError
from cnnjax.runtime import last_words, processes

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--experiment=digits_lenet", "--model.name=mlp", "--data.limit=100", "--data.batch_size=20", "--train.log_every=5",
    "--optimizer.schedule=constant", "--optimizer.warmup=0", "--train.evaluate_every=4",
)  # fmt: skip


@dataclasses.dataclass
class Run:
    """The processes of one run."""

    processes: list[subprocess.Popen]

    def finish(self, timeout: float = 400) -> list[tuple[int, str, str]]:
        """Exit status, stdout and stderr of each."""
        found = []
        for process in self.processes:
            out, err = process.communicate(timeout=timeout)
            found.append((process.returncode, out, err))
        return found


@pytest.fixture
def start(tmp_path):
    """Starts `count` processes in a workdir; those that are left are killed after the test."""
    runs = []

    def begin(count: int, workdir: Path, *flags: str) -> Run:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(ROOT / "launch.py"), *FLAGS, f"--workdir={workdir}", *flags]
        shared = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        runs.append(
            Run(
                [
                    subprocess.Popen(
                        [*command, *(shared if count > 1 else []), *([f"--process_id={i}"] if count > 1 else [])],
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                    )
                    for i in range(count)
                ]
            )
        )  # fmt: skip
        return runs[-1]

    yield begin
    for run in runs:
        for process in run.processes:
            process.kill()
            process.communicate()


def losses(workdir: Path) -> dict[tuple[int, str], float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {(line["step"], line["split"]): line["loss"] for line in lines}
    assert len(found) == len(lines)  # one process alone writes
    return found


def wait_for_checkpoint(workdir: Path, run: Run) -> None:
    deadline = time.monotonic() + 300
    while not [path for path in workdir.glob("checkpoints/*") if path.name.isdigit()]:
        assert time.monotonic() < deadline and all(p.poll() is None for p in run.processes)
        time.sleep(0.1)


@pytest.mark.slow
def test_two_and_four_processes_compute_what_one_does_and_read_each_others_checkpoints(start, tmp_path):
    whole = tmp_path / "whole"
    for code, _, err in start(1, whole, "--train.steps=40").finish():
        assert code == 0, err
    wanted = losses(whole)
    assert len(wanted) == 10
    for count in (1, 2, 4):
        results = start(count, tmp_path / str(count), "--train.steps=20").finish()
        for code, _, err in results:
            assert code == 0 and not err.strip(), err
        assert "accuracy" in results[0][1] and not any(out.strip() for _, out, _ in results[1:])
        found = losses(tmp_path / str(count))
        assert found == pytest.approx({key: wanted[key] for key in found}, rel=2e-5)
    for before, after in [(2, 1), (2, 4), (1, 2), (4, 2)]:
        workdir = tmp_path / f"{before} to {after}"
        shutil.copytree(tmp_path / str(before), workdir)
        for code, _, err in start(after, workdir, "--train.steps=40").finish():
            assert code == 0, err
        assert losses(workdir) == pytest.approx(wanted, rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line_and_the_relaunch_goes_on(start, tmp_path, victim):
    flags = ("--train.steps=600", "--train.checkpoint_every=4", "--train.evaluate_every=0")
    workdir = tmp_path / "run"
    run = start(2, workdir, *flags)
    wait_for_checkpoint(workdir, run)
    run.processes[victim].kill()
    began = time.monotonic()
    code, _, err = run.finish(timeout=60)[1 - victim]
    assert time.monotonic() - began < 60 and code != 0
    assert err.splitlines() == [f"error: {processes.LOST}"]
    results = start(2, workdir, *flags).finish()
    for code, _, err in results:
        assert code == 0, err
    assert "going on from step" in results[0][1]
    assert max(step for step, _ in losses(workdir)) == 600


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_others(start, tmp_path):
    run = start(2, tmp_path / "run", "--train.steps=100000", "--train.checkpoint_every=4")
    wait_for_checkpoint(tmp_path / "run", run)
    run.processes[1].send_signal(signal.SIGSTOP)
    _, err = run.processes[0].communicate(timeout=60)
    assert run.processes[0].returncode != 0 and err.splitlines() == [f"error: {processes.LOST}"]


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_stops_all(start, tmp_path):
    run = start(2, tmp_path / "run", "--train.steps=100000", "--train.checkpoint_every=0")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not losses(tmp_path / "run"):
        time.sleep(0.1)
    run.processes[1].terminate()
    for code, _, err in run.finish(timeout=120):
        assert code == 75 and "stopped by a signal" in err and len(err.splitlines()) == 1
    assert [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]


@pytest.mark.slow
def test_a_mistake_that_only_one_process_can_see_ends_all(start, tmp_path):
    from cnnjax.runs.workdir import Workdir

    with Workdir(tmp_path / "run").claim():
        (first, _, err), (second, _, other) = start(2, tmp_path / "run", "--train.steps=2").finish()
    assert first == 1 and "in use by another process" in err
    assert second != 0 and other.splitlines() == [f"error: {processes.LOST}"]


ALARM = (
    b"E1123 10:56:58.7 140 future.py:387] run() raised an exception: Timeout waiting at barrier: UNAVAILABLE",
    b"",
    b"Traceback (most recent call last):",
    b"TimeoutError: Timeout waiting at barrier",
)
OTHER = (b"E1123 10:56:58.8 140 cuda.cc:1] out of memory", b"  of a device")
FATAL = (
    b"F1123 10:56:59.1 140 client.h:8] Terminating process because the JAX distributed service",
    b"@ 0x7f",
)


def text(lines) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_an_alarm_is_shown_unless_it_is_part_of_the_loss_of_another_process(monkeypatch):
    shown = last_words.Filter()
    assert shown.lines([b"a warning", *ALARM]) == b"a warning\n" and shown.overdue() == b""
    assert shown.lines([b"W1123 10:56:59.0 140 a.cc:1] go on"]) == b"W1123 10:56:59.0 140 a.cc:1] go on\n"
    assert shown.lines([*OTHER, *FATAL, *ALARM]) == b""
    assert shown.alarms(lost=True) == text(OTHER)  # not a sign of another process: kept
    assert shown.alarms() == b""

    ended = last_words.Filter()
    ended.lines([*ALARM])
    assert ended.alarms() == text(ALARM)
    late = last_words.Filter()
    late.lines([*ALARM])
    now = last_words.time.monotonic()
    monkeypatch.setattr(last_words.time, "monotonic", lambda: now + processes.HEARTBEAT_TIMEOUT + 1)
    assert late.overdue() == text(ALARM)
    assert late.lines([b"plain"]) == b"plain\n" and late.overdue() == b""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("localhost:1", None, None), "give all of"),
        ((None, 2, 0), "give all of"),
        (("localhost", 2, 0), "expected HOST:PORT"),
        (("localhost:99999", 2, 0), "expected HOST:PORT"),
        (("localhost:1", 2, 2), "must be from 0 to 1"),
    ],
)
def test_wrong_flags(flags, message):
    with pytest.raises(ConfigError, match=message):
        processes.start(*flags)


def test_a_timeout_of_a_checkpoint_is_the_loss_of_another_process(launch, monkeypatch):
    """Orbax raises TimeoutError, which is an OSError."""

    def mode() -> None:
        raise TimeoutError("ChainedFuture timed out") from TimeoutError("barrier: UNAVAILABLE")

    monkeypatch.setitem(modes.MODES, "layers", modes.Mode(mode, (), ()))
    monkeypatch.setattr(processes, "_several", True)
    monkeypatch.setattr(processes.os, "_exit", sys.exit)
    result = launch("--mode=layers")
    assert result.code == 1 and result.err == f"error: {processes.LOST}\n"


def test_modes_of_one_process_say_so(launch):
    result = launch("--mode=layers", "--distributed")
    assert result.code == 1 and "runs in one process" in result.err


@pytest.mark.full
def test_no_cluster_and_uneven_batches_are_one_line(start, tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), "--distributed", f"--workdir={tmp_path / 'a'}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "no cluster was found" in result.stderr
    results = start(2, tmp_path / "b", "--train.steps=2", "--data.batch_size=21").finish()
    said = [(code, err.splitlines()[0]) for code, _, err in results]
    cause = [code == 1 and line.startswith("error: data.batch_size=21") for code, line in said]
    # Where one has gone before the other came to the cause itself, that one says so.
    lost = [line == f"error: {processes.LOST}" for _, line in said]
    assert any(cause) and all(c or gone for c, gone in zip(cause, lost, strict=True)), said


START = """
import sys
from cnnjax.runtime import last_words, processes
processes.TELL_AFTER, processes.START_TIMEOUT = 0.5, 3
processes.start(sys.argv[1], 2, 0)
"""


def test_processes_that_do_not_come_end_the_others_with_the_cause():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    found = subprocess.run([sys.executable, "-c", START, place], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 1 and not found.stdout
    assert found.stderr.splitlines() == [
        f"waiting for 2 processes at {place}",
        f"error: the processes did not find each other at {place} within 3 seconds",
    ]


def test_a_coordinator_that_is_not_found_is_told_at_once(launch):
    flags = ("--coordinator=no-such-host.invalid:1234", "--num_processes=2", "--process_id=1")
    found = launch(*flags)
    assert found.code == 1 and "no-such-host.invalid is not found" in found.err
    assert len(found.err.splitlines()) == 1


def test_a_port_that_another_program_has_is_told(launch):
    flags = ("--num_processes=2", "--process_id=0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = launch(f"--coordinator=127.0.0.1:{taken.getsockname()[1]}", *flags)
    assert found.code == 1 and "the port cannot be used" in found.err and len(found.err.splitlines()) == 1


RELAY = """
import os, signal, subprocess, sys, time
from cnnjax.runtime import last_words, processes
last_words.begin()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout.split()
for child in children:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        try:
            os.kill(int(child), number)
        except ProcessLookupError:  # ps itself
            pass
os.write(1, b"[Gloo] Rank 0 is connected to 1 peer ranks.\\n")
os.write(2, b"said by the runtime\\n")
if len(sys.argv) > 1:
    os.kill(int(children[0]), signal.SIGKILL)
    time.sleep(0.2)
print("result")
processes.fail("error: last words", 75)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_the_last_words_are_said_whatever_signals_come(killed):
    """Signals go to every process of a job, the child that passes on stderr too."""
    command = [sys.executable, "-c", RELAY, *(["kill"] if killed else [])]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 75 and found.stdout == "result\n"
    said = found.stderr.splitlines()
    assert said[-1] == "error: last words" and "Traceback" not in found.stderr
    assert killed or "said by the runtime" in said


def test_processes_ask_each_other_about_once_a_second_whatever_a_call_takes(monkeypatch):
    """The clock of this process, and the seconds of a call of another one, which is slower."""
    now, slowest, asked = [0.0], [0.25], []

    def gather(flag: float, seconds: float) -> list[list[float]]:
        asked.append(now[0])
        return [[flag, 1.0 if now[0] > 60 else 0.0], [seconds, slowest[0]]]

    monkeypatch.setattr(processes, "_several", True)
    monkeypatch.setattr(processes, "_gather", gather)
    monkeypatch.setattr(last_words.time, "monotonic", lambda: now[0])
    agreement = processes.Agreement()

    def calls(count: int, seconds: float) -> list[float]:
        """When they asked in so many calls, none of which found a reason to stop."""
        asked.clear()
        for _ in range(count):
            now[0] += seconds
            assert not agreement.any(False)
        return list(asked)

    assert calls(9, 0.125) == [0.125, 0.625, 1.125]  # four calls of a quarter of a second each
    slowest[0] = 20.0
    assert calls(4, 0.125) == [1.625]
    assert calls(3, 10.0) == [11.625, 21.625, 31.625]
    slowest[0] = 0.0
    assert len(calls(250, 2**-10)) == 3  # no more calls than a hundred without an answer
    now[0] = 61.0
    assert any(agreement.any(False) for _ in range(100))
