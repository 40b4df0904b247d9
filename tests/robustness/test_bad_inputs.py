"""Each bad input of the table gets its documented result, or one clear line: nothing executed, nothing half-written.

Those of the table are run in this process, some in processes of their own too. With CNNJAX_RECORDS=results.jsonl what
was tried is recorded there, and in RESULTS.md beside it.
"""

import collections
import os
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import table
from absl.testing import flagsaver

import launch as launcher
from cnnjax.benchmarks import records

TRAIN = "--model.name=softmax_regression --data.limit=20 --data.batch_size=10 --train.steps=2 --train.checkpoint_every=0.5"
PARAMETERS = [pytest.param(subject, case, id=f"{subject}-{case.name}") for subject, case in table.CASES]
ONE_LINE = [parameter for parameter in PARAMETERS if isinstance(parameter.values[1].expect, str)]
AS_PROCESSES = (
    "flags-unknown_flag", "images-tiff_cut_prepared", "annotations-voc_billion_laughs", "checkpoints-all_without_arrays",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of softmax regression on digits, with a checkpoint of step 1 and one of step 2."""
    workdir = tmp_path_factory.mktemp("trained")
    command = ["launch.py", *TRAIN.split(), f"--workdir={workdir}"]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.setattr(sys, "argv", command)
        launcher.main(launcher.parse_flags(command))
    return workdir


@pytest.fixture(scope="module")
def tally():
    """Counts the inputs of each subject that got what is documented, and records them if asked to."""
    tried, good = collections.Counter(), collections.Counter()
    yield tried, good
    path = os.environ.get("CNNJAX_RECORDS")
    if path:
        command = f"CNNJAX_RECORDS={path} python -m pytest tests/robustness/test_bad_inputs.py"
        values = {"tried": [tried.total()], "with the documented result": [good.total()]}
        values |= {f"of {subject}": [count] for subject, count in good.items()}
        records.append(records.make_record("bad inputs", "table of bad inputs", values, command), Path(path))


@pytest.fixture
def place(request, tmp_path):
    """Makes the folder of a case: a folder in another one, so that what is written above it is seen."""

    def make(case):
        folder = tmp_path / "above" / "here"
        folder.mkdir(parents=True)
        if case.run:
            shutil.copytree(request.getfixturevalue("trained"), folder / "run")
        case.make(folder)
        return folder

    return make


def contents(folder):
    """What the files below a folder hold; a claimed workdir leaves an empty lock, which is no result."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}


def check_one_line(case, code, err):
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert [part for part in case.expect.split(" ... ") if part not in line] == []


# Orbax leaves its other reads unfinished when one of them fails.
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("subject", "case"), PARAMETERS)
def test_bad_input(subject, case, place, launch, tmp_path, monkeypatch, caplog, tally):
    tried, good = tally
    folder = place(case)
    tried[subject] += 1
    monkeypatch.chdir(folder)
    before = contents(tmp_path)
    result = launch(*shlex.split(case.flags))
    # on stderr outside of pytest
    result.err += "".join(f"{record.getMessage()}\n" for record in caplog.records)
    after = contents(tmp_path)
    if isinstance(case.expect, str):
        check_one_line(case, result.code, result.err)
        assert after == before
    else:
        assert result.code == 0, result.err
        changed = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
        written = ("above/here/out", "above/here/run/", "above/here/new/")
        assert all(name.startswith(written) for name in changed)
        case.expect(folder, result)
    good[subject] += 1


def run_as_process(case, folder, tmp_path):
    before = contents(tmp_path)
    command = [sys.executable, launcher.__file__, *shlex.split(case.flags)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    check_one_line(case, result.returncode, result.stderr)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("subject", "case"), [parameter for parameter in ONE_LINE if parameter.id in AS_PROCESSES]
)
def test_bad_input_of_a_process(subject, case, place, tmp_path):
    run_as_process(case, place(case), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "case"), ONE_LINE[::9])
def test_every_ninth_bad_input_of_a_process(subject, case, place, tmp_path):
    run_as_process(case, place(case), tmp_path)


def test_the_table_is_as_long_as_it_should_be():
    assert len({parameter.id for parameter in PARAMETERS}) == len(PARAMETERS) >= 150
