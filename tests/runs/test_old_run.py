"""A run that the first layout of the code wrote (commit 23825a1) is still a run: small, on bundled digits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    return tmp_path / "run"


def test_it_is_evaluated_to_what_was_written_then(old, launch):
    last = json.loads((OLD / "metrics.jsonl").read_text().splitlines()[-1])
    found = launch("--mode=evaluate", f"--workdir={old}")
    assert found.code == 0, found.err
    values = dict(line.split()[:2] for line in found.out.splitlines()[1:4])
    assert float(values["accuracy"]) == pytest.approx(100 * last["accuracy"], abs=0.006)
    assert float(values["loss"]) == pytest.approx(last["loss"], rel=1e-4)


def test_it_predicts_and_is_looked_at(old, launch, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    found = launch("--mode=predict", f"--workdir={old}", f"--inputs={tmp_path / 'x.png'}")
    assert found.code == 0, found.err
    (entry,) = json.loads((old / "predictions" / "predictions.json").read_text())
    assert entry["class"] in set("0123456789") and len(entry["top"]) == 5
    gallery = launch("--mode=visualize", f"--workdir={old}", "--visualize.pages=predictions,filters")
    assert gallery.code == 0 and (old / "gallery" / "gallery.html").exists(), gallery.err


def test_it_goes_on(old, launch):
    found = launch(f"--workdir={old}", "--train.steps=64")
    assert found.code == 0 and "going on from step 60 of 64" in found.out, found.err
    steps = [json.loads(line)["step"] for line in (old / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 64
