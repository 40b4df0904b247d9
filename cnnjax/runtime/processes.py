"""Several processes as one run, through JAX's distributed runtime: how they start, agree and end.

All processes run the same program on the same workdir, which they must all see. Process 0 alone writes its small
files and speaks on stdout; checkpoints are written by all of them. A run of one process needs none of this.
"""

import functools
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

from cnnjax.config import ConfigError
from cnnjax.runtime import last_words, slurm
from cnnjax.runtime.last_words import HEARTBEAT_TIMEOUT, LOST, SIGNS

TELL_AFTER = 15  # seconds of waiting for other processes
START_TIMEOUT = 300  # seconds in which all processes must have come
_several = False
_SECONDS_BETWEEN_QUESTIONS = 1.0
_MOST_CALLS = 100  # between two questions


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
    last_words.begin()
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
    # By itself JAX would take the one GPU of the process's number on its node, and hide the others.
    if task is None:
        alone = (
            os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" and "JAX_LOCAL_DEVICE_IDS" not in os.environ
        )
        initialize(local_device_ids=[] if alone else None)  # none named: all
        return
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
    last_words.end()
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
    while chain is not None and not SIGNS.search(str(chain)):
        chain = chain.__cause__ or chain.__context__
    return chain is not None


def end() -> None:
    """Waits for the others, then leaves the run; what comes after is an ordinary exit."""
    if _several:
        import jax

        jax.distributed.shutdown()
    last_words.end()


def fail(message: str, status: int = 1) -> NoReturn:
    """Says one line and exits with this status; never waits for others, which notice it and end too."""
    last_words.end(lost=LOST in message)
    print(message, file=sys.stderr, flush=True)
    if not _several:
        sys.exit(status)
    os._exit(status)


def crash() -> None:
    """Within several processes: shows the exception at hand and exits with status 1, without waiting for others."""
    if _several:
        traceback.print_exc()
        last_words.end()
        os._exit(1)
