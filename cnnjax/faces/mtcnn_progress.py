"""What a run keeps of the network of MT-CNN that it is training, so that one that was killed goes on from there."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import serialization

from cnnjax.config import ConfigError
from cnnjax.faces.mtcnn_samples import Samples
from cnnjax.runs.workdir import write_atomically, writing_atomically


class Reached(NamedTuple):
    """Variables and optimizer state after so many steps, which took so many seconds."""

    step: int
    seconds: float
    variables: Any
    state: Any


class Progress:
    """The windows and the state of one network, in files of a folder."""

    def __init__(self, folder: Path, name: str):
        self._mined, self._state = folder / f"{name}_mined.npz", folder / f"{name}_state.msgpack"

    def windows(self, mine: Callable[[], tuple[Samples, Samples]]) -> tuple[Samples, Samples]:
        """What `mine` finds to train and to judge with, which takes minutes: by the first call. Raises ConfigError if what
        that wrote is damaged."""
        names = [field.name for field in dataclasses.fields(Samples)]
        if not self._mined.exists():
            kept, held = mine()
            arrays = {f"{split}_{name}": getattr(samples, name)
                      for split, samples in (("train", kept), ("test", held)) for name in names}  # fmt: skip
            with writing_atomically(self._mined) as file:
                np.savez(file.buffer, **arrays)
            return kept, held
        try:
            with open(self._mined, "rb") as content, np.load(content, allow_pickle=False) as found:
                kept, held = (
                    Samples(*(found[f"{split}_{name}"] for name in names)) for split in ("train", "test")
                )
        except Exception as error:  # of zip, of numpy or of the system
            raise _damaged(self._mined, error) from error
        return kept, held

    def reached(self, variables: Any, state: Any) -> Reached:
        """The state that was kept last; else the beginning, which is given. Raises ConfigError if it is damaged."""
        begin = Reached(0, 0.0, variables, state)
        if not self._state.exists():
            return begin
        try:
            found: Reached = serialization.from_bytes(begin, self._state.read_bytes())
        except Exception as error:  # of msgpack, of flax or of the system
            raise _damaged(self._state, error) from error
        return found

    def keep(self, reached: Reached) -> None:
        write_atomically(self._state, serialization.to_bytes(jax.device_get(reached)))

    def forget(self) -> None:
        """Of a network that is finished."""
        for file in (self._mined, self._state):
            file.unlink(missing_ok=True)


def _damaged(file: Path, error: Exception) -> ConfigError:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return ConfigError(f"{file} is damaged ({said}); without it the network is trained from its beginning")
