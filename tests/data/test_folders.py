import numpy as np
import pytest
import tiny
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data.formats import folders
from cnnjax.data.sources import load, load_evaluated


def fill(folder, count, size=(6, 6), mode="RGB", suffix="png", first=0):
    """`count` images of one colour, whose value tells them apart: first, first + 1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        value = first + index
        colour = value if mode == "L" else (value, value, 255)
        Image.new(mode, size, colour).save(folder / f"image{index}.{suffix}")


def read(folder, **options):
    return load(Data(name=f"folder:{folder}", **options))


def values(split):
    return sorted(split["image"][:, 0, 0, 0].tolist())


def test_train_and_test_folders(tmp_path):
    fill(tmp_path / "train" / "dog", 3, first=0)
    fill(tmp_path / "train" / "cat", 4, first=10)
    fill(tmp_path / "test" / "dog", 2, first=20)
    fill(tmp_path / "val" / "dog", 1, first=30)
    dataset = read(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert values(dataset.train) == [0, 1, 2, 10, 11, 12, 13]
    assert values(dataset.test) == [20, 21]
    np.testing.assert_array_equal(dataset.train["label"], dataset.train["image"][:, 0, 0, 0] < 10)
    assert dataset.test["label"].tolist() == [1, 1]
    assert dataset.train["image"].shape == (7, 6, 6, 3)
    assert "evaluated on test" in dataset.note


@pytest.mark.parametrize(
    ("train", "name"),
    [("train", name) for name in ("val", "valid", "validation", "eval", "dev", "TEST", "Val")]
    + [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "dev")],
)
def test_other_names_of_the_splits(train, name, tmp_path):
    for label in ("a", "b"):
        fill(tmp_path / train / label, 2)
        fill(tmp_path / name / label, 1, first=9)
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b") and dataset.note.endswith(f"evaluated on {name}")
    assert values(dataset.train) == [0, 0, 1, 1] and values(dataset.test) == [9, 9]
    for everything in (False, True):
        split, classes = evaluated(tmp_path, everything)
        assert classes == ("a", "b") and values(split) == [9, 9]


def test_the_test_folder_comes_before_others(tmp_path):
    for value, name in enumerate(("Train", "dev", "validation", "Testing")):
        for label in ("a", "b"):
            fill(tmp_path / name / label, 1, first=value)
    assert values(read(tmp_path).test) == [3, 3]


def test_folders_named_like_splits_beside_classes(tmp_path):
    """Without class folders in it, train is a class; other names are classes where nothing is for training."""
    for name in ("bus", "Train", "dev"):
        fill(tmp_path / name, 5)
    assert read(tmp_path).classes == ("Train", "bus", "dev")


def test_links_to_folders_are_followed(tmp_path):
    fill(tmp_path / "in" / "a", 2)
    fill(tmp_path / "in" / "b", 1, first=5)
    fill(tmp_path / "elsewhere" / "deeper", 2, first=20)
    (tmp_path / "in" / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "same").symlink_to(tmp_path / "elsewhere" / "deeper")  # twice, but no loop
    split, _ = evaluated(tmp_path / "in", everything=True)
    assert values(split) == [0, 1, 5, 20, 20, 21, 21]


@pytest.mark.parametrize("below", ["", "train"])
def test_without_test_folder_a_fifth_is_held_out(below, tmp_path):
    fill(tmp_path / below / "a", 10)
    fill(tmp_path / below / "b", 20, first=100)
    dataset = read(tmp_path)
    assert np.bincount(dataset.test["label"]).tolist() == [2, 4]
    assert sorted(values(dataset.train) + values(dataset.test)) == [*range(10), *range(100, 120)]
    again = read(tmp_path)
    np.testing.assert_array_equal(dataset.train["image"], again.train["image"])
    assert "6 of them held out" in dataset.note


def test_limit_meets_all_classes(tmp_path):
    for index, label in enumerate("abc"):
        fill(tmp_path / label, 20, first=50 * index)
    dataset = read(tmp_path, limit=10)
    assert len(dataset.train["label"]) == len(dataset.test["label"]) == 10
    assert set(dataset.train["label"]) == {0, 1, 2}


def test_nested_hidden_and_other_files(tmp_path):
    fill(tmp_path / "train" / "a" / "deeper" / "still", 2)
    fill(tmp_path / "train" / "b", 1, first=7)
    fill(tmp_path / "train" / "b" / ".thumbnails", 3)
    fill(tmp_path / "train" / ".checkpoints", 3)
    fill(tmp_path / "test" / "b", 1, suffix="JPG")
    (tmp_path / "train" / "b" / "notes.txt").write_text("not an image, and does not claim to be")
    (tmp_path / "train" / "b" / "._image.png").write_bytes(b"what macOS leaves")
    dataset = read(tmp_path)
    assert dataset.classes == ("a", "b")
    assert values(dataset.train) == [0, 1, 7]


def test_grey_only_if_all_are(tmp_path):
    fill(tmp_path / "a", 5, mode="L")
    fill(tmp_path / "b", 5, mode="L")
    assert read(tmp_path).train["image"].shape == (8, 6, 6, 1)
    fill(tmp_path / "b" / "more", 1, mode="RGB")
    assert read(tmp_path).train["image"].shape == (9, 6, 6, 3)


def test_sizes(tmp_path):
    fill(tmp_path / "a", 5, size=(6, 6))
    fill(tmp_path / "b", 5, size=(9, 6))
    with pytest.raises(ConfigError, match="images differ in size .*6x9.*set data.image_size"):
        read(tmp_path)
    for resize in ("stretch", "crop"):
        assert read(tmp_path, image_size=4, resize=resize).train["image"].shape == (8, 4, 4, 3)


def test_validation_is_taken_from_the_training_part(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path / "train" / label, 10)
        fill(tmp_path / "test" / label, 1, first=99)
    dataset = read(tmp_path, validation=0.2)
    assert len(dataset.train["label"]) == 16
    assert np.bincount(dataset.test["label"]).tolist() == [2, 2]
    assert 99 not in values(dataset.test)


def make(tmp_path, case):
    if case == "no folder":
        return tmp_path / "none"
    if case == "empty":
        return tmp_path
    fill(tmp_path / "a", 3)
    if case == "images only":
        return tmp_path / "a"
    if case == "class without images":
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "readme.txt").write_text("images come later")
    elif case == "no image":
        fill(tmp_path / "b", 2)
        (tmp_path / "b" / "broken.png").write_bytes(b"this is text")
    elif case == "cut short":
        fill(tmp_path / "b", 2)
        (tmp_path / "b" / "cut.png").write_bytes(tiny.encode(tiny.random_images(30, 30, 3))[:500])
    elif case == "broken link":
        fill(tmp_path / "b", 2)
        (tmp_path / "b" / "link.png").symlink_to(tmp_path / "nowhere.png")
    elif case == "one each":
        for name in "bcdefg":
            fill(tmp_path / name, 1)
        fill(tmp_path / "a", 1)
        for path in list((tmp_path / "a").iterdir())[1:]:
            path.unlink()
    elif case == "strange test class":
        fill(tmp_path / "train" / "a", 1)
        fill(tmp_path / "train" / "b", 1)
        fill(tmp_path / "test" / "c", 1)
    elif case == "empty test":
        fill(tmp_path / "train" / "a", 1)
        fill(tmp_path / "train" / "b", 1)
        (tmp_path / "test").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no folder", "none is not a folder"),
        ("empty", "has no folders of images, one per class"),
        ("images only", "a has no folders of images, one per class"),
        ("one class", "has one class only, a"),
        ("class without images", "b has no images .*png"),
        ("no image", "broken.png: not an image"),
        ("cut short", "cut.png: cannot be read as an image"),
        ("broken link", "link.png: no such file"),
        ("one each", "cannot hold out 1 of 7 examples when each of 7 classes keeps one"),
        ("strange test class", "test/c: no class of that name in the training split, which has a, b"),
        ("empty test", "test has no folders of images"),
    ],
)
def test_mistakes_get_one_clear_line(case, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        read(make(tmp_path, case))
    assert "\n" not in str(caught.value)


def test_folder_names_may_start_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "pets" / "a", 5)
    fill(tmp_path / "pets" / "b", 5)
    assert len(load(Data(name="folder:~/pets")).train["label"]) == 8


def test_real_photographs(shared, tmp_path):
    photographs = sorted(shared("data/imagenet_sample").glob("*.jpg"))[:12]
    for index, path in enumerate(photographs):
        folder = tmp_path / ("even" if index % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)
    dataset = folders.read(Data(name="folder:p", image_size=64, resize="crop", resize_short=72), tmp_path)
    assert dataset.train["image"].shape == (10, 64, 64, 3)
    assert 80 < dataset.train["image"].mean() < 160


def evaluated(folder, everything, channels=3, **options):
    return load_evaluated(Data(name=f"folder:{folder}", **options), None, channels, everything)


@pytest.mark.parametrize("parts", [("train", "test"), ("train",), ("",)])
def test_the_evaluated_split_alone_is_that_of_all(parts, tmp_path):
    for part in parts:
        fill(tmp_path / part / "a", 10)
        fill(tmp_path / part / "b", 20, first=100)
    split, classes = evaluated(tmp_path, everything=False)
    dataset = read(tmp_path)
    assert classes == dataset.classes
    for key in ("image", "label"):
        np.testing.assert_array_equal(split[key], dataset.test[key])


def test_a_network_that_saw_none_is_evaluated_on_everything(tmp_path):
    fill(tmp_path / "b", 1, first=5)  # too few to hold any out
    fill(tmp_path / "a", 2)
    split, classes = evaluated(tmp_path, everything=True, validation=0.5)
    assert classes == ("a", "b") and values(split) == [0, 1, 5]
    np.testing.assert_array_equal(split["label"], split["image"][:, 0, 0, 0] == 5)
    assert evaluated(tmp_path, everything=True, channels=1)[0]["image"].shape == (3, 6, 6, 1)
    assert len(evaluated(tmp_path, everything=True, limit=2)[0]["image"]) == 2
    fill(tmp_path / "with" / "train" / "a", 2)
    fill(tmp_path / "with" / "val" / "b", 1, first=7)
    split, classes = evaluated(tmp_path / "with", everything=True)
    assert classes == ("b",) and values(split) == [7]
    with pytest.raises(ConfigError, match="is not a folder"):
        evaluated(tmp_path / "missing", everything=True)
