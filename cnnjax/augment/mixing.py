"""Several pictures, or a piece of another one, in one: mosaic, mixup, CutMix; cutout and random erasing. Images are float32 of 0 to 255."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment import draws, kinds
from cnnjax.augment.geometry import Form, Motion, along_axes
from cnnjax.augment.kinds import Batch

_TRIES = 10  # of random erasing, for a rectangle that fits in


def mosaic(batch: Batch, keys: Array, fill: float) -> dict[str, Array]:
    """Each picture with three others of the batch, all of whose objects it has (Bochkovskiy et al. 2020)."""
    count = len(keys)
    others = partners(draws.fold(keys, draws.MOSAIC), count, 3)
    index = jnp.concatenate([jnp.arange(count, dtype=jnp.int32)[:, None], others], axis=1)
    parts = {name: batch[name][index] for name in ("image", *kinds.entries(batch))}
    return {**batch, **side_by_side(parts, draws.fold(keys, draws.MOSAIC_PLACE), fill)}


def side_by_side(parts: Batch, keys: Array, fill: float = 0.0) -> dict[str, Array]:
    """Four pictures each, entries [N, 4, ...], around a random point.

    The point lies between 0.3 and 0.7 of the size; each image is shrunk by one factor, to as little as fills
    its part, and shows a random window.
    """
    n, _, height, width, channels = parts["image"].shape
    frames, scales, shifts = jax.vmap(lambda key: _parts(key, height, width))(keys)
    frame = frames.reshape(-1, 4)
    motion = Motion(
        along_axes(jnp.repeat(scales, 4)[:, None], shifts.reshape(-1, 2)), Form.STRETCH, (height, width)
    )
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in parts.items()}
    inside = kinds.inside_frame(frame, height, width)
    image = jnp.where(inside[..., None], motion.pixels(flat["image"], fill), 0.0)
    moved = {name: a.reshape(n, 4, *a.shape[1:]) for name, a in kinds.follow(flat, motion, frame).items()}
    return {**kinds.join(moved), "image": jnp.sum(image.reshape(n, 4, height, width, channels), axis=1)}


def _parts(key: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """The frames [4, 4] xyxy of the parts, the scale of all and where each begins, [4, 2] (x, y)."""
    point_key, scale_key, place_key = jax.random.split(key, 3)
    size = jnp.asarray([width, height], jnp.float32)
    point = jnp.round(size * jax.random.uniform(point_key, (2,), minval=0.3, maxval=0.7))
    need = jnp.max(jnp.maximum(point, size - point) / size)
    scale = jax.random.uniform(scale_key, (), minval=need, maxval=1.0)
    right, below = jnp.array([[0.0], [1], [0], [1]]), jnp.array([[0.0], [0], [1], [1]])
    second = jnp.concatenate([right, below], axis=1)
    low, high = second * point[None], jnp.where(second > 0, size[None], point[None])
    # The shrunk image has to cover its part: it may start before it, but not end inside it.
    slack = scale * size[None] - (high - low)
    return (
        jnp.concatenate([low, high], axis=1),
        scale,
        low - jax.random.uniform(place_key, (4, 2)) * slack,
    )


def mixup(batch: Batch, keys: Array, alpha: float) -> dict[str, Array]:
    """Each picture and its neighbour in the batch laid over each other, the first with a weight from
    Beta(alpha, alpha).

    Of a label (Zhang et al. 2018) there are "label_b" int [N] and "mix" float32 [N], the weight of "label", then;
    that of "label_b" is 1 - mix. The objects of both count in full (Zhang et al. 2019, "Bag of freebies").
    """
    share = _share(keys, alpha)
    weight = share[:, None, None, None]
    image = batch["image"]
    names = kinds.entries(batch)
    both = {name: jnp.stack([batch[name], jnp.roll(batch[name], 1, axis=0)], axis=1) for name in names}
    mixed = {**batch, **kinds.join(both), "image": weight * image + (1 - weight) * jnp.roll(image, 1, axis=0)}
    return {**mixed, **_labels(batch, share)}


def cutmix(batch: Batch, keys: Array, alpha: float) -> dict[str, Array]:
    """A rectangle of each picture is that of its neighbour in the batch (Yun et al. 2019).

    The share of the first is drawn from Beta(alpha, alpha); "mix" is what is left of it in pixels, as `mixup` says.
    """
    image = batch["image"]
    height, width = image.shape[1:3]
    sides = jnp.sqrt(1 - _share(keys, alpha))[:, None] * np.array([height, width], np.float32)[None]
    centre = draws.pixels(keys, draws.MIX_PLACE, height, width)
    sides = jnp.round(sides).astype(jnp.int32)
    pasted = _rectangle(centre - sides // 2, sides, height, width)
    mixed = jnp.where(pasted[..., None], jnp.roll(image, 1, axis=0), image)
    return {**batch, "image": mixed, **_labels(batch, 1 - jnp.mean(pasted, axis=(1, 2), dtype=image.dtype))}


def cutout(images: Array, keys: Array, side: int, mean_pixel: Array, whole: bool = False) -> Array:
    """A square around a random pixel, cut off at the border, is `mean_pixel` [C] (DeVries & Taylor 2017).

    `whole`: anywhere inside the image instead, as in airbench96. What it hides of objects they keep: they are to be found by the rest.
    """
    height, width = images.shape[1:3]
    if whole:
        corner = draws.pixels(keys, draws.CUTOUT, height - side + 1, width - side + 1)
    else:
        corner = draws.pixels(keys, draws.CUTOUT, height, width) - side // 2
    inside = _rectangle(corner, jnp.full_like(corner, side), height, width)
    return jnp.where(inside[..., None], mean_pixel[None, None, None], images)


def erase(images: Array, keys: Array, probability: float, fill: Array | None) -> Array:
    """A rectangle of 2 to 33 % of the area and 0.3 to 3.3 times as high as wide is hidden with this probability
    (Zhong et al. 2020, drawn as torchvision's RandomErasing).

    Args:
      fill: [C], what hides it; None: noise of 0 to 255.
    """
    height, width = images.shape[1:3]

    def draw(key: Array) -> tuple[Array, Array, Array, Array]:
        """Whether, and first row and column and sides [2] of the rectangle, the first of ten tries that fits in."""
        chance, area_key, shape_key, place_key, noise_key = jax.random.split(key, 5)
        area = height * width * jax.random.uniform(area_key, (_TRIES,), minval=0.02, maxval=0.33)
        limits = np.log(np.array([0.3, 3.3], np.float32))
        ratio = jnp.exp(jax.random.uniform(shape_key, (_TRIES,), minval=limits[0], maxval=limits[1]))
        sides = jnp.round(jnp.sqrt(jnp.stack([area * ratio, area / ratio], axis=1))).astype(jnp.int32)
        fits = (sides < np.array([height, width], np.int32)[None]).all(axis=1)
        side = sides[jnp.argmax(fits)]
        start = jax.random.randint(place_key, (2,), 0, np.array([height, width], np.int32) - side + 1)
        return jax.random.bernoulli(chance, probability) & fits.any(), start, side, noise_key

    drawn, start, side, noise_keys = jax.vmap(draw)(draws.fold(keys, draws.ERASING))
    hidden = _rectangle(start, side, height, width) & drawn[:, None, None]
    if fill is not None:
        return jnp.where(hidden[..., None], fill[None, None, None], images)
    size = images[0].size  # drawn flat: XLA's CPU compiler needs seconds for a draw of many axes
    noise = jax.vmap(lambda key: jax.random.uniform(key, (size,), maxval=255.0))(noise_keys)
    return jnp.where(hidden[..., None], noise.reshape(images.shape), images)


def partners(keys: Array, count: int, number: int) -> Array:
    """For keys [N], whom of `count` examples mosaic joins with each: int32 [N, number]."""
    return jax.vmap(lambda key: jax.random.randint(key, (number,), 0, count))(keys)


def _share(keys: Array, alpha: float) -> Array:
    beta = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha, dtype=jnp.float32))
    return beta(draws.fold(keys, draws.MIX))


def _labels(batch: Batch, share: Array) -> Batch:
    return {"label_b": jnp.roll(batch["label"], 1, axis=0), "mix": share} if "label" in batch else {}


def _rectangle(start: Array, sides: Array, height: int, width: int) -> Array:
    """bool [N, H, W]: rectangles of `sides` int [N, 2] from `start` on, cut off at the border."""
    inside = [
        (jnp.arange(size)[None] >= start[:, axis, None])
        & (jnp.arange(size)[None] < (start + sides)[:, axis, None])
        for axis, size in enumerate((height, width))
    ]
    return inside[0][:, :, None] & inside[1][:, None, :]
