import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from cnnjax.data.synthetic import scenes


def on_host(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope="module")
def shapes():
    return on_host(scenes.grid_scenes(jax.random.key(0), 200, 48, 3, masks=True))


@pytest.fixture(scope="module")
def digits():
    return on_host(
        scenes.grid_scenes(jax.random.key(1), 200, 64, 3, "digits", "test", (0.4, 0.5), masks=True)
    )


def test_shapes_of_arrays(shapes):
    assert shapes["image"].shape == (200, 48, 48, 3) and shapes["image"].dtype == np.uint8
    assert shapes["boxes"].shape == (200, 3, 4) and shapes["boxes"].dtype == np.float32
    assert shapes["classes"].shape == (200, 3) and shapes["classes"].dtype == np.int32
    assert shapes["masks"].shape == (200, 3, 48, 48) and shapes["masks"].dtype == bool


@pytest.mark.parametrize("name", ["shapes", "digits"])
def test_boxes_are_tight_around_disjoint_masks(name, request):
    data = request.getfixturevalue(name)
    assert np.all(data["masks"].sum(1) <= 1)
    for masks, boxes, valid in zip(data["masks"], data["boxes"], data["valid"], strict=True):
        for mask, box, real in zip(masks, boxes, valid, strict=True):
            rows, columns = np.nonzero(mask)
            assert real == bool(len(rows))
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if real else [0] * 4
            assert_array_equal(box, expected)


def test_every_number_and_class_occurs(shapes, digits):
    for data, number in ((shapes, 4), (digits, 10)):
        assert np.all(np.bincount(data["valid"].sum(1), minlength=4) > 5)
        assert np.all(np.bincount(data["classes"][data["valid"]], minlength=number) > 5)
        assert np.all(data["classes"][~data["valid"]] == 0)


def test_objects_differ_from_what_surrounds_them(shapes):
    for image, masks, valid in zip(shapes["image"], shapes["masks"], shapes["valid"], strict=True):
        outside = image[~masks.any(0)].mean(0)
        for mask in masks[valid]:
            assert np.abs(image[mask].mean(0) - outside).max() > 20


def test_a_disk_fills_its_box_like_a_disk(shapes):
    chosen = shapes["valid"] & (shapes["classes"] == scenes.SHAPES.index("disk"))
    size = shapes["boxes"][chosen][:, 2:] - shapes["boxes"][chosen][:, :2]
    alone = (np.abs(size[:, 0] - size[:, 1]) <= 1) & (size[:, 0] >= 12)  # not partly covered, and large
    share = shapes["masks"][chosen].sum((1, 2)) / size.prod(1)
    assert alone.sum() > 8
    # A disk of 12 pixels is off by up to 0.09; a square or a cross by 0.2.
    assert_allclose(share[alone], np.pi / 4, atol=0.09)
    assert abs(share[alone].mean() - np.pi / 4) < 0.02


def test_digits_are_read_as_their_class(digits):
    def tight(picture):
        rows, columns = np.nonzero(picture)
        part = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)
        y, x = (np.linspace(0, n - 1, 12).round().astype(int) for n in part.shape)
        return part[np.ix_(y, x)].ravel()

    bunch = load_digits()
    known = KNeighborsClassifier(3).fit([tight(image > 4) for image in bunch.images], bunch.target)
    masks = digits["masks"][digits["valid"]]
    assert known.score([tight(m) for m in masks], digits["classes"][digits["valid"]]) > 0.85


def test_scenes_depend_on_key_and_index_only(shapes, monkeypatch):
    monkeypatch.setattr(scenes, "CHUNK", 200)
    more = on_host(scenes.grid_scenes(jax.random.key(0), 230, 48, 3, masks=True))
    assert len(np.unique(more["image"].reshape(230, -1), axis=0)) == 230
    for name, value in more.items():
        assert len(value) == 230
        assert_array_equal(value[:200], shapes[name])
    other = on_host(scenes.grid_scenes(jax.random.key(5), 200, 48, 3, masks=True))
    assert np.all(np.any(other["image"] != shapes["image"], axis=(1, 2, 3)))


def test_scenes_for_localization_hold_one_object_or_none():
    data = on_host(scenes.grid_scenes(jax.random.key(2), 60, 24, 1, scale=(0.25, 0.7)))
    assert data["image"].shape == (60, 24, 24, 3) and data["boxes"].shape == (60, 1, 4)
    assert 20 < data["valid"].sum() < 40
    assert_array_equal(np.any(data["boxes"] != 0, axis=2), data["valid"])


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="unknown kind 'cats': choose one of shapes, digits"):
        scenes.grid_scenes(jax.random.key(0), 1, kind="cats")
