"""MLflow, Weights & Biases and trackers that fail: told what metrics.jsonl is told, and never in the way of a run."""

import importlib.util
import json
import logging
import sqlite3
import struct
import threading
import time

import numpy as np
import pytest

from cnnjax.config import ConfigError, Experiment, Stopped
from cnnjax.runs import trackers
from cnnjax.runs.workdir import Workdir

RUN = (
    "--model.name=softmax_regression", "--data.limit=20", "--data.batch_size=10", "--train.log_every=1",
    "--optimizer.schedule=constant",
)  # fmt: skip


def lines(workdir):
    """(step, "split/name", value) of all numbers in metrics.jsonl."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], f"{line['split']}/{name}", value)
        for line in found
        for name, value in line.items()
        if name not in ("step", "split")
    ]


class Fake:
    """Keeps what it is told; fails where it is asked to."""

    def __init__(self, experiment, workdir, fails="", hangs=None):
        self.heard, self.fails, self.hangs = [("begin", experiment.name, str(workdir.path))], fails, hangs
        self.fail("begin")

    def fail(self, where):
        if where == self.fails:
            if self.hangs:
                self.hangs.wait(30)
            raise ConnectionError("no\nroute to host")

    def write(self, step, split, metrics):
        self.fail("write")
        self.heard += [(step, f"{split}/{name}", value) for name, value in metrics.items()]

    def report(self, path):
        self.fail("report")
        self.heard.append(("report", path.name, path.stat().st_size))

    def end(self, status):
        self.fail("end")
        self.heard.append(("end", status))


@pytest.fixture
def fake(monkeypatch):
    """Puts a fake in the place of a tracker; returns a list of those that will be made."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def put(name="mlflow", **options):
        made = []

        def make(experiment, workdir):
            one = Fake(experiment, workdir, **options)
            made.append(one)
            return one

        monkeypatch.setitem(trackers.TRACKERS, name, make)
        return made

    return put


def test_a_tracker_hears_the_metrics_the_experiment_the_report_and_the_end(launch, tmp_path, fake):
    made = fake()
    flags = (*RUN, "--train.trackers=mlflow", f"--workdir={tmp_path}")
    result = launch(*flags, "--train.steps=4")
    assert result.code == 0, result.err
    (one,) = made
    report = (tmp_path / "report.html").stat().st_size
    begin, *heard = one.heard
    assert begin == ("begin", "digits_lenet", str(tmp_path))
    assert heard == [*lines(tmp_path), ("report", "report.html", report), ("end", "finished")]
    before = len(lines(tmp_path))
    assert launch(*flags, "--train.steps=6").code == 0  # goes on
    assert made[1].heard[1:-2] == lines(tmp_path)[before:]


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("cnnjax")]


def test_a_run_ends_well_beside_one_that_fails_and_one_that_never_answers(
    launch, tmp_path, fake, caplog, monkeypatch
):
    monkeypatch.setitem(trackers._PATIENCE, "finished", 0.2)
    released = threading.Event()
    fake(fails="write")
    fake("wandb", fails="begin", hangs=released)
    flags = (*RUN, "--train.steps=3", f"--workdir={tmp_path}", "--train.trackers=mlflow,wandb")
    with caplog.at_level(logging.WARNING, "cnnjax"):
        result = launch(*flags)
    released.set()
    assert result.code == 0, result.err
    assert warned(caplog) == [
        "mlflow is left out, the run goes on: no route to host",
        "wandb is left out, the run goes on: it has not taken all that it was told",
    ]
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("fails", ["begin", "write", "report", "end"])
def test_one_that_fails_anywhere_is_left_out_with_one_warning(
    tmp_path, fake, caplog, monkeypatch, fails, hangs
):
    monkeypatch.setitem(trackers._PATIENCE, "finished", 0.3)
    released = threading.Event()
    fake(fails=fails, hangs=released if hangs else None)
    well = fake("wandb")
    (tmp_path / "report.html").write_text("a report")
    with (
        caplog.at_level(logging.WARNING, "cnnjax"),
        trackers.following(Experiment(), Workdir(tmp_path), ("mlflow", "wandb")) as told,
    ):
        told.begin()
        for step in range(3):
            told.write(step, "train", {"loss": 0.5, "name": "no number"})
        told.report(tmp_path / "report.html")
    problem = "it has not taken all that it was told" if hangs else "no route to host"
    assert warned(caplog) == [f"mlflow is left out, the run goes on: {problem}"]
    released.set()
    assert well[-1].heard[1:] == [
        *((step, "train/loss", 0.5) for step in range(3)), ("report", "report.html", 8), ("end", "finished"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status"),
    [(Stopped("a signal"), "stopped"), (KeyboardInterrupt(), "stopped"), (ConfigError("diverged"), "failed")],
)
def test_the_end_is_told_as_it_was(tmp_path, fake, error, status):
    made = fake()
    with pytest.raises(type(error)), trackers.following(Experiment(), Workdir(tmp_path), ("mlflow",)) as told:
        told.begin()
        raise error
    assert made[0].heard[1:] == [("end", status)]


def test_mistakes_are_one_line(launch, tmp_path, monkeypatch):
    result = launch(*RUN, "--train.trackers=mlflow,neptune", f"--workdir={tmp_path}")
    assert result.code == 1 and "train.trackers='neptune': choose one of mlflow, wandb" in result.err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = launch(*RUN, "--train.trackers=wandb", f"--workdir={tmp_path}")
    assert result.code == 1 and "train.trackers=wandb needs its package: pip install wandb" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_mlflow_keeps_a_run_in_its_database(launch, tmp_path, monkeypatch):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason=f"needs {package}: pip install '.[mlflow]'")
    monkeypatch.chdir(tmp_path)  # where MLflow puts files
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of a test")
    flags = (*RUN, "--train.trackers=mlflow", "--workdir=first")
    assert launch(*flags, "--train.steps=3").code == 0
    assert launch(*flags, "--train.steps=5").code == 0  # the same run goes on

    def query(text):
        return sqlite3.connect(tmp_path / "mlflow.db").execute(text).fetchall()

    assert query("select name, status from runs") == [("first", "FINISHED")]
    assert query("select name from experiments where name != 'Default'") == [("of a test",)]
    found = query("select step, key, value from metrics")
    assert sorted(found) == sorted(lines(tmp_path / "first"))
    parameters = dict(query("select key, value from params"))
    assert parameters["model.name"] == "softmax_regression" and parameters["data.batch_size"] == "10"
    ((folder,),) = query("select artifact_uri from runs")
    kept = {name: tmp_path / folder / name for name in ("report.html", "config.json")}
    for name, path in kept.items():
        assert path.read_bytes().strip() == (tmp_path / "first" / name).read_bytes().strip()


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_a_run_offline(launch, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    flags = (*RUN, "--train.trackers=wandb", f"--workdir={tmp_path / 'first'}")
    assert launch(*flags, "--train.steps=3").code == 0
    assert launch(*flags, "--train.steps=5").code == 0
    files = sorted((tmp_path / "first").glob("wandb/offline-run-*/*.wandb"))
    parts = [whole(path) for path in files]
    # Two parts of one run, which are put together when they are sent.
    assert (
        len(parts) == 2
        and len({one.run.run_id for part in parts for one in part if one.HasField("run")}) == 1
    )
    heard = []
    for part in parts:
        for one in part:
            if one.HasField("history"):
                item = {"".join(i.nested_key) or i.key: json.loads(i.value_json) for i in one.history.item}
                heard += [(item["step"], name, value) for name, value in item.items() if "/" in name]
    known = sorted(lines(tmp_path / "first"))
    assert [row[:2] for row in sorted(heard)] == [row[:2] for row in known]
    np.testing.assert_allclose([row[2] for row in sorted(heard)], [row[2] for row in known], rtol=1e-9)
    (setting,) = [
        i for one in parts[0] if one.HasField("run") for i in one.run.config.update if i.key == "data"
    ]
    assert json.loads(setting.value_json)["batch_size"] == 10
    for path in files:
        assert (path.parent / "files" / "report.html").stat().st_size > 1000


def whole(path):
    """What a file holds when W&B's own process has written its end, shortly after the run."""
    for _ in range(300):
        found = records(path)
        if any(one.HasField("exit") for one in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def records(path):
    """What a file of W&B holds: protocol buffers in the frames of LevelDB's log, blocks of 32 KiB after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = -at % 32768
        if 0 < left < 7:
            at += left
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + size > len(data):  # not written yet
            break
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole one, or the last part
            found.append(Record.FromString(whole))
            whole = b""
    return found
