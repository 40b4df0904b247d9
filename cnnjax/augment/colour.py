"""Changes of colours: images float32 [N, H, W, C] of 0 to 255. Places stay, so nothing else changes."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment import draws
from cnnjax.config import Augment, is_on


def change_colours(options: Augment, images: Array, keys: Array, mean_pixel: Array) -> Array:
    """Hue, saturation, exposure, brightness, contrast and colour jitter, in this order, as `options` ask; keys [N].

    Contrast turns about `mean_pixel` [C]. Brightness and contrast are not clipped to 0..255, jitter is.
    """
    if any(map(is_on, (options.hue, options.saturation, options.exposure))):
        limits = (options.hue, 1 + options.saturation, 1 + options.exposure)
        change = jax.vmap(lambda key, image: shift_colour(key, image, *limits))
        images = change(draws.fold(keys, draws.COLOUR), images)
    if is_on(options.brightness):
        share = draws.uniform(keys, draws.BRIGHTNESS, limit=options.brightness)
        images = images + 255.0 * share[:, None, None, None]
    if is_on(options.contrast):
        factor = 1.0 + draws.uniform(keys, draws.CONTRAST, limit=options.contrast)
        mean = mean_pixel[None, None, None]
        images = mean + factor[:, None, None, None] * (images - mean)
    if options.colour_jitter:
        images = colour_jitter(images, keys, options.colour_jitter)
    return images


def colour_jitter(images: Array, keys: Array, strengths: Sequence[float]) -> Array:
    """Brightness, contrast, saturation and hue changed by up to these `strengths`, each image in an order of its own
    (torchvision's ColorJitter); clipped to 0..255. Grey images have neither saturation nor hue."""
    changes = (adjust_brightness, adjust_contrast, adjust_saturation, turn_hue)
    # What has no strength costs nothing, whose order is none either.
    chosen = [i for i, strength in enumerate(strengths) if strength]
    neutral, limits = np.array([1, 1, 1, 0], np.float32)[chosen], np.array(strengths, np.float32)[chosen]
    orders = np.array(list(itertools.permutations(range(len(chosen)))), np.int32)

    def change(key: Array, image: Array) -> Array:
        order_key, value_key = jax.random.split(key)
        values = neutral + limits * jax.random.uniform(value_key, limits.shape, minval=-1.0, maxval=1.0)
        order = jnp.asarray(orders)[jax.random.randint(order_key, (), 0, len(orders))]

        def step(i: Array, image: Array) -> Array:
            return jax.lax.switch(order[i], [changes[c] for c in chosen], image, values[order[i]])

        return jax.lax.fori_loop(0, len(chosen), step, image)

    return jax.vmap(change)(draws.fold(keys, draws.COLOUR_JITTER), images)


def adjust_brightness(image: Array, factor: Array) -> Array:
    """All values times the factor. As all that follows: of [H, W, C] in 0..255, clipped to that."""
    return _blend(image, jnp.zeros_like(image), factor)


def adjust_contrast(image: Array, factor: Array) -> Array:
    """The distance from the image's mean brightness times the factor."""
    return _blend(image, jnp.mean(luma(image), keepdims=True), factor)


def adjust_saturation(image: Array, factor: Array) -> Array:
    """The distance from the grey image times the factor."""
    return _blend(image, luma(image), factor)


def adjust_sharpness(image: Array, factor: Array) -> Array:
    """The distance from the smoothed image times the factor; the pixels at the border stay."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    smooth = sum(
        kernel[i, j] * image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)
    )
    return _blend(image, image.at[1:-1, 1:-1].set(smooth), factor)


def turn_hue(image: Array, share: Array) -> Array:
    """The hue turned by a share of the circle."""
    h, s, v = jnp.moveaxis(rgb_to_hsv(image / 255), -1, 0)
    return jnp.clip(255 * hsv_to_rgb(jnp.stack([(h + share) % 1.0, s, v], axis=-1)), 0, 255)


def posterize(image: Array, bits: int) -> Array:
    """Whole values, of whose 8 bits the first stay."""
    return (_whole(image) & -(2 ** (8 - bits))).astype(image.dtype)


def solarize(image: Array, threshold: float) -> Array:
    """Values of the threshold and above are turned around: 255 becomes 0."""
    return jnp.where(image >= threshold, 255 - image, image)


def autocontrast(image: Array) -> Array:
    """Each channel stretched to 0..255; a constant one stays."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    span = high - low
    return jnp.where(span > 0, jnp.clip((image - low) * (255 / jnp.where(span > 0, span, 1)), 0, 255), image)


def equalize(image: Array) -> Array:
    """Whole values such that each channel's are evenly spread, as Pillow and torchvision count."""

    def channel(values: Array) -> Array:
        count = jnp.zeros(256, jnp.int32).at[values.ravel()].add(1)
        step = (values.size - count[values.max()]) // 255
        table = (jnp.cumsum(count) - count + step // 2) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.clip(table, 0, 255)[values], values)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(_whole(image)).astype(image.dtype)


def luma(image: Array) -> Array:
    """[..., 1] of [..., C]: ITU-R 601; grey images stay."""
    if image.shape[-1] == 1:
        return image
    r, g, b = image[..., :1], image[..., 1:2], image[..., 2:]
    return 0.2989 * r + 0.587 * g + 0.114 * b


def _blend(image: Array, other: Array, factor: Array) -> Array:
    return jnp.clip(factor * image + (1 - factor) * other, 0, 255)


def _whole(image: Array) -> Array:
    return jnp.clip(jnp.round(image), 0, 255).astype(jnp.int32)


def shift_colour(
    key: Array, image: Array, hue: float = 0.1, saturation: float = 1.5, exposure: float = 1.5
) -> Array:
    """Hue turned by up to `hue` of the circle; saturation and exposure (HSV) multiplied or divided by up to the
    given factors (YOLO: 1.5 both; Redmon et al. 2016, section 2.2). Image [H, W, 3], or grey [H, W, 1], which has
    exposure only."""
    hue_key, saturation_key, exposure_key = jax.random.split(key, 3)

    def factor(key: Array, most: float) -> Array:
        limit = jnp.log(most)
        return jnp.exp(jax.random.uniform(key, (), minval=-limit, maxval=limit))

    if image.shape[-1] == 1:
        return jnp.clip(image * factor(exposure_key, exposure), 0, 255)
    h, s, v = jnp.moveaxis(rgb_to_hsv(image / 255), -1, 0)
    h = (h + jax.random.uniform(hue_key, (), minval=-hue, maxval=hue)) % 1.0
    s = jnp.clip(s * factor(saturation_key, saturation), 0, 1)
    v = jnp.clip(v * factor(exposure_key, exposure), 0, 1)
    return 255 * hsv_to_rgb(jnp.stack([h, s, v], axis=-1))


def rgb_to_hsv(rgb: Array) -> Array:
    """[..., 3] in 0..1, hue as a share of the circle."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    high, low = jnp.max(rgb, axis=-1), jnp.min(rgb, axis=-1)
    span = high - low
    safe = jnp.where(span > 0, span, 1)
    sixth = jnp.where(
        high == r, (g - b) / safe % 6.0, jnp.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    hue = jnp.where(span > 0, sixth / 6, 0)
    return jnp.stack([hue, span / jnp.where(high > 0, high, 1), high], axis=-1)


def hsv_to_rgb(hsv: Array) -> Array:
    """The inverse of rgb_to_hsv."""
    h, s, v = hsv[..., 0], hsv[..., 1], hsv[..., 2]

    def channel(offset: float) -> Array:
        k = (offset + 6 * h) % 6.0
        return v - v * s * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)
