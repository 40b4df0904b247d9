"""Changes of colours: images float32 [N, H, W, C] of 0 to 255. Places stay, so nothing else changes."""

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.augment import draws
from cnnjax.config import Augment


def change_colours(options: Augment, images: Array, keys: Array, mean_pixel: Array) -> Array:
    """Hue, saturation, exposure, brightness and contrast, in this order, as `options` ask; keys [N].

    Contrast turns about `mean_pixel` [C]. Brightness and contrast are not clipped to 0..255.
    """
    if options.hue or options.saturation or options.exposure:
        limits = (options.hue, 1 + options.saturation, 1 + options.exposure)
        change = jax.vmap(lambda key, image: shift_colour(key, image, *limits))
        images = change(draws.fold(keys, draws.COLOUR), images)
    if options.brightness:
        share = draws.uniform(keys, draws.BRIGHTNESS, limit=options.brightness)
        images = images + 255.0 * share[:, None, None, None]
    if options.contrast:
        factor = 1.0 + draws.uniform(keys, draws.CONTRAST, limit=options.contrast)
        mean = mean_pixel[None, None, None]
        images = mean + factor[:, None, None, None] * (images - mean)
    return images


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
    h, s, v = hsv[..., 0], hsv[..., 1], hsv[..., 2]

    def channel(offset: float) -> Array:
        k = (offset + 6 * h) % 6.0
        return v - v * s * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)
