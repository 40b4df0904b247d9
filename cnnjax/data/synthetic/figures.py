"""Figures of sticks with the 14 joints of Leeds Sports Pose, drawn on the device: poses whose points are known exactly.

What a figure shows tells its sides apart, as clothes and faces do in photographs: its right limbs are warm in colour,
its left limbs cold.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.data.formats.poses import LSP_MIRROR, LSP_NAMES

NAMES = LSP_NAMES
CHUNK = 250  # figures drawn in a call
CLUTTER = 5  # sticks behind each figure
# Limbs from joint to joint, the farthest behind first: torso, neck to head, then legs and arms.
LIMBS = (
    (12, 2), (12, 3), (2, 3), (12, 8), (12, 9), (12, 13),
    (2, 1), (1, 0), (3, 4), (4, 5), (8, 7), (7, 6), (9, 10), (10, 11),
)  # fmt: skip
_RIGHT, _LEFT = {0, 1, 2, 6, 7, 8}, {3, 4, 5, 9, 10, 11}
_SIDES = np.array(
    [0 if a in _RIGHT and b in _RIGHT else 1 if a in _LEFT and b in _LEFT else 2 for a, b in LIMBS]
)
_WARM, _COLD, _OTHER = (0.95, 0.35, 0.1), (0.1, 0.4, 0.95), (0.5, 0.75, 0.4)


def figures(key: Array, count: int, size: int = 64) -> dict[str, Array]:
    """`count` pictures of one figure each.

    Returns:
      image: uint8 [count, size, size, 3].
      points: float32 [count, 14, 2], x and y in pixels; visible: bool [count, 14], whether a point is in the picture;
      flip_points: int32 [count, 14], the joint that takes the place of each in a mirror image.
    """
    chunk = min(CHUNK, max(count, 1))
    starts = range(0, max(count, 1), chunk)
    parts = [_draw_all(key, start + jnp.arange(chunk), size) for start in starts]
    return {name: jnp.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


@functools.partial(jax.jit, static_argnames="size")
def _draw_all(key: Array, indices: Array, size: int) -> dict[str, Array]:
    # One after the other: a picture stays in the cache while its sticks are drawn.
    return jax.lax.map(lambda index: _figure(jax.random.fold_in(key, index), size), indices)


def _figure(key: Array, size: int) -> dict[str, Array]:
    pose, place, paint = jax.random.split(key, 3)
    points = _placed(place, _pose(pose)) * size
    inside = jnp.all((points >= 0) & (points < size), axis=-1)
    return {
        "image": _painted(paint, points, size),
        "points": points,
        "visible": inside,
        "flip_points": jnp.asarray(LSP_MIRROR, jnp.int32),
    }


def _pose(key: Array) -> Array:
    """Joints [14, 2] of a body of unit height, seen from the front (the right side to the left) or from behind."""
    keys = iter(jax.random.split(key, 8))
    back = jnp.where(jax.random.bernoulli(next(keys), 0.3), -1.0, 1.0)  # seen from behind, right is right
    width = 0.11 * jax.random.uniform(next(keys), (), minval=0.6, maxval=1.3)
    legs = jax.random.uniform(next(keys), (2,), minval=-0.3, maxval=1.1)
    knees = jax.random.uniform(next(keys), (2,), minval=-1.0, maxval=0.3)
    arms = jax.random.uniform(next(keys), (2,), minval=-0.2, maxval=2.8)
    elbows = jax.random.uniform(next(keys), (2,), minval=-1.2, maxval=1.2)
    lean = jax.random.uniform(next(keys), (2,), minval=-0.15, maxval=0.15)
    neck = jnp.array([0.0, 0.0])
    head = neck + 0.17 * _direction(jnp.pi + lean[0])
    middle = 0.32 * _direction(lean[1])

    def side(sign: Array, i: int) -> tuple[Array, ...]:
        shoulder = neck + sign * jnp.stack([width, jnp.float32(0.03 / 0.11) * width / sign])
        hip = middle + sign * jnp.stack([0.7 * width, jnp.float32(0)])
        elbow = shoulder + 0.17 * _direction(sign * arms[i])
        wrist = elbow + 0.16 * _direction(sign * (arms[i] + elbows[i]))
        knee = hip + 0.24 * _direction(sign * legs[i])
        ankle = knee + 0.24 * _direction(sign * (legs[i] + knees[i]))
        return ankle, knee, hip, wrist, elbow, shoulder

    right, left = side(-back, 0), side(back, 1)
    return jnp.stack([*right[:3], *left[2::-1], *right[3:], *left[:2:-1], neck, head])


def _direction(angle: Array) -> Array:
    """Down in the picture at 0, then to the right."""
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)])


def _placed(key: Array, points: Array) -> Array:
    """Turned a little, enlarged and moved to where all of it, or nearly so, is in a picture from 0 to 1."""
    turn, zoom, shift = jax.random.split(key, 3)
    angle = 0.5 * jax.random.truncated_normal(turn, -2.0, 2.0)
    matrix = jnp.stack(
        [jnp.stack([jnp.cos(angle), jnp.sin(angle)]), jnp.stack([-jnp.sin(angle), jnp.cos(angle)])]
    )
    turned = points @ matrix
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = jax.random.uniform(zoom, (), minval=0.6, maxval=0.92) / jnp.max(high - low)
    room = 1 - (high - low) * scale
    corner = room * jax.random.uniform(shift, (2,), minval=0.02, maxval=0.98)
    return (turned - low[None]) * scale + corner[None]


def _painted(key: Array, points: Array, size: int) -> Array:
    keys = iter(jax.random.split(key, 6))
    # Clutter: a few sticks of any colour behind the figure, on a ground of another.
    ground = jnp.broadcast_to(jax.random.uniform(next(keys), (1, 1, 3), maxval=0.6), (size, size, 3))
    clutter = jax.random.uniform(next(keys), (CLUTTER, 2, 2), minval=-0.2, maxval=1.2) * size
    tones = jax.random.uniform(next(keys), (CLUTTER, 3), maxval=0.8)
    tint = jax.random.uniform(next(keys), (3, 3), minval=-0.12, maxval=0.12)
    colours = jnp.clip(jnp.array([_WARM, _COLD, _OTHER]) + tint, 0, 1)
    head = jnp.stack([(points[12] + 2 * points[13]) / 3, points[13]])
    ends = jnp.concatenate([clutter, points[np.array(LIMBS)], head[None]])
    paints = jnp.concatenate([tones, colours[_SIDES], colours[2:]])
    extent = jnp.max(points.max(axis=0) - points.min(axis=0))
    radii = extent * jnp.array([0.03] * (len(ends) - 1) + [0.06])
    image, _ = jax.lax.scan(lambda image, stick: (_stick(image, *stick), None), ground, (ends, radii, paints))
    image = image + 0.04 * jax.random.normal(next(keys), image.shape)
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def _stick(image: Array, ends: Array, radius: Array, colour: Array) -> Array:
    """The image with a line between two points [2, 2], `radius` thick on either side, with round ends."""
    (x, y), (across, down) = ends[0], ends[1] - ends[0]
    columns = jnp.arange(image.shape[1], dtype=jnp.float32)[None] + 0.5 - x
    rows = jnp.arange(image.shape[0], dtype=jnp.float32)[:, None] + 0.5 - y
    share = (columns * across + rows * down) / jnp.maximum(across**2 + down**2, 1e-6)
    share = jnp.clip(share, 0, 1)
    gap = jnp.hypot(columns - share * across, rows - share * down)
    cover = jnp.clip(radius + 0.5 - gap, 0, 1)[..., None]
    return image + cover * (colour[None, None] - image)
