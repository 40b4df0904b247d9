import numpy as np
import pytest

from cnnjax.data.formats.folders import Inside, split_folders
from cnnjax.data.splits import EVALUATED, NAMES, role, stratified_split


def test_parts_are_disjoint_complete_and_in_order():
    labels = np.random.default_rng(0).integers(0, 7, 500)
    kept, held = stratified_split(labels, 123)
    assert len(held) == 123
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(500))
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()


def test_every_class_gives_its_share():
    labels = np.repeat([0, 1, 2, 5], [100, 50, 30, 20])
    _, held = stratified_split(labels, 20)
    assert np.bincount(labels[held]).tolist() == [10, 5, 3, 0, 0, 2]
    # Quotas 5.5, 2.75, 1.65, 1.1: the two examples left after rounding down go to classes 1 and 2.
    _, held = stratified_split(labels, 11)
    assert np.bincount(labels[held]).tolist() == [5, 3, 2, 0, 0, 1]


def test_agrees_with_scikit_learn_on_the_class_counts():
    from sklearn.model_selection import train_test_split

    labels = np.random.default_rng(1).choice(5, 1000, p=[0.4, 0.3, 0.2, 0.07, 0.03])
    _, held = stratified_split(labels, 200)
    _, expected = train_test_split(labels, test_size=200, stratify=labels, random_state=0)
    assert np.abs(np.bincount(labels[held]) - np.bincount(expected)).max() <= 1


def test_the_last_example_of_a_class_is_kept():
    labels = np.array([0] * 8 + [1, 2])
    kept, _ = stratified_split(labels, 7)
    assert sorted(labels[kept]) == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot hold out 8 of 10"):
        stratified_split(labels, 8)


def test_only_the_seed_decides():
    labels = np.arange(100) % 4
    first, again, other = (stratified_split(labels, 40, seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_folders_and_annotations_know_the_same_names_of_splits():
    for name in (*NAMES["train"], *EVALUATED):
        assert name in NAMES[role(name.upper())] and role(f"{name}2017") == role(name)
    assert [role(name) for name in EVALUATED] == ["test"] * 2 + ["val"] * 6
    inside = {"Trainval": Inside(frozenset("ab"), False), "Evaluation": Inside(frozenset("ab"), False)}
    assert split_folders(inside, "here") == ("Trainval", "Evaluation")
