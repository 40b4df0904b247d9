import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.augment import boxes as ba

HEIGHT, WIDTH = 40, 60


def example_of(boxes, number=0):
    """A dark grey image in which each box is a bright yellow rectangle."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + number, np.float32)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = [200 - 10 * i, 150 + 20 * number, 10 + 20 * i]
    return {
        "image": jnp.asarray(image),
        "boxes": jnp.array(boxes, jnp.float32),
        "classes": jnp.arange(len(boxes)),
        "valid": jnp.ones(len(boxes), bool),
    }


EXAMPLE = example_of([(10, 8, 30, 20), (35, 22, 57, 38)])
FOUR = jax.tree.map(
    lambda *a: jnp.stack(a), *[example_of([(10, 8, 30, 20), (35, 22, 57, 38)], n) for n in range(4)]
)


def many(function, count=40, example=EXAMPLE, **settings):
    """The function on `count` keys: arrays with a leading axis, on the host."""
    keys = jax.random.split(jax.random.key(0), count)
    run = jax.jit(jax.vmap(functools.partial(function, **settings), in_axes=(0, None)))
    return jax.tree.map(np.asarray, run(keys, example))


def check_boxes_lie_on_their_rectangles(result, slack=1.01):
    """Yellow pixels begin and end where the valid boxes do."""
    seen = 0
    for image, boxes, valid in zip(result["image"], result["boxes"], result["valid"], strict=True):
        bright = image[..., 0] - image[..., 2] > 90
        covered = np.zeros_like(bright)
        for box in boxes[valid]:
            x1, y1, x2, y2 = box
            inside = bright[int(np.ceil(y1)) : int(y2), int(np.ceil(x1)) : int(x2)]
            if inside.size:
                assert inside.mean() > 0.85
                seen += 1
            a, b = np.floor(box[:2] - slack).clip(0).astype(int), np.ceil(box[2:] + slack).astype(int)
            covered[a[1] : b[1], a[0] : b[0]] = True
        if np.all(valid):
            assert not np.any(bright & ~covered)
    assert seen > 20


@pytest.mark.parametrize("function", [ba.flip, ba.flip_vertical])
def test_flips_by_hand(function):
    result = many(function)
    turned = np.any(result["boxes"] != np.asarray(EXAMPLE["boxes"]), axis=(1, 2))
    assert 10 < turned.sum() < 30
    first = result["boxes"][turned][0, 0]
    assert_allclose(first, [30, 8, 50, 20] if function is ba.flip else [10, 20, 30, 32])
    check_boxes_lie_on_their_rectangles(result)
    assert_array_equal(result["image"][~turned][0], EXAMPLE["image"])
    always = many(function, 3, probability=1.0)
    axis = 2 if function is ba.flip else 1
    assert_array_equal(always["image"], np.flip([EXAMPLE["image"]] * 3, axis))


@pytest.mark.parametrize(
    ("function", "settings"),
    [(ba.scale_translate, {"scale": 0.3, "translate": 0.3}), (ba.crop, {"smallest": 0.3})],
)
def test_boxes_move_with_the_image(function, settings):
    result = many(function, 60, **settings)
    check_boxes_lie_on_their_rectangles(result, slack=2.0)
    assert 0 < result["valid"].mean() < 1
    boxes = result["boxes"]
    assert boxes.min() >= 0 and np.all(boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert len(np.unique(boxes[:, 0, 0])) > 20


def test_nothing_happens_without_strength():
    for function, settings in [
        (ba.scale_translate, {"scale": 0.0, "translate": 0.0}),
        (ba.crop, {"smallest": 1.0, "stretch": 1.0}),
        (ba.colour, {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}),
    ]:
        result = many(function, 2, **settings)
        assert_allclose(result["image"][0], EXAMPLE["image"], atol=1e-2)
        assert_allclose(result["boxes"][1], EXAMPLE["boxes"], atol=1e-4)
        assert result["valid"].all()


def moved(boxes, scale, shift):
    example = example_of(boxes)
    return ba._move(example, jnp.array(scale), jnp.array(shift))


def test_a_shift_of_whole_pixels_by_hand():
    result = moved([(10, 8, 30, 20)], [1.0, 1.0], [5.0, -20.0])
    assert_allclose(result["boxes"], [[0, 13, 10, 25]])
    assert result["valid"][0]
    image = np.asarray(EXAMPLE["image"])
    assert_allclose(result["image"][13:25, :10], np.broadcast_to([200, 150, 10], (12, 10, 3)), atol=1e-3)
    assert_allclose(result["image"][:5], 128, atol=1e-3)
    assert_allclose(result["image"][:, 40:], 128, atol=1e-3)
    assert image.shape == result["image"].shape


@pytest.mark.parametrize(
    ("shift", "kept"),
    [(-24.0, True), (-24.2, False), (-30.0, False), (-90.0, False)],  # visible: 30 %, 29 %, none, none
)
def test_a_box_needs_three_tenths_of_its_area(shift, kept):
    assert bool(moved([(10, 8, 30, 20)], [1.0, 1.0], [0.0, shift])["valid"][0]) == kept


def test_a_box_needs_two_pixels():
    assert moved([(10, 8, 14, 20)], [1.0, 0.5], [0.0, 0.0])["valid"][0]
    assert not moved([(10, 8, 14, 20)], [1.0, 0.45], [0.0, 0.0])["valid"][0]


def test_invalid_boxes_stay_invalid():
    example = {**EXAMPLE, "valid": jnp.array([False, True])}
    for function in (ba.flip, ba.colour, functools.partial(ba.scale_translate, scale=0.1, translate=0.0)):
        assert_array_equal(many(function, 3, example)["valid"], [[False, True]] * 3)


def test_hsv_is_that_of_the_standard_library():
    rng = np.random.default_rng(0)
    colours = np.concatenate(
        [rng.uniform(0, 1, (50, 3)), np.eye(3), np.zeros((1, 3)), np.ones((1, 3)), [[0.5, 0.5, 0.2]]]
    )
    hsv = ba.rgb_to_hsv(jnp.asarray(colours, jnp.float32))
    assert_allclose(hsv, [colorsys.rgb_to_hsv(*c) for c in colours], atol=1e-5)
    assert_allclose(ba.hsv_to_rgb(hsv), colours, atol=1e-5)


def test_colour_changes_stay_within_their_limits():
    grey = {**EXAMPLE, "image": jnp.full((4, 4, 3), 100.0)}
    result = many(ba.colour, 100, grey)["image"]
    assert_allclose(result[..., 0], result[..., 1], atol=1e-3)  # grey has no hue and no saturation
    assert result.min() >= 100 / 1.5 - 1e-3 and result.max() <= 150.001
    assert result.min() < 70 and result.max() > 145
    red = {**EXAMPLE, "image": jnp.broadcast_to(jnp.array([200.0, 100, 100]), (4, 4, 3))}
    hsv = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in many(ba.colour, 100, red)["image"][:, 0, 0]])
    turn = (hsv[:, 0] + 0.5) % 1 - 0.5
    assert -0.1001 < turn.min() < -0.08 and 0.08 < turn.max() < 0.1001
    assert 1 / 3 - 1e-3 < hsv[:, 1].min() < 0.36 and 0.7 < hsv[:, 1].max() < 0.7501


def test_mosaic_joins_four_images():
    result = many(ba.mosaic, 40, FOUR)
    assert result["boxes"].shape == (40, 8, 4) and result["classes"].shape == (40, 8)
    assert result["image"].shape == (40, HEIGHT, WIDTH, 3)
    check_boxes_lie_on_their_rectangles(result, slack=2.0)
    assert 0.2 < result["valid"].mean() < 0.9
    # Each corner shows its own image (background 20 + number), and nothing is left empty.
    for n, (y, x) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        corner = result["image"][:, y, x, 0]
        assert np.any(np.abs(corner - (20 + n)) < 0.01)
    assert not np.any(np.abs(result["image"] - 128).max(-1) < 1e-3)


def test_mosaic_cuts_boxes_at_their_part():
    result = many(ba.mosaic, 40, FOUR)
    for image, boxes, valid in zip(result["image"], result["boxes"], result["valid"], strict=True):
        for number in range(4):
            for box in boxes[2 * number : 2 * number + 2][valid[2 * number : 2 * number + 2]]:
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                # The green channel of a rectangle tells its image.
                assert abs(image[y, x, 1] - (150 + 20 * number)) < 1


def test_mixup_keeps_the_boxes_of_both():
    pair = jax.tree.map(lambda a: a[:2], FOUR)
    result = many(ba.mixup, 50, pair)
    assert result["boxes"].shape == (50, 4, 4) and result["valid"].all()
    weight = 21 - result["image"][:, 0, 0, 0]
    one, other = np.asarray(pair["image"])
    mixed = weight[:, None, None, None] * one + (1 - weight)[:, None, None, None] * other
    assert_allclose(result["image"], mixed, atol=1e-2)
    assert 0.4 < weight.mean() < 0.6 and weight.std() > 0.05


def test_an_example_depends_on_its_key_only():
    keys = jax.random.split(jax.random.key(1), 6)
    batch = jax.tree.map(lambda a: jnp.broadcast_to(a, (6, *a.shape)), EXAMPLE)
    run = jax.jit(jax.vmap(ba.crop))
    whole = run(jnp.copy(keys), batch)
    part = run(keys[4:], jax.tree.map(lambda a: a[4:], batch))
    assert_allclose(whole["image"][4:], part["image"], atol=1e-3)
    assert_array_equal(whole["boxes"][4:], part["boxes"])


def test_partners_depend_on_the_key_only():
    keys = jax.random.split(jax.random.key(1), 200)
    whole = ba.partners(jnp.copy(keys), 10, 3)
    assert_array_equal(whole[150:], ba.partners(keys[150:], 10, 3))
    assert set(np.unique(whole)) == set(range(10)) and whole.dtype == jnp.int32
