"""Files in, predictions out: in order, with bounded memory, whatever cannot be read."""

import json

import numpy as np
import pytest
from PIL import Image

from cnnjax import config, network
from cnnjax.config import ConfigError
from cnnjax.data.dataset import Dataset
from cnnjax.drawing.results import draw
from cnnjax.predict import predict
from cnnjax.runs import plan, run, train
from cnnjax.runs.workdir import Workdir
from cnnjax.tasks.result import Result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rng = np.random.default_rng(0)
    split = {
        "image": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), "label": np.arange(20, dtype=np.int32) % 4,
    }  # fmt: skip
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    changes = {
        "model.name": "softmax_regression",
        "data.batch_size": 10,
        "train.epochs": 0.0,
        "train.steps": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "load", lambda *_: Dataset("x", split, split, tuple("abcd")))
        train.train_run(config.replace(config.Experiment(), changes), workdir, None, "")
    return run.restore(workdir)


def test_many_files_keep_their_order_and_few_of_them_the_memory(trained, tmp_path, monkeypatch):
    """More than a batch, some of them damaged; each is what the network says of it alone."""
    rng = np.random.default_rng(1)
    paths = [tmp_path / f"{i:03}.png" for i in range(150)]
    for i, path in enumerate(paths):
        if i % 7 == 3:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)).save(path)
    held, most = set(), []
    read, resize = predict.read_image, network.resize

    def counted(path, *args, **kwargs):
        held.add(path)
        most.append(len(held))
        try:
            return read(path, *args, **kwargs)
        except ConfigError:
            held.discard(path)
            raise

    def resized(image, *args):
        held.pop()
        return resize(image, *args)

    monkeypatch.setattr(predict, "read_image", counted)
    monkeypatch.setattr(network, "resize", resized)
    count, problems = predict.predict_files(trained, paths, tmp_path / "out")
    good = [path for i, path in enumerate(paths) if i % 7 != 3]
    assert count == len(good) and len(problems) == 150 - len(good) and "003.png" in problems[0]
    assert max(most) <= 16
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["file"] for entry in entries] == list(map(str, good))
    for number in (0, 64, len(good) - 1):
        ((_, found),) = predict.predictions(trained, [good[number]])
        alone = found[1].to_json()
        assert alone["class"] == entries[number]["class"]
        wanted = [one["probability"] for one in alone["top"]]
        assert [one["probability"] for one in entries[number]["top"]] == pytest.approx(wanted, rel=1e-4)


def test_the_sheet_is_drawn_from_small_copies():
    photo = np.zeros((3000, 4000, 3), np.uint8)
    small = predict.thumbnail(photo)
    assert small.shape == (360, 480, 3)
    box = np.array([[1000.0, 500, 3000, 2500]])
    result = Result(3000, 4000, ("cat",), boxes=box, scores=np.array([0.9]), labels=np.array([0]))
    drawn, text = draw(small, result, "photo.png")
    assert drawn.shape == small.shape and text == "photo.png\n1 found"
    rows, columns = np.nonzero(drawn.any(axis=-1))
    assert abs(columns.min() - 120) <= 2 and abs(columns.max() - 360) <= 2 and abs(rows.max() - 300) <= 2


def test_no_file_that_can_be_read_is_one_line(trained, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="none of 1 files could be read; the first: .*a.png"):
        predict.predict_files(trained, [tmp_path / "a.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
