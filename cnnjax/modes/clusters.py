"""--launcher: a mode as jobs of a cluster."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax.config import ConfigError
from cnnjax.modes.given import chosen_experiment, optional_workdir, without

FLAGS = flags.FLAGS
FIELDS = ("nodes", "gpus", "cpus", "time", "partition", "account", "line", "image", "volume", "tpu")
LAUNCHER = ("launcher", "dry_run", *(f"launcher.{name}" for name in FIELDS))
# Of what only one of the launchers has.
_ONLY = {
    "slurm": ("time", "partition", "account", "line"),
    "jobset": ("image", "volume", "tpu"),
}


def check_launcher() -> None:
    """Raises ConfigError for the first flag of a launcher that would have no effect."""
    if not FLAGS.launcher:
        for name in LAUNCHER:
            without(name, "no --launcher=slurm or jobset")
        return
    for launcher, names in _ONLY.items():
        if launcher != FLAGS.launcher:
            for name in names:
                without(f"launcher.{name}", f"--launcher={FLAGS.launcher}")
    for name in ("distributed", "coordinator", "num_processes", "process_id"):
        without(name, "--launcher, which sees to it for several --launcher.nodes")


def launch() -> None:
    """Writes what --launcher and --mode ask for, and submits it; with --dry_run only shows it."""
    if FLAGS.mode == "sweep":
        _launch_sweep()
    elif FLAGS.launcher == "slurm":
        _launch_run()
    else:
        _write_jobset()


def machines() -> Any:
    from cnnjax.clusters.job import Machines

    values: dict[str, Any] = {name: FLAGS[f"launcher.{name}"].value for name in FIELDS}
    return Machines(**{**values, "line": tuple(values["line"])})


def program() -> tuple[str, ...]:
    """How this program is started, in whatever folder."""
    if Path(sys.argv[0]).name == "__main__.py":
        return sys.executable, "-m", "cnnjax"
    return sys.executable, os.path.abspath(sys.argv[0])


def given_flags() -> tuple[str, ...]:
    """The flags of this command line but those of launchers, one word each."""
    found = [FLAGS[name] for name in sorted(FLAGS) if FLAGS[name].present and name not in LAUNCHER]
    return tuple(word for flag in found for word in flag.serialize().split("\n"))


def _run_job(program: tuple[str, ...]) -> Any:
    from cnnjax.clusters.job import Job
    from cnnjax.runs.workdir import Workdir

    workdir = optional_workdir()
    experiment = chosen_experiment(workdir)
    workdir = workdir or Workdir(Path("runs") / experiment.name)
    return Job(workdir.path.name, (*program, *given_flags()), Path.cwd(), workdir.path.absolute())


def _launch_run() -> None:
    from cnnjax.clusters import slurm

    job = _run_job(program())
    _submit(job, {"run.sh": slurm.run_script(job, machines())}, "the run")


def _launch_sweep() -> None:
    from cnnjax.clusters import slurm
    from cnnjax.clusters.job import Job
    from cnnjax.modes.runs import chosen_sweep
    from cnnjax.runs.workdir import Workdir
    from cnnjax.sweeps import space, sweep

    if FLAGS.launcher != "slurm":
        raise ConfigError(f"--launcher={FLAGS.launcher} is for one run; a sweep takes --launcher=slurm")
    at_a_time = int(FLAGS["sweep.jobs"].value or 0) if FLAGS["sweep.jobs"].present else 0
    if at_a_time == 0:
        without("sweep.jobs", "--launcher, whose last job writes the page")
    one = chosen_sweep(space.parse(FLAGS.sweep) if FLAGS.sweep else None)
    if FLAGS.dry_run:
        members = one.members()
    else:
        with Workdir(one.path).claim():
            members = sweep.open_sweep(one, FLAGS.yes)
    left = [member.workdir.path.name for member in members if not member.done]
    same = [FLAGS[name].serialize() for name in ("data_dir", "deterministic") if FLAGS[name].present]
    job = Job(one.path.name, (*program(), *same), Path.cwd(), one.path.absolute())
    page = (*program(), "--mode=sweep", f"--workdir={job.workdir}", "--sweep.jobs=0", *same)
    last = dataclasses.replace(job, name=f"{job.name}_page", command=page)
    scripts = {"page.sh": slurm.last_script(last, dataclasses.replace(machines(), nodes=1))}
    if left:
        scripts = {"runs.sh": slurm.array_script(job, machines(), left, at_a_time), **scripts}
    _submit(job, scripts, f"{len(left):,} of {len(members):,} runs, then the page")


def _submit(job: Any, scripts: dict[str, str], what: str) -> None:
    from cnnjax.clusters import slurm

    if FLAGS.dry_run:
        for name, text in scripts.items():
            print(f"{job.folder / name}:\n{text}")
        return
    ids = slurm.submit(job.folder, scripts)
    print(f"{what}: job {', then '.join(ids)}; scripts and logs are in {job.folder}")


def _write_jobset() -> None:
    from cnnjax.clusters import jobset
    from cnnjax.runs.workdir import write_atomically

    job = _run_job(("python", "-m", "cnnjax"))
    text = jobset.manifest(job, machines())
    if FLAGS.dry_run:
        print(text)
        return
    path = Path(f"{jobset.object_name(job.name)}.yaml")
    write_atomically(path, text)
    print(f"{path}: kubectl apply -f {path}")
