"""The first batch as a picture: what is read for it, where it is written, and how large its letters are."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import Data
from cnnjax.data import images, sources
from cnnjax.drawing import figures
from cnnjax.inspect import preview


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 photographs of two classes."""
    path, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("fig", "oak"):
        (path / name).mkdir()
        for i in range(50):
            pixels = rng.integers(0, 256, (12 + i % 3, 15, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i:02}.png")
    return path


def test_what_is_read_on_demand_is_the_same(folder):
    data = Data(name=f"folder:{folder}", image_size=10)
    whole = sources.load(data)
    with images.on_demand():
        pending = sources.load(data)
    assert not isinstance(pending.train["image"], np.ndarray) and not images.is_on_demand()
    np.testing.assert_array_equal(np.asarray(pending.train["image"]), whole.train["image"])
    rows = np.array([7, 3, 3, 60])
    np.testing.assert_array_equal(
        pending.test.take(rows[:3])[np.arange(3)]["image"], whole.test["image"][rows[:3]]
    )
    assert (
        pending.train.files == whole.train.files
        and pending.train["image"].shape == whole.train["image"].shape
    )


def test_a_preview_reads_its_batch_only_and_writes_into_the_workdir(launch, folder, tmp_path, monkeypatch):
    read, decode = [], images.decode
    monkeypatch.setattr(images, "decode", lambda *args: read.append(args[1]) or decode(*args))
    flags = ("--model.name=softmax_regression", "--data.image_size=10", "--data.batch_size=6")
    result = launch("--mode=preview", f"--data.name=folder:{folder}", *flags, f"--workdir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    assert 6 <= len(read) <= 6 + 3  # and one of each split and of the batch, for its size
    with Image.open(tmp_path / "run" / "preview.png") as picture:
        assert picture.width >= 6 * 200


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.name=lenet55", "no model is called 'lenet55': did you mean lenet5"),
        ("--data.name=folder:/nowhere/photos", "/nowhere/photos is not a folder"),
        ("--model.options=nothing=1", "model.options: 'nothing=1' is no NAME=VALUE of lenet5"),
    ],
)
def test_wrong_names_are_told_before_data_are_read(launch, monkeypatch, tmp_path, flag, message):
    def load(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(preview.sources, "load", load)
    result = launch("--mode=preview", flag, f"--output={tmp_path / 'p.png'}")
    assert result.code == 1 and message in result.err, result.err


def test_letters_are_large_enough_to_read():
    """At least 12 pixels: the height of a line, as the file is saved with 100 pixels to the inch."""
    grid = figures.image_grid(
        "x", "", "", [np.zeros((8, 8, 3), np.uint8)], ["a name that is much longer than the image"], 6, 2.2
    )
    (axis,) = grid.figure.axes
    (text,) = axis.texts
    assert text.get_fontsize() * 100 / 72 >= 12 and text.get_text().endswith("\N{HORIZONTAL ELLIPSIS}")
    blank = np.zeros((320, 320, 3), np.uint8)
    boxes = np.array([[100.0, 100, 200, 200]])
    plain = figures.draw_boxes(blank, figures.Boxes(boxes, [""], ["lime"]))
    named = figures.draw_boxes(blank, figures.Boxes(boxes, ["Ag"], ["lime"]))
    rows = np.flatnonzero((plain != named).any((1, 2)))
    assert rows[-1] - rows[0] + 1 >= 12  # from the top of A to the bottom of g


@pytest.mark.parametrize(
    "label", ["teddy bear 97", "a name of many words that has no room in a line of an image 50", "x" * 60]
)
def test_labels_stay_inside_of_the_image_and_whole(label):
    """What is drawn of a label is the same wherever its box lies."""
    drawn = []
    for left, top in ((20, 150), (0, 0), (300, 300), (300, 0), (0, 300), (319, 150)):
        box = np.array([[left, top, left + 10.0, top + 10]])
        grey = np.full((330, 330, 3), 128, np.uint8)
        plain, named = (
            figures.draw_boxes(grey, figures.Boxes(box, [text], ["gray"])) for text in ("", label)
        )
        drawn.append(int((plain != named).any(-1).sum()))
        assert drawn[-1] > 12 * 40
    assert len(set(drawn)) == 1, drawn
