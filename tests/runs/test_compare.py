"""Runs side by side: what their workdirs hold, and what is refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from cnnjax import config
from cnnjax.config import Experiment
from cnnjax.runs import compare
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir


def run_of(path, accuracies, classes=("a", "b"), evaluated=200, **changes):
    """A workdir as training leaves it: two processes, an evaluation each 10 steps; without weights that mean anything."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    experiment = config.replace(
        Experiment(), {"model.name": "softmax_regression", "data.name": "synthetic", **changes}
    )
    workdir = Workdir(path)
    with workdir.claim():
        workdir.write_config(experiment)
        lines = []
        for i, accuracy in enumerate(accuracies, start=1):
            seconds = 2.0 * i if i < 3 else 1.5 * (i - 2)  # the second process counts anew
            lines.append({"step": 10 * i - 5, "split": "train", "loss": 2.0 / i, "seconds": seconds - 0.5})
            lines.append(
                {"step": 10 * i, "split": "test", "loss": 1.0 / i, "accuracy": accuracy, "seconds": seconds}
            )
        workdir.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        about = {
            "experiment": dataclasses.asdict(experiment), "classes": list(classes), "image_shape": [8, 8, 1],
            "data": {"train": 50, "test": evaluated, "targets": 1, "means": [1.0]},
        }  # fmt: skip
        with CheckpointStore(workdir.checkpoints) as store:
            store.save(10 * len(accuracies), {"x": np.zeros(1)}, None, about)
    return str(path)


@pytest.fixture
def two(tmp_path):
    a = run_of(tmp_path / "a", [0.5, 0.8, 0.7, 0.75])
    b = run_of(tmp_path / "b", [0.6, 0.9], optimizer__learning_rate=0.5, train__seed=3)
    return a, b


def test_one_table_and_one_figure(launch, two, tmp_path):
    out = tmp_path / "out"
    result = launch("--mode=compare", f"--workdirs={','.join(two)}", f"--output={out}")
    assert result.code == 0, result.err
    with open(out / "comparison.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (
        first["run"] == two[0]
        and first["optimizer.learning_rate"] != second["optimizer.learning_rate"] == "0.5"
    )
    assert (first["train.seed"], second["train.seed"]) == ("0", "3")
    assert int(first["parameters"]) == 8 * 8 * 2 + 2
    assert (first["accuracy"], first["loss"], first["step"]) == ("0.75", "0.25", "40")
    assert (first["best accuracy"], first["at step"]) == ("0.8", "20")
    assert float(first["seconds"]) == 4 + 3 and float(second["seconds"]) == 4  # of both processes
    # 150 of 200, Clopper and Pearson: from tables
    low, high = map(float, first["accuracy: 95 % interval"].split(" - "))
    binomtest = pytest.importorskip("scipy.stats").binomtest
    assert (low, high) == pytest.approx(binomtest(150, 200).proportion_ci(method="exact"), abs=1e-4)
    assert two[0] in result.out and "0.75" in result.out and "comparison.html" in result.out
    assert (out / "curves.png").stat().st_size > 5000
    page = (out / "comparison.html").read_text()
    assert page.count("<tr>") == 3 and "200 examples evaluated" in page and "Configuration of" in page


def test_the_figure_has_a_curve_for_each_run(two):
    runs = compare.read_all(two)
    figure = compare.compared_curves({one.name: one.lines for one in runs}, "accuracy").figure
    loss, accuracy = figure.axes
    assert [line.get_xydata().tolist() for line in accuracy.lines] == [
        [[10, 0.5], [20, 0.8], [30, 0.7], [40, 0.75]], [[10, 0.6], [20, 0.9]],
    ]  # fmt: skip
    assert [line.get_xdata().tolist() for line in loss.lines] == [[5, 15, 25, 35], [5, 15]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "points", "data__name": "figures", "model__name": "point_net"}, "task=points there, classification here"),
        ({"data__name": "mnist"}, "data.name='mnist' there, 'synthetic' here"),
        ({"classes": ("a", "c")}, "it has other classes"),
        ({"data__validation": 0.1}, "data.validation=0.1 there, 0.0 here: other examples are evaluated"),
        ({"evaluated": 100}, "100 examples are evaluated there, 200 here"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told_in_a_line(launch, tmp_path, changes, message):
    a, b = run_of(tmp_path / "a", [0.5]), run_of(tmp_path / "b", [0.5], **changes)
    result = launch("--mode=compare", f"--workdirs={a},{b}", f"--output={tmp_path / 'out'}")
    assert (
        result.code == 1
        and result.err == f"error: {b} cannot be compared with {a}: {result.err.split(': ', 2)[2]}"
    )
    assert message in result.err and not (tmp_path / "out").exists()


def test_workdirs_that_hold_nothing_to_compare(launch, tmp_path, two):
    assert "needs --workdirs=A,B" in launch("--mode=compare").err
    assert "needs --workdirs=A,B" in launch("--mode=compare", f"--workdirs={two[0]}").err
    assert "named twice" in launch("--mode=compare", f"--workdirs={two[0]},{two[0]}").err
    assert "does not exist" in launch("--mode=compare", f"--workdirs={two[0]},{tmp_path / 'none'}").err
    empty = run_of(tmp_path / "empty", [])
    result = launch("--mode=compare", f"--workdirs={two[0]},{empty}")
    assert result.code == 1 and f"{empty} was not evaluated yet: --mode=evaluate --workdir=" in result.err
    (tmp_path / "empty" / "evaluation").mkdir()
    written = {
        "metrics": {"mean": {"loss": 0.1, "accuracy": 0.97}},
        "checkpoint": 0,
        "protocol": {"images": 200},
    }
    (tmp_path / "empty" / "evaluation" / "metrics.json").write_text(json.dumps(written))
    result = launch("--mode=compare", f"--workdirs={two[0]},{empty}", f"--output={tmp_path / 'out'}")
    assert result.code == 0 and "0.97" in result.out, result.err
