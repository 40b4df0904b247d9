"""A real Slurm of two virtual nodes on this machine, where its programs are installed."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
# The first node has the machine's name, where process 0 of a run listens; the other comes behind it in the alphabet.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=60
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=zz2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """What is asked of it, by the programs of Slurm."""

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def states(self, *jobs: str) -> list[str]:
        """Of the jobs that are still there, of an array each task."""
        command = ["squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%T"]
        return subprocess.run(command, capture_output=True, text=True).stdout.split()

    def hurry(self, job: str) -> None:
        """A job that was put back into the queue would wait for two minutes.

        A second must pass all the same: until then its nodes take it for the one that was ended."""
        if self.states(job) == ["PENDING"]:
            time.sleep(1.5)
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], capture_output=True)

    def preempt(self) -> None:
        """By a job of higher priority that wants all nodes, for a moment."""
        self.ask(
            "sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"
        )

    def wait_until(self, done, seconds: float = 900, hurry: str = "") -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, self.ask("squeue", "--all")
            if hurry:
                self.hurry(hurry)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root and apt-get install slurm-wlm munge: {', '.join(missing) or 'not root'}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(3)))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder / 'munge' / name}" for option, name in files.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        try:
            for command in (
                ["munged", "--force", *munge],
                ["slurmctld", "-f", str(conf)],
                *(["slurmd", "-f", str(conf), "-N", node] for node in (host, "zz2")),
            ):
                subprocess.run(command, check=True, capture_output=True)
            one = Cluster()
            one.wait_until(
                lambda: one.ask("sinfo", "--noheader", "--states=idle", "--format=%D")[:1] == "2", 60
            )
            yield one
        finally:
            stop(folder)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def stop(folder: Path) -> None:
    """Ends the jobs and the daemons, which wrote their own numbers."""
    subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], capture_output=True)
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    for _ in range(100):
        if not subprocess.run(["squeue", "--noheader"], capture_output=True).stdout:
            break
        time.sleep(0.1)
    for file in (*folder.glob("slurmd.*.pid"), folder / "slurmctld.pid", folder / "munge" / "pid"):
        if file.exists():
            os.kill(int(file.read_text()), signal.SIGTERM)
