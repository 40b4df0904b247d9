"""A copy of a workdir in a store, pushed in the background while a run trains: what another machine goes on from.

A push takes a snapshot of the folder, copies what the store does not have yet, and writes the manifest last; what a kill
leaves of one is never seen. Of several processes the first one pushes, from the disk that they share.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cnnjax.config import ConfigError, Stopped, is_url
from cnnjax.remote import manifest as manifests
from cnnjax.remote.lock import Lock
from cnnjax.remote.manifest import Entry, Manifest, MovedOn
from cnnjax.remote.pull import CONFIG, pull
from cnnjax.remote.store import Store, StoreError, sha256
from cnnjax.runs.workdir import Workdir, write_atomically
from cnnjax.runtime import processes
from cnnjax.runtime.signals import stop_on_signal

OWN = ".mirror"  # folder in the workdir: what is on its way, and state.json
AT_THE_END = 90.0  # seconds in which a store that is down may come back before the run ends with an error
AT_A_SIGNAL = 15.0
_DELAYS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)  # seconds before a failed push is tried again
_LOOK = 0.1
log = logging.getLogger(__name__)


@contextlib.contextmanager
def attached(url: str | None, workdir: Workdir) -> Iterator[Callable[[int], None]]:
    """Holds the mirror at `url` for the workdir while the block runs, and pushes at its end, and whenever the block calls
    with the step of a checkpoint. Without a URL nothing of all this.

    A workdir without a run is filled from the mirror first. Raises ConfigError if the store cannot be used, another
    machine holds the mirror, or it holds another run, or a later state of this one, than the workdir; at the end, if
    the store is still down then.
    """
    if not url or not processes.is_first():
        if url:
            processes.wait("the mirror is pulled")
        yield lambda step: None
        return
    _check_apart(url, workdir)
    mirror = Mirror(Store(url), workdir)
    mirror.lock.take()
    try:
        mirror.begin()
        processes.wait("the mirror is pulled")
        try:
            yield mirror.push_soon
        except Stopped as stopped:
            if problem := mirror.finish(AT_A_SIGNAL):
                raise Stopped(f"{stopped}; the last states are here only: {problem}") from stopped
            raise
        except SystemExit:  # a signal after the last state was saved
            mirror.finish(AT_A_SIGNAL)
            raise
        except Exception:  # of the run: what there is of it is pushed, and what went wrong is told
            if problem := mirror.finish(AT_A_SIGNAL):
                log.warning("not pushed: %s", problem)
            raise
        if problem := mirror.finish(AT_THE_END):
            raise ConfigError(
                f"{problem}; the run is whole in {workdir.path}: launch again to push it"
            ) from problem
    finally:
        mirror.lock.release()
        mirror.leave()


class Mirror:
    """Pushes a workdir. `push_soon` asks for it and returns at once; `finish` waits for the last push."""

    def __init__(self, store: Store, workdir: Workdir):
        self.store, self.workdir, self.lock = store, workdir, Lock(store)
        self._own = workdir.path / OWN
        self._new = not workdir.path.exists()
        self._state = _State.read(self._own / "state.json")
        self._last: Manifest | None = None  # what the store holds
        self._known: dict[str, tuple[tuple[int, int], Entry]] = {}  # by path, with size and time of change
        self._wanted, self._ending = threading.Event(), threading.Event()
        self._step = 0  # of the checkpoint to wait for
        self._deadline = float("inf")
        self._problem: ConfigError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="mirror")

    def begin(self) -> None:
        """Pulls if the workdir has no run, else checks that it is what the mirror holds; then pushes are taken."""
        found = manifests.newest(self.store)
        if not self.workdir.has_run():
            with self.workdir.claim():
                self._note(found)  # first: as soon as there is a run it is known where it comes from
                found = pull(self.store, self.workdir.path, self._own / "pulled") or found
                self._note(found)
            if found is not None and self.workdir.has_run():
                print(f"pulled from mirror {self.store.url}: step {found.step:,}")
        elif found is None:
            self._note(None)
        elif not self._state.knows(found):
            raise ConfigError(
                f"mirror {self.store.url} holds a state (step {found.step:,}) that is not of workdir {self.workdir.path}: "
                "give an empty --workdir to go on from it, or another --mirror"
            )
        self._last = found
        self._remove_orphans()
        self._thread.start()

    def push_soon(self, step: int) -> None:
        """Pushes in the background, once the checkpoint of this step is written."""
        self._step = step
        self._wanted.set()

    def finish(self, patience: float) -> ConfigError | None:
        """Pushes a last time; returns what went wrong if that did not work for so many seconds. A signal shortens them."""
        self._deadline = time.monotonic() + patience
        self._ending.set()
        self._wanted.set()
        with stop_on_signal() as asked:
            while self._thread.is_alive():
                self._thread.join(_LOOK)
                if asked.is_set():
                    self._deadline = min(self._deadline, time.monotonic() + AT_A_SIGNAL)
                    asked.clear()
        return self._problem

    def leave(self) -> None:
        """Where no run came to be, nothing is left."""
        if not self.workdir.has_run():
            shutil.rmtree(self._own, ignore_errors=True)
            if self._new:
                shutil.rmtree(self.workdir.path, ignore_errors=True)

    def _work(self) -> None:
        """Of the thread: a push whenever one is wanted, again after a while if it fails, and one at the end."""
        failures = 0
        while True:
            self._wanted.wait()
            self._wanted.clear()
            ending = self._ending.is_set()
            if not ending:
                self._wait_for_checkpoint()
            try:
                self._push()
                self._problem, failures = None, 0
            except (StoreError, OSError) as error:
                self._problem = ConfigError(f"mirror {error}" if "mirror" not in str(error) else str(error))
                delay = 2.0 if ending else _DELAYS[min(failures, len(_DELAYS) - 1)]
                failures += 1
                if not ending or failures == 1:
                    log.warning("%s; tried again in %d seconds", self._problem, delay)
                self._ending.wait(delay) if not ending else time.sleep(min(delay, self._left()))
                self._wanted.set()
            except Exception as error:
                # another machine pushes, or what nobody thought of: nothing that time heals
                known = isinstance(error, ConfigError)
                self._problem = ConfigError(str(error) if known else f"mirror {self.store.url}: {error!r}")
                log.warning("%s", self._problem)
                return
            if ending and (self._problem is None or not self._left()):
                return

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _wait_for_checkpoint(self) -> None:
        """Orbax writes it under another name, in the background, and renames it."""
        while not self._ending.is_set() and max(map(int, self._checkpoints()), default=-1) < self._step:
            self._ending.wait(_LOOK)

    def _checkpoints(self) -> list[str]:
        folder = self.workdir.checkpoints
        return [path.name for path in folder.glob("*") if path.name.isdecimal()]

    def _push(self) -> None:
        staging = self._own / "push"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            self._copy_over(*self._snapshot(staging))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _copy_over(self, files: Mapping[str, Entry], staged: Mapping[str, Path]) -> None:
        """Pushes a snapshot: what is new of its files, then the manifest; then what no manifest names goes."""
        before, identity = self._last, self._state.workdir
        if CONFIG not in files or (before and (before.files, before.workdir) == (files, identity)):
            return
        self._check_lock()
        there = set(before.objects.values()) if before else set()
        manifest = Manifest((before.number if before else 0) + 1, identity, files)
        new = {name: staged[path] for path, name in manifest.objects.items() if name not in there}
        self.store.put(new)
        self._check_lock()
        manifests.commit(self.store, manifest)
        self._last = manifest
        self._note(manifest)
        if before is not None:
            gone = there - set(manifest.objects.values())
            self._remove([manifests.name_of(before.number), *gone])

    def _snapshot(self, staging: Path) -> tuple[dict[str, Entry], dict[str, Path]]:
        """The files of the workdir as they are now, and where a copy of each lies that stays so.

        Files of checkpoints never change and are linked; a checkpoint that is removed meanwhile is left out.
        """
        files: dict[str, Entry] = {}
        staged: dict[str, Path] = {}
        for paths in self._parts():
            names = {path.relative_to(self.workdir.path).as_posix(): path for path in paths}
            with contextlib.suppress(FileNotFoundError):
                files |= {name: self._stage(name, path, staging / name) for name, path in names.items()}
                staged |= {name: staging / name for name in names}
        return files, staged

    def _parts(self) -> Iterator[list[Path]]:
        """Files that are seen together or not at all: those of a checkpoint that is finished; else each alone. Hidden
        ones, which are on their way to be something, are no part of a run."""
        root = self.workdir.path
        for name in self._checkpoints():
            yield _files(self.workdir.checkpoints / name)
        for entry in sorted(root.iterdir()):
            if entry != self.workdir.checkpoints:
                yield from ([path] for path in _files(entry) if "/." not in f"/{path.relative_to(root)}")

    def _stage(self, name: str, path: Path, copy: Path) -> Entry:
        about = path.stat()
        stamp = about.st_size, about.st_mtime_ns
        copy.parent.mkdir(parents=True, exist_ok=True)
        linked = name.startswith("checkpoints/")
        try:
            os.link(path, copy) if linked else shutil.copyfile(path, copy)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(path, copy)
        known = self._known.get(name)
        if known is None or known[0] != stamp or not linked:
            known = self._known[name] = stamp, Entry(sha256(copy), copy.stat().st_size)
        return known[1]

    def _check_lock(self) -> None:
        if self.lock.lost:
            raise MovedOn(self.lock.lost)

    def _note(self, manifest: Manifest | None) -> None:
        newest = (manifest.number, manifest.workdir) if manifest else (0, "")
        self._state = dataclasses.replace(self._state, number=newest[0], pushed_by=newest[1])
        self._own.mkdir(parents=True, exist_ok=True)
        write_atomically(self._own / "state.json", json.dumps(dataclasses.asdict(self._state)) + "\n")

    def _remove_orphans(self) -> None:
        """Objects of a push that was killed before its manifest."""
        named = set(self._last.objects.values()) if self._last else set()
        self._remove([name for name in self.store.names(manifests.FILES) if name not in named])

    def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                self.store.remove(name)
            except StoreError as error:  # it costs space only, and goes at the next start
                log.info("%s stays: %s", name, error)
                return


@dataclasses.dataclass(frozen=True)
class _State:
    """Of a workdir: its identity, and the newest manifest that it pushed or was pulled from."""

    workdir: str
    number: int = -1
    pushed_by: str = ""

    @classmethod
    def read(cls, path: Path) -> "_State":
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls(uuid.uuid4().hex)

    def knows(self, manifest: Manifest) -> bool:
        """Whether it is that one, or the next of its own, which a kill kept from being noted."""
        known = (self.number, self.pushed_by), (self.number + 1, self.workdir)
        return (manifest.number, manifest.workdir) in known


def _files(path: Path) -> list[Path]:
    """A file, or all files below a folder that are there when it is looked at."""
    below = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    return [path] if path.is_file() else sorted(below)


def _check_apart(url: str, workdir: Workdir) -> None:
    """Raises ConfigError if a mirror that is a folder lies in the workdir, or the workdir in it."""
    if is_url(url) and not url.startswith("file://"):
        return
    there, here = Path(url.removeprefix("file://")).resolve(), workdir.path.resolve()
    if there == here or there in here.parents or here in there.parents:
        raise ConfigError(f"--mirror={url}: a mirror cannot lie in the workdir {workdir.path}, nor around it")
