"""A format that the library does not know is a function and a row of SOURCES, and works in every mode."""

import csv
import functools
import json

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import Data
from cnnjax.data import images, sources
from cnnjax.data.formats.annotations import Annotations, ImageBuilder, Problem, build_all
from cnnjax.models import MODELS
from cnnjax.models.grid import GridNet

COUNTS = {"train": 6, "test": 4}
DATA = (
    "--experiment=scenes_grid", "--model.name=tiny_grid", "--data.image_size=32", "--data.batch_size=3",
    "--data.mean=0.5,0.5,0.5", "--data.std=0.3,0.3,0.3",
)  # fmt: skip
FLAGS = (*DATA, "--train.steps=3", "--train.evaluate_every=0", "--train.log_every=1")


def read_csv(path):
    """Lines "file,class,x1,y1,x2,y2" in pixels."""
    with path.open() as file:
        rows = list(csv.reader(file))
    classes = tuple(sorted({row[1] for row in rows}))
    problems, builders = list[Problem](), {}
    for number, (name, label, *box) in enumerate(rows, start=1):
        if name not in builders:
            height, width = images.size(path.parent / name, name)
            builders[name] = ImageBuilder(name, width, height, str(path), problems)
        builders[name].add([float(v) for v in box], classes.index(label), f"line {number}")
    return Annotations(path.parent, classes, build_all(builders.values()), tuple(problems))


def beside_images(folder):
    """train.csv and test.csv, beside the images."""
    return {path.stem: functools.partial(read_csv, path) for path in folder.glob("*.csv")}


@pytest.fixture
def boxes(tmp_path, monkeypatch):
    """A data set of this format, whose table and models know it and a small network while the test runs."""
    monkeypatch.setitem(sources.SOURCES, "csv", sources.annotated((beside_images,)))
    monkeypatch.setitem(MODELS, "tiny_grid", functools.partial(GridNet, widths=(4, 8, 8), blocks=(0, 0, 0)))
    folder, rng = tmp_path / "boxes", np.random.default_rng(0)
    folder.mkdir()
    for split, count in COUNTS.items():
        lines = []
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
                folder / f"{split}{i}.png"
            )
            lines += [f"{split}{i}.png,{label},{i},{i},{i + 30},{i + 20}" for label in ("disk", "cross")]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["split"], line["loss"]) for line in lines]


@pytest.mark.full
def test_a_format_of_ones_own_in_every_mode(boxes, tmp_path, launch):
    found = sources.load(Data(name=f"csv:{boxes}", image_size=32))
    assert found.classes == ("cross", "disk")
    wanted = [[[i / 2, i / 2, i / 2 + 15, i / 2 + 10]] * 2 for i in range(6)]  # half as large as in the file
    np.testing.assert_allclose(found.train["boxes"], wanted, rtol=1e-6)
    assert found.train["classes"].tolist() == [[1, 0]] * 6

    def run(*flags):
        result = launch(*flags)
        assert result.code == 0, result.err
        return result.out

    name = f"--data.name=csv:{boxes}"
    run(*FLAGS, name, f"--workdir={tmp_path / 'run'}")
    trained = losses(tmp_path / "run")
    assert [line[:2] for line in trained] == [(1, "train"), (2, "train"), (3, "train"), (3, "test")]
    assert f"{trained[-1][2]:.4f}" in run("--mode=evaluate", f"--workdir={tmp_path / 'run'}")
    run("--mode=preview", *DATA, name, f"--output={tmp_path / 'preview.png'}")
    assert (tmp_path / "preview.png").stat().st_size > 1000
    assert "6 train and 4 test images" in run("--mode=prepare", name, f"--output={tmp_path / 'records'}")
    streamed = ("--data.stream=true", "--data.workers=0", f"--data.name=records:{tmp_path / 'records'}")
    run(*FLAGS, *streamed, f"--workdir={tmp_path / 'streamed'}")
    assert losses(tmp_path / "streamed") == trained


def test_its_name_is_one_of_those_that_may_be_meant(boxes, launch):
    wrong = launch("--data.name=csvs:x")
    assert wrong.code == 1 and "csv:PATH" in wrong.err
    missing = launch(*FLAGS, "--data.name=csv:nowhere")
    assert missing.code == 1 and "nowhere is not a folder" in missing.err
    refused = launch("--mode=prepare", "--data.name=digits", "--output=x")
    assert refused.code == 1 and "csv:PATH" in refused.err
