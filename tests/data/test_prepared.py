import logging
import pickle

import numpy as np
import pytest
import tiny

from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.data.sources import load, load_evaluated


@pytest.fixture(autouse=True)
def no_network(offline):
    """Prepared data is read without a connection."""


def labels(count, num_classes=3):
    return np.arange(count) % num_classes


def encoded(array, format="PNG"):
    return [tiny.encode(image, format) for image in array]


@pytest.fixture
def shapes(tmp_path):
    """A dataset that tensorflow-datasets has no code for: (images of train, images of test, data_dir)."""
    train, test = tiny.random_images(9, 5, 7, 3), tiny.random_images(4, 5, 7, 3, seed=1)
    splits = {"train": (encoded(train), labels(9)), "test": (encoded(test), labels(4))}
    tiny.prepared(tmp_path, "tiny_shapes", splits, 3, (5, 7, 3))
    return train, test, str(tmp_path)


def test_reads_images_labels_and_names(shapes):
    train, test, data_dir = shapes
    dataset = load(Data(name="tiny_shapes"), data_dir)
    np.testing.assert_array_equal(dataset.train["image"], train)
    np.testing.assert_array_equal(dataset.test["image"], test)
    np.testing.assert_array_equal(dataset.train["label"], labels(9))
    assert dataset.classes == ("class 0", "class 1", "class 2")
    assert dataset.note == f"tiny_shapes/1.0.0 as prepared in {data_dir}/tiny_shapes/1.0.0"


def test_the_second_start_decodes_nothing(shapes, cache, monkeypatch):
    _, _, data_dir = shapes
    first = load(Data(name="tiny_shapes", image_size=4), data_dir)
    assert len(list((cache / "data").iterdir())) == 1

    def fail(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(images, "decode", fail)
    again = load(Data(name="tiny_shapes", image_size=4), data_dir)
    for before, after in ((first.train, again.train), (first.test, again.test)):
        np.testing.assert_array_equal(before["image"], after["image"])
        np.testing.assert_array_equal(before["label"], after["label"])
    with pytest.raises(AssertionError, match="decoded again"):
        load(Data(name="tiny_shapes", image_size=5), data_dir)


def test_new_files_of_the_same_version_are_noticed(shapes, tmp_path):
    train, test, data_dir = shapes
    load(Data(name="tiny_shapes"), data_dir)
    splits = {"train": (encoded(train[::-1]), labels(9)), "test": (encoded(test), labels(4))}
    new = tiny.prepared(tmp_path / "again", "tiny_shapes", splits, 3, (5, 7, 3))
    for path in new.iterdir():
        path.replace(f"{data_dir}/tiny_shapes/1.0.0/{path.name}")
    np.testing.assert_array_equal(load(Data(name="tiny_shapes"), data_dir).train["image"], train[::-1])


def test_limit_resize_and_version(shapes):
    _, _, data_dir = shapes
    dataset = load(Data(name="tiny_shapes:1.0.0", limit=2, image_size=4), data_dir)
    assert dataset.train["image"].shape == dataset.test["image"].shape == (2, 4, 4, 3)
    assert "first 2 examples of each split" in dataset.note


@pytest.mark.parametrize("shape", [(None, None, 3), (None, None, None)])
def test_images_of_several_sizes_need_one(shape, tmp_path):
    pictures = encoded(tiny.random_images(2, 6, 8, 3)) + encoded(tiny.random_images(2, 9, 4, 3), "JPEG")
    # How tensorflow-datasets writes an unknown size.
    shape = [-1 if size is None else size for size in shape]
    splits = {"train": (pictures, [0, 1, 0, 1]), "test": (pictures[:1], [1])}
    tiny.prepared(tmp_path, "sizes", splits, 2, shape)
    with pytest.raises(ConfigError, match="differ in size .6x8 and 9x4.*set data.image_size"):
        load(Data(name="sizes"), str(tmp_path))
    dataset = load(Data(name="sizes", image_size=5, resize="crop"), str(tmp_path))
    assert dataset.train["image"].shape == (4, 5, 5, 3)


def test_grey_images(tmp_path):
    train = tiny.random_images(4, 6, 6, 1)
    splits = {"train": (encoded(train), labels(4)), "test": (encoded(train[:1]), [2])}
    tiny.prepared(tmp_path, "grey", splits, 3, (6, 6, 1))
    np.testing.assert_array_equal(load(Data(name="grey"), str(tmp_path)).train["image"], train)


def test_secret_test_labels_mean_the_validation_split(tmp_path):
    pictures = encoded(tiny.random_images(4, 3, 3, 3))
    splits = {
        "train": (pictures, labels(4)),
        "validation": (pictures[:3], [2, 1, 0]),
        "test": (pictures[:2], [-1, -1]),
    }
    tiny.prepared(tmp_path, "contest", splits, 3, (3, 3, 3))
    dataset = load(Data(name="contest"), str(tmp_path))
    assert dataset.test["label"].tolist() == [2, 1, 0]
    assert "validation split" in dataset.note


def test_without_test_split_a_fifth_is_held_out(tmp_path):
    train = tiny.random_images(30, 3, 3, 3)
    tiny.prepared(tmp_path, "flowers", {"train": (encoded(train), labels(30))}, 3, (3, 3, 3))
    dataset = load(Data(name="flowers"), str(tmp_path))
    assert np.bincount(dataset.train["label"]).tolist() == [8, 8, 8]
    assert np.bincount(dataset.test["label"]).tolist() == [2, 2, 2]
    assert "6 examples held out of the training split" in dataset.note


def test_emnist_is_upright(tmp_path, monkeypatch):
    """Whether it comes prepared or from the archive; tensorflow-datasets leaves it mirrored."""
    train = tiny.random_images(4, 28, 28, 1)
    splits = {"train": (encoded(train), labels(4)), "test": (encoded(train[:1]), [2])}
    folder = tiny.prepared(tmp_path / "prepared", "emnist", splits, 37, (28, 28, 1))
    (tmp_path / "d" / "emnist" / "letters").mkdir(parents=True)
    folder.rename(tmp_path / "d" / "emnist" / "letters" / "3.1.0")
    info = tmp_path / "d" / "emnist" / "letters" / "3.1.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("1.0.0", "3.1.0"))
    dataset = load(Data(name="emnist/letters"), str(tmp_path / "d"))
    np.testing.assert_array_equal(dataset.train["image"], train.transpose(0, 2, 1, 3))


def test_damaged_files_are_named(shapes):
    _, _, data_dir = shapes
    path = f"{data_dir}/tiny_shapes/1.0.0/tiny_shapes-test.array_record-00000-of-00001"
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ConfigError, match="tiny_shapes/1.0.0: damaged: "):
        load(Data(name="tiny_shapes"), data_dir)


def test_a_record_that_is_no_image_is_named(tmp_path):
    pictures = [*encoded(tiny.random_images(2, 3, 3, 3)), b"text"]
    tiny.prepared(
        tmp_path, "odd", {"train": (pictures, labels(3)), "test": (pictures[:1], [0])}, 3, (3, 3, 3)
    )
    with pytest.raises(ConfigError, match="image 2 of train: not an image"):
        load(Data(name="odd"), str(tmp_path))


def test_datasets_without_one_label_each_are_refused(tmp_path):
    pictures = encoded(tiny.random_images(2, 3, 3, 3))
    splits = {"train": (pictures, [0, 1]), "test": (pictures, [0, 1])}
    tiny.prepared(tmp_path, "scenes", splits, 2, (3, 3, 3), label_feature="mood")
    with pytest.raises(
        ConfigError, match="not a dataset of images with one label each, .*: it has image, mood"
    ):
        load(Data(name="scenes"), str(tmp_path))


def test_tensorflow_datasets_keeps_silent(shapes, capfd, caplog):
    caplog.set_level(logging.INFO)
    _, _, data_dir = shapes
    load(Data(name="tiny_shapes"), data_dir)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    ours = "decoding tiny_shapes/1.0.0: once, then it is cached"
    assert [record.getMessage() for record in caplog.records] in ([], [ours])


def test_evaluation_decodes_the_evaluated_split_only(shapes, cache, monkeypatch):
    _, test, data_dir = shapes
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *a: decoded.append(a[1]) or decode(*a))
    split, classes = load_evaluated(Data(name="tiny_shapes"), data_dir, 3, everything=False)
    np.testing.assert_array_equal(split["image"], test)
    np.testing.assert_array_equal(split["label"], labels(4))
    assert classes == ("class 0", "class 1", "class 2")
    assert decoded and all(name.endswith("of test") for name in decoded)


def test_evaluation_without_a_test_split_is_on_what_is_held_out(tmp_path):
    train = tiny.random_images(30, 3, 3, 3)
    tiny.prepared(tmp_path, "flowers", {"train": (encoded(train), labels(30))}, 3, (3, 3, 3))
    split, _ = load_evaluated(Data(name="flowers"), str(tmp_path), 3, everything=False)
    np.testing.assert_array_equal(split["image"], load(Data(name="flowers"), str(tmp_path)).test["image"])


def test_streamed_it_is_the_same(shapes, cache):
    """Images stay on disk, in the order of the files; labels are read once."""
    train, test, data_dir = shapes
    dataset = load(Data(name="tiny_shapes", stream=True, limit=7), data_dir)
    assert dataset.streamed and dataset.classes == ("class 0", "class 1", "class 2")
    np.testing.assert_array_equal(dataset.train["image"], train[:7])
    np.testing.assert_array_equal(dataset.train["label"], labels(7))
    there = pickle.loads(pickle.dumps(dataset.train["image"]))  # as in another process
    np.testing.assert_array_equal(there[np.array([3, 1])], train[[3, 1]])
    small = Data(name="tiny_shapes", image_size=4, stream=True)
    evaluated, classes = load_evaluated(small, data_dir, 3, everything=False)
    whole = load(Data(name="tiny_shapes", image_size=4), data_dir).test
    np.testing.assert_array_equal(evaluated["image"], whole["image"])
    np.testing.assert_array_equal(evaluated["label"], labels(4))


def test_what_cannot_be_streamed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.stream of data.name='mnist': .* is not prepared"):
        load(Data(name="mnist", stream=True), str(tmp_path))
