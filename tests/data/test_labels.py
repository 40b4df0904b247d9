"""Whose labels are whose: classes of a folder found among those of a network."""

import json
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import ConfigError
from cnnjax.data.dataset import Dataset
from cnnjax.data.labels import as_trained, find, of_run, renumber

NAMES = ("tench", "goldfish", "great_white_shark", "crane", "crane")


def no_synsets():
    raise AssertionError("not asked for")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("goldfish", "tench"), [1, 0]),
        (("Great White-Shark", "GOLDFISH"), [2, 1]),
        (("3", "04", "0"), [3, 4, 0]),
        (("4", "tench"), [4, 0]),
    ],
)
def test_names_and_indices(names, expected):
    found = find(names, NAMES, no_synsets)
    assert found.tolist() == expected and found.dtype == np.int32


def test_names_that_are_numbers_are_names_first():
    assert find(("1", "2"), ("2", "1", "0"), no_synsets).tolist() == [1, 0]


def test_synsets():
    assert find(("n02_x", "n00000002_b"), ("n00000001", "n00000002 b", "n02_x"), no_synsets).tolist() == [
        2,
        1,
    ]
    thousand = [f"class {i}" for i in range(1000)]
    synsets = tuple(f"n{i:08d}" for i in range(1000))
    assert find(("n00000999_robin", "class_7"), thousand, lambda: synsets).tolist() == [999, 7]


@pytest.mark.parametrize("name", ["shark", "5", "-1", "n01440764", ""])
def test_a_name_that_is_no_class(name):
    with pytest.raises(ConfigError, match=f"no class '{name}', but tench.*by its index"):
        find(("tench", name), NAMES, no_synsets)


def test_a_name_that_is_two_classes():
    with pytest.raises(ConfigError, match="2 classes of the network are called crane: name it by its index"):
        find(("crane",), NAMES, no_synsets)


def test_labels_are_renumbered():
    split = {"image": np.zeros((4, 1, 1, 3), np.uint8), "label": np.array([0, 1, 1, 0], np.int32)}
    assert renumber(split, "a", NAMES, NAMES, None) is split
    other = renumber(split, "folder:a", ("goldfish", "tench"), NAMES, None)
    assert other["label"].tolist() == [1, 0, 0, 1] and other["label"].dtype == np.int32
    with pytest.raises(ConfigError, match="other classes than the network, which has tench"):
        renumber({"image": split["image"], "boxes": split["image"]}, "voc:a", ("x",), NAMES, None)


def test_imagenet_s_synsets_are_those_of_tensorflow_datasets(offline):
    pytest.importorskip("tensorflow_datasets")
    split = {"image": np.zeros((2, 1, 1, 3), np.uint8), "label": np.array([0, 1], np.int32)}
    classes = [f"class {i}" for i in range(1000)]
    found = renumber(split, "folder:a", ("n01496331_electric_ray", "n01558993"), classes, None)
    assert found["label"].tolist() == [5, 15]  # the indices of its authors' list


def labelled(*labels):
    return {"image": np.zeros((len(labels), 1, 1, 3), np.uint8), "label": np.array(labels, np.int32)}


def test_labels_as_a_run_learned_them():
    test, validation = labelled(2, 0), labelled(1)
    changed = as_trained(
        Dataset("folder:x", labelled(0, 1, 2), test, ("a", "b", "c"), "", validation), ["c", "a", "b"]
    )
    assert changed.classes == ("c", "a", "b")
    assert changed.train["label"].tolist() == [1, 2, 0] and changed.test["label"].tolist() == [0, 1]
    assert changed.validation is not None and changed.validation["label"].tolist() == [2]
    same = as_trained(Dataset("folder:x", labelled(0, 1), test := labelled(1), ("a", "b"), "", test), "ba")
    assert same.validation is same.test and same.test["label"].tolist() == [0]


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (("apple", "pear", "sky"), ("apple", "leaf", "sky"), "new: 'pear'; gone: 'leaf'. Name them"),
        (("apple", "sky"), ("apple", "leaf", "sky"), "trained on: gone: 'leaf'. Name them"),
        (("apple", "leaf", "sky"), ("apple", "sky"), "trained on: new: 'leaf'. Name them"),
        (("0", "1"), ("1", "2"), "new: '0'; gone: '2'"),  # a number is no index here
        (("Apple", "sky"), ("apple", "sky"), "new: 'Apple'; gone: 'apple'"),
        (("a", "a"), ("a",), "trained on: 2, not 1"),
        (tuple("abcdef"), ("x",), "new: 'a', 'b', 'c' and 3 more; gone: 'x'"),
    ],
)
def test_classes_that_changed_between_runs(names, classes, message):
    with pytest.raises(ConfigError, match=f"data.name='folder:x' has other classes.* {message}"):
        of_run(labelled(0), "folder:x", names, classes)


def test_boxes_in_another_order_of_classes_are_refused():
    split = {"image": np.zeros((1, 1, 1, 3), np.uint8), "classes": np.zeros((1, 1), np.int32)}
    assert of_run(split, "yolo:x", ("a", "b"), ["a", "b"]) is split
    with pytest.raises(
        ConfigError, match="the same classes in another order than the network, which has b, a"
    ):
        of_run(split, "yolo:x", ("a", "b"), ("b", "a"))


FLAGS = (
    "--experiment=digits_lenet", "--model.name=softmax_regression", "--data.image_size=8", "--data.batch_size=4",
    "--optimizer.schedule=constant",
)  # fmt: skip
SHADES = {"apple": 20, "leaf": 120, "sky": 230}


@pytest.fixture
def photos(tmp_path):
    for name, shade in SHADES.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            image = Image.new("RGB", (8, 8), (shade + i, 9, 250 - shade))
            image.save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_folder_that_was_renamed_is_refused(launch, tmp_path, photos):
    data, run = f"--data.name=folder:{photos}", f"--workdir={tmp_path / 'run'}"
    assert launch(*FLAGS, data, run, "--train.steps=5").code == 0
    (photos / "apple").rename(photos / "tree")
    for flags in ((*FLAGS, data, "--train.steps=9"), ("--mode=evaluate",), ("--mode=visualize",)):
        result = launch(*flags, run)
        assert result.code == 1 and "trained on: new: 'tree'; gone: 'apple'" in result.err
    (photos / "tree").rename(photos / "apple")
    (photos / "cloud").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "cloud" / "1.png")
    for flags in ((*FLAGS, data, "--train.steps=9"), ("--mode=evaluate",)):
        result = launch(*flags, run)
        assert result.code == 1 and "trained on: new: 'cloud'. Name them" in result.err


def test_a_class_without_an_evaluated_image_is_said(launch, tmp_path, photos):
    for name in ("train", "Testing"):
        shutil.copytree(photos, tmp_path / "in" / name)
    shutil.rmtree(tmp_path / "in/Testing/sky")
    run = f"--workdir={tmp_path / 'run'}"
    for flags in ((*FLAGS, f"--data.name=folder:{tmp_path / 'in'}", "--train.steps=1"), ("--mode=evaluate",)):
        result = launch(*flags, run)
        assert result.code == 0 and "\nnote: the evaluated split has no image of 'sky'\n" in result.out
    assert "the evaluated split has no image of &#x27;sky&#x27;" in (tmp_path / "run/report.html").read_text()


def reverse(folder):
    """The prepared set with its classes in the opposite order."""
    about = json.loads((folder / "dataset.json").read_text())
    about["classes"].reverse()
    for name, split in about["splits"].items():
        path = folder / f"{name}.npz"
        labels = np.load(path)["label"]
        np.savez(path, label=len(about["classes"]) - 1 - labels)
        split["targets_crc32"] = zlib.crc32(path.read_bytes())
    (folder / "dataset.json").write_text(json.dumps(about))


def test_classes_in_another_order_change_nothing(launch, tmp_path, photos):
    records, run = tmp_path / "records", f"--workdir={tmp_path / 'run'}"
    prepared = launch("--mode=prepare", f"--data.name=folder:{photos}", f"--output={records}")
    assert prepared.code == 0, prepared.err
    flags = (*FLAGS, f"--data.name=records:{records}", "--data.stream=true", "--data.workers=0")
    assert launch(*flags, f"--workdir={tmp_path / 'whole'}", "--train.steps=8").code == 0
    assert launch(*flags, run, "--train.steps=3").code == 0
    before = launch("--mode=evaluate", run).out
    reverse(records)
    assert launch("--mode=evaluate", run).out == before
    result = launch(*flags, run, "--train.steps=8")
    assert result.code == 0, result.err
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        for name in ("run", "whole")
    ]
    assert last[0]["step"] == 8 and last[0]["loss"] == last[1]["loss"]
