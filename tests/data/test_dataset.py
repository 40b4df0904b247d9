import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.data.dataset import (
    Dataset,
    first,
    hold_out,
    of_each_class,
    shortcomings,
    shortcomings_of_evaluated,
)


def split(count, num_classes=2):
    image = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return {"image": image, "label": (np.arange(count) % num_classes).astype(np.int32)}


def dataset(**changes):
    return Dataset(**{"name": "d", "train": split(20), "test": split(6), "classes": ("a", "b")} | changes)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"image": split(4)["image"].astype(np.float32), "label": split(4)["label"]}, "float32"),
        ({"image": split(4)["image"][0], "label": split(1)["label"]}, "images are uint8"),
        ({"image": split(4)["image"], "label": split(4)["label"].astype(np.int64)}, "int64"),
        ({"image": split(4)["image"], "label": split(3)["label"]}, r"int32\[3\] labels for 4 images"),
        (split(0), "is empty"),
        (split(6, num_classes=3), "labels 0 to 2 for 2 classes"),
    ],
)
def test_refuses_arrays_that_break_the_contract(train, message):
    with pytest.raises(ValueError, match=message):
        dataset(train=train)


def test_first_takes_the_first_of_each_split():
    limited = first(dataset(), 3)
    assert limited.train["image"].ravel().tolist() == limited.test["image"].ravel().tolist() == [0, 1, 2]
    assert limited.train["label"].tolist() == [0, 1, 0]
    assert limited.note == "first 3 examples of each split"
    assert first(dataset(), 0).train["image"].shape[0] == 20
    assert [len(s["label"]) for s in (first(dataset(), 10).train, first(dataset(), 10).test)] == [10, 6]


def test_hold_out_never_touches_the_test_split():
    changed = hold_out(dataset(test=split(6)), 0.3)
    everything = np.concatenate([changed.train["image"], changed.test["image"]]).ravel()
    assert sorted(everything) == list(range(20))
    assert np.bincount(changed.test["label"]).tolist() == [3, 3]
    assert "6 examples held out of the training split" in changed.note
    np.testing.assert_array_equal(changed.train["image"].ravel() % 2, changed.train["label"])


def test_hold_out_needs_examples():
    with pytest.raises(ConfigError, match="data.name='d': cannot hold out 2 of 2"):
        hold_out(dataset(train=split(2)), 0.9)


def test_shortcomings_of_sizes():
    assert shortcomings(dataset()) == ()
    assert shortcomings(dataset(test=split(2))) == ("the evaluated split has 2 images only",)
    assert shortcomings(dataset(train=split(2), test=split(1), validation=split(2))) == (
        "the training split has 2 images only",
        "the validation split has 2 images only",
        "the evaluated split has 1 image only",
        "the evaluated split has no image of 'b'",
    )
    assert shortcomings(hold_out(dataset(train=split(4)), 0.25)) == (
        "the evaluated split has 1 image only",
        "the evaluated split has no image of 'b'",
    )


def test_classes_without_an_evaluated_object():
    boxes = {
        "image": np.zeros((3, 8, 8, 3), np.uint8),
        "boxes": np.zeros((3, 2, 4), np.float32),
        "classes": np.array([[0, 3], [2, 1], [5, 0]], np.int32),
        "valid": np.array([[True, False], [True, True], [True, False]]),
        "ignored": np.array([[False, False], [True, False], [False, False]]),
    }
    note = "the evaluated split has no image of 'c', 'd', 'e'"
    assert shortcomings_of_evaluated(boxes, "abcdef") == (note,)
    note = "the evaluated split has no image of 'd', 'e', 'g' and 3 more"
    assert shortcomings_of_evaluated(boxes | {"ignored": np.zeros((3, 2), bool)}, "abcdefghij") == (note,)


def test_so_many_examples_of_each_class_are_trained_on_in_their_order():
    x = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * np.ones((8, 2, 2, 1), np.uint8)
    dataset = Dataset.of_arrays(x, np.array([0, 1, 0, 0, 1, 0, 2, 1]), x, np.zeros(8, int))
    found = of_each_class(dataset, 2)
    assert np.asarray(found.train["image"])[:, 0, 0, 0].tolist() == [0, 1, 2, 4, 6]
    assert len(found.test) == 8 and "trained on 5 examples, at most 2 of each class" in found.note
