"""Signals that ask a run to end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


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

    # Python calls handlers in its main thread only; elsewhere, as in a notebook's worker, nobody is asked to stop.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = ENDING if in_main else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
