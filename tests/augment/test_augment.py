"""Geometric changes against scipy.ndimage and hand fixtures; randomness that belongs to the example alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cnnjax.augment import geometry, views
from cnnjax.augment.augment import augment
from cnnjax.augment.draws import keys_of
from cnnjax.config import Augment, ConfigError, Data

EVERYTHING = Augment(
    crop=2, flip="alternating", rotate=20, scale=0.2, translate=0.1, shear=10, elastic=20, brightness=0.2,
    contrast=0.3, cutout=4,
)  # fmt: skip
MEAN = np.array([100.0, 120.0, 140.0], np.float32)
ROUNDING = 1e-5 * 255  # of float32 pixels


def images(n: int = 6, height: int = 12, width: int = 10, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 255, (n, height, width, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def call(config: Augment, examples: dict, root, epoch, indices) -> dict:
    return augment(config, examples, keys_of(root, epoch, indices), jnp.asarray(MEAN))


def run(config: Augment, x, epoch=0, indices=None, seed: int = 0) -> dict:
    indices = jnp.arange(len(x)) if indices is None else indices
    examples = {"image": x, "label": jnp.arange(len(x))}
    return call(config, examples, jax.random.key(seed), epoch, indices)


def test_off_passes_the_image_on():
    x = images()
    keys = keys_of(jax.random.key(0), 0, jnp.arange(6))
    out = augment(Augment(), {"image": x, "name": 1}, keys, MEAN)
    assert out["image"] is x and out["name"] == 1 and set(out) == {"image", "name"}


def test_the_same_key_gives_the_same_images_and_another_epoch_others():
    x = images()
    first, again, later = (run(EVERYTHING, x, epoch=e)["image"] for e in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (jnp.abs(first - later).max(axis=(1, 2, 3)) > 1).all()
    assert (jnp.abs(first - run(EVERYTHING, x, epoch=3, seed=1)["image"]).max(axis=(1, 2, 3)) > 1).all()


@pytest.mark.full
def test_an_example_does_not_depend_on_its_batch():
    x = images(8)
    whole = run(EVERYTHING, x, epoch=1)["image"]
    order = jnp.array([5, 2, 7])
    part = run(EVERYTHING, x[order], epoch=1, indices=order)["image"]
    np.testing.assert_allclose(part, whole[order], atol=ROUNDING)


@pytest.mark.full
def test_epochs_may_differ_within_a_batch():
    x, epochs = images(4), jnp.array([0, 1, 1, 0])
    mixed = run(EVERYTHING, x, epoch=epochs)["image"]
    even, odd = (run(EVERYTHING, x, epoch=e)["image"] for e in (0, 1))
    expected = jnp.where((epochs == 1)[:, None, None, None], odd, even)
    np.testing.assert_allclose(mixed, expected, atol=ROUNDING)


@pytest.mark.parametrize("fill, mode", [("zero", "constant"), ("reflect", "reflect")])
def test_crop_is_a_window_of_the_padded_image(fill, mode):
    offsets = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    x = images(len(offsets))
    matrix = geometry.translation(-jnp.array(offsets, jnp.float32)[:, ::-1])
    motion = geometry.Motion(matrix, geometry.Form.SHIFT, (12, 10), reflect=fill == "reflect")
    actual = motion.pixels(x)
    for image, result, (dy, dx) in zip(np.asarray(x), actual, offsets, strict=True):
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode=mode)
        np.testing.assert_array_equal(result, padded[3 + dy : 15 + dy, 3 + dx : 13 + dx])


def test_crop_offsets_are_uniform_and_reach_both_ends():
    x = jnp.broadcast_to(jnp.arange(1.0, 26.0).reshape(1, 5, 5, 1), (2000, 5, 5, 1))
    centre = run(Augment(crop=2), jnp.tile(x, (1, 1, 1, 3)))["image"][:, 2, 2, 0]
    counts = np.bincount(np.asarray(centre, np.int32), minlength=26)[1:]
    assert counts.min() > 40 and counts.max() < 130  # 80 expected, standard deviation 9


def test_random_flips_mirror_half_of_the_images():
    x = images(400, 2, 3)
    out = run(Augment(flip="random"), x)["image"]
    flipped = (out == x[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(out[~flipped], x[~flipped])
    assert 150 < flipped.sum() < 250


def test_alternating_flips_start_at_random_and_turn_every_epoch():
    x = images(400, 2, 3)
    epochs = [run(Augment(flip="alternating"), x, epoch=e)["image"] for e in range(4)]
    for out in (epochs[1], epochs[3]):
        np.testing.assert_array_equal(out, epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    flipped = (epochs[0] == x[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(epochs[0][~flipped], x[~flipped])
    assert 150 < flipped.sum() < 250


def transformed(x, angle=0.0, scale=1.0, shear=0.0, shift=(0.0, 0.0)):
    """The moved images, and the matrix [2, 2] on (row, column)."""
    n, *size, _ = x.shape
    shift = jnp.broadcast_to(jnp.array(shift[::-1])[None], (n, 2))
    matrix = geometry.affine(*(jnp.full((n,), v) for v in (angle, scale, shear)), shift, tuple(size))
    motion = geometry.Motion(matrix, geometry.Form.FREE, tuple(size))
    return motion.pixels(x), matrix[0, ::-1, 1::-1]


def test_affine_by_hand():
    x = images(1, 9, 9)
    np.testing.assert_allclose(transformed(x)[0], x, atol=ROUNDING)
    turned = transformed(x, angle=np.pi / 2)[0][0]
    np.testing.assert_allclose(turned, np.rot90(x[0]), atol=ROUNDING)  # counter-clockwise
    moved = transformed(x, shift=(2.0, -1.0))[0][0]
    np.testing.assert_allclose(moved[2:, :-1], x[0, :-2, 1:], atol=ROUNDING)
    assert (moved[:2] == 0).all() and (moved[:, -1] == 0).all()
    doubled = transformed(x, scale=2.0)[0][0]
    np.testing.assert_allclose(doubled[::2, ::2], x[0, 2:7, 2:7], atol=ROUNDING)
    slanted = transformed(x, shear=np.pi / 4)[0][0]
    # two rows below the centre: 2 right
    np.testing.assert_allclose(slanted[6, 2:], x[0, 6, :-2], atol=ROUNDING)


@pytest.mark.parametrize(
    "options",
    [
        {"angle": 0.4},
        {"scale": 0.8},
        {"shear": -0.3},
        {"angle": -1.0, "scale": 1.3, "shear": 0.5, "shift": (1.5, -2.25)},
    ],
)
def test_affine_matches_scipy(options):
    x = images(2, 12, 15)
    actual, matrix = transformed(x, **options)
    inverse = np.linalg.inv(np.asarray(matrix, np.float64))
    centre = (np.array([12, 15]) - 1) / 2
    offset = centre - inverse @ (centre + options.get("shift", (0, 0)))
    for image, result in zip(np.asarray(x), actual, strict=True):
        for channel in range(3):
            expected = scipy.ndimage.affine_transform(
                image[..., channel], inverse, offset, order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=ROUNDING)


def test_sampling_matches_scipy():
    x = images(3, 7, 9)
    points = np.random.default_rng(1).uniform(-2, 10, (3, 4, 6, 2)).astype(np.float32)
    actual = geometry.sample(x, jnp.asarray(points))
    for image, where, result in zip(np.asarray(x), points, actual, strict=True):
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(
                image[..., channel], np.moveaxis(where, -1, 0), order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=ROUNDING)


@pytest.mark.parametrize("sigma", [0.8, 4.0])
def test_blur_matches_scipy(sigma):
    field = np.random.default_rng(1).uniform(-1, 1, (2, 14, 11, 2)).astype(np.float32)
    expected = [
        scipy.ndimage.gaussian_filter(f, (sigma, sigma, 0), mode="constant", truncate=4.0) for f in field
    ]
    np.testing.assert_allclose(geometry.gaussian_blur(jnp.asarray(field), sigma), expected, atol=1e-6)


def test_elastic_moves_smoothly_and_by_what_alpha_says():
    """A ramp shows where each pixel came from."""
    size = 48
    ramp = jnp.broadcast_to(jnp.arange(float(size))[None, None, :, None], (20, size, size, 3))
    moved = run(Augment(elastic=34.0, elastic_sigma=4.0), ramp)["image"][..., 0] - ramp[..., 0]
    inner = np.asarray(moved[:, 16:-16, 16:-16])
    # Uniform noise has std 1 / sqrt(3); a Gaussian of sigma divides that by 2 sqrt(pi) sigma.
    assert inner.std() == pytest.approx(34 / 3**0.5 / (2 * np.pi**0.5 * 4), rel=0.15)
    assert np.abs(np.diff(inner, axis=1)).mean() < 0.35 * np.abs(inner).mean()


def test_affine_ranges():
    """The share of the image that a centred square keeps bounds the zoom; a corner's place the rotation."""
    x = jnp.zeros((300, 33, 33, 3)).at[:, 12:21, 12:21].set(255.0)
    areas = run(Augment(scale=0.3), x)["image"][..., 0].sum(axis=(1, 2)) / 255 / 81
    assert 0.45 < areas.min() < 0.6 and 1.5 < areas.max() < 1.75  # 0.7**2, 1.3**2
    x = jnp.zeros((300, 33, 33, 3)).at[:, 16, 26].set(255.0)
    rows = jnp.arange(33.0)[None, :, None]
    out = run(Augment(rotate=30), x)["image"][..., 0]
    heights = (out * rows).sum(axis=(1, 2)) / out.sum(axis=(1, 2)) - 16
    assert -5.2 < heights.min() < -4.6 and 4.6 < heights.max() < 5.2  # 10 sin(30 degrees)
    out = run(Augment(translate=0.2), x)["image"][..., 0]
    shifts = (out * rows).sum(axis=(1, 2)) / jnp.maximum(out.sum(axis=(1, 2)), 1.0) - 16
    assert -6.7 < shifts.min() < -6 and 6 < shifts.max() < 6.7  # 0.2 * 33


def test_brightness_and_contrast():
    x = images(500, 1, 2)
    shift = run(Augment(brightness=0.1), x)["image"] - x
    np.testing.assert_allclose(shift, jnp.broadcast_to(shift[:, :1, :1, :1], x.shape), atol=ROUNDING)
    assert -25.5 <= shift.min() < -24.5 and 24.5 < shift.max() <= 25.501
    factor = (run(Augment(contrast=0.3), x)["image"] - MEAN[None, None, None]) / (
        x - MEAN[None, None, None]
    )  # fmt: skip
    factor = np.median(np.asarray(factor).reshape(500, -1), axis=1)
    assert 0.7 <= factor.min() < 0.71 and 1.29 < factor.max() <= 1.3001


def test_cutout_inside_hides_a_whole_square_and_reaches_the_border():
    x = jnp.full((200, 8, 8, 3), 200.0)
    hidden = np.asarray(run(Augment(cutout=3, cutout_inside=True), x)["image"])[..., 0] == 100.0
    assert (hidden.sum(axis=(1, 2)) == 9).all()
    assert hidden[:, 0].any() and hidden[:, -1].any() and hidden[:, :, 0].any() and hidden[:, :, -1].any()


def test_cutout_sets_one_square_to_the_mean():
    x = jnp.full((3000, 8, 8, 3), 200.0)
    out = run(Augment(cutout=4), x)["image"]
    cut = out[..., 0] == 100.0
    np.testing.assert_array_equal(out[cut], np.broadcast_to(MEAN, (int(cut.sum()), 3)))
    np.testing.assert_array_equal(out[~cut], 200.0)
    rows, columns = cut.any(axis=2).sum(axis=1), cut.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(cut.sum(axis=(1, 2)), rows * columns)
    # Centres 0..7 with two rows above and one below: three in eight squares lose rows at the border.
    assert set(np.asarray(rows).tolist()) == {2, 3, 4}
    assert float((rows == 4).mean()) == pytest.approx(5 / 8, abs=0.04)


def test_mixup():
    x = images(200, 2, 2)
    out = run(Augment(mixup=0.4), x)
    share = out["mix"][:, None, None, None]
    np.testing.assert_array_equal(out["label_b"], np.roll(np.arange(200), 1))
    np.testing.assert_allclose(out["image"], share * x + (1 - share) * np.roll(x, 1, axis=0), atol=ROUNDING)
    # Beta(0.4, 0.4): mean 1/2, variance 1 / (4 (2 * 0.4 + 1)).
    assert out["mix"].mean() == pytest.approx(0.5, abs=0.08)
    assert out["mix"].var() == pytest.approx(0.139, abs=0.03)


def test_cutmix_weighs_labels_by_pixels():
    x = jnp.broadcast_to(jnp.arange(300.0)[:, None, None, None], (300, 16, 16, 3))
    out = run(Augment(cutmix=1.0), x)
    own = out["image"] == x
    np.testing.assert_allclose(own.mean(axis=(1, 2, 3)), out["mix"], atol=1e-6)
    np.testing.assert_array_equal(jnp.where(own, 0.0, out["image"] - jnp.roll(x, 1, axis=0)), 0.0)
    # A share of 1 - mix would be uniform, but for rectangles cut off at the border.
    assert 0.55 < out["mix"].mean() < 0.75 and out["mix"].min() < 0.2 and out["mix"].max() > 0.97


def test_mixup_excludes_cutmix():
    with pytest.raises(ConfigError, match="exclude"):
        run(Augment(mixup=0.2, cutmix=1.0), images())


def test_views_by_hand():
    x = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    found = views.test_views("flip_shift", x)
    assert [view.weight for view in found] == [0.25, 0.125, 0.125, 0.25, 0.125, 0.125]
    assert [view.flipped for view in found] == [()] * 3 + [(2,)] * 3
    rows = [np.asarray(view.images[0, :, :, 0]).tolist() for view in found]
    assert rows[0] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert rows[1] == [[5, 4, 5], [2, 1, 2], [5, 4, 5]]
    assert rows[2] == [[5, 6, 5], [8, 9, 8], [5, 6, 5]]
    assert rows[3:] == [[row[::-1] for row in view] for view in rows[:3]]
    unmirrored = views.test_views("shift", x)
    assert [view.weight for view in unmirrored] == [0.5, 0.25, 0.25]
    assert [np.asarray(view.images[0, :, :, 0]).tolist() for view in unmirrored] == rows[:3]
    assert [(w, v.tolist(), f) for w, v, f in views.test_views("none", x)] == [(1.0, x.tolist(), ())]
    same, mirrored = views.test_views("flip", x)
    assert same.weight == mirrored.weight == 0.5
    assert (same.images == x).all() and (mirrored.images == x[:, :, ::-1]).all()
    found = views.test_views("flips", x)
    assert [(view.weight, view.flipped) for view in found] == [(0.25, f) for f in ((), (2,), (1,), (2, 1))]
    assert all((np.flip(view.images, view.flipped) == x).all() for view in found)
    with pytest.raises(ConfigError, match="choose one"):
        views.test_views("many", x)


def test_ten_crops_by_hand():
    image = jnp.arange(12.0).reshape(1, 3, 4, 1)  # 0 1 2 3 / 4 5 6 7 / 8 9 10 11
    found = views.test_views("ten_crop", image, 2)
    crops = [np.asarray(view.images).ravel().tolist() for view in found]
    assert crops[:4] == [[0, 1, 4, 5], [2, 3, 6, 7], [4, 5, 8, 9], [6, 7, 10, 11]]
    assert crops[4] == [1, 2, 5, 6]  # row 0: half a pixel goes to the even side
    assert crops[5:] == [[b, a, d, c] for a, b, c, d in crops[:5]]
    assert [view.weight for view in found] == [0.1] * 10
    with pytest.raises(ConfigError, match="cannot crop 8x8 out of 3x4"):
        views.test_views("ten_crop", image, 8)


def test_views_are_as_many_as_the_table_says():
    image = jnp.zeros((1, 4, 4, 1))
    assert {mode: len(views.test_views(mode, image, 3)) for mode in views.VIEWS} == views.VIEWS


def test_images_for_ten_crops_are_read_larger():
    data = Data(image_size=224, resize="crop", resize_short=256)
    larger = views.before_views("ten_crop", data)
    assert (larger.image_size, larger.resize_short) == (256, 256)
    assert views.before_views("flip", data) == data
    for wrong in (Data(), Data(image_size=224), Data(image_size=224, resize="crop", resize_short=224)):
        with pytest.raises(ConfigError, match="ten_crop.*needs data.resize=crop and data.resize_short above"):
            views.before_views("ten_crop", wrong)


@pytest.mark.parametrize(("crop", "size"), [(8, 8), (40, 28), (20, 8)])
def test_a_reflected_crop_beyond_the_image_is_refused(crop, size):
    batch = {"image": jnp.zeros((2, size, size, 1))}
    keys = keys_of(jax.random.key(0), 0, jnp.arange(2))
    with pytest.raises(
        ConfigError, match=f"augment.crop={crop}: {size}x{size} pixels cannot be reflected so far"
    ):
        augment(Augment(crop=crop, crop_fill="reflect"), batch, keys, jnp.zeros(1))
    whole = augment(Augment(crop=crop), batch, keys, jnp.zeros(1))
    assert whole["image"].shape == batch["image"].shape
