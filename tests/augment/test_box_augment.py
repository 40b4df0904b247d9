import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from cnnjax.augment import geometry, kinds, mixing
from cnnjax.augment.colour import hsv_to_rgb, rgb_to_hsv, shift_colour
from cnnjax.augment.draws import Keys
from cnnjax.augment.geometry import Form, Motion
from cnnjax.config import Augment

HEIGHT, WIDTH = 40, 60
ROUNDING = 1e-5 * 255  # of float32 pixels


def move(example, motion, frame=None):
    """One example, moved by a motion of a batch of one."""
    batch = jax.tree.map(lambda a: a[None], example)
    moved = {**kinds.follow(batch, motion, frame), "image": motion.pixels(batch["image"], 128.0)}
    return jax.tree.map(lambda a: a[0], moved)


def flip(key, example, probability=0.5):
    return move(example, geometry.flip(jax.random.bernoulli(key, probability)[None], (HEIGHT, WIDTH)))


def flip_vertical(key, example, probability=0.5):
    return move(
        example, geometry.flip_vertical(jax.random.bernoulli(key, probability)[None], (HEIGHT, WIDTH))
    )


def scale_translate(key, example, scale, translate):
    options = Augment(scale=scale, translate=translate)
    keys = Keys(key[None], key[None], jnp.zeros(1, bool))
    motions = geometry.draw_motions(options, keys, HEIGHT, WIDTH)
    return move(example, motions[0]) if motions else example


def crop(key, example, smallest=0.5, stretch=4 / 3):
    matrix = geometry.random_window(key, HEIGHT, WIDTH, smallest, stretch)
    return move(example, Motion(matrix[None], Form.STRETCH, (HEIGHT, WIDTH)))


def colour(key, example, **limits):
    return {**example, "image": shift_colour(key, example["image"], **limits)}


def mosaic(key, four):
    joined = mixing.side_by_side(jax.tree.map(lambda a: a[None], four), key[None], 128.0)
    return jax.tree.map(lambda a: a[0], joined)


def mixup(key, pair):
    mixed = mixing.mixup(pair, jax.random.split(key), 8.0)
    return jax.tree.map(lambda a: a[0], mixed)


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


@pytest.mark.parametrize("function", [flip, flip_vertical])
def test_flips_by_hand(function):
    result = many(function)
    turned = np.any(result["boxes"] != np.asarray(EXAMPLE["boxes"]), axis=(1, 2))
    assert 10 < turned.sum() < 30
    first = result["boxes"][turned][0, 0]
    assert_allclose(first, [30, 8, 50, 20] if function is flip else [10, 20, 30, 32])
    check_boxes_lie_on_their_rectangles(result)
    assert_array_equal(result["image"][~turned][0], EXAMPLE["image"])
    always = many(function, 3, probability=1.0)
    axis = 2 if function is flip else 1
    assert_array_equal(always["image"], np.flip([EXAMPLE["image"]] * 3, axis))


@pytest.mark.parametrize(
    ("function", "settings"),
    [(scale_translate, {"scale": 0.3, "translate": 0.3}), (crop, {"smallest": 0.3})],
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
        (scale_translate, {"scale": 0.0, "translate": 0.0}),
        (crop, {"smallest": 1.0, "stretch": 1.0}),
        (colour, {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}),
    ]:
        result = many(function, 2, **settings)
        assert_allclose(result["image"][0], EXAMPLE["image"], atol=ROUNDING)
        assert_allclose(result["boxes"][1], EXAMPLE["boxes"], rtol=1e-5)
        assert result["valid"].all()


def moved(boxes, scale, shift):
    example = example_of(boxes)
    matrix = geometry.along_axes(jnp.array([scale[::-1]]), jnp.array([shift[::-1]]))
    return move(example, Motion(matrix, Form.STRETCH, (HEIGHT, WIDTH)))


def test_a_shift_of_whole_pixels_by_hand():
    result = moved([(10, 8, 30, 20)], [1.0, 1.0], [5.0, -20.0])
    assert_allclose(result["boxes"], [[0, 13, 10, 25]])
    assert result["valid"][0]
    image = np.asarray(EXAMPLE["image"])
    assert_allclose(result["image"][13:25, :10], np.broadcast_to([200, 150, 10], (12, 10, 3)), atol=ROUNDING)
    assert_allclose(result["image"][:5], 128, atol=ROUNDING)
    assert_allclose(result["image"][:, 40:], 128, atol=ROUNDING)
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
    for function in (flip, colour, functools.partial(scale_translate, scale=0.1, translate=0.0)):
        assert_array_equal(many(function, 3, example)["valid"], [[False, True]] * 3)


def test_hsv_is_that_of_the_standard_library():
    rng = np.random.default_rng(0)
    colours = np.concatenate(
        [rng.uniform(0, 1, (50, 3)), np.eye(3), np.zeros((1, 3)), np.ones((1, 3)), [[0.5, 0.5, 0.2]]]
    )
    hsv = rgb_to_hsv(jnp.asarray(colours, jnp.float32))
    assert_allclose(hsv, [colorsys.rgb_to_hsv(*c) for c in colours], atol=1e-5)
    assert_allclose(hsv_to_rgb(hsv), colours, atol=1e-5)


def test_colour_changes_stay_within_their_limits():
    grey = {**EXAMPLE, "image": jnp.full((4, 4, 3), 100.0)}
    result = many(colour, 100, grey)["image"]
    assert_allclose(result[..., 0], result[..., 1], atol=ROUNDING)  # grey has no hue and no saturation
    assert result.min() >= 100 / 1.5 - 1e-3 and result.max() <= 150.001
    assert result.min() < 70 and result.max() > 145
    red = {**EXAMPLE, "image": jnp.broadcast_to(jnp.array([200.0, 100, 100]), (4, 4, 3))}
    hsv = np.array([colorsys.rgb_to_hsv(*(c / 255)) for c in many(colour, 100, red)["image"][:, 0, 0]])
    turn = (hsv[:, 0] + 0.5) % 1 - 0.5
    assert -0.1001 < turn.min() < -0.08 and 0.08 < turn.max() < 0.1001
    assert 1 / 3 - 1e-3 < hsv[:, 1].min() < 0.36 and 0.7 < hsv[:, 1].max() < 0.7501


def test_mosaic_joins_four_images():
    result = many(mosaic, 40, FOUR)
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
    result = many(mosaic, 40, FOUR)
    for image, boxes, valid in zip(result["image"], result["boxes"], result["valid"], strict=True):
        for number in range(4):
            for box in boxes[2 * number : 2 * number + 2][valid[2 * number : 2 * number + 2]]:
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                # The green channel of a rectangle tells its image.
                assert abs(image[y, x, 1] - (150 + 20 * number)) < 1


def test_mixup_keeps_the_boxes_of_both():
    pair = jax.tree.map(lambda a: a[:2], FOUR)
    result = many(mixup, 50, pair)
    assert result["boxes"].shape == (50, 4, 4) and result["valid"].all()
    weight = 21 - result["image"][:, 0, 0, 0]
    one, other = np.asarray(pair["image"])
    mixed = weight[:, None, None, None] * one + (1 - weight)[:, None, None, None] * other
    assert_allclose(result["image"], mixed, atol=ROUNDING)
    assert 0.4 < weight.mean() < 0.6 and weight.std() > 0.05


def test_an_example_depends_on_its_key_only():
    keys = jax.random.split(jax.random.key(1), 6)
    batch = jax.tree.map(lambda a: jnp.broadcast_to(a, (6, *a.shape)), EXAMPLE)
    run = jax.jit(jax.vmap(crop))
    whole = run(jnp.copy(keys), batch)
    part = run(keys[4:], jax.tree.map(lambda a: a[4:], batch))
    assert_allclose(whole["image"][4:], part["image"], atol=ROUNDING)
    assert_array_equal(whole["boxes"][4:], part["boxes"])


def test_partners_depend_on_the_key_only():
    keys = jax.random.split(jax.random.key(1), 200)
    whole = mixing.partners(jnp.copy(keys), 10, 3)
    assert_array_equal(whole[150:], mixing.partners(keys[150:], 10, 3))
    assert set(np.unique(whole)) == set(range(10)) and whole.dtype == jnp.int32


def noisy(number=0):
    """Noise that no box is drawn on, with a small box in the middle, which no strength below cuts, and five more."""
    rng = np.random.default_rng(number)
    low = rng.uniform([0, 0], [WIDTH - 14, HEIGHT - 14], (5, 2))
    boxes = np.concatenate(
        [[[26, 16, 34, 24]], np.concatenate([low, low + rng.uniform(3, 14, (5, 2))], axis=1)]
    )
    image = rng.uniform(0, 255, (HEIGHT, WIDTH, 3))
    image[..., 0] = 40 * (number + 1)  # tells the image
    example = {"image": image.astype(np.float32), "boxes": boxes.astype(np.float32)}
    return {**example, "classes": np.arange(6), "valid": np.ones(6, bool)}


def mapping(before, after):
    """Scale and shift in x and y that take one box to another, float64."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    scale = (after[2:] - after[:2]) / (before[2:] - before[:2])
    return scale, after[:2] - scale * before[:2]


def check_mapped(boxes, found, valid, scale, shift, frame):
    """Each box corner by corner, cut at the frame (x1, y1, x2, y2); what is too small is dropped."""
    for before, after, kept in zip(boxes.astype(np.float64), found, valid, strict=True):
        whole = [scale[0] * before[0] + shift[0], scale[1] * before[1] + shift[1],
                 scale[0] * before[2] + shift[0], scale[1] * before[3] + shift[1]]  # fmt: skip
        cut = [min(max(v, frame[i % 2]), frame[i % 2 + 2]) for i, v in enumerate(whole)]
        assert_allclose(after, cut, atol=2e-5 * WIDTH)
        sides = cut[2] - cut[0], cut[3] - cut[1]
        share = sides[0] * sides[1] / ((whole[2] - whole[0]) * (whole[3] - whole[1]))
        if abs(share - 0.3) > 1e-3 and abs(min(sides) - 2) > 1e-3:
            assert kept == (share > 0.3 and min(sides) > 2)


def check_as_pillow(image, result, scale, shift, frame):
    """Pillow's resize (bilinear, antialiased) of the part of the picture that the frame shows; not at its border."""
    rows, columns = np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5
    margin = 1.5 * max(1, *scale)  # what the filter sees beyond a pixel, enlarged
    inside_y = (rows > max(frame[1], shift[1]) + margin) & (
        rows < min(frame[3], scale[1] * HEIGHT + shift[1]) - margin
    )
    inside_x = (columns > max(frame[0], shift[0]) + margin) & (
        columns < min(frame[2], scale[0] * WIDTH + shift[0]) - margin
    )
    pad = 2 * WIDTH
    box = [pad - shift[0] / scale[0], pad - shift[1] / scale[1],
           pad + (WIDTH - shift[0]) / scale[0], pad + (HEIGHT - shift[1]) / scale[1]]  # fmt: skip
    for channel in range(3):
        padded = Image.fromarray(np.pad(image[..., channel], pad))
        expected = np.asarray(padded.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box))
        where = np.ix_(inside_y, inside_x)
        assert_allclose(result[..., channel][where], expected[where], atol=1e-4 * 255)
    return inside_y.sum() * inside_x.sum()


@pytest.mark.parametrize(
    ("function", "settings"),
    [(scale_translate, {"scale": 0.3, "translate": 0.1}), (crop, {"smallest": 0.5})],
)
def test_image_and_boxes_follow_one_map_as_in_pillow(function, settings):
    """The box in the middle tells the map, which is drawn at random; the picture and all other boxes follow it."""
    before = noisy()
    results = many(function, 12, jax.tree.map(jnp.asarray, before), **settings)
    compared, frame = 0, (0, 0, WIDTH, HEIGHT)
    for i in range(12):
        scale, shift = mapping(before["boxes"][0], results["boxes"][i, 0])
        check_mapped(before["boxes"], results["boxes"][i], results["valid"][i], scale, shift, frame)
        compared += check_as_pillow(before["image"], results["image"][i], scale, shift, frame)
    assert compared > 12 * WIDTH * HEIGHT / 2 and not results["valid"].all()


def test_each_part_of_a_mosaic_follows_one_map_as_in_pillow():
    """Red tells the parts; in each, a box that lies inside tells the map, whose scale all four share."""
    before = [noisy(n) for n in range(4)]
    results = many(mosaic, 12, jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *before))
    compared, parts = 0, 0
    for i in range(12):
        scales = []
        for n, example in enumerate(before):
            mine = np.abs(results["image"][i, ..., 0] - 40 * (n + 1)) < 1
            rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
            frame = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            assert mine[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            found, valid = (results[key][i, 6 * n : 6 * n + 6] for key in ("boxes", "valid"))
            uncut = valid & (found[:, :2] > frame[:2]).all(1) & (found[:, 2:] < frame[2:]).all(1)
            if not uncut.any():
                continue
            whole = np.flatnonzero(uncut)[np.ptp(example["boxes"][uncut], axis=1).argmax()]
            scale, shift = mapping(example["boxes"][whole], found[whole])
            check_mapped(example["boxes"], found, valid, scale, shift, frame)
            compared += check_as_pillow(example["image"], results["image"][i], scale, shift, frame)
            scales += [*scale]
            parts += 1
        assert_allclose(scales, scales[0], rtol=1e-5)
    assert parts > 36 and compared > 12 * WIDTH * HEIGHT / 3
