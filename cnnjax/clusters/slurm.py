"""Scripts of Slurm: one for a run on any number of nodes, and an array of a sweep's runs.

A run that is preempted, or comes near its limit of time, saves and ends with status 75; its script then puts the job
into the queue again.
"""

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cnnjax.clusters.job import Job, Machines, one_a_line
from cnnjax.config import ConfigError, Stopped
from cnnjax.runs.workdir import write_atomically

_SECONDS_TO_SAVE = 120  # before the limit of time
_IDS = "jobs.txt"


def run_script(job: Job, machines: Machines) -> str:
    """Of one run: a task on each node, which uses all the GPUs that the job has there."""
    head = _head(job.name, machines, [_output(job, "log.txt")])
    return f"""{head}
cd {shlex.quote(str(job.directory))}
{_srun(_distributed(job.command, machines), machines)}
status=$?
{_again()}
exit $status
"""


def array_script(job: Job, machines: Machines, names: Sequence[str], at_a_time: int = 0) -> str:
    """Of runs in folders `names` below runs/ of the workdir, each trained from its config.json.

    at_a_time: how many of them; 0: as many as the cluster likes.
    """
    limit = f"%{at_a_time}" if at_a_time else ""
    head = _head(job.name, machines, [f"--array=0-{len(names) - 1}{limit}", _output(job, "log.txt")])
    listed = "\n".join(f"  {shlex.quote(name)}" for name in names)
    return f"""{head}
runs=(
{listed}
)
run={shlex.quote(str(job.workdir / "runs"))}/${{runs[$SLURM_ARRAY_TASK_ID]}}
exec >> "$run/log.txt" 2>&1

cd {shlex.quote(str(job.directory))}
{_srun(_distributed(job.command, machines), machines)} \\
    --workdir="$run"
status=$?
{_again()}
if [ $status = 0 ]; then rm -f "$run/failed.json"; fi
if [ $status != 0 ] && [ $status != {Stopped.status} ]; then
  echo "{{\\"error\\": \\"exit status $status in job $SLURM_JOB_ID: see log.txt\\"}}" > "$run/failed.json"
fi
exit $status
"""


def last_script(job: Job, machines: Machines) -> str:
    """Of what comes after an array: its page."""
    head = _head(job.name, machines, [_output(job, "page.txt")])
    return f"{head}\ncd {shlex.quote(str(job.directory))}\n{_srun(job.command, machines)}\n"


def submit(folder: Path, scripts: dict[str, str]) -> list[str]:
    """Writes scripts, by their names, and gives them to sbatch, each to begin when the one before has ended.

    Returns the numbers of the jobs, which are kept in the folder. Raises ConfigError if sbatch refuses one, or if
    jobs that were submitted from here are still there.
    """
    _refuse_second(folder / _IDS)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        write_atomically(folder / name, text)
    ids: list[str] = []
    for name in scripts:
        after = [f"--dependency=afterany:{ids[-1]}"] if ids else []
        said = _ask("sbatch", "--parsable", *after, str(folder / name))
        ids.append(said.split(";")[0].strip())
        write_atomically(folder / _IDS, "\n".join(ids) + "\n")
    return ids


def _refuse_second(file: Path) -> None:
    if not file.exists():
        return
    for job in file.read_text().split():
        # Of a job that is long gone Slurm says that its number is invalid.
        found = _run("squeue", "--noheader", f"--jobs={job}", "--format=%T")
        if found.returncode == 0 and found.stdout.strip():
            state = found.stdout.split()[0].lower()
            raise ConfigError(f"job {job} of Slurm is at work here ({state}); scancel {job} ends it")


def _ask(*command: str) -> str:
    found = _run(*command)
    if found.returncode:
        why = " ".join(found.stderr.split()) or f"exit status {found.returncode}"
        raise ConfigError(f"{command[0]} refused {command[-1]}: {why}")
    return found.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{command[0]} is not here: --launcher=slurm is for a machine of a Slurm cluster; "
            "--dry_run shows the script") from error  # fmt: skip


def _head(name: str, machines: Machines, own: Sequence[str]) -> str:
    asked = [
        shlex.quote(f"--job-name={name}"),
        *own,
        "--open-mode=append",
        f"--nodes={machines.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={machines.gpus}" if machines.gpus else "",
        f"--cpus-per-task={machines.cpus}" if machines.cpus else "",
        f"--time={machines.time}" if machines.time else "",
        f"--partition={machines.partition}" if machines.partition else "",
        f"--account={machines.account}" if machines.account else "",
        "--requeue",
        f"--signal=USR1@{_SECONDS_TO_SAVE}",
        *machines.line,
    ]
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {line}" for line in asked if line), ""])


def _output(job: Job, name: str) -> str:
    """In a name of a log Slurm replaces what follows a percent sign."""
    return shlex.quote(f"--output={job.folder / name}".replace("%", "%%"))


def _srun(command: Sequence[str], machines: Machines) -> str:
    """It does not take the cores of a task from its job by itself."""
    return one_a_line(["srun", *([f"-c{machines.cpus}"] if machines.cpus else []), *command])


def _distributed(command: Sequence[str], machines: Machines) -> list[str]:
    return [*command, *(["--distributed"] if machines.nodes > 1 else [])]


def _again() -> str:
    return f"""# {Stopped.status}: saved, and there is more to do.
if [ $status = {Stopped.status} ]; then scontrol requeue "$SLURM_JOB_ID"; fi"""
