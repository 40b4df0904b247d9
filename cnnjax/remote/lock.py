"""One machine at a time pushes to a mirror: a lock in the store, with its owner and a heartbeat.

A lock whose heart does not beat any more, told by the waiting machine's own clock, is taken over; one of a process that
has ended on this machine, at once. Where two machines take over at the same moment the later one wins, the other finds out
at its next look; manifests, each of a new number, keep them from mixing in any case.
"""

import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from cnnjax.remote.store import Store, StoreError
from cnnjax.runs.workdir import InUse

NAME = "lock.json"
BEAT = 15.0  # seconds between two signs of life
STALE = 75.0  # seconds without one after which the owner counts as dead
_LOOK = 3.0  # seconds between two looks at the lock of another
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Owner:
    """machine: boot and namespace of processes, which tell a machine from all others; process: its number and start."""

    key: str
    host: str
    pid: int
    machine: str
    process: str
    beat: int = 0

    @classmethod
    def of_this_process(cls) -> "Owner":
        pid = os.getpid()
        return cls(uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _process(pid))

    @property
    def has_ended(self) -> bool:
        """Whether it is known to: a process of this machine that is no more."""
        return bool(self.machine) and self.machine == _machine() and _process(self.pid) != self.process

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


class Lock:
    """Held from `take` to `release`. `lost` says who has it instead, as soon as that is found."""

    def __init__(self, store: Store):
        self._store, self._owner = store, Owner.of_this_process()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="mirror-heartbeat")
        self.lost = ""

    def take(self) -> None:
        """Raises InUse if another machine, or process, holds it and lives."""
        if not self._create():
            there = self._read()
            if there is not None and there.key != self._owner.key and not there.has_ended:
                self._watch(there)
            self._store.remove(NAME)
            if not self._create():
                raise InUse(f"mirror {self._store.url} is in use by {self._read() or 'another process'}")
        self._thread.start()

    def release(self) -> None:
        """Gives it back; as it is where that cannot be done, it goes stale."""
        self._released.set()
        try:
            if self._is_ours():
                self._store.remove(NAME)
        except StoreError as error:
            log.warning("%s: the lock of the mirror stays for %d seconds", error, STALE)

    def _watch(self, there: Owner) -> None:
        """Returns if the lock does not change for so long that its owner must be dead."""
        log.warning(
            "mirror %s is held by %s: waiting %d seconds for a sign of life", self._store.url, there, STALE
        )
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(_LOOK, STALE / 5))
            now = self._read()
            if now is None:  # given back
                return
            if now != there:
                raise InUse(f"mirror {self._store.url} is in use by {now}")

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                if not self._is_ours():
                    return
                self._owner = dataclasses.replace(self._owner, beat=self._owner.beat + 1)
                self._store.write(NAME, _text(self._owner))
            except StoreError as error:
                log.info("no sign of life: %s", error)  # pushing tells of it

    def _is_ours(self) -> bool:
        there = self._read()
        if there is not None and there.key != self._owner.key:
            self.lost = f"mirror {self._store.url} was taken over by {there}: nothing more is pushed"
        return not self.lost

    def _create(self) -> bool:
        return self._store.create(NAME, _text(self._owner))

    def _read(self) -> Owner | None:
        content = self._store.read(NAME)
        if content is None:
            return None
        try:
            return Owner(**json.loads(content))
        except (ValueError, TypeError):  # half written, or of another version
            return Owner(content.hex()[:64], "an unknown machine", 0, "", "")


def _text(owner: Owner) -> bytes:
    return json.dumps(dataclasses.asdict(owner)).encode()


def _machine() -> str:
    """Of this boot and namespace of processes; empty where the system does not tell, and no lock is known as dead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """Number and start of a process, which no later one shares; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{pid} {fields[19]}"
