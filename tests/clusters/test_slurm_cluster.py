"""On a real Slurm: runs that are preempted, put back into the queue and told of their end come to the same last bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--experiment=digits_lenet", "--model.name=mlp", "--data.limit=100", "--data.batch_size=20", "--train.log_every=1",
    "--optimizer.schedule=constant", "--optimizer.warmup=0", "--train.evaluate_every=500",
)  # fmt: skip
TIMES = ("seconds", "images_per_second")
PREEMPTIONS = int(os.environ.get("CNNJAX_PREEMPTIONS", "20"))

pytestmark = pytest.mark.slow


def launch(*flags: str) -> str:
    done = subprocess.run([sys.executable, str(ROOT / "launch.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(workdir: Path, *flags: str) -> list[str]:
    """The numbers of its jobs."""
    launch(*flags, f"--workdir={workdir}", "--launcher=slurm")
    return (workdir / "slurm" / "jobs.txt").read_text().split()


def result(workdir: Path) -> tuple[list[dict], dict]:
    """All that a run measured but the time it took, and the checksums of all that its last checkpoint holds."""
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in Workdir(workdir).read_metrics()]
    with CheckpointStore(workdir / "checkpoints") as store:
        return lines, store.describe()["checksums"]


def last_step(workdir: Path) -> int:
    return max((line["step"] for line in Workdir(workdir).read_metrics()), default=0)


def finished(workdir: Path) -> bool:
    return (workdir / "report.html").exists()


def test_two_nodes_preempted_again_and_again_come_to_the_same_last_bit(cluster, tmp_path):
    """Whenever it has made a few steps: by a job of higher priority, by its owner, or told of its end by USR1 or TERM.
    With a checkpoint at every fifth step that is in the middle of steps and in the middle of saving."""
    flags = (*FLAGS, f"--train.steps={150 * PREEMPTIONS}", "--train.checkpoint_every=5", "--launcher.nodes=2")
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    (job,) = submit(calm, *flags)
    cluster.wait_until(lambda: finished(calm), hurry=job)
    (job,) = submit(disturbed, *flags)
    disturb = (
        cluster.preempt,
        lambda: cluster.ask("scontrol", "requeue", job),
        lambda: cluster.ask("scancel", "--signal=USR1", job),
        lambda: cluster.ask("scancel", "--signal=TERM", job),
    )
    log = disturbed / "slurm" / "log.txt"
    for turn in range(PREEMPTIONS):
        seen, said = last_step(disturbed) + turn % 4, 2 * turn + 1
        cluster.wait_until(lambda seen=seen: last_step(disturbed) > seen, hurry=job)
        assert not finished(disturbed), "this machine is too fast for so few steps"
        disturb[turn % 4]()
        cluster.wait_until(lambda said=said: log.read_text().count("stopped by a signal") > said)
        cluster.wait_until(lambda: cluster.states(job) == ["PENDING"])
    cluster.wait_until(lambda: finished(disturbed), hurry=job)
    said = log.read_text()
    assert said.count("stopped by a signal") == 2 * PREEMPTIONS and "Traceback" not in said
    assert said.count("going on from step") == PREEMPTIONS
    assert result(disturbed) == result(calm)


def test_an_array_of_four_of_which_two_are_disturbed(cluster, tmp_path):
    flags = ("--mode=sweep", *FLAGS, "--train.steps=800", "--data.validation=0.2", "--sweep=train.seed=0:4")
    array, page = submit(tmp_path / "s", *flags)
    runs = [tmp_path / "s" / "runs" / f"seed={seed}" for seed in range(4)]
    cluster.wait_until(lambda: last_step(runs[0]) > 3 and last_step(runs[1]) > 3)
    cluster.ask("scontrol", "requeue", f"{array}_0")
    cluster.ask("scancel", "--signal=USR2", f"{array}_1")
    for task in (0, 1):
        log = runs[task] / "log.txt"
        cluster.wait_until(lambda log=log: "going on from step" in log.read_text(), hurry=f"{array}_{task}")
    cluster.wait_until(lambda: (tmp_path / "s" / "sweep.html").exists() and not cluster.states(page))
    assert all(map(finished, runs))
    assert "best: " in (tmp_path / "s" / "slurm" / "page.txt").read_text()
    for run in runs:
        alone = tmp_path / run.name
        alone.mkdir()
        (alone / "config.json").write_text((run / "config.json").read_text())
        launch(f"--workdir={alone}")
        assert result(run) == result(alone)


def test_two_steps_of_one_job_at_once(cluster, tmp_path):
    command = f"srun --overlap -N2 -n2 {sys.executable} {ROOT / 'launch.py'} {' '.join(FLAGS)} --train.steps=20 --distributed"
    script = tmp_path / "two.sh"
    lines = [f"{command} --workdir={tmp_path}/{name} & jobs+=($!)" for name in "ab"]
    ends = ["for job in ${jobs[@]}; do wait $job || exit 1; done"]
    script.write_text("\n".join(["#!/bin/bash", "#SBATCH -N2", *lines, *ends]))
    cluster.ask("sbatch", "--wait", f"--output={tmp_path}/log.txt", str(script))
    assert result(tmp_path / "a") == result(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20
