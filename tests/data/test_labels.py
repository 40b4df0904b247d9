"""Whose labels are whose: classes of a folder found among those of a network."""

import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.data.labels import find, renumber

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
