"""Random changes of a training image together with its boxes. Everything runs on the device.

An example is {"image": float32 [H, W, 3] in 0..255, "boxes": [M, 4] xyxy pixels, "classes": [M], "valid": [M]}.
Each function takes a key and one example (`jax.vmap` it over a batch), so what happens to an example depends on
its own key only, and neither on the batch size nor on the number of devices.

Boxes are cut at the border of what can be seen. A box stays valid if at least MIN_VISIBLE of its area and
MIN_SIDE pixels of both sides are left.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import Augment, ConfigError
from cnnjax.detection.boxes import area

Example = Mapping[str, Array]

MIN_VISIBLE = 0.3
MIN_SIDE = 2.0
FILL = 128.0  # grey where an image does not reach


def flip(key: Array, example: Example, probability: float = 0.5) -> dict[str, Array]:
    """Left and right exchanged."""
    image, boxes = example["image"], example["boxes"]
    turned = jax.random.bernoulli(key, probability)
    width = image.shape[1]
    mirrored = jnp.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return {
        **example,
        "image": jnp.where(turned, image[:, ::-1], image),
        "boxes": jnp.where(turned, mirrored, boxes),
    }


def flip_vertical(key: Array, example: Example, probability: float = 0.5) -> dict[str, Array]:
    """Top and bottom exchanged: for pictures without an up, such as those of microscopes."""
    image, boxes = example["image"], example["boxes"]
    turned = jax.random.bernoulli(key, probability)
    height = image.shape[0]
    mirrored = jnp.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1)
    return {
        **example,
        "image": jnp.where(turned, image[::-1], image),
        "boxes": jnp.where(turned, mirrored, boxes),
    }


def scale_translate(
    key: Array, example: Example, scale: float = 0.2, translate: float = 0.2
) -> dict[str, Array]:
    """Zoom about the centre by 1 - scale to 1 + scale, and shift by up to `translate` of the size each way
    (YOLO: 20 % both, Redmon et al. 2016, section 2.2)."""
    scale_key, shift_key = jax.random.split(key)
    factor = 1 + jax.random.uniform(scale_key, (), minval=-scale, maxval=scale)
    share = jax.random.uniform(shift_key, (2,), minval=-translate, maxval=translate)
    size = jnp.asarray(example["image"].shape[:2], jnp.float32)
    return _move(example, jnp.stack([factor, factor]), size * (share + (1 - factor) / 2))


def crop(key: Array, example: Example, smallest: float = 0.5, stretch: float = 4 / 3) -> dict[str, Array]:
    """A random window, of `smallest` to all of the area, enlarged to the whole frame. The window's shape is that
    of the image, stretched by up to `stretch` one way or the other, as far as it fits."""
    area_key, shape_key, place_key = jax.random.split(key, 3)
    share = jax.random.uniform(area_key, (), minval=smallest, maxval=1.0)
    limit = jnp.log(stretch)
    ratio = jnp.exp(jax.random.uniform(shape_key, (), minval=-limit, maxval=limit))
    window = jnp.minimum(jnp.sqrt(jnp.stack([share * ratio, share / ratio])), 1.0)
    size = jnp.asarray(example["image"].shape[:2], jnp.float32)
    start = jax.random.uniform(place_key, (2,)) * (1 - window)
    return _move(example, 1 / window, -start * size / window)


def colour(
    key: Array, example: Example, hue: float = 0.1, saturation: float = 1.5, exposure: float = 1.5
) -> dict[str, Array]:
    """Hue turned by up to `hue` of the circle; saturation and exposure (HSV) multiplied or divided by up to the
    given factors (YOLO: 1.5 both)."""
    hue_key, saturation_key, exposure_key = jax.random.split(key, 3)

    def factor(key: Array, most: float) -> Array:
        limit = jnp.log(most)
        return jnp.exp(jax.random.uniform(key, (), minval=-limit, maxval=limit))

    h, s, v = jnp.moveaxis(rgb_to_hsv(example["image"] / 255), -1, 0)
    h = (h + jax.random.uniform(hue_key, (), minval=-hue, maxval=hue)) % 1.0
    s = jnp.clip(s * factor(saturation_key, saturation), 0, 1)
    v = jnp.clip(v * factor(exposure_key, exposure), 0, 1)
    return {**example, "image": 255 * hsv_to_rgb(jnp.stack([h, s, v], axis=-1))}


def mosaic(key: Array, examples: Example) -> dict[str, Array]:
    """Four examples (arrays with a leading axis of 4) side by side around a random point (Bochkovskiy et al. 2020).

    The point lies between 0.3 and 0.7 of the size; each image is shrunk by one factor, to as little as fills
    its part, and shows a random window. The result has 4 M boxes.
    """
    point_key, scale_key, place_key = jax.random.split(key, 3)
    height, width = examples["image"].shape[1:3]
    size = jnp.asarray([height, width], jnp.float32)
    point = jnp.round(size * jax.random.uniform(point_key, (2,), minval=0.3, maxval=0.7))
    need = jnp.max(jnp.maximum(point, size - point) / size)
    scale = jax.random.uniform(scale_key, (), minval=need, maxval=1.0)
    places = jax.random.uniform(place_key, (4, 2))

    zero = jnp.zeros(2)
    low = jnp.stack([zero, point * jnp.array([0.0, 1]), point * jnp.array([1.0, 0]), point])
    high = jnp.stack([point, jnp.stack([point[0], size[1]]), jnp.stack([size[0], point[1]]), size])

    def part(example: Example, low: Array, high: Array, place: Array) -> dict[str, Array]:
        # The shrunk image has to cover its part: it may start before it, but not end inside it.
        slack = scale * size - (high - low)
        moved = _move(example, jnp.stack([scale, scale]), low - place * slack, jnp.concatenate([low, high]))
        rows = jnp.arange(height, dtype=jnp.float32)[:, None]
        columns = jnp.arange(width, dtype=jnp.float32)[None]
        inside = (rows >= low[0]) & (rows < high[0]) & (columns >= low[1]) & (columns < high[1])
        return {**moved, "image": jnp.where(inside[..., None], moved["image"], 0)}

    parts = jax.vmap(part)(dict(examples), low, high, places)
    joined = {name: parts[name].reshape(-1, *parts[name].shape[2:]) for name in ("boxes", "classes", "valid")}
    return {**joined, "image": jnp.sum(parts["image"], axis=0)}


def mixup(key: Array, examples: Example, alpha: float = 8.0) -> dict[str, Array]:
    """Two examples (arrays with a leading axis of 2) laid over each other, the first with a weight from
    Beta(alpha, alpha); the 2 M boxes of both count in full (Zhang et al. 2019, "Bag of freebies")."""
    weight = jax.random.beta(key, alpha, alpha)
    joined = {
        name: examples[name].reshape(-1, *examples[name].shape[2:]) for name in ("boxes", "classes", "valid")
    }
    image = weight * examples["image"][0] + (1 - weight) * examples["image"][1]
    return {**joined, "image": image}


def partners(keys: Array, count: int, number: int) -> Array:
    """For keys [N], whom of `count` examples mosaic and mixup join with each: int32 [N, number]."""
    return jax.vmap(lambda key: jax.random.randint(key, (number,), 0, count))(keys)


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


def _move(example: Example, scale: Array, shift: Array, frame: Array | None = None) -> dict[str, Array]:
    """Maps the point p to p * scale + shift, both [2] as (y, x), and cuts boxes at `frame` (y1, x1, y2, x2)."""
    image, boxes = example["image"], example["boxes"]
    moved = FILL + jax.image.scale_and_translate(
        image - FILL, image.shape, (0, 1), scale, shift, method="linear", antialias=True
    )
    xy_scale = jnp.tile(scale[::-1], 2)[None].astype(boxes.dtype)
    xy_shift = jnp.tile(shift[::-1], 2)[None].astype(boxes.dtype)
    whole = boxes * xy_scale + xy_shift
    if frame is None:
        frame = jnp.asarray([0, 0, *image.shape[:2]], jnp.float32)
    low, high = frame[:2][::-1][None], frame[2:][::-1][None]
    cut = jnp.clip(whole, jnp.tile(low, 2), jnp.tile(high, 2))
    enough = area(cut) >= MIN_VISIBLE * area(whole)
    enough &= jnp.min(cut[:, 2:] - cut[:, :2], axis=1) >= MIN_SIDE
    return {**example, "image": moved, "boxes": cut, "valid": example["valid"] & enough}


def resize(batch: Example, frame: tuple[int, int]) -> dict[str, Array]:
    """A batch, "image" [N, H, W, C] and with "boxes" or without, in the size of `frame` (height, width); bilinear, with
    antialiasing."""
    image = batch["image"]
    n, height, width, channels = image.shape
    resized = {**batch, "image": jax.image.resize(image, (n, *frame, channels), "linear", antialias=True)}
    if "boxes" in batch:
        scale = jnp.asarray([frame[1] / width, frame[0] / height] * 2, batch["boxes"].dtype)
        resized["boxes"] = batch["boxes"] * scale[None, None]
    return resized


def augment_boxes(augment: Augment, batch: Example, keys: Array) -> dict[str, Array]:
    """Applies what `augment` switches on to a batch of examples, each by its own key [N].

    Mosaic and mixup take the other images from the batch, and the result has room for the boxes of all of them.
    Raises ConfigError for what has no form with boxes.
    """
    unfit = [
        name for name in ("crop", "rotate", "shear", "elastic", "cutout", "cutmix") if getattr(augment, name)
    ]
    if unfit or augment.flip == "alternating":
        raise ConfigError(f"augment.{(unfit or ['flip=alternating'])[0]} is not made for images with boxes")
    targets: Example = {name: batch[name] for name in ("image", "boxes", "classes", "valid")}

    def draw(number: int) -> Array:
        return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)

    def join(targets: Example, mix: Callable[..., dict[str, Array]], number: int, draws: int) -> Example:
        others = partners(draw(draws), len(keys), number - 1)
        index = jnp.concatenate([jnp.arange(len(keys), dtype=jnp.int32)[:, None], others], axis=1)
        return jax.vmap(mix)(draw(draws + 1), {name: value[index] for name, value in targets.items()})

    if augment.mosaic:
        targets = join(targets, mosaic, 4, 0)
    if augment.random_crop:
        smallest = 1 - augment.random_crop
        targets = jax.vmap(lambda key, e: crop(key, e, smallest))(draw(2), targets)
    if augment.scale or augment.translate:
        targets = jax.vmap(lambda key, e: scale_translate(key, e, augment.scale, augment.translate))(
            draw(3), targets
        )
    if augment.flip == "random":
        targets = jax.vmap(flip)(draw(4), targets)
    if augment.flip_vertical:
        targets = jax.vmap(flip_vertical)(draw(5), targets)
    if augment.mixup:
        targets = join(targets, functools.partial(mixup, alpha=augment.mixup), 2, 9)
    if augment.hue or augment.saturation or augment.exposure:
        limits = (augment.hue, 1 + augment.saturation, 1 + augment.exposure)
        targets = jax.vmap(lambda key, e: colour(key, e, *limits))(draw(6), targets)
    for number, share in ((7, augment.brightness), (8, augment.contrast)):
        if share:
            draws = jax.vmap(lambda key, s=share: jax.random.uniform(key, (), minval=-s, maxval=s))(
                draw(number)
            )
            draws = draws[:, None, None, None]
            image = targets["image"]
            changed = image + 255 * draws if number == 7 else 128 + (1 + draws) * (image - 128)
            targets = {**targets, "image": changed}
    return {**batch, **targets}
