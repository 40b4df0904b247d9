"""What Slurm tells a process in its environment: where it stands among the tasks of a step."""

import dataclasses
import os
import re
from collections.abc import Mapping

from cnnjax.config import ConfigError

_PORTS = range(61_440, 65_536)  # above those that Linux gives away by itself
_BETWEEN_STEPS = 1009  # ports, so that a step does not meet the next job


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the processes that `srun` starts together."""

    coordinator: str  # HOST:PORT on the first node, the same for all tasks of the step and of no other
    count: int
    index: int
    devices: tuple[int, ...] | None  # of this node those that are its own; None: all it sees


def num_tasks(environment: Mapping[str, str] = os.environ) -> int:
    """How many tasks the step of this process has; 0 outside of steps, such as in the script of a job."""
    return _number(environment, "SLURM_NTASKS") if _in_step(environment) else 0


def task(environment: Mapping[str, str] = os.environ) -> Task | None:
    """Of this process; None if it was not started by Slurm, or by Open MPI within a job of Slurm.

    Raises ConfigError in the script of a job, which is one process whatever the job has.
    """
    if "SLURM_JOB_ID" not in environment or _by_open_mpi(environment):
        return None
    if not _in_step(environment):
        job = environment["SLURM_JOB_ID"]
        raise ConfigError(
            f"--distributed: job {job} of Slurm runs this once; start it as srun python launch.py ... --distributed"
        )
    port = _number(environment, "JAX_COORDINATOR_PORT") or _port(environment)
    host = first_host(environment["SLURM_STEP_NODELIST"])
    count, index = num_tasks(environment), _number(environment, "SLURM_PROCID")
    return Task(f"{host}:{port}", count, index, _devices(environment))


def first_host(nodes: str) -> str:
    """The first name of a list of Slurm's, such as gpu[007-015,020],login: gpu007."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if not first:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodes}: a list of nodes was expected")
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", first[0])


def _in_step(environment: Mapping[str, str]) -> bool:
    """Open MPI starts its own processes within one task of a step."""
    told = "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment
    return told and not _by_open_mpi(environment)


def _by_open_mpi(environment: Mapping[str, str]) -> bool:
    return "OMPI_COMM_WORLD_RANK" in environment


def _port(environment: Mapping[str, str]) -> int:
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    return _PORTS[(job + step * _BETWEEN_STEPS) % len(_PORTS)]


def _devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The share of one of several tasks on a node that all see the same GPUs, as with --gpus-per-node."""
    gpus = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    here = _tasks_of_node(environment)
    if here < 2 or len(gpus) < 2:
        return None
    if len(gpus) % here:
        raise ConfigError(f"{here} tasks on a node of Slurm cannot share {len(gpus)} GPUs evenly")
    share = len(gpus) // here
    first = _number(environment, "SLURM_LOCALID") * share
    return tuple(range(first, first + share))


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    """Of SLURM_STEP_TASKS_PER_NODE, such as 4(x2),3: two nodes of four tasks and one of three."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _number(environment, "SLURM_NODEID")
    return counts[node] if node < len(counts) else 1


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    if not text.isdecimal():
        raise ConfigError(f"{name}={text}: a number was expected")
    return int(text)
