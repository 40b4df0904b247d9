"""Checkpoints of a run, through Orbax; the only file that imports it.

Each checkpoint holds the whole train state, the experiment that made it and a checksum of every array. What does
not match its checksum is never returned: the newest good checkpoint is, and the user is told.
"""

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from cnnjax.config import ConfigError

_STATE = "state"
log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run: `save` while training, `restore` and `describe` at any time.

    Keeps the `keep_last` newest and the `keep_best` with the highest "headline" metric. Saving is asynchronous;
    `close` (or leaving the `with` block) waits for it.
    """

    def __init__(self, directory: Path, keep_last: int = 2, keep_best: int = 1):
        policies = ocp.training.preservation_policies
        directory.mkdir(parents=True, exist_ok=True)
        keep = [policies.LatestN(keep_last)]
        if keep_best:
            keep.append(
                policies.BestN(get_metric_fn=_headline, n=keep_best, keep_checkpoints_without_metrics=False)
            )
        self.directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save."""
        self._checkpointer.close()

    def save(self, step: int, state: Any, headline: float | None, metadata: dict[str, Any]) -> None:
        """Starts to write the checkpoint of this step; a second save of one step is ignored."""
        metrics = None if headline is None else {"headline": headline}
        if step in self.steps():
            return
        state = jax.tree.map(jnp.copy, state)  # the caller may donate its own to the next step
        metadata = {**metadata, "checksums": checksums(state)}
        self._checkpointer.save_async(
            step, state, checkpointable_name=_STATE, metrics=metrics, custom_metadata=metadata
        )

    def wait(self) -> None:
        """Returns when the last save is written."""
        self._checkpointer.wait()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that were written completely, oldest first."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    def best(self) -> int | None:
        """The step with the highest headline metric, the newest of equals."""
        known = [(_headline(c.metrics), c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(known)[1] if known else None

    def describe(self, step: int) -> dict[str, Any]:
        """The metadata that was saved with a checkpoint: its experiment, classes and image shape."""
        return dict(self._checkpointer.metadata(step).custom_metadata or {})

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of one step, with the shapes, types and shardings of `abstract_state`.

        Raises ConfigError, with the names of the arrays, if the checkpoint holds another model or is damaged.
        """
        path = self._path(step)
        try:
            saved = self.describe(step)["checksums"]
        except Exception as error:  # Orbax raises many kinds for a damaged folder
            raise ConfigError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error
        wanted = {name: _spec(leaf) for name, leaf in _named_leaves(abstract_state)}
        found = {name: tuple(entry[:2]) for name, entry in saved.items()}
        if wanted != found:
            raise ConfigError(
                f"checkpoint {path} does not fit this model: {_first_difference(found, wanted)}"
            )
        try:
            state = ocp.load(path.absolute(), abstract_state, checkpointable_name=_STATE)
        except Exception as error:
            raise ConfigError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error
        damaged = [name for name, entry in checksums(state).items() if entry != saved[name]]
        if damaged:
            raise ConfigError(f"checkpoint {path} is damaged: {damaged[0]} does not match its checksum")
        return state

    def restore_newest(self, abstract_state: Any) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint that is whole; None if there is none at all.

        A damaged one is reported and passed over. If all are damaged, raises ConfigError about the newest.
        """
        problems: list[ConfigError] = []
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, abstract_state)
            except ConfigError as error:
                if "does not fit" in str(error):
                    raise
                problems.append(error)
                log.warning("%s; trying the one before it", error)
            else:
                for damaged in [s for s in self.steps() if s > step]:
                    self._checkpointer.delete(damaged)
                return step, state
        if problems:
            raise problems[0]
        return None

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


def checksums(state: Any) -> dict[str, list[Any]]:
    """{name: [shape, dtype, crc32]} of every array of the state."""
    return {name: [*_spec(leaf), zlib.crc32(_bytes(leaf))] for name, leaf in _named_leaves(state)}


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _spec(leaf: Any) -> tuple[str, str]:
    return "x".join(map(str, leaf.shape)), str(leaf.dtype)


def _bytes(leaf: Any) -> bytes | memoryview:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data


def _headline(metrics: Any) -> float:
    return float(metrics["headline"])


def _first_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            there, here = found.get(name), wanted.get(name)
            if there and here:
                return f"{name} is {' '.join(there)} there and {' '.join(here)} here"
            return f"{name} is only {'there' if there else 'here'}"
    return "no difference"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
