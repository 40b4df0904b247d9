"""Faults at random moments: whether a run that was killed again and again ends as if nothing had happened."""

import collections
import dataclasses
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnnjax.benchmarks import launched
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError
from cnnjax.runs import run
from cnnjax.runs.checkpoint import checksums
from cnnjax.runs.workdir import Workdir

_START, _TRAINING, _WRITING = "start-up", "training", "the writing of a checkpoint"
_MOMENTS = {_START: 1, _TRAINING: 2, _WRITING: 2}  # how often of five a kill is meant for them
_SECONDS_OF_START, _SECONDS_OF_TRAINING, _SECONDS_OF_WRITING = 3.0, 1.0, 0.02  # within which it comes
_KILLS_PER_RUN = 10
_UNFINISHED = "orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written
_REPORT = "trying the one before it"
_FLAGS = (
    "--experiment=digits_lenet", "--data.limit=200", "--data.batch_size=20", "--train.checkpoint_every=0.5",
    "--train.evaluate_every=5", "--train.log_every=10",
)  # fmt: skip


def survive_faults(options: Options) -> list[Measured]:
    """Kills training --benchmark.repetitions times at random moments, damages newest checkpoints, and compares the end."""
    with tempfile.TemporaryDirectory() as folder:
        return [survived(Path(folder), options.repetitions)]


def survived(folder: Path, kills: int, steps: int = 400, seed: int = 0) -> Measured:
    """Runs that are killed, and whose newest checkpoint is damaged after every third kill, until `kills` are done.

    Raises ConfigError if one of them does not end with the state and the metrics of an undisturbed run, to the
    last bit, or fails by itself.
    """
    flags = (*_FLAGS, f"--train.steps={steps}")
    whole = Workdir(folder / "undisturbed")
    launched.finish(launched.start(whole.path, *flags))
    wanted = _outcome(whole)
    saboteur = Saboteur(np.random.default_rng(seed), kills)
    began, runs = time.monotonic(), 0
    while saboteur.kills > 0:
        workdir = Workdir(folder / f"run{runs}")
        least = max(0, saboteur.kills - _KILLS_PER_RUN)
        while not saboteur.disturb(launched.start(workdir.path, *flags), workdir, saboteur.kills > least):
            pass
        runs += 1
        if _outcome(workdir) != wanted:
            raise ConfigError(f"run {runs} of seed {seed}, killed on its way, ended differently")
        shutil.rmtree(workdir.path)
    seen = saboteur.seen
    values: dict[str, list[float]] = {
        "kills -9": [kills],
        **{f"kills during {name}": [seen[name]] for name in _MOMENTS},
        "newest checkpoints damaged": [seen["cut"] + seen["flipped"] + seen["removed"]],
        **{f"of them {what}": [seen[what]] for what in ("cut", "flipped", "removed", "reported")},
        "runs, all equal to the undisturbed one to the last bit": [runs],
        "minutes": [(time.monotonic() - began) / 60],
    }
    note = (
        f"LeNet-5 on digits, {steps} steps, a checkpoint every 5. After every third kill a file of the newest checkpoint "
        "is cut, a byte of it flipped, or a folder of it removed; what is not reported did no harm."
    )
    return Measured("reliability", "faults", values, note=note)


def _outcome(workdir: Workdir) -> tuple:
    """All that a run leaves and that must not depend on its history."""
    found = run.restore(workdir)
    times = ("seconds", "images_per_second")
    lines = [{k: v for k, v in line.items() if k not in times} for line in workdir.read_metrics()]
    return found.step, checksums(found.state), lines


@dataclasses.dataclass
class Saboteur:
    """Does harm at moments and places that `random` decides, and counts it in `seen`."""

    random: np.random.Generator
    kills: int  # that are left
    seen: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    _unreported: bool = False  # damage that no launch has come upon yet

    def disturb(self, process: subprocess.Popen, workdir: Workdir, kill: bool) -> bool:
        """Kills a run that was just started, or lets it finish: then the answer is True."""
        before = _names(workdir.checkpoints)
        moment = self.random.choice(list(_MOMENTS), p=np.asarray(list(_MOMENTS.values())) / 5)
        share = self.random.uniform()

        def until(happened: Callable[[], bool]) -> None:
            while process.poll() is None and not happened():
                time.sleep(0.001)

        try:
            if kill and moment == _START:
                process.wait(_SECONDS_OF_START * share)
            elif kill:
                until(lambda: _names(workdir.checkpoints) != before)
                process.wait(_SECONDS_OF_TRAINING * share)
        except subprocess.TimeoutExpired:
            if moment == _WRITING:
                until(lambda: any(_UNFINISHED in name for name in _names(workdir.checkpoints)))
                time.sleep(_SECONDS_OF_WRITING * share)
            process.kill()
        _, err = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL) or "Traceback" in err:
            raise ConfigError(f"training ended with status {process.returncode}: {err.strip()[-500:]}")
        after = _names(workdir.checkpoints)
        if self._unreported and (_REPORT in err or after - before):
            self.seen["reported"] += _REPORT in err
            self._unreported = False
        if process.returncode == 0:
            return True
        self.kills -= 1
        unfinished = any(_UNFINISHED in name for name in after - before)
        self.seen[_WRITING if unfinished else _TRAINING if after != before else _START] += 1
        if self.kills % 3 == 0 and not self._unreported:
            self._damage(workdir.checkpoints)
        return False

    def _damage(self, checkpoints: Path) -> None:
        """Damages the newest checkpoint, if there is another one to go back to."""
        steps = sorted(int(name) for name in _names(checkpoints) if name.isdigit())
        if len(steps) > 1:
            self.seen[damage(checkpoints / str(steps[-1]), self.random)] += 1
            self._unreported = True


def damage(folder: Path, random: np.random.Generator) -> str:
    """Cuts a file, flips bits of a byte of one, or removes a folder inside this one; returns which of the three."""
    inside = sorted(folder.rglob("*"))
    how = str(random.choice(["cut", "flipped", "removed"]))
    if how == "removed":
        folders = [path for path in inside if path.is_dir()]
        shutil.rmtree(folders[random.integers(len(folders))])
        return how
    files = [path for path in inside if path.is_file() and path.stat().st_size]
    path = files[random.integers(len(files))]
    content = bytearray(path.read_bytes())
    place = int(random.integers(len(content)))
    if how == "cut":
        del content[place:]
    else:
        content[place] ^= int(random.integers(1, 256))
    path.write_bytes(content)
    return how


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
