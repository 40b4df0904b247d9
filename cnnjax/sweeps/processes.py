"""Runs as processes: so many at a time, each on its own accelerator where there are several; they end with us."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cnnjax
from cnnjax.config import Stopped
from cnnjax.runs.workdir import InUse, Workdir

LOG = "log.txt"  # of a run's folder: all that its process said
_PAUSE = 0.2  # seconds between two looks


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: `error` is its last line, empty where it finished; `stopped` where there is more to do."""

    error: str = ""
    stopped: bool = False


class Running:
    """The process that trains in a workdir, from the config.json that lies there."""

    def __init__(self, workdir: Workdir, data_dir: str | None, slot: int = 0, slots: int = 1):
        self.workdir = workdir
        command = [sys.executable, "-m", "cnnjax", f"--workdir={workdir.path}"]
        command += [f"--data_dir={data_dir}"] if data_dir else []
        self._log = workdir.path / LOG
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(slot, slots)
            )

    def ended(self) -> Ended | None:
        """None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        if status == 0:
            return Ended()
        if status == Stopped.status:
            return Ended(stopped=True)
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("error: ")[:300] if lines else ""
        return Ended(f"ended by signal {-status}" if status < 0 else last or f"exit status {status}")

    def stop(self) -> None:
        """Asks it to save and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> Ended:
        """How it ended, once it has; one that was asked to stop before it could listen has more to do, too."""
        asked = self._process.wait() < 0
        return Ended(stopped=True) if asked else self.ended() or Ended()


def environment(slot: int, slots: int) -> dict[str, str]:
    """Of the process in one of `slots` places: where there are several GPUs, one of them; where they are shared, a
    part of their memory."""
    found = dict(os.environ)
    root = str(Path(cnnjax.__file__).parents[1])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [root, found.get("PYTHONPATH")]))
    gpus = _gpus()
    if gpus and slots > 1:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        sharing = -(-slots // len(gpus))
        if sharing > 1:
            found.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / sharing:.2f}")
    return found


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(filter(str.isdecimal, numbers), key=int)


def in_use(workdir: Workdir) -> bool:
    """Whether another process trains there, as one does whose sweep was killed."""
    try:
        with workdir.claim():
            return False
    except InUse:
        return True


def run_all(
    workdirs: Sequence[Workdir],
    jobs: int,
    data_dir: str | None,
    stopped: threading.Event,
    tell: Callable[[Workdir, Ended], None],
) -> None:
    """Trains in each of the workdirs, `jobs` at a time, and tells how each ended.

    When `stopped` is set, those that run are asked to save and end, and no other begins. A run that another process
    still trains is waited for.
    """
    waiting = list(workdirs)
    running: dict[int, Running] = {}
    try:
        while (waiting or running) and not stopped.is_set():
            for slot, one in list(running.items()):
                if ended := one.ended():
                    del running[slot]
                    tell(one.workdir, ended)
            for slot in [slot for slot in range(jobs) if slot not in running]:
                free = next((one for one in waiting if not in_use(one)), None)
                if free is None:
                    break
                waiting.remove(free)
                running[slot] = Running(free, data_dir, slot, jobs)
            time.sleep(_PAUSE)
    finally:
        for one in running.values():
            one.stop()
        for one in running.values():
            tell(one.workdir, one.wait())
