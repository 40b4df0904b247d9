"""RandAugment (Cubuk et al. 2020): a few operations for each image, drawn evenly from torchvision's fourteen.

Those that move the picture are joined to its other movements, so that it is resampled once and boxes, points and masks
follow; those of colours come after all movements. Among themselves both keep their order.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment import colour, draws
from cnnjax.config import Augment

# The first leave colours, the others places as they are.
OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_MOVING = OPERATIONS.index("rotate")  # the last of these
STRONGEST = 30


def draw(options: Augment, keys: Array) -> tuple[Array, Array]:
    """For keys [N]: which operations, int [N, rand_augment], and the sign of each, -1.0 or 1.0."""
    shape = (options.rand_augment,)

    def one(key: Array) -> tuple[Array, Array]:
        which_key, sign_key = jax.random.split(key)
        which = jax.random.randint(which_key, shape, 0, len(OPERATIONS))
        return which, 1.0 - 2.0 * jax.random.bernoulli(sign_key, shape=shape).astype(jnp.float32)

    return jax.vmap(one)(draws.fold(keys, draws.RAND_AUGMENT))


def matrices(which: Array, sign: Array, magnitude: int, size: tuple[int, int]) -> Array:
    """[N, 2, 3] of operations int [N] on (x, y, 1): shears from the first row and column on, rotation about the centre."""
    level = magnitude / STRONGEST

    def signed(name: str) -> Array:
        return jnp.where(which == OPERATIONS.index(name), sign, 0.0)

    angle = np.float32(np.deg2rad(30 * level)) * signed("rotate")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    right, down = -0.3 * level * signed("shear_x"), -0.3 * level * signed("shear_y")
    y, x = size[0] / 2, size[1] / 2
    furthest = [float(int(150 / 331 * side * level)) for side in size]  # whole pixels
    rows = (
        [cos, sin + right, x - cos * x - sin * y + furthest[1] * signed("translate_x")],
        [down - sin, cos, y + sin * x - cos * y + furthest[0] * signed("translate_y")],
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def colours(options: Augment, images: Array, keys: Array) -> Array:
    """Images [N, H, W, C] after those of their operations that change colours."""
    which, sign = draw(options, keys)
    level = options.rand_magnitude / STRONGEST
    one = jax.vmap(lambda image, which, sign: change(image, which, sign, level))
    return jax.lax.fori_loop(
        0, options.rand_augment, lambda i, images: one(images, which[:, i], sign[:, i]), images
    )


def change(image: Array, which: Array, sign: Array, level: float) -> Array:
    """An image [H, W, C] after the operation `which`, if that is one of colours."""
    bits = 8 - round(level * 4)
    factor = 1.0 + 0.9 * level * sign
    changes = (
        lambda image: image,
        lambda image: colour.adjust_brightness(image, factor),
        lambda image: colour.adjust_saturation(image, factor),
        lambda image: colour.adjust_contrast(image, factor),
        lambda image: colour.adjust_sharpness(image, factor),
        lambda image: colour.posterize(image, bits),
        lambda image: colour.solarize(image, 255 * (1 - level)),
        colour.autocontrast,
        colour.equalize,
    )
    return jax.lax.switch(jnp.maximum(which - _MOVING, 0), changes, image)
