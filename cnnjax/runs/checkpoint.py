"""Checkpoints of a run, through Orbax; the only file that imports it.

Each checkpoint holds the whole train state, the experiment that made it and checksums of both. What does
not match its checksum is never returned: the newest good checkpoint is, and the user is told.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import v1 as ocp

from cnnjax.config import ConfigError

_STATE = "state"
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # in messages of TensorStore
log = logging.getLogger(__name__)


class _OtherModel(ConfigError):
    """The checkpoint is whole, but not of this model: no older one would be."""


class CheckpointStore:
    """The checkpoints of one run: `save` while training, `restore` and `describe` at any time.

    Keeps the `keep_last` newest and the `keep_best` with the highest "headline" metric. Saving is asynchronous;
    `close` (or leaving the `with` block) waits for it.
    """

    def __init__(self, directory: Path, keep_last: int = 2, keep_best: int = 1):
        policies = ocp.training.preservation_policies
        directory.mkdir(parents=True, exist_ok=True)
        _drop_damaged_metrics(directory)
        keep = [policies.LatestN(keep_last)]
        if keep_best:
            keep.append(
                policies.BestN(get_metric_fn=_headline, n=keep_best, keep_checkpoints_without_metrics=False)
            )
        self.directory = directory
        self._last_save: Any = None  # its thread lives until its result is asked for
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:  # else it fails because of what is on its way already
                raise

    def close(self) -> None:
        """Waits for the last save."""
        with self._refusals():
            try:
                self.wait()
            finally:
                self._checkpointer.close()

    def save(self, step: int, state: Any, headline: float | None, metadata: dict[str, Any]) -> None:
        """Starts to write the checkpoint of this step; a second save of one step is ignored.

        Raises ConfigError if the system refuses to write this one or, later, the one before.
        """
        metrics = None if headline is None else _metrics(headline)
        if step in self.steps():
            return
        state = jax.tree.map(jnp.copy, state)  # the caller may donate its own to the next step
        metadata = json.loads(json.dumps({**metadata, "checksums": checksums(state)}))
        metadata["checksum"] = _checksum(metadata)
        self.wait()
        with self._refusals():
            self._last_save = self._checkpointer.save_async(
                step, state, checkpointable_name=_STATE, metrics=metrics, custom_metadata=metadata
            )

    def wait(self) -> None:
        """Returns when the last save is written."""
        with self._refusals():
            if self._last_save is not None:
                last, self._last_save = self._last_save, None
                last.result()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that were written completely, oldest first."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    def best(self) -> int | None:
        """The step with the highest headline metric, the newest of equals."""
        known = [(_headline(c.metrics), c.step) for c in self._checkpointer.checkpoints if c.metrics]
        return max(known)[1] if known else None

    def describe(self, step: int | None = None) -> dict[str, Any]:
        """The metadata that was saved with a checkpoint: its experiment, classes and image shape.

        Without a step that of the newest whose metadata is whole. Raises ConfigError if it is damaged.
        """
        problem: ConfigError | None = None
        for one in reversed(self.steps()) if step is None else [step]:
            try:
                about = dict(self._checkpointer.metadata(one).custom_metadata or {})
                if "checksum" not in about:
                    raise ValueError("its description has no checksum: damaged, or of an earlier version")
                if _checksum(about) != about["checksum"]:
                    raise ValueError("its description does not match its checksum")
                if not all(len(entry) == 3 for entry in about["checksums"].values()):
                    raise ValueError("its checksums are damaged")
                return about
            except Exception as error:  # Orbax raises many kinds for a damaged folder
                text = f"checkpoint {self._path(one)} cannot be read: {_first_line(error)}"
                problem = problem or ConfigError(text)
        raise problem or ConfigError(f"{self.directory} has no checkpoint")

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of one step, with the shapes, types and shardings of `abstract_state`.

        Raises ConfigError, with the names of the arrays, if the checkpoint holds another model or is damaged.
        """
        path = self._path(step)
        saved = self.describe(step)["checksums"]
        wanted = {name: _spec(leaf) for name, leaf in _named_leaves(abstract_state)}
        found = {name: tuple(entry[:2]) for name, entry in saved.items()}
        if wanted != found:
            raise _OtherModel(
                f"checkpoint {path} does not fit this model: {_first_difference(found, wanted)}"
            )
        return _loaded(path, abstract_state, saved, jax.tree_util.keystr)

    def variables(self, step: int) -> dict[str, Any]:
        """The trained variables of one step, averaged ones where there are any, as NumPy arrays with the leading axis
        of seeds: {"params": ..., "batch_stats": ...}. Needs no model. Raises ConfigError if they are damaged."""
        path, saved = self._path(step), self.describe(step)["checksums"]
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        averaged = any(name.startswith(".ema[") for name in saved)
        wanted: dict[tuple[str, ...], Any] = {}
        for name, (shape, dtype, _) in saved.items():
            leaf = re.fullmatch(r"\.(params|model_state|ema)((?:\['[^']*'\])+)", name)
            if leaf and (leaf[1] == "ema") == averaged:
                sides = tuple(int(side) for side in shape.split("x") if side)
                keys = (leaf[1], *re.findall(r"\['([^']*)'\]", leaf[2]))
                wanted[keys] = jax.ShapeDtypeStruct(sides, np.dtype(dtype), sharding=place)

        def name_of(path: Sequence[Any]) -> str:
            # As of a leaf of the state, which has attributes where there are keys here.
            return f".{path[0].key}{jax.tree_util.keystr(tuple(path[1:]))}"

        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            state = _loaded(path, unflatten_dict(wanted), saved, name_of)
        found = state["ema"] if averaged else {"params": state["params"], **state.get("model_state", {})}
        return jax.tree.map(np.asarray, found)

    def newest_variables(self) -> dict[str, Any]:
        """`variables` of the newest checkpoint that is whole. Raises ConfigError if there is none."""
        found = self._newest(self.variables)
        if found is None:
            raise ConfigError(f"{self.directory} has no checkpoint")
        return found[1]

    def restore_newest(self, abstract_state: Any) -> tuple[int, Any] | None:
        """(step, state) of the newest checkpoint that is whole; None if there is none at all.

        A damaged one is reported and removed. If all are damaged, raises ConfigError about the newest.
        """
        found = self._newest(lambda step: self.restore(step, abstract_state))
        if found is not None:
            for damaged in [step for step in self.steps() if step > found[0]]:
                self._checkpointer.delete(damaged)
        return found

    def _newest(self, read: Callable[[int], Any]) -> tuple[int, Any] | None:
        """The newest step that can be read, with what was read; passes over damaged ones, and tells them."""
        problems: list[ConfigError] = []
        for step in reversed(self.steps()):
            try:
                found = read(step)
            except _OtherModel:
                raise
            except ConfigError as error:
                problems.append(error)
            else:
                for problem in problems:
                    log.warning("%s; trying the one before it", problem)
                return step, found
        if problems:
            raise problems[0]
        return None

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turns what the system refuses, such as a full disk, into one line; other errors pass."""
        try:
            yield
        except Exception as error:
            code = error.errno if isinstance(error, OSError) else None
            if told := _SYSTEM_ERROR.search(str(error)):
                code = int(told[1])
            if code is None:
                raise
            # Orbax leaves what it had begun, of which Python would speak after our line.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            raise ConfigError(
                f"a checkpoint cannot be written to {self.directory}: {os.strerror(code)}; those before are whole"
            ) from error

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


def _loaded(path: Path, abstract: Any, saved: Mapping[str, Any], name_of: Callable[[Any], str]) -> Any:
    """The arrays of a checkpoint, checked against the sums that were saved with it under these names."""
    try:
        state = ocp.load(path.absolute(), abstract, checkpointable_name=_STATE)
    except Exception as error:  # Orbax raises many kinds for a damaged folder
        raise ConfigError(f"checkpoint {path} cannot be read: {_first_line(error)}") from error
    for place, leaf in jax.tree_util.tree_leaves_with_path(state):
        if _sums(leaf) != saved[name_of(place)]:
            raise ConfigError(f"checkpoint {path} is damaged: {name_of(place)} does not match its checksum")
    return state


def checksums(state: Any) -> dict[str, list[Any]]:
    """{name: [shape, dtype, crc32]} of every array of the state."""
    return {name: _sums(leaf) for name, leaf in _named_leaves(state)}


def _sums(leaf: Any) -> list[Any]:
    return [*_spec(leaf), zlib.crc32(_bytes(leaf))]


def _checksum(metadata: Mapping[str, Any]) -> int:
    """Of all entries but "checksum" itself, as JSON."""
    text = json.dumps({k: v for k, v in metadata.items() if k != "checksum"}, sort_keys=True)
    return zlib.crc32(text.encode())


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _spec(leaf: Any) -> tuple[str, str]:
    return "x".join(map(str, leaf.shape)), str(leaf.dtype)


def _bytes(leaf: Any) -> bytes | memoryview:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data


def _metrics(headline: float) -> dict[str, float | int]:
    """What Orbax keeps beside a checkpoint and compares."""
    return {"headline": headline, "checksum": zlib.crc32(repr(headline).encode())}


def _headline(metrics: Any) -> float:
    return float(metrics["headline"])


def _drop_damaged_metrics(directory: Path) -> None:
    """Removes metrics that are not what was written: Orbax would open none of the checkpoints, or keep the wrong one.

    The checkpoint itself stays, as one that was not evaluated.
    """
    for path in directory.glob("[0-9]*/metrics/metrics"):
        try:
            found = json.loads(path.read_text())
            whole = found == _metrics(found["headline"])
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole and path.parents[1].name.isdigit():
            log.warning("the metric of checkpoint %s is damaged; the checkpoint is kept", path.parents[1])
            shutil.rmtree(path.parent)


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
