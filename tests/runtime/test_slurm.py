"""What Slurm tells its tasks, as taken from a real one, and what the launcher makes of it."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.config import ConfigError
from cnnjax.runtime import processes, slurm

ROOT = Path(__file__).parents[2]
# Of `srun -N2 -n2 env`, the second task; and of a job's script.
STEP = {
    "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "vm,zz2", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
SCRIPT = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "vm,zz2"}
HOSTS = {
    "node001": "node001",
    "node001,host2": "node001",
    "node[001-0015],host2": "node001",
    "node[001,007-015],host2": "node001",
    "gpu-a[7]": "gpu-a7",
    "rack[1-2]n[03,5]-ib,login": "rack1n03-ib",
}


@pytest.fixture
def told(monkeypatch):
    """Sets the variables of Slurm for this process."""

    def tell(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


@pytest.mark.parametrize("nodes", HOSTS)
def test_the_first_host_of_a_list(nodes):
    assert slurm.first_host(nodes) == HOSTS[nodes]
    if shutil.which("scontrol"):
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
        if shown.returncode == 0:  # it asks for a configuration of Slurm
            assert shown.stdout.split()[0] == HOSTS[nodes]


def test_a_task_knows_its_place():
    task = slurm.task(STEP)
    port = task.coordinator.removeprefix("vm:")
    assert task == slurm.Task(f"vm:{port}", 2, 1, None) and port.isdecimal()
    assert slurm.task({**STEP, "JAX_COORDINATOR_PORT": "1234"}).coordinator == "vm:1234"
    assert slurm.task({}) is None and slurm.num_tasks({}) == 0
    assert slurm.num_tasks(STEP) == 2 and slurm.num_tasks(SCRIPT) == 0
    with pytest.raises(ConfigError, match="start it as srun"):
        slurm.task(SCRIPT)


def test_open_mpi_within_a_job_counts_its_own_processes():
    """Its helpers are tasks of Slurm, one for a node; so SLURM_PROCID is not that of the process."""
    environment = {**STEP, "OMPI_COMM_WORLD_RANK": "3"}
    assert slurm.task(environment) is None and slurm.num_tasks(environment) == 0


def test_steps_and_jobs_have_ports_of_their_own_that_linux_gives_to_nobody():
    ports = [
        slurm.task({**STEP, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).coordinator
        for job in range(5000, 5020)
        for step in range(4)
    ]
    assert len(set(ports)) == len(ports)
    assert all(60_999 < int(port.split(":")[1]) < 65_536 for port in ports)


@pytest.mark.parametrize(
    ("tasks", "gpus", "wanted"),
    [
        ("1(x2)", "0,1,2,3", None),  # one task of a node: all of them, where JAX by itself takes one
        ("4(x2)", "0,1,2,3", (2,)),  # all see all, as with --gpus-per-node
        ("2,4", "0,1,2,3,4,5,6,7", (4, 5)),
        ("4(x2)", "2", None),  # each sees its own, as with --gpus-per-task
        ("4(x2)", "", None),
    ],
)
def test_which_gpus_are_a_tasks_own(tasks, gpus, wanted):
    more = {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": gpus}
    assert slurm.task({**STEP, **more}).devices == wanted


def test_gpus_that_cannot_be_shared_evenly_are_told():
    more = {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(ConfigError, match="2 tasks on a node of Slurm cannot share 3 GPUs"):
        slurm.task({**STEP, **more})


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_PROCID"])
def test_what_is_no_number_is_told(name):
    with pytest.raises(ConfigError, match=f"{name}=many: a number was expected"):
        slurm.task({**STEP, name: "many"})


@pytest.mark.parametrize(
    ("told_by_mpi", "wanted"),
    [({}, None), ({"LOCAL_SIZE": "4"}, None), ({"LOCAL_SIZE": "1"}, [])],
)
def test_a_process_of_open_mpi_that_is_alone_on_its_node_uses_all_its_gpus(
    told, monkeypatch, told_by_mpi, wanted
):
    """JAX reads no named device as all of them, and without any word takes one, where Open MPI tells its number."""
    import jax

    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **more: calls.append(more))
    told({f"OMPI_COMM_WORLD_{name}": value for name, value in told_by_mpi.items()})
    processes._initialize(None)
    assert [call["local_device_ids"] for call in calls] == [wanted]


def test_a_coordinator_alone_takes_the_counts_of_slurm(told):
    told(STEP)
    assert processes._place("other:1234", None, None) == slurm.Task("other:1234", 2, 1, None)
    assert processes._place("other:1234", 3, 2) == slurm.Task("other:1234", 3, 2, None)


def test_a_script_without_srun_is_told_so(launch, told):
    told(SCRIPT)
    result = launch("--distributed")
    assert result.code == 1 and result.err.startswith(
        "error: --distributed: job 1234 of Slurm runs this once"
    )
    assert len(result.err.splitlines()) == 1


def test_several_tasks_that_train_alone_are_asked_whether_that_is_meant(launch, told, caplog):
    told(STEP)
    launch("--experiment=no_such_one")
    assert "one of 2 tasks of Slurm, and trains alone: did you mean --distributed?" in caplog.text


def test_a_first_node_that_is_not_found_is_told_at_once(launch, told):
    told({**STEP, "SLURM_STEP_NODELIST": "no-such-host.invalid"})
    result = launch("--distributed")
    assert result.code == 1 and "no-such-host.invalid is not found" in result.err
    assert len(result.err.splitlines()) == 1


LEAVE = """
import signal, sys
from cnnjax.runtime import signals
with signals.leave_on_signal("error: stopped"):
    try:
        with signals.stop_on_signal() as stopped:
            signal.raise_signal(int(sys.argv[1]))
            print(stopped.is_set())
        signal.raise_signal(int(sys.argv[1]))
        print("too late")
    finally:
        signal.raise_signal(int(sys.argv[1]))
        print("cleaned up")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_before_and_after_training_signals_leave_with_one_line_and_the_status_of_more_to_do(number):
    command = [sys.executable, "-c", LEAVE, str(int(number))]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout, found.stderr) == (75, "True\ncleaned up\n", "error: stopped\n")
