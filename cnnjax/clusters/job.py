"""What a job of a cluster runs, and on what."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from cnnjax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Machines:
    """What is asked of a cluster for one run. Raises ConfigError for what cannot be meant."""

    nodes: int = 1
    gpus: int = 0  # of each node
    cpus: int = 0  # cores of each node; 0: what the cluster gives
    time: str = ""  # of Slurm, such as 4:00:00 or 1-12; empty: the partition's own
    partition: str = ""
    account: str = ""
    line: tuple[str, ...] = ()  # further options of sbatch
    image: str = ""  # of Kubernetes: the container
    volume: str = ""  # CLAIM:/PATH, a volume that all containers see, which holds the workdir
    tpu: str = ""  # v5e:4x4

    def __post_init__(self) -> None:
        for name in ("time", "partition", "account", "image", "volume", "tpu"):
            value = getattr(self, name)
            if value and not (value.isprintable() and " " not in value):
                raise ConfigError(f"--launcher.{name}={value!r}: one word was expected")
        for line in self.line:
            if not (line.startswith("-") and line.isprintable()):
                raise ConfigError(
                    f"--launcher.line={line!r}: expected an option of sbatch, such as --mem=64G"
                )


@dataclasses.dataclass(frozen=True)
class Job:
    """One command of the launcher, which goes on where it was when it is begun again."""

    name: str
    command: tuple[str, ...]  # as the shell gets it
    directory: Path  # where it is run
    workdir: Path  # absolute

    @property
    def folder(self) -> Path:
        """Where its script and its log lie."""
        return self.workdir / "slurm"


def one_a_line(command: Sequence[str]) -> str:
    """A command for the shell, each of its flags on a line of its own."""
    words = [shlex.quote(word) for word in command]
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    return " \\\n    ".join([" ".join(words[:first]), *words[first:]])
