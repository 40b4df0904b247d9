"""A sweep in its workdir: rows, failures, going on, the winner, and who may not."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import cnnjax as cj
from cnnjax.config import ConfigError
from cnnjax.runs.plan import Given
from cnnjax.sweeps import choice, processes, space
from cnnjax.sweeps.sweep import Sweep, open_sweep, read_sweep, run_sweep
from cnnjax.training import loop, step

pytestmark = pytest.mark.full  # most train in processes of their own
ROOT = Path(__file__).parents[2]
QUICK = (
    "--model.name=softmax_regression", "--data.limit=200", "--data.batch_size=20", "--train.steps=6",
    "--data.validation=0.2", "--train.evaluate_every=0.4",
)  # fmt: skip
BASE = cj.replace(
    cj.experiments.digits_lenet(),
    {"model.name": "softmax_regression", "data.limit": 200, "data.batch_size": 20, "train.epochs": 0.0,
     "train.steps": 6, "data.validation": 0.2},
)  # fmt: skip


def results(path):
    return json.loads((path / "results.json").read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three rates, of which the last diverges, with two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    command = [
        sys.executable, ROOT / "launch.py", "--mode=sweep", *QUICK, "--sweep.jobs=2", "--workdir=sweep",
        "--sweep=optimizer.learning_rate=0.0001,0.02,1e38", "--sweep=train.seed=0:2",
    ]  # fmt: skip
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return folder / "sweep", found.stdout


def test_each_combination_is_an_ordinary_run_and_a_failed_one_a_line_and_a_row(swept):
    path, out = swept
    rows = results(path)
    assert [row["run"] for row in rows] == [
        f"learning_rate={rate},seed={seed}" for rate in ("0.0001", "0.02", "1e+38") for seed in (0, 1)
    ]
    assert [row["state"] == "done" for row in rows] == [True] * 4 + [False] * 2
    assert "is not finite" in rows[4]["state"] and rows[4]["accuracy"] is None
    assert out.count("failed: ") == 2 and "learning_rate=1e+38,seed=1  failed: " in out
    run = cj.load_run(path / "runs" / "learning_rate=0.02,seed=1")
    assert run.experiment.train.seed == 1 and run.step == 6
    assert run.metrics["accuracy"] == rows[3]["accuracy"]


def test_a_run_of_a_sweep_equals_the_run_alone_bit_for_bit(swept, tmp_path):
    path, _ = swept
    alone = cj.replace(BASE, {"optimizer.learning_rate": 0.02, "train.seed": 1})
    command = [sys.executable, ROOT / "launch.py", *QUICK, "--optimizer.learning_rate=0.02", "--train.seed=1"]
    found = subprocess.run([*command, f"--workdir={tmp_path}"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    one, two = (cj.load_run(p) for p in (tmp_path, path / "runs" / "learning_rate=0.02,seed=1"))
    assert one.experiment.optimizer == two.experiment.optimizer == alone.optimizer
    for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(two.state.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_winner_has_the_best_mean_on_validation_data_and_is_tested_once(swept, monkeypatch):
    path, out = swept
    means = [np.mean([row["accuracy"] for row in results(path)[i : i + 2]]) for i in (0, 2)]
    assert means[1] > means[0]
    tested = json.loads((path / "test.json").read_text())
    assert list(tested) == ["learning_rate=0.02"] and len(tested["learning_rate=0.02"]) == 2
    # The test split of 40 digits, not the held out ones: what evaluation without held out data says.
    run = cj.load_run(path / "runs" / "learning_rate=0.02,seed=0")
    whole = cj.experiments.digits_lenet().data
    from cnnjax.data.sources import load

    test = load(cj.replace(whole, {"limit": 200})).test
    right = np.mean(
        [
            run.predict([image])[0].to_json()["class"] == str(label)
            for image, label in zip(test["image"], test["label"], strict=True)
        ]
    )
    assert right == pytest.approx(tested["learning_rate=0.02"][0]["accuracy"])
    assert "best: learning_rate=0.02" in out
    monkeypatch.setattr(choice, "_test", lambda *_: pytest.fail("the test set was used again"))
    sweep = read_sweep(path)
    assert choice.decide(sweep, sweep.members()).uses == 1


def test_a_sweep_answers_as_the_committee_of_its_runs(swept, launch):
    path, _ = swept
    result = launch("--mode=evaluate", f"--workdir={path}")
    assert result.code == 0, result.err
    members = [Path(line.split()[0]).name for line in result.out.splitlines()[1:5]]
    assert members == [f"learning_rate={rate},seed={seed}" for rate in ("0.0001", "0.02") for seed in (0, 1)]
    written = {file.name for file in (path / "evaluation").iterdir()}
    assert {"report.html", "mistakes.png", "predictions.csv"} <= written
    # Recorded it is judged by the whole test set, not by what was held out for validation.
    output = path.parent / "records.jsonl"
    recorded = launch("--mode=benchmark", f"--workdir={path}", f"--benchmark.output={output}")
    assert recorded.code == 0, recorded.err
    values = json.loads(output.read_text())["values"]
    alone = cj.load_run(path / "runs" / members[0]).evaluate({"data.validation": 0.0}).mean["accuracy"]
    assert len(values["accuracy"]) == 4 and values["accuracy"][0] == pytest.approx(alone, abs=1e-6)
    assert values["committee, wrong"][0] == round(200 * (1 - values["committee"][0]))
    tested = path.parent / "tested"
    seen = launch("--mode=evaluate", f"--workdir={path}", "--data.validation=0", f"--output={tested}")
    assert seen.code == 0, seen.err
    together = json.loads((tested / "metrics.json").read_text())["metrics"]["committee"]
    assert together["accuracy"] == pytest.approx(values["committee"][0], abs=1e-6)
    learned = launch("--mode=evaluate", f"--workdir={path}", "--data.validation=0.3")
    assert learned.code == 1 and "held out 0.2 of its training examples" in learned.err
    lasted = [
        json.loads((path / "runs" / m / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
        for m in members
    ]
    assert values["seconds, all members"][0] == pytest.approx(sum(lasted))  # none was interrupted
    begun = path.parent / "begun"
    begun.mkdir(exist_ok=True)
    (begun / "sweep.json").write_text((path / "sweep.json").read_text())
    refused = launch("--mode=evaluate", f"--workdir={begun}")
    assert refused.code == 1 and "no run of this sweep is done yet" in refused.err


def test_the_page_has_a_table_curves_and_a_plot_for_each_setting(swept):
    page = (swept[0] / "sweep.html").read_text()
    assert page.count('src="data:image/png') == 2  # curves and the rate
    for words in ("failed: ", "learning_rate=0.02", "validation data", "On the test set", "std over seeds"):
        assert words in page
    assert "http://" not in page and "https://" not in page


def test_another_sweep_a_run_and_a_missing_one_are_refused(swept, launch, tmp_path):
    path, _ = swept
    told = launch("--mode=sweep", *QUICK, f"--workdir={path}", "--sweep=train.seed=0:2")
    assert told.code == 1 and "holds another sweep" in told.err and "what it varies" in told.err
    words = ("--sweep=optimizer.learning_rate=0.0001,0.02,1e38", "--sweep=train.seed=0:2")
    told = launch("--mode=sweep", *QUICK, "--optimizer.ema=0.5", f"--workdir={path}", *words)
    assert told.code == 1 and "differs in optimizer.ema: 0.0 -> 0.5" in told.err
    run = path / "runs" / "learning_rate=0.02,seed=1"
    told = launch("--mode=sweep", *QUICK, f"--workdir={run}", *words)
    assert told.code == 1 and "holds a run, not a sweep" in told.err
    told = launch("--mode=sweep", f"--workdir={tmp_path}")
    assert told.code == 1 and "holds no sweep" in told.err
    assert launch("--mode=sweep", f"--workdir={path}", "--sweep.jobs=0").code == 0  # the page anew


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sweep=optimizer.rate=1",), "there is no such setting"),
        (("--sweep=train.log_every=1,2",), "no effect on the numbers"),
        (("--sweep=optimizer.nesterov=true",), "optimizer.nesterov has no effect with optimizer.name=adamw"),
        (("--sweep=optimizer.learning_rate=",), "there are no values"),
        (("--sweep=train.seed=0:1000", "--sweep=data.objects=1:1001"), "a sweep of 1,000,000 runs: with --yes"),
        (("--sweep=optimizer.learning_rate=0.1..1",), "needs --sweep.draws=N"),
        (("--sweep=train.seed=0:2", "--sweep.draws=3"), "no effect without a range"),
        (("--sweep=train.seed=0:2", "--train.seed=3"), "--train.seed has no effect beside --sweep"),
        (("--sweep=train.seed=0:2", "--data.validation=0"), "chosen on validation data, of which there is none: give --data.validation"),
        ((), "mode=sweep needs --workdir"),
        (("--workdir=none",), "workdir none holds no sweep: give --sweep=name=values"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(flags, message, launch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = launch("--mode=sweep", *QUICK, *flags)
    assert told.code == 1 and message in told.err and len(told.err.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_model_of_ones_own_is_swept_in_this_process(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
    y = np.arange(60, dtype=np.int32) % 2
    data = cj.Dataset.of_arrays(x, y, x[:20], y[:20])
    data = dataclasses.replace(data, validation=data.train.take(np.arange(20)))
    base = cj.replace(BASE, {"data.validation": 0.0})
    settings = {"optimizer.learning_rate": [0.01, 1e38]}
    good, bad = cj.sweep(base, settings, tmp_path / "own", data=data)
    assert good.done and good.headline is not None and "not finite" in bad.error
    again = cj.sweep(base, settings, tmp_path / "own", data=data, jobs=0)
    assert [one.done for one in again] == [True, False]
    with pytest.raises(ConfigError, match="of which there is none: give data with a validation split"):
        cj.sweep(base, settings, tmp_path / "new", data=dataclasses.replace(data, validation=None))


def test_settings_with_a_failed_run_do_not_win_and_seeds_are_spread(tmp_path):
    sweep = Sweep(tmp_path, BASE, space.parse(["optimizer.learning_rate=0.1,0.2", "train.seed=0:2"]))
    members = open_sweep(sweep)
    for member, accuracy in zip(members, (0.7, 0.8, 0.99, None), strict=True):
        if accuracy is not None:
            line = {"step": 6, "split": "test", "accuracy": accuracy}
            member.workdir.metrics.write_text(json.dumps(line) + "\n")
            (member.workdir.path / "report.html").write_text("")
    first, second = choice.groups(members)
    assert first.name == "learning_rate=0.1" and not second.whole
    assert first.mean == pytest.approx(0.75) and first.std == pytest.approx(0.1 / np.sqrt(2))


def test_places_share_the_gpus_that_are_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    found = [processes.environment(slot, 4) for slot in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["2", "5", "2", "5"]
    assert found[0]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.45"
    assert processes.environment(0, 1)["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in processes.environment(0, 2)


def start(folder, *flags, steps=6):
    command = [
        sys.executable,
        ROOT / "launch.py",
        "--mode=sweep",
        *QUICK[:3],
        *QUICK[4:],
        f"--train.steps={steps}",
    ]
    return subprocess.Popen(
        [*command, "--train.checkpoint_every=1", "--workdir=sweep", *flags], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(pattern, folder, process):
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_reaches_the_runs_which_save_and_the_sweep_says_that_there_is_more_to_do(tmp_path, number):
    flags = ("--sweep=train.seed=0:2", "--sweep.jobs=2")
    process = start(tmp_path, *flags, steps=200_000)
    wait_for("sweep/runs/*/checkpoints/[0-9]*", tmp_path, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "2 of 2 runs left; launch again to go on" in err.splitlines()[-1]
    assert out.count("stopped, to go on later") == 2
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in running
    assert os.listdir(tmp_path / "sweep" / "runs" / "seed=0" / "checkpoints")


GRID = ("--sweep=optimizer.learning_rate=0.001,0.003,0.01", "--sweep=train.seed=0:4")


def kill_twice(folder, *flags, after):
    """The sweep of GRID, of which only its own process is killed, once for each of the patterns `after`, as soon as a
    file is there; then to its end."""
    for pattern in after:
        process = start(folder, *GRID, *flags, steps=200)
        while not list(folder.glob(pattern)):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.kill()
        process.communicate()
    process = start(folder, *GRID, *flags, steps=200)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return folder / "sweep"


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twelve")
    reports = [f"sweep/runs/learning_rate=0.00{rate}/report.html" for rate in ("1,seed=1", "3,seed=0")]
    return kill_twice(folder, "--sweep.jobs=2", after=reports)


@pytest.mark.slow
def test_three_rates_and_four_seeds_killed_twice_finish_with_twelve_rows(twelve):
    rows = results(twelve)
    assert len(rows) == 12 and {row["state"] for row in rows} == {"done"}
    assert all(0 < row["accuracy"] <= 1 for row in rows)
    assert len(json.loads((twelve / "test.json").read_text())) == 1
    assert Given() == read_sweep(twelve).given


@pytest.mark.slow
@pytest.mark.parametrize("how", ["vmap", "one after the other, killed twice"])
def test_the_twelve_in_one_program_agree_with_the_processes(twelve, how, tmp_path, monkeypatch):
    if how == "vmap":  # as accelerators have it
        monkeypatch.setattr(loop, "compile_steps", functools.partial(step.compile_steps, unroll=False))
        sweep = read_sweep(twelve)
        base = cj.replace(sweep.base, {"train.checkpoint_every": 50})
        run_sweep(dataclasses.replace(sweep, base=base, path=tmp_path / "sweep"), together=12)
    else:
        flags = ("--sweep.together=12", "--train.checkpoint_every=5")
        steps = ("[1-9]*", "1[0-9][0-9]")
        kill_twice(tmp_path, *flags, after=[f"sweep/runs/*seed=3/checkpoints/{n}" for n in steps])
    alone, one = (read_sweep(path).members() for path in (twelve, tmp_path / "sweep"))
    assert len(one) == 12
    for a, b in zip(alone, one, strict=True):
        assert b.done and len(a.lines) == len(b.lines)
        for before, after in zip(a.lines, b.lines, strict=True):
            assert before["step"] == after["step"]
            np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-4)
        states = [cj.load_run(member.workdir.path).state.params for member in (a, b)]
        for x, y in zip(*map(jax.tree.leaves, states), strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-5)
    named = [list(json.loads((p / "test.json").read_text())) for p in (twelve, tmp_path / "sweep")]
    assert named[0] == named[1]
