"""Colour jitter, RandAugment and random erasing: values of torchvision's functional forms, and statistics of the draws."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from cnnjax.augment import colour, geometry, mixing, rand_augment
from cnnjax.augment.augment import augment, check, check_images
from cnnjax.augment.draws import keys_of
from cnnjax.config import Augment, ConfigError

# Of torchvision 0.28: an image [4, 5, 3] after its functions of these names, with their argument; colours as float32,
# movements with bilinear interpolation.
FROZEN = json.loads((Path(__file__).parent / "torchvision_values.json").read_text())
IMAGE = np.array(FROZEN["image"], np.float32)
MEAN = np.array([100.0, 120.0, 140.0], np.float32)
ROUNDING = 1e-5 * 255  # of float32 pixels, and of the six digits of the frozen ones
ALL = Augment(
    colour_jitter=(0.4, 0.4, 0, 0), rand_augment=2, erasing=0.5, erasing_fill="noise", flip="random"
)


def images(n: int, height: int = 12, width: int = 10) -> jax.Array:
    values = np.random.default_rng(0).uniform(0, 255, (n, height, width, 3))
    return jnp.asarray(values.round(), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(options: Augment, x: jax.Array, epoch: int = 0) -> jax.Array:
    keys = keys_of(jax.random.key(5), epoch, jnp.arange(len(x)))
    return augment(options, {"image": x, "label": jnp.arange(len(x))}, keys, jnp.asarray(MEAN))["image"]


def frozen(beginning: str) -> list[tuple[float, np.ndarray]]:
    """Arguments of a function, and what it made of IMAGE."""
    found = [(name.split(), values) for name, values in FROZEN.items() if name.split()[0] == beginning]
    assert found
    return [(float((name + ["0"])[1]), np.array(values).reshape(IMAGE.shape)) for name, values in found]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("adjust_brightness", colour.adjust_brightness),
        ("adjust_contrast", colour.adjust_contrast),
        ("adjust_saturation", colour.adjust_saturation),
        ("adjust_sharpness", colour.adjust_sharpness),
        ("adjust_hue", colour.turn_hue),
        ("posterize", lambda image, bits: colour.posterize(image, int(bits))),
        ("solarize", colour.solarize),
        ("autocontrast", lambda image, _: colour.autocontrast(image)),
    ],
)
def test_colours_are_those_of_torchvision(name, function):
    for argument, expected in frozen(name):
        result = jax.jit(function, static_argnums=1)(jnp.asarray(IMAGE), argument)
        assert_allclose(result, expected, rtol=1e-5, atol=ROUNDING)


def test_equalizing_is_that_of_pillow():
    from PIL import Image, ImageOps

    values = (np.random.default_rng(1).integers(0, 256, (24, 30, 3)) ** 2 // 255).astype(np.uint8)
    expected = np.asarray(ImageOps.equalize(Image.fromarray(values)))
    equalize = jax.jit(colour.equalize)
    assert_array_equal(equalize(jnp.asarray(values, jnp.float32)), expected)
    few = (IMAGE // 40).astype(np.uint8)  # too few to spread: they stay
    assert_array_equal(ImageOps.equalize(Image.fromarray(few)), few)
    assert_array_equal(equalize(jnp.asarray(few, jnp.float32)), few)


def test_rand_augment_moves_as_torchvision_does():
    names = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    of = [(name, *one) for name in names for one in frozen(name.title().replace("_", ""))]
    which = jnp.array([rand_augment.OPERATIONS.index(name) for name, _, _ in of])
    sign = jnp.array([np.sign(argument) for _, argument, _ in of], jnp.float32)
    matrix = rand_augment.matrices(which, sign, 20, IMAGE.shape[:2])
    moved = geometry.Motion(matrix, geometry.Form.FREE, IMAGE.shape[:2]).pixels(
        jnp.asarray([IMAGE] * len(of))
    )
    for result, (name, _, expected) in zip(moved, of, strict=True):
        assert_allclose(result, expected, rtol=1e-5, atol=20 * ROUNDING, err_msg=name)


@pytest.mark.parametrize(
    ("magnitude", "factor", "bits", "threshold"), [(9, 0.27, 7, 178.5), (14, 0.42, 6, 136)]
)
def test_strengths_are_those_of_torchvision(magnitude, factor, bits, threshold):
    x, change = jnp.asarray(IMAGE), jax.jit(functools.partial(rand_augment.change, level=magnitude / 30))

    def after(name: str, sign: float = 1.0) -> jax.Array:
        return change(x, jnp.int32(rand_augment.OPERATIONS.index(name)), jnp.float32(sign))

    for sign in (1.0, -1.0):
        for name, of in (
            ("brightness", colour.adjust_brightness),
            ("colour", colour.adjust_saturation),
            ("contrast", colour.adjust_contrast),
            ("sharpness", colour.adjust_sharpness),
        ):
            assert_allclose(after(name, sign), of(x, 1 + sign * factor), rtol=1e-5, atol=ROUNDING)
    assert_array_equal(after("posterize"), colour.posterize(x, bits))
    assert_array_equal(after("solarize"), colour.solarize(x, threshold))
    assert_array_equal(after("autocontrast"), colour.autocontrast(x))
    assert_array_equal(after("equalize"), colour.equalize(x))
    for name in rand_augment.OPERATIONS[:6]:
        assert_array_equal(after(name), x)


def test_rand_augment_draws_all_operations_evenly_with_both_signs():
    keys = keys_of(jax.random.key(1), 0, jnp.arange(7000)).example
    which, sign = map(
        np.asarray, jax.jit(lambda keys: rand_augment.draw(Augment(rand_augment=2), keys))(keys)
    )
    assert which.shape == (7000, 2)
    counts = np.bincount(which.ravel(), minlength=14)
    assert len(counts) == 14 and abs(counts - 1000).max() < 150  # standard deviation 30
    assert abs(sign.mean()) < 0.05 and set(np.unique(sign)) == {-1.0, 1.0}
    assert abs(np.corrcoef(which.T)[0, 1]) < 0.05


@pytest.mark.full
def test_rand_augment_does_one_thing_after_the_other():
    """An image on which both draws are of colours is that of the two functions, in their order."""
    x, options = images(60), Augment(rand_augment=2, rand_magnitude=9)
    keys = keys_of(jax.random.key(5), 0, jnp.arange(60)).example
    which, sign = jax.jit(lambda keys: rand_augment.draw(options, keys))(keys)
    change = jax.jit(functools.partial(rand_augment.change, level=0.3))
    result, found = run(options, x), 0
    for i, (first, second) in enumerate(np.asarray(which)):
        if min(first, second) > 5:
            once = change(x[i], first, sign[i, 0])
            assert_allclose(result[i], change(once, second, sign[i, 1]), rtol=1e-5, atol=ROUNDING)
            found += 1
    assert found > 10


def test_colour_jitter_has_the_asked_ranges_and_orders():
    x = images(600, 4, 4)
    brighter = run(Augment(colour_jitter=(0.4, 0, 0, 0)), x / 2)
    factor = np.median(np.asarray(brighter / (x / 2 + 1e-3)).reshape(600, -1), axis=1)
    assert 0.59 < factor.min() < 0.62 and 1.38 < factor.max() < 1.41 and abs(factor.mean() - 1) < 0.03
    turned = colour.rgb_to_hsv(run(Augment(colour_jitter=(0, 0, 0, 0.1)), x) / 255)[..., 0]
    apart = np.asarray(turned - colour.rgb_to_hsv(x / 255)[..., 0] + 0.5) % 1 - 0.5
    apart = np.median(apart.reshape(600, -1), axis=1)
    assert -0.1 <= apart.min() < -0.095 and 0.095 < apart.max() <= 0.1001 and abs(apart.mean()) < 0.01
    # Contrast about the mean and brightness do not commute: an image has one of the two results.
    both = run(Augment(colour_jitter=(0.5, 0.9, 0, 0)), 90 + x / 9)
    mean = np.asarray(colour.luma(90 + x / 9)).mean(axis=(1, 2, 3))
    after = np.asarray(colour.luma(both)).mean(axis=(1, 2, 3)) / mean
    # Whichever came first, the mean brightness is changed by the factor of brightness alone.
    assert 0.5 < after.min() < 0.52 and 1.48 < after.max() < 1.5001


def test_colours_stay_between_0_and_255_and_grey_stays_grey():
    x = images(40)
    for options in (Augment(colour_jitter=(1, 1, 1, 0.5)), Augment(rand_augment=3, rand_magnitude=30)):
        result = run(options, x)
        assert result.min() >= 0 and result.max() <= 255 and (result != x).any()
        grey = run(options, jnp.broadcast_to(x[..., :1], x.shape))
        assert_allclose(grey, jnp.broadcast_to(grey[..., :1], x.shape), rtol=1e-4, atol=ROUNDING)


def test_random_erasing_hides_rectangles_of_the_papers_sizes():
    x = jnp.full((2000, 40, 50, 3), 200.0)
    result = run(Augment(erasing=0.6), x)
    hidden = np.asarray(result[..., 0] == MEAN[0])
    assert_array_equal(result[hidden], np.broadcast_to(MEAN, (int(hidden.sum()), 3)))
    assert_array_equal(result[~hidden], 200.0)
    some = hidden.any(axis=(1, 2))
    assert 0.55 < some.mean() < 0.65
    heights, widths = hidden.any(axis=2).sum(axis=1)[some], hidden.any(axis=1).sum(axis=1)[some]
    assert_array_equal(hidden.sum(axis=(1, 2))[some], heights * widths)  # rectangles, none cut off
    share = heights * widths / 2000
    assert 0.015 < share.min() < 0.03 and 0.31 < share.max() < 0.35 and 0.16 < share.mean() < 0.19
    ratio = np.log(heights / widths)
    assert abs(ratio).max() < np.log(3.3) + 0.15 and abs(ratio.mean()) < 0.1
    tops = hidden.any(axis=2).argmax(axis=1)[some] / (40 - heights)
    assert abs(tops.mean() - 0.5) < 0.04 and tops.min() == 0 and tops.max() == 1


def test_random_erasing_with_noise_is_another_for_each_image():
    x = jnp.full((50, 20, 20, 3), -1.0)
    result = np.asarray(run(Augment(erasing=1.0, erasing_fill="noise"), x))
    noise = result[result >= 0]
    assert 115 < noise.mean() < 140 and 68 < noise.std() < 79  # 255 / 2, 255 / sqrt(12)
    assert len(np.unique(noise)) > 0.99 * len(noise)


def test_a_rectangle_that_never_fits_is_not_drawn():
    x = images(30, 1, 40)  # of 40 pixels no rectangle is as flat as these
    keys = keys_of(jax.random.key(0), 0, jnp.arange(30)).example
    erase = jax.jit(lambda x: mixing.erase(x, keys, 1.0, jnp.asarray(MEAN)))
    assert_array_equal(erase(x), x)


@pytest.mark.full
def test_the_same_on_one_and_four_devices():
    x = images(8)
    whole = run(ALL, x)
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",))
    spread = run(ALL, jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch"))))
    assert_allclose(spread, whole, rtol=1e-5, atol=ROUNDING)
    assert (jnp.abs(run(ALL, x, epoch=1) - whole).max(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize(
    "jitter", [(0.4,), (0.4, 0.4, 0.4, 0.6), (0.4, 1.5, 0.4, 0.1), (-0.1, 0, 0, 0), (0.1,) * 5]
)
def test_strengths_that_cannot_be_meant_are_refused(jitter):
    with pytest.raises(ConfigError, match=r"augment.colour_jitter=.*: four numbers"):
        check(Augment(colour_jitter=jitter), {"label"})


def test_grey_images_have_no_hue_to_turn():
    with pytest.raises(ConfigError, match="augment.colour_jitter: images of 1 channel"):
        check_images(Augment(colour_jitter=(0.1, 0.1, 0.1, 0.0)), (8, 8, 1))
    check_images(Augment(colour_jitter=(0.1, 0.1, 0.0, 0.0), rand_augment=2), (8, 8, 1))
