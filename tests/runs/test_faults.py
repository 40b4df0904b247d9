"""What goes wrong around a run: signals, full disks, folders that may not be written. Each is one clear line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.runtime.signals import stop_on_signal

ROOT = Path(__file__).parents[2]
QUICK = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", "--data.limit=60", "--data.batch_size=20",
    "--train.steps=3",
)  # fmt: skip


def start(workdir: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "launch.py"), *QUICK, f"--workdir={workdir}", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workdir.parent
    )


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture
def mount(tmp_path):
    """Mounts with these arguments of mount(8) at a new folder, which it returns; skips where that is not allowed."""
    mounted = []

    def begin(*arguments: str) -> Path:
        point = tmp_path / f"mount{len(mounted)}"
        point.mkdir()
        try:
            result = subprocess.run(["mount", *arguments, str(point)], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if result.returncode:
            pytest.skip(f"mounting is not allowed here: {result.stderr.strip()}")
        mounted.append(point)
        return point

    yield begin
    for point in mounted:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def read_only(mount):
    """A folder as another one that cannot be written, by root neither."""

    def begin(folder: Path) -> Path:
        point = mount("--bind", str(folder))
        subprocess.run(["mount", "-o", "remount,ro,bind", str(point)], check=True)
        return point

    return begin


@pytest.fixture
def refuse():
    """Takes away the permission to write to a file or folder, which of root takes a flag of the file system."""
    refused = []

    def begin(path: Path) -> None:
        if os.geteuid():
            path.chmod(0o500)
        elif subprocess.run(["chattr", "+i", str(path)], capture_output=True).returncode:
            pytest.skip("root may write everywhere, and this file system knows no immutable files")
        refused.append(path)

    yield begin
    for path in refused:
        path.chmod(0o700) if os.geteuid() else subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_one_line(tmp_path, number):
    process = start(
        tmp_path / "run", "--train.steps=1000000", "--train.checkpoint_every=0", "--train.log_every=1"
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    if number != signal.SIGINT:  # a scheduler may send it twice, to the processes of a step and to the job
        time.sleep(0.01)
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.splitlines() == [
        f"error: stopped by a signal; launch again with --workdir={tmp_path / 'run'} to go on"
    ]
    (saved,) = steps(tmp_path / "run")
    done, err = start(tmp_path / "run", f"--train.steps={saved + 5}").communicate()
    assert f"going on from step {saved:,}" in done, err


def test_a_second_interrupt_ends_at_once():
    number = signal.SIGINT
    code = f"""
import signal
from cnnjax.runtime.signals import stop_on_signal
with stop_on_signal() as stopped:
    signal.raise_signal({int(number)})
    print(stopped.is_set(), flush=True)
    signal.raise_signal({int(number)})
    print("too late")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout) == (-number, "True\n"), result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_of_a_scheduler_ask_however_often_they_come(number):
    with stop_on_signal() as stopped:
        assert not stopped.is_set()
        for _ in range(3):
            signal.raise_signal(number)
            assert stopped.is_set()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_earlier_checkpoints_are_whole(mount):
    workdir = mount("-t", "tmpfs", "-o", "size=600k", "tmpfs") / "run"
    flags = (
        "--train.steps=1000",
        "--train.checkpoint_every=1",
        "--train.evaluate_every=0",
        "--train.keep_last=1000",
    )
    process = start(workdir, *flags)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and len(err.splitlines()) == 1
    assert err.startswith("error: ") and "No space left on device" in err
    saved = steps(workdir)
    assert saved
    command = [sys.executable, str(ROOT / "launch.py"), "--mode=evaluate", f"--workdir={workdir}"]
    for step in saved:
        result = subprocess.run([*command, f"--checkpoint={step}"], capture_output=True, text=True)
        assert result.returncode == 0 and "accuracy" in result.stdout, result.stderr


def test_data_are_read_from_a_read_only_folder(launch, tmp_path, read_only, monkeypatch):
    for i in range(20):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    images = read_only(tmp_path / "images")
    monkeypatch.setenv("CNNJAX_CACHE", str(images / "cache"))
    result = launch(
        *QUICK, f"--data.name=folder:{images}", "--data.batch_size=4", f"--workdir={tmp_path / 'run'}"
    )
    assert result.code == 0, result.err
    missing = launch("--data.name=mnist", f"--data_dir={images}", f"--workdir={tmp_path / 'mnist'}")
    assert missing.code == 1 and "cannot be written: give another data_dir" in missing.err
    assert len(missing.err.splitlines()) == 1


def test_a_workdir_that_may_not_be_written_is_one_line_and_can_be_evaluated(launch, tmp_path, read_only):
    workdir = tmp_path / "run"
    assert launch(*QUICK, f"--workdir={workdir}").code == 0
    seen = read_only(workdir)
    assert launch("--mode=evaluate", f"--workdir={seen}").code == 0
    result = launch(f"--workdir={seen}", "--train.steps=5")
    assert (
        result.code == 1 and result.err == f"error: workdir {seen} cannot be written: Read-only file system\n"
    )


def test_missing_permissions_are_one_line(launch, tmp_path, refuse):
    assert launch(*QUICK, f"--workdir={tmp_path}").code == 0
    refuse(tmp_path / "metrics.jsonl")
    refuse(tmp_path / "plots")
    result = launch(f"--workdir={tmp_path}", "--train.steps=5")
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert "not permitted" in result.err or "ermission denied" in result.err


def test_a_folder_of_checkpoints_that_may_not_be_written_is_one_line_at_once(launch, tmp_path, refuse):
    assert launch(*QUICK, f"--workdir={tmp_path}").code == 0
    refuse(tmp_path / "checkpoints")
    result = launch(f"--workdir={tmp_path}", "--train.steps=6")
    assert result.code == 1 and result.err == f"error: {tmp_path / 'checkpoints'} cannot be written\n"
    assert steps(tmp_path) == [3]
