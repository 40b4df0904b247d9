"""Random changes of training images, and the views averaged at test time. Everything runs on the device.

Images are float32 [N, H, W, C] in units of 0 to 255, before normalization. What happens to an example depends
on its own key only, so neither batch size nor the number of devices changes it; the one exception is the
partner of mixup and CutMix, which comes from the batch.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import Augment, ConfigError, Data

# One constant per random draw, so that switching one augmentation on leaves the others as they were.
CROP, FLIP, AFFINE, ELASTIC, BRIGHTNESS, CONTRAST, CUTOUT, MIX, MIX_PLACE = range(9)
FIRST_FLIP = 2**32 - 1  # stands for an epoch that no run reaches


def example_keys(root: Array, epochs: Array | int, indices: Array) -> Array:
    """Keys [N] of examples `indices` [N] of the data set in their `epochs` ([N], or one for all)."""
    epochs = jnp.broadcast_to(jnp.asarray(epochs), indices.shape)
    return jax.vmap(lambda epoch, i: jax.random.fold_in(jax.random.fold_in(root, epoch), i))(epochs, indices)


def flip_keys(root: Array, indices: Array) -> Array:
    """Keys [N] that stay the same in every epoch: the start of alternating flips."""
    root = jax.random.fold_in(root, FIRST_FLIP)
    return jax.vmap(lambda i: jax.random.fold_in(root, i))(indices)


def augment_examples(
    augment: Augment,
    examples: Mapping[str, Array],
    keys: Array,
    first_flip_keys: Array,
    epochs: Array | int,
    mean_pixel: Array,
) -> dict[str, Array]:
    """Applies what `augment` switches on, in the order of its fields.

    Args:
      augment: what to do; whatever is off costs nothing.
      examples: "image" float32 [N, H, W, C] in 0..255 and, for mixup and CutMix, "label" int [N]. Other
        entries are passed on, so boxes or points must not meet geometric changes here.
      keys: [N], of `example_keys`.
      first_flip_keys: [N], of `flip_keys`; used by alternating flips.
      epochs: int [N], or one for all; used by alternating flips.
      mean_pixel: [C] in 0..255: fills cutouts, and contrast turns about it.

    Mixup and CutMix add "label_b" int [N] and "mix" float32 [N], the weight of "label"; that of "label_b" is
    1 - mix. Colours are not clipped to 0..255. Raises ConfigError for settings that exclude each other.
    """
    x = examples["image"]
    n, height, width, _ = x.shape
    mean_pixel = jnp.asarray(mean_pixel, x.dtype)[None, None, None]

    def uniform(draw: int, shape: tuple[int, ...] = (), limit: float = 1.0) -> Array:
        """[N, *shape], evenly from -limit to limit."""
        return jax.vmap(lambda key: jax.random.uniform(key, shape, x.dtype, -limit, limit))(_fold(keys, draw))

    if augment.crop:
        if augment.crop_fill == "reflect" and augment.crop >= min(height, width):
            raise ConfigError(
                f"augment.crop={augment.crop}: {height}x{width} pixels cannot be reflected so far; less than "
                f"{min(height, width)}, or augment.crop_fill=zero"
            )
        x = crop(x, _integers(_fold(keys, CROP), augment.crop), augment.crop_fill)
    if augment.flip != "none":
        alternating = augment.flip == "alternating"
        flipped = jax.vmap(jax.random.bernoulli)(_fold(first_flip_keys if alternating else keys, FLIP))
        if alternating:
            flipped = flipped ^ jnp.broadcast_to(jnp.asarray(epochs) % 2 == 1, (n,))
        x = jnp.where(flipped[:, None, None, None], x[:, :, ::-1], x)

    affine = augment.rotate or augment.scale or augment.translate or augment.shear
    if affine or augment.elastic:
        points = jnp.broadcast_to(_grid(height, width), (n, height, width, 2))
        if affine:
            share = uniform(AFFINE, (5,))
            matrix = affine_matrix(
                jnp.deg2rad(augment.rotate * share[:, 0]),
                1.0 + augment.scale * share[:, 1],
                jnp.deg2rad(augment.shear * share[:, 2]),
            )
            shift = augment.translate * share[:, 3:] * np.array([height, width], np.float32)[None]
            points = affine_points(points, matrix, shift)
        if augment.elastic:
            # Drawn flat: XLA's CPU compiler needs seconds for a draw of many axes.
            noise = uniform(ELASTIC, (height * width * 2,)).reshape(points.shape)
            points = points + augment.elastic * gaussian_blur(noise, augment.elastic_sigma)
        x = sample(x, points)

    if augment.brightness:
        x = x + 255.0 * uniform(BRIGHTNESS, limit=augment.brightness)[:, None, None, None]
    if augment.contrast:
        factor = 1.0 + uniform(CONTRAST, limit=augment.contrast)
        x = mean_pixel + factor[:, None, None, None] * (x - mean_pixel)
    if augment.cutout:
        inside = square(_fold(keys, CUTOUT), height, width, augment.cutout)
        x = jnp.where(inside[..., None], mean_pixel, x)
    mixed = {"image": x}
    if augment.mixup or augment.cutmix:
        mixed = mix(augment, x, examples["label"], keys)
    return {**examples, **mixed}


def crop(images: Array, offsets: Array, fill: str = "zero") -> Array:
    """Moves the window by `offsets` int [N, 2] (down, right); what lies outside is zero or reflected.

    Reflection leaves out the border pixel, as numpy.pad's, and needs offsets smaller than the image.
    """
    n, height, width, channels = images.shape
    rows = jnp.arange(height)[None] + offsets[:, :1]
    columns = jnp.arange(width)[None] + offsets[:, 1:]
    index = _reflect(rows, height)[:, :, None] * width + _reflect(columns, width)[:, None, :]
    # One gather of whole pixels is faster on CPU than N slices, and than one gather per axis.
    pixels = jnp.take_along_axis(images.reshape(n, height * width, channels), index.reshape(n, -1, 1), axis=1)
    moved = pixels.reshape(images.shape)
    if fill == "reflect":
        return moved
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return jnp.where(inside[..., None], moved, 0.0)


def affine_matrix(angle: Array, scale: Array, shear: Array) -> Array:
    """[N, 2, 2] on (row, column): zoom by `scale`, shear rows sideways, then rotate; angles [N] in radians.

    A positive angle turns what is shown counter-clockwise; a positive shear moves lower rows to the right.
    """
    cos, sin, tan = jnp.cos(angle), jnp.sin(angle), jnp.tan(shear)
    one, zero = jnp.ones_like(tan), jnp.zeros_like(tan)
    rotate = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    slant = jnp.stack([jnp.stack([one, zero], -1), jnp.stack([tan, one], -1)], -2)
    return scale[:, None, None] * jnp.matmul(rotate, slant, precision="highest")


def affine_points(points: Array, matrix: Array, shift: Array) -> Array:
    """Where in the image the pixels of the transformed image come from.

    `matrix` [N, 2, 2] acts about the centre of the image, then `shift` [N, 2] moves by pixels; both move what
    is shown, so points [N, H, W, 2] (row, column) go through the inverse.
    """
    centre = (np.array(points.shape[1:3], np.float32) - 1.0)[None, None, None] / 2
    from_centre = points - centre - shift[:, None, None]
    (a, b), (c, d) = (matrix[:, 0].T, matrix[:, 1].T)
    inverse = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2) / (a * d - b * c)[:, None, None]
    # Accelerators would otherwise round places to 8 or 11 bits: by half a pixel in an image of 256.
    return jnp.einsum("nij,nhwj->nhwi", inverse, from_centre, precision="highest") + centre


def sample(images: Array, points: Array) -> Array:
    """Bilinear values of images [N, H, W, C] at points [N, h, w, 2] (row, column); zero around the image."""
    n, height, width, channels = images.shape
    pixels = images.reshape(n, height * width, channels)
    corner = jnp.floor(points)
    share = points - corner
    total = jnp.zeros((*points.shape[:3], channels), images.dtype)
    for down in (0, 1):
        for right in (0, 1):
            row, column = corner[..., 0].astype(jnp.int32) + down, corner[..., 1].astype(jnp.int32) + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (share[..., 0] if down else 1 - share[..., 0]) * (
                share[..., 1] if right else 1 - share[..., 1]
            )
            index = jnp.where(inside, row * width + column, 0).reshape(n, -1, 1)
            value = jnp.take_along_axis(pixels, index, axis=1).reshape(total.shape)
            total = total + jnp.where(inside, weight, 0.0)[..., None] * value
    return total


def gaussian_blur(fields: Array, sigma: float) -> Array:
    """Smooths [N, H, W, C] by a Gaussian of `sigma` pixels, cut at 4 sigma; zero around the field."""
    blur_rows, blur_columns = (jnp.asarray(_blur_matrix(size, sigma)) for size in fields.shape[1:3])
    return jnp.einsum("hi,wj,nijc->nhwc", blur_rows, blur_columns, fields)


def square(keys: Array, height: int, width: int, side: int) -> Array:
    """bool [N, H, W]: a square around a random pixel, cut off at the border (DeVries & Taylor 2017)."""
    centre = _pixel(keys, height, width)
    return _rectangle(centre, jnp.full_like(centre, side), height, width)


def mix(augment: Augment, images: Array, labels: Array, keys: Array) -> dict[str, Array]:
    """Mixes each example with its neighbour in the batch: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    The share of the first image is drawn from Beta(alpha, alpha) per example. CutMix pastes a rectangle of the
    second image; "mix" is then the share of pixels left of the first.
    """
    if augment.mixup and augment.cutmix:
        raise ConfigError("augment.mixup and augment.cutmix exclude each other: set one of them to 0")
    _, height, width, _ = images.shape
    other, label_b = jnp.roll(images, 1, axis=0), jnp.roll(labels, 1, axis=0)
    alpha = augment.mixup or augment.cutmix
    share = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=images.dtype))(_fold(keys, MIX))
    if augment.mixup:
        weight = share[:, None, None, None]
        return {"image": weight * images + (1 - weight) * other, "label_b": label_b, "mix": share}
    sides = jnp.sqrt(1 - share)[:, None] * np.array([height, width], np.float32)[None]
    centre = _pixel(_fold(keys, MIX_PLACE), height, width)
    pasted = _rectangle(centre, jnp.round(sides).astype(jnp.int32), height, width)
    return {
        "image": jnp.where(pasted[..., None], other, images),
        "label_b": label_b,
        "mix": 1 - jnp.mean(pasted, axis=(1, 2), dtype=images.dtype),
    }


VIEWS = {"none": 1, "flip": 2, "flip_shift": 6, "ten_crop": 10}  # how many there are of an image


def test_views(mode: str, images: Array, size: int = 0) -> list[tuple[float, Array]]:
    """Views of images [N, H, W, C] whose predictions are averaged with these weights, which sum to 1.

    "flip": the image and its mirror image. "flip_shift": these (0.25 each), and both moved by one pixel up-left
    and down-right with reflected borders (0.125 each), as airbench does (Jordan 2024, section 3.6). "ten_crop":
    squares of `size` pixels at the four corners and the centre, then the mirror images of these five (Krizhevsky
    et al. 2012, section 4.1).

    Raises ConfigError for an unknown mode, and if crops of this size do not fit.
    """
    if mode == "none":
        return [(1.0, images)]
    if mode == "flip":
        return [(0.5, images), (0.5, images[:, :, ::-1])]
    if mode == "ten_crop":
        five = [
            images[:, top : top + size, left : left + size]
            for top, left in _five_corners(images.shape[1], images.shape[2], size)
        ]
        return [(0.1, view) for view in five + [view[:, :, ::-1] for view in five]]
    if mode != "flip_shift":
        raise ConfigError(f"evaluate.augment={mode!r}: choose one of {', '.join(VIEWS)}")
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [(0.25, images), (0.125, padded[:, :-2, :-2]), (0.125, padded[:, 2:, 2:])]
    return moved + [(weight, view[:, :, ::-1]) for weight, view in moved]


def before_views(mode: str, data: Data) -> Data:
    """How to read images of which these views are taken: larger than the network sees, for crops.

    Ten crops are taken of the central square whose side is data.resize_short. Raises ConfigError if that
    leaves nothing to choose.
    """
    if mode != "ten_crop":
        return data
    if data.resize != "crop" or data.resize_short <= data.image_size:
        raise ConfigError(
            "evaluate.augment=ten_crop cuts data.image_size out of data.resize_short pixels: it needs data.resize=crop"
            f" and data.resize_short above {data.image_size}"
        )
    return dataclasses.replace(data, image_size=data.resize_short)


def _five_corners(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Row and column of the upper left pixel of each corner's square and of the central one."""
    down, right = height - size, width - size
    if size < 1 or min(down, right) < 0:
        raise ConfigError(f"cannot crop {size}x{size} out of {height}x{width}")
    return [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]


def _fold(keys: Array, draw: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, draw))(keys)


def _integers(keys: Array, limit: int) -> Array:
    """int32 [N, 2], evenly from -limit to limit."""
    return jax.vmap(lambda key: jax.random.randint(key, (2,), -limit, limit + 1))(keys)


def _pixel(keys: Array, height: int, width: int) -> Array:
    """int32 [N, 2]: a row and a column."""
    sizes = np.array([height, width], np.int32)
    return jax.vmap(lambda key: jax.random.randint(key, (2,), 0, sizes))(keys)


def _rectangle(centre: Array, sides: Array, height: int, width: int) -> Array:
    """bool [N, H, W]: rectangles of `sides` int [N, 2] about `centre`, cut off at the border."""
    start = centre - sides // 2
    inside = [
        (jnp.arange(size)[None] >= start[:, axis, None])
        & (jnp.arange(size)[None] < (start + sides)[:, axis, None])
        for axis, size in enumerate((height, width))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]


def _reflect(index: Array, size: int) -> Array:
    """Indices outside 0 .. size - 1, by less than size, reflected into it."""
    index = jnp.abs(index)
    return jnp.where(index >= size, 2 * (size - 1) - index, index)


def _grid(height: int, width: int) -> Array:
    """float32 [1, H, W, 2]: (row, column) of every pixel."""
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return jnp.stack([rows, columns], axis=-1).astype(jnp.float32)[None]


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """[size, size]: row i holds the weights by which all positions enter position i."""
    radius = math.floor(4 * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    total = weights.sum()
    apart = np.arange(size)[None] - np.arange(size)[:, None]
    return np.where(abs(apart) <= radius, np.exp(-0.5 * (apart / sigma) ** 2) / total, 0).astype(np.float32)
