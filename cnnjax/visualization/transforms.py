"""Small random changes of a picture before each step: what survives them is a pattern, not a trick of pixels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates

# (key, images [N, H, W, C] in [0, 1], share of the run that is done) -> views [M, H', W', C]
Transform = Callable[[Array, Array, Array | float], Array]

GREY = 0.5


def none(key: Array, images: Array, progress: Array | float) -> Array:
    """The picture as it is."""
    return images


@dataclasses.dataclass(frozen=True)
class Affine:
    """Shift, zoom and rotation about the centre by one bilinear resampling; outside the picture is grey.

    The ranges are lucid's: it pads by 12, crops at random by 8, scales, rotates and crops by 4. Here these are one
    map that keeps the picture's size, so a step compiles once; results are alike but not equal.

    jitter: largest shift, as a share of the picture's size. lucid: (8 + 4) / 2 of 128 pixels.
    scale: largest zoom in or out. rotate: degrees; one in five views is not rotated, as in lucid.
    """

    jitter: float = 6 / 128
    scale: float = 0.1
    rotate: float = 10.0

    def __call__(self, key: Array, images: Array, progress: Array | float = 0.0) -> Array:
        height, width = images.shape[1:3]
        keys = jax.random.split(key, 4)
        size = jnp.asarray([height, width], jnp.float32)
        shift = jnp.round(jax.random.uniform(keys[0], (2,), minval=-1.0, maxval=1.0) * self.jitter * size)
        zoom = 1.0 + jax.random.uniform(keys[1], minval=-1.0, maxval=1.0) * self.scale
        angle = jnp.deg2rad(jax.random.uniform(keys[2], minval=-1.0, maxval=1.0) * self.rotate)
        angle = jnp.where(jax.random.bernoulli(keys[3], 0.2), 0.0, angle)
        return affine(images, shift, zoom, angle)


STANDARD = Affine()
# What survives these is the shape of an object rather than a texture.
WIDE = Affine(jitter=0.2, scale=0.4, rotate=30.0)


def for_objects(image_shape: tuple[int, int, int]) -> Affine:
    """For pictures of whole objects; a digit of 28 pixels does not survive what a photograph does."""
    return WIDE if min(image_shape[:2]) >= 64 else STANDARD


def affine(images: Array, shift: Array, zoom: Array | float, angle: Array | float) -> Array:
    """Rotates by `angle` (radians) and zooms by `zoom` about the centre, then shifts by `shift` (y, x) pixels.

    [N, H, W, C] -> the same shape, bilinear, grey outside.
    """
    height, width = images.shape[1:3]
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_y - shift[0]
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_x - shift[1]
    cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    source = [cosine * y - sine * x + centre_y, sine * y + cosine * x + centre_x]

    def resample(plane: Array) -> Array:
        return map_coordinates(plane, source, order=1, mode="constant", cval=GREY)

    planes = jnp.moveaxis(images, -1, 1).reshape(-1, height, width)
    views = jax.vmap(resample)(planes).reshape(images.shape[0], images.shape[3], height, width)
    return jnp.moveaxis(views, 1, -1)
