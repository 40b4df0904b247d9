"""Boxes, points and masks follow their image: the same object, told in three ways, stays the same object."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.augment import geometry
from cnnjax.augment.augment import augment, check, resize
from cnnjax.augment.draws import keys_of
from cnnjax.config import Augment, ConfigError, fields

HEIGHT, WIDTH = 48, 64
MEAN = jnp.full(3, 120.0)
CORNERS = np.array([[0, 1], [2, 1], [2, 3], [0, 3]])


def batch_of(count: int = 24) -> dict:
    """Two bright rectangles on noise in each image, with their boxes, their masks and, as points, their corners:
    all kinds at once."""
    rng = np.random.default_rng(0)
    low = rng.integers(2, [WIDTH - 24, HEIGHT - 24], (count, 2, 2))
    boxes = np.concatenate([low, low + rng.integers(10, 22, (count, 2, 2))], axis=-1)
    image = rng.uniform(0, 99, (count, HEIGHT, WIDTH, 3))
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)[..., None, None]
    masks = (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
    image[masks.any(axis=1)] += 150
    batch = {
        "image": image.astype(np.float32),
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(0, 3, (count, 2)).astype(np.int32),
        "valid": np.ones((count, 2), bool),
        "masks": masks,
        "points": boxes[..., CORNERS].astype(np.float32),
        "visible": np.ones((count, 2, 4), bool),
        "flip_points": np.tile(np.array([1, 0, 3, 2], np.int32), (count, 1)),
        "age": np.arange(count, dtype=np.float32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


@functools.partial(jax.jit, static_argnums=(0, 3))
def changed(options: Augment, batch: dict, epoch: int = 0, fill: float = 0.0) -> dict:
    keys = keys_of(jax.random.key(3), epoch, jnp.arange(len(batch["image"])))
    return augment(options, batch, keys, MEAN[: batch["image"].shape[-1]], fill)


def run(options: Augment, batch: dict, **more) -> dict:
    return jax.tree.map(np.asarray, changed(options, batch, **more))


def extent(mask: np.ndarray) -> list[int]:
    """The box around the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def check_three_tell_the_same(result: dict, turned: bool) -> int:
    """Within a pixel, the box of each valid object is that of its mask and of its points, cut at the border.

    Of an object that was `turned`, the border may cut off a corner that reached farthest: then the box holds the mask.
    """
    seen = 0
    inside = ((result["points"] >= 0) & (result["points"] < [WIDTH, HEIGHT])).all(axis=-1)
    assert_array_equal(result["visible"], inside)
    for i, j in np.argwhere(result["valid"]):
        box, points = result["boxes"][i, j], result["points"][i, j]
        around = np.concatenate([points.min(axis=0), points.max(axis=0)])
        assert_allclose(box, np.clip(around, 0, [WIDTH, HEIGHT] * 2), atol=1e-3)
        of_mask = np.array(extent(result["masks"][i, j]))
        if inside[i, j].all() or not turned:
            assert_allclose(of_mask, box, atol=1.0)
            seen += 1
        else:
            assert (of_mask[:2] >= box[:2] - 1).all() and (of_mask[2:] <= box[2:] + 1).all()
    return seen


@pytest.mark.parametrize(
    "options",
    [
        Augment(crop=9),
        Augment(flip="random", flip_vertical=True),
        Augment(crop=5, flip="alternating", flip_vertical=True),
        Augment(scale=0.4, translate=0.2, flip="random"),
        Augment(random_crop=0.6, flip_vertical=True, crop=3),
        Augment(rotate=180),
        Augment(rotate=40, scale=0.3, translate=0.2, shear=20, flip="random", flip_vertical=True, crop=6),
        Augment(random_crop=0.5, shear=15, flip="random"),
        Augment(rand_augment=3, rand_magnitude=20, flip="random"),
    ],
)
def test_the_mask_the_box_and_the_points_of_an_object_agree(options):
    before = batch_of()
    result = run(options, before)
    assert (
        check_three_tell_the_same(result, bool(options.rotate or options.shear or options.rand_augment)) > 10
    )
    assert (result["boxes"] != before["boxes"]).any(axis=-1).mean() > 0.4
    assert_array_equal(result["age"], before["age"])
    # The picture went where they did: it is bright in the masks, but for their interpolated borders, and dark elsewhere.
    bright = result["image"][..., 0] > 125
    # it changes colours, too
    assert options.rand_augment or (bright == result["masks"].any(axis=1)).mean() > 0.97


def test_a_mosaic_has_the_objects_of_four_told_in_three_ways():
    before = batch_of()
    result = run(Augment(mosaic=True), before)
    assert result["boxes"].shape == (24, 8, 4) and result["masks"].shape == (24, 8, HEIGHT, WIDTH)
    assert result["points"].shape == (24, 8, 4, 2) and result["visible"].shape == (24, 8, 4)
    for i, j in np.argwhere(result["valid"]):
        assert_allclose(extent(result["masks"][i, j]), result["boxes"][i, j], atol=1.0)
        seen = result["visible"][i, j]
        low, high = result["boxes"][i, j, :2] - 1e-3, result["boxes"][i, j, 2:] + 1e-3
        assert ((result["points"][i, j][seen] >= low) & (result["points"][i, j][seen] <= high)).all()
        assert seen.all() == np.allclose(result["points"][i, j], result["boxes"][i, j][CORNERS], atol=1e-3)
    assert result["valid"].sum() > 30 and set(result) == set(before)


def test_mixup_has_the_objects_of_both():
    before = batch_of()
    result = run(Augment(mixup=8.0), before)
    for name in ("boxes", "classes", "valid", "masks", "points", "visible"):
        both = np.concatenate([before[name], np.roll(before[name], 1, axis=0)], axis=1)
        assert_array_equal(result[name], both)


@pytest.mark.parametrize(("option", "axis"), [({"flip": "random"}, 0), ({"flip_vertical": True}, 1)])
@pytest.mark.parametrize("people", [True, False])
def test_a_mirror_image_swaps_the_names_of_points(option, axis, people):
    """Left of a face becomes its right, so of the row "left" there is what was "right"; whose place is mirrored."""
    before = batch_of(40)
    if not people:
        before = {
            "image": before["image"],
            "points": before["points"][:, 0],
            "visible": before["visible"][:, 0],
            "flip_points": before["flip_points"],
        }
    before["visible"] = before["visible"].at[..., 0].set(False)
    result = run(Augment(**option), before)
    turned = (result["image"] == jnp.flip(before["image"], 2 - axis)).all(axis=(1, 2, 3))
    assert 10 < turned.sum() < 30
    for name in ("points", "visible"):
        assert_array_equal(result[name][~turned], before[name][~turned])
    mirrored = np.array(before["points"][turned])
    mirrored[..., axis] = [WIDTH, HEIGHT][axis] - mirrored[..., axis]
    assert_array_equal(result["points"][turned], mirrored[..., [1, 0, 3, 2], :])
    assert_array_equal(result["visible"][turned][..., 1], False)
    assert_array_equal(result["visible"][turned][..., [0, 2, 3]], True)


def test_turned_around_twice_a_point_keeps_its_name():
    before = batch_of(40)
    result = run(Augment(flip="random", flip_vertical=True), before)
    turned = (result["image"] == before["image"][:, ::-1, ::-1]).all(axis=(1, 2, 3))
    assert 3 < turned.sum() < 20
    assert_array_equal(result["points"][turned], [WIDTH, HEIGHT] - np.array(before["points"])[turned])


def test_alternating_flips_turn_boxes_every_epoch():
    before = batch_of()
    first, second, third = (run(Augment(flip="alternating"), before, epoch=e) for e in range(3))
    mirrored = [WIDTH, 0, WIDTH, 0] + np.array([-1, 1, -1, 1]) * first["boxes"][..., [2, 1, 0, 3]]
    assert_array_equal(second["boxes"], mirrored)
    assert_array_equal(third["boxes"], first["boxes"])
    assert (first["boxes"] == before["boxes"]).all(axis=(1, 2)).any()
    assert (second["boxes"] == before["boxes"]).all(axis=(1, 2)).any()


def semantic(count: int = 6) -> dict:
    """A class for each pixel, which the red of the image tells, too."""
    classes = np.random.default_rng(1).integers(1, 200, (count, HEIGHT, WIDTH)).astype(np.int32)
    image = np.repeat(classes[..., None], 3, axis=-1).astype(np.float32)
    return {"image": jnp.asarray(image), "masks": jnp.asarray(classes)}


@pytest.mark.parametrize(
    "options",
    [
        Augment(crop=7),
        Augment(crop=7, crop_fill="reflect", flip="random"),
        Augment(flip="random", flip_vertical=True),
    ],
)
def test_exact_movements_take_the_same_pixels_of_image_and_mask(options):
    result = run(options, semantic())
    assert_array_equal(result["image"][..., 0], result["masks"])


@pytest.mark.parametrize(
    "options", [Augment(elastic=40.0), Augment(rotate=30, scale=0.2), Augment(mosaic=True)]
)
def test_a_mask_takes_the_nearest_class_and_none_between(options):
    """Of a mask in large blocks, the picture shows each pixel's class, but for the borders of the blocks."""
    blocks = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((16, 16), int))
    batch = {
        "image": jnp.asarray(np.tile(blocks[..., None], (6, 1, 1, 1)), jnp.float32),
        "masks": jnp.asarray(np.tile(blocks, (6, 1, 1)), jnp.int32),
    }
    result = run(options, batch)
    assert result["masks"].dtype == np.int32 and set(np.unique(result["masks"])) <= set(range(13))
    assert (abs(result["image"][..., 0] - result["masks"]) < 0.01).mean() > 0.6
    assert (result["masks"] != batch["masks"]).mean() > 0.02


def test_one_matrix_does_not_lose_what_a_crop_pushed_out():
    """A crop and a shift back are no movement at all: nothing is cut off in between."""
    x = batch_of(2)
    there = geometry.translation(jnp.array([[9.0, -4], [3, 2]]))
    back = geometry.translation(jnp.array([[-9.0, 4], [-3, -2]]))
    motion = geometry.Motion(geometry.compose(there, back), geometry.Form.FREE, (HEIGHT, WIDTH))
    assert_array_equal(jax.jit(motion.pixels)(x["image"]), x["image"])


def test_matrices_are_applied_in_turn():
    """Against products of 3x3 matrices in numpy."""
    rng = np.random.default_rng(0)
    first, then = rng.normal(size=(2, 5, 2, 3)).astype(np.float32)
    whole = [np.concatenate([m, np.tile([[[0, 0, 1]]], (5, 1, 1))], axis=1) for m in (first, then)]
    expected = (whole[1] @ whole[0])[:, :2]
    assert_allclose(geometry.compose(jnp.asarray(first), jnp.asarray(then)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"crop": 8}, {"translate": 0.3}, {"rotate": 90}, {"crop": 8, "shear": 9}]
)
def test_around_the_picture_is_the_fill(options):
    batch = {"image": jnp.full((20, 16, 16, 3), 60.0)}
    image = run(Augment(**options), batch, fill=128.0)["image"]
    # Interpolated: from the border on, a pixel is of both.
    assert image.min() >= 60 - 1e-3 and image.max() <= 128 + 1e-3
    assert (abs(image - 128) < 1e-3).any() and (abs(image - 60) < 1e-3).any()


def test_resizing_takes_all_kinds_along():
    before = batch_of(3)
    small = jax.jit(resize, static_argnums=1)(before, (HEIGHT // 2, WIDTH // 2))
    assert_allclose(small["boxes"], np.array(before["boxes"]) / 2)
    assert_allclose(small["points"], np.array(before["points"]) / 2)
    assert small["masks"].shape == (3, 2, HEIGHT // 2, WIDTH // 2) and small["valid"].all()
    for mask, box in zip(
        np.asarray(small["masks"]).reshape(6, 24, 32), small["boxes"].reshape(6, 4), strict=True
    ):
        assert_allclose(extent(mask), box, atol=1.0)


# A value for each option with which it shows, and one that does nothing alone.
SHOWN = {
    "crop": 3, "crop_fill": None, "flip": "random", "flip_vertical": True, "random_crop": 0.5, "rotate": 20.0,
    "scale": 0.3, "translate": 0.2, "shear": 15.0, "elastic": 30.0, "elastic_sigma": None, "hue": 0.3,
    "saturation": 0.8, "exposure": 0.5, "brightness": 0.3, "contrast": 0.5, "colour_jitter": (0.5, 0.5, 0.0, 0.0),
    "rand_augment": 2, "rand_magnitude": None, "cutout": 9, "cutout_inside": None, "erasing": 1.0, "erasing_fill": None, "mosaic": True,
    "mixup": 1.0, "cutmix": 1.0, "sizes": None,
}  # fmt: skip

REFUSED = {
    "label": {"mosaic"},
    "boxes": {"elastic", "cutmix"},
    "points": {"elastic", "cutmix", "mosaic", "mixup"},
    "masks": {"cutmix", "mixup"},
    "nothing": {"mosaic", "mixup", "cutmix"},
}


def of_kind(kind: str) -> dict:
    everything = batch_of(8)
    names = {
        "boxes": ("boxes", "classes", "valid"),
        "points": ("points", "visible", "flip_points"),
        "masks": ("masks",),
    }
    batch = {"image": everything["image"]} | {name: everything[name] for name in names.get(kind, ())}
    if kind == "points":
        batch |= {name: batch[name][:, 0] for name in ("points", "visible")}
    if kind == "label":
        batch["label"] = jnp.arange(8)
    return batch


def test_every_option_is_in_the_table():
    assert set(SHOWN) == {name for name, _, _ in fields(Augment())}


def refuses(options: Augment, batch: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(lambda b: changed(options, b), batch)


ON = [name for name, value in SHOWN.items() if value is not None]
MOVES = {
    "crop", "flip", "flip_vertical", "random_crop", "rotate", "scale", "translate", "shear", "elastic", "mosaic", "mixup",
    "rand_augment",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_meaning_for_a_kind_is_refused_before_there_are_data(kind):
    for name in ON:
        options = Augment(**{name: SHOWN[name]})
        if name in REFUSED[kind]:
            with pytest.raises(ConfigError, match=f"augment.{name}: "):
                check(options, set(of_kind(kind)))
            refuses(options, of_kind(kind), f"augment.{name}: ")
        else:
            check(options, set(of_kind(kind)))


@pytest.mark.parametrize("name", ON)
def test_every_other_option_changes_all_that_follows_the_image(name):
    options = Augment(**{name: SHOWN[name]})
    together = batch_of(8)
    if name == "elastic":
        together = of_kind("masks") | of_kind("label")
    if name == "cutmix":
        together = of_kind("label")
    result = run(options, together)
    assert result["image"].shape == together["image"].shape
    assert (result["image"] != together["image"]).any()
    for entry in {"boxes", "points", "masks"} & set(together):
        before = together[entry]
        assert (result[entry].shape != before.shape or (result[entry] != before).any()) == (name in MOVES)
    for entry in {"label", "age"} & set(together):
        assert_array_equal(result[entry], together[entry])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"crop": 3, "crop_fill": "reflect"}, "boxes", "augment.crop_fill=reflect: .* no boxes"),
        ({"crop": 3, "crop_fill": "reflect"}, "points", "augment.crop_fill=reflect: .* no points"),
        ({"mixup": 1.0, "cutmix": 1.0}, "label", "augment.mixup and augment.cutmix exclude each other"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, kind, message):
    with pytest.raises(ConfigError, match=message):
        check(Augment(**options), of_kind(kind))


def test_what_a_batch_does_not_allow_is_one_line():
    batch = of_kind("points")
    del batch["flip_points"]
    refuses(Augment(flip="random"), batch, "augment.flip: these points do not tell")
    refuses(Augment(flip_vertical=True), batch, "augment.flip_vertical: these points do not tell")
    grey = {"image": batch["image"][..., :1]}
    refuses(Augment(hue=0.1), grey, "augment.hue: images of 1 channel")
    refuses(Augment(saturation=0.1), grey, "augment.saturation: images of 1 channel")
    pixels = of_kind("boxes") | {"masks": jnp.zeros((8, HEIGHT, WIDTH), jnp.int32)}
    refuses(Augment(mixup=1.0), pixels, "augment.mixup: a pixel has one class")
    single = of_kind("boxes") | of_kind("points")
    refuses(Augment(mosaic=True), single, "augment.mosaic and augment.mixup: points .* are of one object")


def test_a_grey_image_has_an_exposure():
    batch = {"image": jnp.full((200, 2, 2, 1), 100.0)}
    factor = run(Augment(exposure=0.5), batch)["image"][:, 0, 0, 0] / 100
    assert 1 / 1.5 - 1e-3 < factor.min() < 0.7 and 1.45 < factor.max() < 1.5 + 1e-3
