"""The folder of one run: config.json, metrics.jsonl, checkpoints/, plots/, report.html, and the .cfg of a darknet model."""

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnjax import config
from cnnjax.config import ConfigError, Experiment


class InUse(ConfigError):
    """Another process trains in the folder."""

    words = "is in use by another process"  # that the message ends with


class Workdir:
    """Paths and small files of a run. Raises ConfigError where the folder cannot be used."""

    def __init__(self, path: str | os.PathLike):
        config.check_local("workdir", str(path))
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.json"

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Makes the folder, and holds it against a second process while the block runs; raises InUse if one has it.

        A folder that is new, and in which the block wrote nothing, goes again.
        """
        new = not self.path.exists()
        try:
            self.plots.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise ConfigError(f"workdir {self.path} cannot be written: {error.strerror}") from error
        if self.checkpoints.exists() and not os.access(self.checkpoints, os.W_OK):
            lock.close()
            raise ConfigError(f"{self.checkpoints} cannot be written")  # Orbax would wait for minutes
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InUse(f"workdir {self.path} {InUse.words}") from error
            try:
                yield
            finally:
                if new:
                    self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.plots.rmdir()
            if [entry.name for entry in self.path.iterdir()] == [".lock"]:
                (self.path / ".lock").unlink()
                self.path.rmdir()

    def has_run(self) -> bool:
        """Whether a run was begun in it."""
        return self.config.exists()

    def read_config(self) -> Experiment:
        """The experiment of the run in this folder."""
        if not self.path.is_dir():
            raise ConfigError(f"workdir {self.path} does not exist")
        if not self.has_run():
            raise ConfigError(f"workdir {self.path} holds no run: {self.config.name} is missing")
        try:
            experiment = config.from_json(self.config.read_text(encoding="utf-8-sig"))
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.config}: {error}") from error
        return self.with_own_cfg(experiment)

    def with_own_cfg(self, experiment: Experiment) -> Experiment:
        """The experiment with the run's copy of the file that describes its model, in place of one of that name
        elsewhere, which may have moved. As it is if there is no copy.

        Raises ConfigError if that file is still there and is another by now.
        """
        if not experiment.model.name.startswith(config.CFG_FILE):
            return experiment
        there = Path(experiment.model.name.removeprefix(config.CFG_FILE))
        copy = self.path / there.name
        if not copy.is_file():
            return experiment
        if there.is_file() and there.read_bytes() != copy.read_bytes():
            raise ConfigError(
                f"{there} is another network than that of the run, {copy}: use another --workdir"
            )
        return config.replace(experiment, {"model.name": f"{config.CFG_FILE}{copy}"})

    def write_config(self, experiment: Experiment) -> None:
        """Also a copy of the file that describes a darknet model."""
        if experiment.model.name.startswith(config.CFG_FILE):
            there = Path(experiment.model.name.removeprefix(config.CFG_FILE))
            write_atomically(self.path / there.name, there.read_bytes())
        write_atomically(self.config, config.to_json(experiment) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to the first that is damaged, as the last one may be after a crash."""
        if not self.metrics.exists():
            return []
        lines = []
        for text in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            kinds = {"step": int, "split": str}
            if not isinstance(line, dict) or not all(isinstance(line.get(k), t) for k, t in kinds.items()):
                break
            lines.append(line)
        return lines

    def rewind_metrics(self, step: int) -> None:
        """Drops the lines after `step`, which a resumed run will write again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))


def write_atomically(path: Path, content: str | bytes | bytearray) -> None:
    """Writes a file so that a crash leaves either the old or the new one."""
    with writing_atomically(path) as file:
        file.buffer.write(content.encode() if isinstance(content, str) else bytes(content))


@contextlib.contextmanager
def writing_atomically(path: Path) -> Iterator[io.TextIOWrapper]:
    """A file to write to, piece by piece, of which a crash leaves either the old or the new one."""
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
