"""Several processes as one run, through JAX's distributed runtime: how they start, agree and end.

All processes run the same program on the same workdir, which they must all see. Process 0 alone writes its small
files and speaks on stdout; checkpoints are written by all of them. A run of one process needs none of this.
"""

import atexit
import contextlib
import functools
import logging
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

from cnnjax.config import ConfigError
from cnnjax.runtime import slurm

TELL_AFTER = 15  # seconds of waiting for other processes
START_TIMEOUT = 300  # seconds in which all processes must have come
HEARTBEAT_TIMEOUT = 30  # seconds without a sign of life after which a process counts as dead
LOST = "another process of this run ended or does not answer; launch all of them again to go on"
# What the runtime, and the collectives of CPUs and GPUs, say when a peer has gone.
_SIGNS = re.compile(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|coordination", re.IGNORECASE)
# The runtime's own last words, followed by a stack trace: `LOST` stands for them.
_FATAL = re.compile(rb"Check failure stack trace|Terminating process because the JAX distributed service")
_CHATTER = re.compile(rb"coordination_service")
_GLOO = b"[Gloo]"  # one line for each of its connections
_MESSAGE = re.compile(rb"^[IWEF]\d{4} ")  # begins a message of the runtime, which may have several lines
# Messages that may turn out to be part of the same death, told by a thread that noticed it first.
_ALARM = re.compile(rb"^E\d{4} |^Traceback |^Exception in thread ")
_ENDED, _LOST_ANOTHER = b"\0", b"\1"  # the last byte to the child that passes on stderr
_several = False
_SECONDS_BETWEEN_QUESTIONS = 1.0
_MOST_CALLS = 100  # between two questions
_relay_child = 0  # the child that passes on stderr, if there is one


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes. Call once, before JAX computes anything.

    Args:
      coordinator: HOST:PORT of process 0, with `num_processes` and `process_id`, which Slurm tells, too; or all None
        where they are found (Slurm, Open MPI, Kubernetes, TPU).
    Raises:
      ConfigError: nothing is found, the numbers do not fit, or the others do not come within five minutes.
    """
    global _several
    found = _place(coordinator, num_processes, process_id)
    where = "" if found is None else f" at {found.coordinator}"
    if found is not None:
        _resolve(found.coordinator)
        if found.index == 0:
            _refuse_taken_port(found.coordinator)
    _speak_for_the_runtime()
    count = "all" if found is None else found.count
    timers = [
        threading.Timer(TELL_AFTER, _tell, [f"waiting for {count} processes{where}"]),
        threading.Timer(START_TIMEOUT, _give_up, [f"error: the processes did not find each other{where}"]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    import jax

    # Its handler of SIGTERM would take the place of ours, which saves a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        _initialize(found)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--distributed: no cluster was found ({error}); give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        raise ConfigError(f"the processes did not find each other: {str(error).splitlines()[0]}") from error
    finally:
        for timer in timers:
            timer.cancel()
    _several = jax.process_count() > 1
    if jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _initialize(task: slurm.Task | None) -> None:
    import jax

    initialize = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        initialization_timeout=START_TIMEOUT + 60,  # after which the runtime aborts the process
    )
    if task is None:
        initialize()
        return
    # JAX is to ask nobody: of a task of Slurm it would hide all devices but one.
    initialize(task.coordinator, task.count, task.index, task.devices, cluster_detection_method="deactivate")


def _place(coordinator: str | None, num_processes: int | None, process_id: int | None) -> slurm.Task | None:
    """Where this process stands, as given or as Slurm tells; None if JAX is to find it."""
    if coordinator is None and num_processes is None and process_id is None:
        return slurm.task()
    if coordinator is not None and num_processes is None and process_id is None and slurm.num_tasks():
        task = slurm.task()
        assert task is not None
        num_processes, process_id = task.count, task.index
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "give all of --coordinator=HOST:PORT, --num_processes=N and --process_id=I, or none"
        )
    if not re.fullmatch(r".+:\d+", coordinator) or int(coordinator.rpartition(":")[2]) > 65_535:
        raise ConfigError(f"--coordinator={coordinator}: expected HOST:PORT of process 0")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}")
    return slurm.Task(coordinator, num_processes, process_id, None)


def _resolve(coordinator: str) -> None:
    """Raises ConfigError if the name in HOST:PORT is none of a machine: the runtime would wait for minutes.

    In Kubernetes names come after what they name, so there they are waited for.
    """
    host = coordinator.rpartition(":")[0].strip("[]")
    patience = START_TIMEOUT if "KUBERNETES_SERVICE_HOST" in os.environ else 0
    end = time.monotonic() + patience
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ConfigError(
                    f"coordinator {coordinator}: {host} is not found ({error.strerror})"
                ) from error
            time.sleep(1)


def _refuse_taken_port(coordinator: str) -> None:
    """Raises ConfigError if process 0 could not listen there: the runtime would end in a segmentation fault."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ConfigError(f"coordinator {coordinator}: the port cannot be used ({error.strerror})") from error


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _give_up(message: str) -> None:
    """Ends the process, whose main thread waits in the runtime."""
    _hush()
    _tell(f"{message} within {START_TIMEOUT} seconds")
    os._exit(1)


def is_first() -> bool:
    """Whether this is the process that writes and speaks; true where there is one only."""
    import jax

    return jax.process_index() == 0


def wait(name: str) -> None:
    """Returns when all processes have come here."""
    if _several:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


class Agreement:
    """Asks all processes the same, about once a second: an answer waits for all work that is under way.

    In between nobody asks. How many calls that are is told from the slowest process, so all come to the same number.
    """

    def __init__(self) -> None:
        self._calls = self._left = 1
        self._since = time.monotonic()

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process, or False where it is not asked yet; all must call equally often."""
        if not _several:
            return flag
        self._left -= 1
        if self._left:
            return False
        flags, seconds = _gather(float(flag), (time.monotonic() - self._since) / self._calls)
        fitting = _SECONDS_BETWEEN_QUESTIONS / max(*seconds, 1e-3)
        self._calls = self._left = int(min(_MOST_CALLS, max(1.0, fitting)))
        self._since = time.monotonic()
        return max(flags) > 0


def _gather(*values: float) -> list[list[float]]:
    """Of each value those of all processes."""
    import numpy as np
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.asarray(values, np.float32))
    return np.asarray(gathered).reshape(-1, len(values)).T.tolist()


def is_loss_of_another(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, means that another process has gone."""
    chain: BaseException | None = error if _several else None
    while chain is not None and not _SIGNS.search(str(chain)):
        chain = chain.__cause__ or chain.__context__
    return chain is not None


def end() -> None:
    """Waits for the others, then leaves the run; what comes after is an ordinary exit."""
    if _several:
        import jax

        jax.distributed.shutdown()
    _hush()


def fail(message: str, status: int = 1) -> NoReturn:
    """Says one line and exits with this status; never waits for others, which notice it and end too."""
    _hush(_LOST_ANOTHER if LOST in message else _ENDED)
    print(message, file=sys.stderr, flush=True)
    if not _several:
        sys.exit(status)
    os._exit(status)


def crash() -> None:
    """Within several processes: shows the exception at hand and exits with status 1, without waiting for others."""
    if _several:
        traceback.print_exc()
        _hush()
        os._exit(1)


def _speak_for_the_runtime() -> None:
    """Lets a child process pass on what the runtime writes to stderr, and say `LOST` where the runtime aborts.

    The runtime ends a process from a thread of its own with a page of internals, and no handler in Python runs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    global _relay_child
    parent = os.getpid()
    read_end, write_end = os.pipe()
    _relay_child = os.fork()
    if _relay_child == 0:
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
    atexit.register(_hush)
    os.close(read_end)
    os.close(write_end)


def _hush(last: bytes = _ENDED) -> None:
    """Tells the child that this process ends as it should, or because it lost another; waits for its last line."""
    global _relay_child
    if _relay_child:
        child, _relay_child = _relay_child, 0
        sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError):  # whatever ended the child
            os.write(2, last)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


class _Filter:
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
        shown = b"".join(a for a in self._alarms if not (lost and _SIGNS.search(a.decode(errors="replace"))))
        self._alarms, self._what = [], "show"
        return shown

    def overdue(self) -> bytes:
        """The alarms that nothing has followed for so long that this process survives them."""
        late = self._alarms and time.monotonic() > self._held_since + HEARTBEAT_TIMEOUT
        return self.alarms() if late else b""


def _relay(source: int, parent: int) -> NoReturn:
    """Copies lines from `source` to stderr until a last byte or the parent's death, of which it tells."""
    rest, shown = b"", _Filter()
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
