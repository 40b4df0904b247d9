"""Signals that ask a run to end."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from cnnjax.config import Stopped
from cnnjax.runtime import processes

OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ENDING = (signal.SIGINT, *OF_SCHEDULERS)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """While active, signals set the event: those of a person (SIGINT, a second of which ends the process at once) and
    those of schedulers (SIGTERM, SIGUSR1, SIGUSR2), which may come several times for one reason."""
    asked = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.set()

    with _handled(ENDING, handle):
        yield asked


@contextlib.contextmanager
def leave_on_signal(message: str) -> Iterator[None]:
    """While active, and no `stop_on_signal` is, signals of schedulers end the program with one line and the status of
    `Stopped`: before there is a state to save, and after it is saved."""

    def handle(*_: object) -> None:
        for number in OF_SCHEDULERS:  # the next ones are for the same reason
            signal.signal(number, signal.SIG_IGN)
        processes.fail(message, Stopped.status)

    with _handled(OF_SCHEDULERS, handle):
        yield


@contextlib.contextmanager
def _handled(
    numbers: Sequence[signal.Signals], handle: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    # Python calls handlers in its main thread only; elsewhere, as in a notebook's worker, nobody is asked to stop.
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in numbers if in_main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
