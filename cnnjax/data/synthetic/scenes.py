"""Synthetic scenes with known boxes and masks: shapes or handwritten digits on clutter, drawn on the device.

Scene i of a key depends on the key and i alone, so more scenes begin with the same ones.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn import datasets

SHAPES = ("disk", "square", "triangle", "cross")
DIGITS = tuple("0123456789")
KINDS = {"shapes": SHAPES, "digits": DIGITS}

CHUNK = 256  # scenes drawn at once
TRIES = 8  # places drawn for an object before it is given up
MAX_COVERED = 0.15  # share of the smaller of two frames that may overlap
NUM_LINES = 6
TEST_DIGITS = 397  # of scikit-learn's 1,797, its last ones: other writers than the rest
KEEP_AREA = 0.3  # of an object that has to stay visible


def grid_scenes(
    key: Array,
    count: int,
    size: int = 64,
    max_objects: int = 4,
    kind: str = "shapes",
    split: str = "train",
    scale: tuple[float, float] = (0.2, 0.45),
    masks: bool = False,
) -> dict[str, Array]:
    """Scenes with 0 to `max_objects` objects, every number equally likely (fewer where no room is left).

    Args:
      kind: "shapes" (SHAPES, turned at will) or "digits" (scikit-learn's, a little turned).
      split: "train" or "test" chooses which handwritten digits are drawn.
      scale: smallest and largest extent of an object, in shares of the size.
      masks: whether to return the masks, which take size^2 bytes per object.

    Returns:
      image: uint8 [count, size, size, 3].
      boxes: float32 [count, M, 4] xyxy pixels around what is visible; classes: int32 [count, M];
      valid: bool [count, M]. Later objects of the list lie over earlier ones.
      masks, if asked for: bool [count, M, size, size], the visible pixels.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    pictures, labels = _digits(split)
    chunk = min(CHUNK, max(count, 1))
    parts = [
        _draw(key, start + jnp.arange(chunk), pictures, labels, size, max_objects, kind, scale, masks)
        for start in range(0, max(count, 1), chunk)
    ]
    return {name: jnp.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


@functools.partial(jax.jit, static_argnames=("size", "room", "kind", "scale", "masks"))
def _draw(
    key: Array,
    indices: Array,
    pictures: Array,
    labels: Array,
    size: int,
    room: int,
    kind: str,
    scale: tuple[float, float],
    masks: bool,
) -> dict[str, Array]:
    def scene(index: Array) -> dict[str, Array]:
        return _scene(jax.random.fold_in(key, index), pictures, labels, size, room, kind, scale, masks)

    return jax.vmap(scene)(indices)


def _scene(
    key: Array,
    pictures: Array,
    labels: Array,
    size: int,
    room: int,
    kind: str,
    scale: tuple[float, float],
    masks: bool,
) -> dict[str, Array]:
    keys = iter(jax.random.split(key, 8))
    wanted = jax.random.randint(next(keys), (), 0, room + 1)
    frames, placed = _place(next(keys), room, size, scale)
    placed &= jnp.cumsum(placed) <= wanted

    which = jax.random.randint(next(keys), (room,), 0, len(labels) if kind == "digits" else len(SHAPES))
    angle = jax.random.uniform(next(keys), (room,), minval=-1.0)
    u, v = jax.vmap(_local, (0, 0, None))(frames, angle * (0.25 if kind == "digits" else jnp.pi), size)
    extent = (frames[:, 2] - frames[:, 0])[:, None, None]
    if kind == "digits":
        classes = labels[which]
        cover = jax.vmap(_digit)(pictures[which], u, v)
    else:
        classes = which
        # The distance to the edge in pixels; half of the pixel on the edge itself is covered.
        cover = jnp.clip(jax.vmap(_shape)(which, u, v) * extent / 2 + 0.5, 0, 1)
    cover = jnp.where(placed[:, None, None], cover, 0)

    image, tone = _clutter(next(keys), size)
    # At least 0.3 away from the background in every channel, on the circle from 0 to 1.
    colours = (tone[None] + jax.random.uniform(next(keys), (room, 3), minval=0.3, maxval=0.7)) % 1.0
    hidden = jnp.zeros((size, size), bool)
    visible = []
    for i in reversed(range(room)):
        visible.append((cover[i] > 0.5) & ~hidden)
        hidden |= cover[i] > 0.5
    shown = jnp.stack(visible[::-1])
    for i in range(room):
        image = image + cover[i][..., None] * (colours[i][None, None] - image)
    image = image + 0.03 * jax.random.normal(next(keys), image.shape)

    area = jnp.sum(shown, axis=(1, 2), dtype=jnp.float32)
    valid = placed & (area >= KEEP_AREA * jnp.sum(cover, axis=(1, 2))) & (area > 0)
    scene = {
        "image": jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8),
        "boxes": jnp.where(valid[:, None], mask_to_box(shown), 0),
        "classes": jnp.where(valid, classes, 0).astype(jnp.int32),
        "valid": valid,
    }
    return scene | ({"masks": shown & valid[:, None, None]} if masks else {})


def mask_to_box(masks: Array) -> Array:
    """The smallest boxes [..., 4] xyxy around the pixels of masks [..., H, W]; zeros around none."""
    columns, rows = jnp.any(masks, axis=-2), jnp.any(masks, axis=-1)

    def span(line: Array) -> tuple[Array, Array]:
        length = line.shape[-1]
        return jnp.argmax(line, axis=-1), length - jnp.argmax(line[..., ::-1], axis=-1)

    (x1, x2), (y1, y2) = span(columns), span(rows)
    boxes = jnp.stack([x1, y1, x2, y2], axis=-1).astype(jnp.float32)
    return jnp.where(jnp.any(columns, axis=-1)[..., None], boxes, 0)


def _place(key: Array, room: int, size: int, scale: tuple[float, float]) -> tuple[Array, Array]:
    """Square frames [room, 4] that hardly overlap, and which of them found a place."""
    size_key, place_key = jax.random.split(key)
    extent = size * jax.random.uniform(size_key, (room,), minval=scale[0], maxval=scale[1])
    corner = jax.random.uniform(place_key, (room, TRIES, 2)) * (size - extent)[:, None, None]
    tries = jnp.concatenate([corner, corner + extent[:, None, None]], axis=-1)
    frames, placed = jnp.zeros((room, 4)), jnp.zeros(room, bool)
    for i in range(room):
        low = jnp.maximum(tries[i][:, None, :2], frames[None, :, :2])
        side = jnp.maximum(jnp.minimum(tries[i][:, None, 2:], frames[None, :, 2:]) - low, 0)
        smaller = jnp.minimum(extent[i], frames[:, 2] - frames[:, 0]) ** 2
        covered = jnp.where(placed[None], side[..., 0] * side[..., 1] / jnp.maximum(smaller, 1e-6)[None], 0)
        free = jnp.max(covered, axis=1) <= MAX_COVERED
        frames = frames.at[i].set(tries[i][jnp.argmax(free)])
        placed = placed.at[i].set(jnp.any(free))
    return frames, placed


def _local(frame: Array, angle: Array, size: int) -> tuple[Array, Array]:
    """Coordinates of every pixel's centre in a turned frame whose inscribed circle has radius 1: [size, size] each."""
    pixel = jnp.arange(size, dtype=jnp.float32) + 0.5
    half = (frame[2] - frame[0]) / 2
    x = ((pixel - (frame[0] + frame[2]) / 2) / half)[None, :]
    y = ((pixel - (frame[1] + frame[3]) / 2) / half)[:, None]
    return jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x


def _shape(which: Array, u: Array, v: Array) -> Array:
    """How far inside the shape a point is, in units of its radius; negative outside. All fit the unit circle."""
    a, b = jnp.abs(u), jnp.abs(v)
    disk = 0.9 - jnp.sqrt(u**2 + v**2)
    square = 0.7 - jnp.maximum(a, b)
    triangle = 0.5 - jnp.maximum(v, 0.866 * a - 0.5 * v)
    cross = jnp.maximum(jnp.minimum(0.3 - a, 0.9 - b), jnp.minimum(0.3 - b, 0.9 - a))
    return jnp.select([which == i for i in range(4)], [disk, square, triangle, cross])


def _digit(picture: Array, u: Array, v: Array) -> Array:
    """Coverage of the pixels by a digit of 8 x 8, between 0 and 1."""
    rows, columns = (v + 1) * 4 - 0.5, (u + 1) * 4 - 0.5
    ink = jax.scipy.ndimage.map_coordinates(picture, [rows, columns], order=1)
    return jnp.clip(3 * ink - 0.7, 0, 1)


def _clutter(key: Array, size: int) -> tuple[Array, Array]:
    """A background [size, size, 3] of clouds and lines about a tone [3]."""
    tone_key, cloud_key, end_key, colour_key, width_key = jax.random.split(key, 5)
    tone = jax.random.uniform(tone_key, (3,))
    clouds = jax.random.uniform(cloud_key, (6, 6, 3), minval=-0.15, maxval=0.15)
    image = tone[None, None] + jax.image.resize(clouds, (size, size, 3), "linear")
    pixel = jnp.arange(size, dtype=jnp.float32) + 0.5
    points = jnp.stack(jnp.meshgrid(pixel, pixel), axis=-1)
    ends = size * jax.random.uniform(end_key, (NUM_LINES, 2, 2))
    colours = jax.random.uniform(colour_key, (NUM_LINES, 3))
    widths = size * jax.random.uniform(width_key, (NUM_LINES,), minval=0.005, maxval=0.02)

    def line(end: Array, width: Array) -> Array:
        """Coverage of the pixels by a line between two points."""
        start, along = end[0][None, None], (end[1] - end[0])[None, None]
        share = jnp.sum((points - start) * along, -1) / jnp.maximum(jnp.sum(along**2, -1), 1e-6)
        nearest = start + jnp.clip(share, 0, 1)[..., None] * along
        return jnp.clip(width - jnp.sqrt(jnp.sum((points - nearest) ** 2, -1)) + 0.5, 0, 1)

    cover = 0.6 * jax.vmap(line)(ends, widths)[..., None]
    for i in range(NUM_LINES):
        image = image + cover[i] * (colours[i][None, None] - image)
    return image, tone


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    bunch = datasets.load_digits()
    part = {"train": slice(None, -TEST_DIGITS), "test": slice(-TEST_DIGITS, None)}[split]
    return (bunch.images[part] / 16).astype(np.float32), bunch.target[part].astype(np.int32)
