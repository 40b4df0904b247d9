"""Files in, predictions out: in order, with bounded memory, whatever cannot be read."""

import contextlib
import gc
import itertools
import json
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import ExifTags, Image

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


def test_many_files_keep_their_order(trained, tmp_path):
    """More than a batch, some of them damaged; each is what the network says of it alone."""
    rng = np.random.default_rng(1)
    paths = [tmp_path / f"{i:03}.png" for i in range(150)]
    for i, path in enumerate(paths):
        if i % 7 == 3:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)).save(path)
    count, problems = predict.predict_files(trained, paths, tmp_path / "out")
    good = [path for i, path in enumerate(paths) if i % 7 != 3]
    assert count == len(good) and len(problems) == 150 - len(good) and "003.png" in problems[0]
    text = (tmp_path / "out" / "predictions.json").read_text()
    entries = json.loads(text)
    assert text == json.dumps(entries, indent=2) + "\n"  # as one piece would be written
    assert [entry["file"] for entry in entries] == list(map(str, good))
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == entries
    for number in (0, 64, len(good) - 1):
        ((_, found),) = predict.predictions(trained, [good[number]])
        alone = found[1].to_json()
        assert (alone["class"], alone["index"]) == (entries[number]["class"], entries[number]["index"])
        assert trained.classes[alone["index"]] == alone["class"]
        wanted = [one["probability"] for one in alone["top"]]
        assert [one["probability"] for one in entries[number]["top"]] == pytest.approx(wanted, rel=1e-4)


class Alive:
    """Counts arrays from their birth to their end, and the most there were at a time."""

    def __init__(self):
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, array):
        # A view has its own end; what owns the memory is not handed out.
        array = array.view()
        self._change(1)
        weakref.finalize(array, self._change, -1)
        return array

    def _change(self, by):
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)


def test_images_in_memory_are_few_however_many_there_are(trained, tmp_path, monkeypatch):
    """Counted: whole images no more than threads, frames no more than two batches and what is read ahead."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    whole, frames = Alive(), Alive()
    read, frame = predict.read_reduced, network.resize

    @contextlib.contextmanager
    def counted(*args):
        with read(*args) as (array, shape):
            yield whole(array), shape

    monkeypatch.setattr(predict, "read_reduced", counted)
    monkeypatch.setattr(network, "resize", lambda *args: frames(frame(*args)))
    monkeypatch.setattr(predict.os, "cpu_count", lambda: 3)
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield path

    found = predict.predictions(trained, endless())
    first = next(found)
    # the answer to the first does not wait for the last
    assert isinstance(first[1][1], Result) and asked <= 2 * 64
    sheet = [small is not None for _, (small, _) in itertools.islice(found, 500)]
    assert sheet == [number < predict.SHOWN for number in range(1, 501)]
    assert whole.most <= 3 + 1 and frames.most <= 2 * 64
    found.close()
    gc.collect()
    assert whole.now == 0 and frames.now == 0


def test_large_files_are_decoded_by_turns():
    """What together has too many pixels comes in one after the other; what alone has too many, alone."""
    room, inside, most = predict._Room(100), [], []

    def enter(pixels):
        with room(pixels):
            inside.append(pixels)
            most.append(list(inside))
            time.sleep(0.01)
            inside.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, [60, 50, 40, 1000, 30, 30, 30, 30]))
    assert len(most) == 8
    assert all(sum(there) <= 100 or there == [1000] for there in most)


def test_a_large_photograph_is_decoded_smaller_and_means_the_same(tmp_path):
    """A JPEG turned by its EXIF: the shape is the whole one; what is left, at its full brightness, is a mean of it."""
    rows, columns = np.mgrid[:1200, :1600]
    photo = np.stack([rows / 1200 * 255, columns / 1600 * 255, 0 * rows], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95, exif=exif)
    room = predict._Room(10**6)
    with predict.read_reduced(tmp_path / "a.jpg", 3, 250, room) as (small, whole):
        assert room._free == 10**6 - 300 * 400
    assert room._free == 10**6
    assert whole == (1600, 1200, 3) and small.shape == (400, 300, 3)
    wanted = np.rot90(photo, -1).reshape(400, 4, 300, 4, 3).mean((1, 3))
    assert np.abs(small.astype(float) - wanted).mean() < 2
    Image.fromarray(photo).save(tmp_path / "a.png")
    with predict.read_reduced(tmp_path / "a.png", 3, 250, room) as (exact, _):
        assert room._free == 0  # it needs more than there is: alone
    np.testing.assert_array_equal(exact, photo)


def test_the_sheet_is_drawn_from_small_copies():
    photo = np.zeros((3000, 4000, 3), np.uint8)
    small = predict.thumbnail(photo)
    assert small.shape == (480, 640, 3)
    box = np.array([[1000.0, 500, 3000, 2500]])
    result = Result(3000, 4000, ("cat",), boxes=box, scores=np.array([0.9]), labels=np.array([0]))
    drawn, text = draw(small, result, "photo.png")
    assert drawn.shape == small.shape and text == "photo.png\n1 found"
    rows, columns = np.nonzero(drawn.any(axis=-1))
    assert abs(columns.min() - 160) <= 2 and abs(columns.max() - 480) <= 2 and abs(rows.max() - 400) <= 2


def test_no_file_that_can_be_read_is_one_line(trained, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="none of 1 files could be read; the first: .*a.png"):
        predict.predict_files(trained, [tmp_path / "a.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
