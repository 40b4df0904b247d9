"""The last words of a process of several: one line where JAX's runtime aborts with a page of internals.

The runtime ends a process from a thread of its own, and no handler in Python runs; so a child process passes on what is
written to stderr, and speaks when its parent is gone.
"""

import atexit
import contextlib
import os
import re
import select
import signal
import sys
import time
from typing import NoReturn

HEARTBEAT_TIMEOUT = 30  # seconds without a sign of life after which a process counts as dead
LOST = "another process of this run ended or does not answer; launch all of them again to go on"
# What the runtime, and the collectives of CPUs and GPUs, say when a peer has gone.
SIGNS = re.compile(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|coordination", re.IGNORECASE)
# The runtime's own last words, followed by a stack trace: `LOST` stands for them.
_FATAL = re.compile(rb"Check failure stack trace|Terminating process because the JAX distributed service")
_CHATTER = re.compile(rb"coordination_service")
_GLOO = b"[Gloo]"  # one line for each of its connections
_MESSAGE = re.compile(rb"^[IWEF]\d{4} ")  # begins a message of the runtime, which may have several lines
# Messages that may turn out to be part of the same death, told by a thread that noticed it first.
_ALARM = re.compile(rb"^E\d{4} |^Traceback |^Exception in thread ")
_ENDED, _LOST_ANOTHER = b"\0", b"\1"  # the last byte to the child that passes on stderr
_child = 0  # that passes on stderr, if there is one


def begin() -> None:
    """Lets a child process pass on what the runtime writes to stderr, and say `LOST` where the runtime aborts.

    The runtime ends a process from a thread of its own with a page of internals, and no handler in Python runs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    global _child
    parent = os.getpid()
    read_end, write_end = os.pipe()
    _child = os.fork()
    if _child == 0:
        os.setsid()  # a Ctrl-C in the terminal is not for it
        # A scheduler's signals go to all processes of a job; this one ends with its parent.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        os.close(write_end)
        _relay(read_end, parent)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(write_end, 1)  # where Gloo tells of its connections
    os.dup2(write_end, 2)
    atexit.register(end)
    os.close(read_end)
    os.close(write_end)


def end(lost: bool = False) -> None:
    """Tells the child that this process ends as it should, or because it lost another; waits for its last line."""
    global _child
    if _child:
        child, _child = _child, 0
        sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError):  # whatever ended the child
            os.write(2, _LOST_ANOTHER if lost else _ENDED)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


class Filter:
    """Which of the lines on stderr a user sees, and when.

    An alarm is held back, for the end of the process may follow, of which one line tells. It is shown if the
    process lives on, or ends without another process having gone.
    """

    def __init__(self) -> None:
        self._fatal = False
        self._what = "show"  # what is done with the message at hand: show, drop or hold
        self._alarms: list[bytes] = []
        self._held_since = 0.0

    def lines(self, lines: list[bytes]) -> bytes:
        """What to show now of these lines."""
        shown = b""
        for line in lines:
            if line.startswith(_GLOO):
                continue
            self._fatal = self._fatal or bool(_FATAL.search(line))
            alarm = _ALARM.search(line)
            if self._fatal or _CHATTER.search(line):
                self._what = "drop"
            elif _MESSAGE.search(line) or (alarm and self._what != "hold"):
                self._what = "hold" if alarm else "show"
                if alarm:
                    self._alarms.append(b"")
                    self._held_since = time.monotonic()
            if self._what == "hold":
                self._alarms[-1] += line + b"\n"
            elif self._what == "show":
                shown += line + b"\n"
        return shown

    def alarms(self, lost: bool = False) -> bytes:
        """What was held back; if another process is known to have gone, without what only says so."""
        shown = b"".join(a for a in self._alarms if not (lost and SIGNS.search(a.decode(errors="replace"))))
        self._alarms, self._what = [], "show"
        return shown

    def overdue(self) -> bytes:
        """The alarms that nothing has followed for so long that this process survives them."""
        late = self._alarms and time.monotonic() > self._held_since + HEARTBEAT_TIMEOUT
        return self.alarms() if late else b""


def _relay(source: int, parent: int) -> NoReturn:
    """Copies lines from `source` to stderr until a last byte or the parent's death, of which it tells."""
    rest, shown = b"", Filter()
    while True:
        ready, _, _ = select.select([source], [], [], 0.5)
        chunk = os.read(source, 65536) if ready else b""
        *lines, rest = (rest + chunk).split(b"\n")
        ended = rest.endswith((_ENDED, _LOST_ANOTHER))
        os.write(2, shown.lines(lines) + shown.overdue())
        if ended:
            os.write(2, shown.alarms(lost=rest.endswith(_LOST_ANOTHER)))
            os._exit(0)
        if not chunk and os.getppid() != parent:
            os.write(2, shown.alarms(lost=True) + f"error: {LOST}\n".encode())
            os._exit(0)
