"""Prepared data sets: the same examples as their sources, in memory or streamed, whole or refused."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data.batches import train_indices
from cnnjax.data.formats import folders, records
from cnnjax.data.formats.prepare import prepare
from cnnjax.data.sources import load
from cnnjax.data.stream import EvaluationRows, TrainRows, read_ahead


def picture(seed: int, grey: bool = False) -> bytes:
    rng = np.random.default_rng(seed)
    shape = rng.integers(12, 20, 2)
    pixels = rng.integers(0, 256, shape if grey else (*shape, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if seed % 2 else "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "set"
    for i in range(24):
        path = root / ("train" if i < 15 else "test") / ("cat", "dog", "eel")[i % 3] / f"{i}.img.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "records"
    assert prepare(Data(name=f"folder:{folder}"), output) == {"train": 15, "test": 9}
    return output


def equal(one, other):
    for a, b in ((one.train, other.train), (one.test, other.test)):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)
    assert one.classes == other.classes


@pytest.mark.parametrize("changes", [{"image_size": 8}, {"image_size": 8, "resize": "crop"}])
def test_records_hold_what_the_folder_holds_in_memory_and_streamed(folder, prepared, changes):
    wanted = load(Data(name=f"folder:{folder}", **changes))
    equal(load(Data(name=f"records:{prepared}", **changes)), wanted)
    streamed = load(Data(name=f"records:{prepared}", stream=True, **changes))
    assert streamed.streamed and not wanted.streamed
    equal(streamed, wanted)
    limited = {"limit": 5, "validation": 0.4}
    equal(
        load(Data(name=f"records:{prepared}", stream=True, **limited, **changes)),
        load(Data(name=f"folder:{folder}", **limited, **changes)),
    )


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_what_its_folder_gives(folder, prepared, tmp_path, kind):
    archive = tmp_path / f"set.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*.png")):
                file.write(path, Path("set") / path.relative_to(folder))
            file.writestr("__MACOSX/set/train/cat/._1.png", b"junk")
    else:
        with tarfile.open(archive, "w:gz" if kind == "tar.gz" else "w") as file:
            file.add(folder, "set")
    prepare(Data(name=f"folder:{archive}"), tmp_path / "out")
    names = ("image_size",)
    one, other = (
        load(Data(name=f"records:{p}", **dict.fromkeys(names, 8))) for p in (tmp_path / "out", prepared)
    )
    equal(one, other)


def test_without_a_test_folder_the_same_fifth_is_held_out(folder, tmp_path):
    flat = folder / "train"
    prepare(Data(name=f"folder:{flat}"), tmp_path / "out")
    equal(
        load(Data(name=f"records:{tmp_path / 'out'}", image_size=8, stream=True)),
        load(Data(name=f"folder:{flat}", image_size=8)),
    )


def test_boxes_are_those_of_the_annotated_set(shared, tmp_path):
    source = Data(name=f"voc:{shared('data/bccd')}")
    prepare(source, tmp_path / "out")
    size = {"image_size": 30, "image_width": 40, "limit": 6}
    wanted = load(Data(name=source.name, **size))
    equal(load(Data(name=f"records:{tmp_path / 'out'}", **size)), wanted)
    equal(load(Data(name=f"records:{tmp_path / 'out'}", stream=True, **size)), wanted)


def test_what_tensorflow_datasets_prepared(offline, tmp_path):
    images = tiny.random_images(9, 5, 7, 3)
    encoded = [tiny.encode(image, "PNG") for image in images]
    splits = {"train": (encoded, np.arange(9) % 3), "test": (encoded[:4], np.arange(4) % 3)}
    tiny.prepared(tmp_path, "tiny_shapes", splits, 3, (5, 7, 3))
    assert prepare(Data(name="tiny_shapes"), tmp_path / "out", str(tmp_path)) == {"train": 9, "test": 4}
    found = load(Data(name=f"records:{tmp_path / 'out'}", stream=True))
    order = folders.order(9)
    np.testing.assert_array_equal(np.asarray(found.train["image"]), images[order])
    np.testing.assert_array_equal(found.train["label"], order % 3)
    assert found.classes == ("class 0", "class 1", "class 2")


def test_a_damaged_image_stops_and_leaves_nothing(folder, tmp_path):
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as file:
        file.add(folder, "set")
        info = tarfile.TarInfo("set/train/cat/cut.png")
        content = picture(2)[:60]
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    with pytest.raises(ConfigError, match="train/cat/cut.png"):
        prepare(Data(name=f"folder:{archive}"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_only_records_of_a_process_are_read_and_every_one_once_an_epoch():
    """Three processes of an uneven split of a batch of 6, 26 examples: two epochs, each example once in each."""
    seen = [
        [TrainRows(3, 0, 26, 26, 6, rows)[k] for k in range(26)]
        for rows in (np.array([0, 1, 2]), np.array([3]), np.array([4, 5]))
    ]
    for k in range(26):
        index, _ = train_indices(3, k, 26, 6)
        np.testing.assert_array_equal(np.concatenate([mine[k] for mine in seen]), index)
    order = np.concatenate([np.concatenate([mine[k] for mine in seen]) for k in range(26)])
    for epoch in range(6):
        assert sorted(order[26 * epoch : 26 * (epoch + 1)]) == list(range(26))
    rows = [
        np.concatenate([EvaluationRows(26, 6, r)[k] for k in range(5)])
        for r in (np.arange(3), np.arange(3, 6))
    ]
    assert set(np.concatenate(rows)) == set(range(26))


class Counted:
    """Encoded images that remember which were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.read.append(index)
        return picture(2 * index)


def test_a_process_decodes_its_rows_and_nothing_else():
    from cnnjax.data.stream import StreamedImages

    counted = Counted()
    source = StreamedImages(counted, np.arange(12), Data(image_size=4), (4, 4, 3), "counted")
    rows = TrainRows(0, 2, 5, 12, 4, np.array([1, 3]))
    assert [batch.shape for batch in read_ahead(source, rows, workers=0)] == [(2, 4, 4, 3)] * 3
    assert sorted(counted.read) == sorted(np.concatenate([rows[k] for k in range(3)]))


@pytest.mark.full
@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_starts_at_any_step(prepared, workers):
    images = load(Data(name=f"records:{prepared}", image_size=8, stream=True)).train["image"]
    whole = list(read_ahead(images, TrainRows(1, 0, 6, 15, 4, np.arange(4)), 0))
    assert len(whole) == 6
    late = list(read_ahead(images, TrainRows(1, 3, 6, 15, 4, np.arange(4)), workers))
    np.testing.assert_array_equal(late, whole[3:])


def test_order_is_that_of_folders():
    assert sorted(folders.order(10)) == list(range(10))


def test_landmarks_follow_their_images_into_the_frame(tmp_path):
    """Points of images of two sizes, in memory and streamed; by hand, in a frame of 20 x 40."""
    sizes = np.array([[10, 20], [40, 20]], np.int32)  # doubled; halved, with 15 pixels on each side
    points = np.array([[[1, 2], [19, 9], [5, 5]], [[2, 4], [0, 0], [20, 40]]], np.float32)
    visible = np.array([[True, True, False], [True, False, True]])
    wanted = [[[2, 4], [38, 18], [0, 0]], [[16, 2], [0, 0], [25, 20]]]
    content = []
    for height, width in sizes:
        file = io.BytesIO()
        Image.new("RGB", (int(width), int(height)), (200, 10, 10)).save(file, "PNG")
        content.append(file.getvalue())

    def raw():
        targets = {"points": points, "visible": visible, "size": sizes}
        return records.Raw(list(zip("ab", content, strict=True)), targets, 2)

    records.write(tmp_path / "set", (), {"train": raw(), "test": raw()}, "landmarks")
    for stream in (False, True):
        found = load(Data(name=f"records:{tmp_path / 'set'}", image_size=20, image_width=40, stream=stream))
        batch = found.train[np.array([1, 0])]
        np.testing.assert_allclose(batch["points"], wanted[::-1], rtol=1e-6)
        np.testing.assert_array_equal(batch["visible"], visible[::-1])
        assert batch["image"].shape == (2, 20, 40, 3) and found.classes == ()
    limited = load(Data(name=f"records:{tmp_path / 'set'}", image_size=20, limit=1))
    assert len(limited.train) == len(limited.test) == 1 and "first 1 examples of each split" in limited.note


def test_a_set_of_an_earlier_version_is_read(tmp_path):
    """Its kind was "boxes" for all that boxes come with."""
    targets = {
        "boxes": np.array([[[1.0, 2, 3, 4]]]),
        "classes": np.zeros((1, 1), np.int32),
        "valid": np.ones((1, 1), bool),
        "ignored": np.zeros((1, 1), bool),
        "area": np.full((1, 1), 4.0),
        "size": np.array([[8, 8]], np.int32),
    }
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    raw = {name: records.Raw([("a", file.getvalue())], targets, 1) for name in ("train", "test")}
    records.write(tmp_path / "set", ("a",), raw, "")
    path = tmp_path / "set" / "dataset.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"kind": "boxes"}))
    found = load(Data(name=f"records:{tmp_path / 'set'}", image_size=16))
    assert found.train["boxes"].tolist() == [[[2, 4, 6, 8]]]


def test_what_a_prepared_set_cannot_hold_is_refused(tmp_path):
    raw = records.Raw([("a", picture(0))], {"label": np.zeros(1, np.int32), "depth": np.zeros(1)}, 1)
    with pytest.raises(ConfigError, match="depth: no target that a prepared data set can hold"):
        records.write(tmp_path / "set", ("a",), {"train": raw, "test": raw}, "")
    assert not list(tmp_path.iterdir())
