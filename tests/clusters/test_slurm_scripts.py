"""What --launcher=slurm writes and submits, with stand-ins for Slurm's programs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

RUN = ("--experiment=digits_lenet", "--model.name=mlp", "--train.steps=10")
SWEEP = ("--mode=sweep", "--experiment=digits_lenet", "--data.validation=0.2", "--sweep=train.seed=0:4")
SLURM = "--launcher=slurm"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs of Slurm that note how they were called, in calls.txt; `jobs.txt` there holds what squeue shows."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls, jobs = tmp_path / "calls.txt", tmp_path / "jobs.txt"
    jobs.touch()
    bodies = {
        "sbatch": f"echo $((100 + $(wc -l < {calls})))';cluster'",
        "squeue": f"cat {jobs}",
        "scontrol": "true",
        "srun": 'exit "${SRUN_STATUS:-0}"',
    }
    for name, body in bodies.items():
        program = folder / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> {calls}\n{body}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def run(script: Path, **variables: str) -> int:
    return subprocess.run(["bash", str(script)], env={**os.environ, **variables}).returncode


def test_a_dry_run_shows_the_script_and_does_nothing(launch, slurm, tmp_path):
    result = launch(*RUN, "--workdir=runs/a", SLURM, "--dry_run")
    assert result.code == 0 and "#SBATCH --job-name=a" in result.out and not slurm()
    assert launch(*SWEEP, "--workdir=runs/s", SLURM, "--dry_run").code == 0
    assert not (tmp_path / "runs").exists()


def test_a_run_on_several_nodes(launch, slurm, tmp_path):
    asked = (
        "nodes=2",
        "gpus=4",
        "cpus=16",
        "time=4:00:00",
        "partition=gpu",
        "account=us",
        "line=--mem=64G",
        "line=--constraint=a,b",
    )
    result = launch(*RUN, "--workdir=runs/a b", SLURM, *(f"--launcher.{one}" for one in asked))
    folder = tmp_path / "runs" / "a b" / "slurm"
    assert result.out == f"the run: job 101; scripts and logs are in {folder}\n"
    assert slurm() == [f"sbatch --parsable {folder / 'run.sh'}"]
    lines = (folder / "run.sh").read_text().splitlines()
    for option in (
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=16", "--time=4:00:00",
        "--partition=gpu", "--account=us", "--requeue", "--signal=USR1@120", "--mem=64G", "--constraint=a,b", "--open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH {option}" in lines
    assert run(folder / "run.sh") == 0
    (call,) = [line for line in slurm() if line.startswith("srun")]
    words = call.split(" ")
    assert words[1] == "-c16" and words[-1] == "--distributed" and set(RUN) < set(words)
    assert not {word for word in words if "launcher" in word}


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (75, True), (137, False)])
def test_a_run_that_has_more_to_do_is_put_back_into_the_queue(launch, slurm, tmp_path, status, again):
    launch(*RUN, "--workdir=a", SLURM)
    assert run(tmp_path / "a/slurm/run.sh", SRUN_STATUS=str(status), SLURM_JOB_ID="7") == status
    assert ("scontrol requeue 7" in slurm()) == again


def test_a_sweep_is_an_array_and_then_its_page(launch, slurm, tmp_path):
    result = launch(*SWEEP, "--workdir=s", SLURM, "--sweep.jobs=2", "--launcher.nodes=2")
    assert (
        result.out
        == f"4 of 4 runs, then the page: job 101, then 102; scripts and logs are in {tmp_path / 's/slurm'}\n"
    )
    runs, page = (tmp_path / "s/slurm" / name for name in ("runs.sh", "page.sh"))
    assert slurm() == [f"sbatch --parsable {runs}", f"sbatch --parsable --dependency=afterany:101 {page}"]
    assert "#SBATCH --array=0-3%2" in runs.read_text().splitlines()
    assert all(json.loads((tmp_path / f"s/runs/seed={i}/config.json").read_text()) for i in range(4))
    for task in range(4):
        assert run(runs, SLURM_ARRAY_TASK_ID=str(task)) == 0
        assert slurm()[-1].endswith(f" --distributed --workdir={tmp_path}/s/runs/seed={task}")
    assert "#SBATCH --nodes=1" in page.read_text().splitlines() and run(page) == 0
    assert slurm()[-1].endswith(f"--mode=sweep --workdir={tmp_path}/s --sweep.jobs=0")


def test_a_run_of_an_array_that_fails_is_known_to_the_page(launch, slurm, tmp_path):
    launch(*SWEEP, "--workdir=s", SLURM)
    script, failed = tmp_path / "s/slurm/runs.sh", tmp_path / "s/runs/seed=2/failed.json"
    variables = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "9"}
    assert run(script, SRUN_STATUS="75", **variables) == 75 and not failed.exists()
    assert run(script, SRUN_STATUS="1", **variables) == 1
    assert json.loads(failed.read_text()) == {"error": "exit status 1 in job 9: see log.txt"}
    assert run(script, **variables) == 0 and not failed.exists()


def test_a_sweep_goes_on_with_what_is_left(launch, slurm, tmp_path):
    launch(*SWEEP, "--workdir=s", SLURM)
    for seed in (0, 2):
        (tmp_path / f"s/runs/seed={seed}/report.html").touch()
    assert "2 of 4 runs" in launch("--mode=sweep", "--workdir=s", SLURM).out
    text = (tmp_path / "s/slurm/runs.sh").read_text()
    assert "  seed=1\n  seed=3\n)" in text and "#SBATCH --array=0-1\n" in text


def test_jobs_that_are_still_there_are_not_submitted_twice(launch, slurm, tmp_path):
    launch(*RUN, "--workdir=a", SLURM)
    (tmp_path / "jobs.txt").write_text("PENDING\n")
    result = launch(*RUN, "--workdir=a", SLURM)
    assert (
        result.code == 1
        and result.err == "error: job 101 of Slurm is at work here (pending); scancel 101 ends it\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--launcher.gpus=2",), "--launcher.gpus has no effect with no --launcher"),
        (("--dry_run",), "--dry_run has no effect with no --launcher"),
        ((SLURM, "--launcher.image=x"), "--launcher.image has no effect with --launcher=slurm"),
        ((SLURM, "--distributed"), "--distributed has no effect with --launcher"),
        ((SLURM, "--launcher.nodes=0"), "launcher.nodes"),
        ((SLURM, "--launcher.partition=a b"), "one word was expected"),
        ((SLURM, "--launcher.line=mem=64G"), "expected an option of sbatch, such as --mem=64G"),
        ((SLURM, "--launcher.line=--mem=1\nrm -rf x"), "expected an option of sbatch"),
        ((SLURM, "--train.stepz=1"), "train.stepz"),
        ((SLURM, "--mode=evaluate"), "--launcher has no effect with mode=evaluate"),
    ],
)
def test_what_cannot_be_meant_is_one_line(launch, slurm, flags, message):
    result = launch("--workdir=a", *flags)
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1 and not slurm()


def test_a_page_cannot_be_asked_for_twice(launch, slurm):
    result = launch(*SWEEP, "--workdir=s", SLURM, "--sweep.jobs=0")
    assert result.code == 1 and "whose last job writes the page" in result.err


def test_what_sbatch_says_is_shown(launch, slurm, tmp_path):
    (tmp_path / "bin/sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    result = launch(*RUN, "--workdir=a", SLURM)
    assert result.code == 1 and result.err.endswith("run.sh: sbatch: error: invalid partition\n")


def test_a_machine_without_slurm_is_told(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)
    result = launch(*RUN, "--workdir=a", SLURM)
    assert result.code == 1 and "sbatch is not here" in result.err and "--dry_run" in result.err
