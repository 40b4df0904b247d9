"""Faces and five points of each, found by MT-CNN's three networks (Zhang et al. 2016) in three jitted calls.

Boxes follow the authors' MATLAB code: corners that count pixels from 1 and, after the first stage, sizes of x2 - x1 + 1.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.detection.nms import nms
from cnnjax.models import create_model
from cnnjax.models.parts import shapes_of
from cnnjax.ops.arithmetic import products_of
from cnnjax.weights.convert import load_weights

SIDES = {"pnet": 12, "rnet": 24, "onet": 48}  # of the windows that each network sees, in pixels
CANVAS = 64  # images are padded to a multiple of it, so that few shapes are compiled
FEWEST = 16  # candidates of a call, and a power of 2 of them


class Faces(NamedTuple):
    """The n faces of one image, best first: boxes [n, 4] xyxy, scores [n], points [n, 5, 2] (eyes, nose, corners of
    the mouth; x, y), in pixels."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


class Candidates(NamedTuple):
    """M candidates of a batch: boxes [M, 4], scores [M], points [M, 5, 2], image [M], and whether each is one [M]."""

    boxes: Array
    scores: Array
    points: Array
    image: Array
    valid: Array


@dataclasses.dataclass(frozen=True)
class Settings:
    """min_face: side of the smallest face in pixels. factor: from one scale to the next. thresholds: scores that each
    stage asks for. most: candidates that the first stage keeps, of each scale and of each image."""

    min_face: int = 20
    factor: float = 0.709
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    most: int = 1024

    def scales(self, height: int, width: int) -> list[float]:
        """The sizes to which an image is brought, as shares of it: faces become 12 pixels, none below 12 pixels."""
        scale, side, found = 12.0 / self.min_face, min(height, width) * 12.0 / self.min_face, list[float]()
        while side >= SIDES["pnet"]:
            found.append(scale)
            scale, side = scale * self.factor, side * self.factor
        return found


def load_networks(folder: str | Path, names: Iterable[str] = tuple(SIDES)) -> dict[str, Any]:
    """The variables of the three networks, or of those with these names, from pnet.pt, rnet.pt and onet.pt (or
    .safetensors) of a folder."""
    variables = {}
    for name in names:
        model, side = create_model(f"mtcnn_{name}"), SIDES[name]
        template = shapes_of(model, (side, side, 3))
        files = [Path(folder) / f"{name}{suffix}" for suffix in (".safetensors", ".pt")]
        path = next((file for file in files if file.is_file()), files[-1])
        variables[name] = load_weights(path, f"mtcnn_{name}", template)
    return variables


def find_faces(
    variables: dict[str, Any],
    images: Sequence[np.ndarray],
    settings: Settings = Settings(),
    canvas: tuple[int, int] = (0, 0),
) -> list[Faces]:
    """The faces of each image, uint8 [H, W, 3] in R, G, B; images may differ in size, and may have no face.

    Without "onet", or "rnet" and "onet", among `variables`, what the networks that are there let pass: squares, in the
    order of their scores, with points of zeros. canvas: height and width that images are padded to at least; where it is
    one for all calls, all are of one shape, and compiled once.

    Raises ConfigError for an image that is no such array.
    """
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ConfigError(f"image {number}: {image.dtype}{list(image.shape)}, not uint8 [H, W, 3]")
    if not images:
        return []
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    height, width = (-(-side // CANVAS) * CANVAS for side in np.maximum(sizes.max(axis=0), canvas).tolist())
    frames = np.zeros((len(images), height, width, 3), np.uint8)
    for frame, image in zip(frames, images, strict=True):
        frame[: image.shape[0], : image.shape[1]] = image
    scales = settings.scales(height, width)
    levels = np.zeros((len(scales), len(images), 2), np.int32)
    for i, size in enumerate(sizes.tolist()):
        for k, scale in enumerate(settings.scales(*size)):
            levels[k, i] = [int(side * scale + 1) for side in size]
    sums, found = _propose(variables["pnet"], frames, sizes, levels, tuple(scales), settings)
    if "rnet" in variables:
        found = _refine(variables["rnet"], sums, sizes, _compact(found), settings.thresholds[1])
    if "onet" in variables:
        found = _finish(variables["onet"], sums, sizes, _compact(found), settings.thresholds[2])
    return _per_image(found, len(images))


@partial(jax.jit, static_argnames=("scales", "settings"))
def _propose(
    variables: Any, canvas: Array, sizes: Array, levels: Array, scales: tuple[float, ...], settings: Settings
) -> tuple[Array, Candidates]:
    """Sums of the images (`_integral`), and the squares that P-Net takes for faces, at most `most` of each image."""
    sums = jax.vmap(_integral)(canvas)
    parts = [
        _propose_at(variables, sums, sizes, level, scale, settings)
        for level, scale in zip(levels, scales, strict=True)
    ]
    if not parts:
        return sums, _candidates(jnp.zeros((len(canvas), 1, 4)), jnp.zeros((len(canvas), 1)), -jnp.inf)
    everything = jnp.concatenate(parts, axis=1)  # box, correction, score
    best = jax.vmap(partial(_suppress, threshold=0.7, most=settings.most))(everything)
    boxes, shift = best[..., :4], best[..., 4:8]
    size = boxes[..., 2:] - boxes[..., :2]
    boxes = boxes + shift * jnp.concatenate([size, size], axis=-1)
    return sums, _candidates(_square(boxes), best[..., 8], settings.thresholds[0])


def _propose_at(
    variables: Any, sums: Array, sizes: Array, level: Array, scale: float, settings: Settings
) -> Array:
    """[N, K, 9]: boxes, corrections and scores of one scale; a score of -inf is no candidate."""
    height, width = (int(side * scale + 1) for side in (sums.shape[1] - 1, sums.shape[2] - 1))
    whole = jnp.concatenate([jnp.zeros_like(sizes), sizes], axis=1)
    x = jax.vmap(partial(_mean_pixels, height=height, width=width))(sums, whole, level)
    with products_of("highest"):
        outputs: Any = create_model("mtcnn_pnet").apply(variables, _normalized(x), sizes=level)
    scores = jax.nn.softmax(outputs[..., :2])[..., 1]
    cells = (level - 1) // 2 - 4
    rows = jnp.arange(scores.shape[1]).reshape(1, -1, 1)
    columns = jnp.arange(scores.shape[2]).reshape(1, 1, -1)
    inside = (rows < cells[:, 0, None, None]) & (columns < cells[:, 1, None, None])
    scores = jnp.where(inside & (scores >= settings.thresholds[0]), scores, -jnp.inf)
    places = jnp.stack(jnp.broadcast_arrays(columns, rows), axis=-1).astype(jnp.float32)
    corners = jnp.concatenate([2 * places + 1, 2 * places + 12], axis=-1) / scale
    boxes = jnp.broadcast_to(jnp.floor(corners), (*scores.shape, 4))
    rows_of = jnp.concatenate([boxes, outputs[..., 2:6], scores[..., None]], axis=-1)
    flat = rows_of.reshape(len(sums), -1, 9)
    return jax.vmap(partial(_suppress, threshold=0.5, most=settings.most))(flat)


def _suppress(rows: Array, threshold: float, most: int) -> Array:
    """The rows [N, 9] that suppression leaves of the `most` best, best first, [K, 9]."""
    most = min(most, len(rows))
    scores, order = jax.lax.top_k(rows[:, 8], most)
    rows = rows[order]
    kept, _ = nms(rows[:, :4], scores, threshold, most)
    return jnp.where((kept >= 0)[:, None], rows[kept], -jnp.inf)


@jax.jit
def _refine(variables: Any, sums: Array, sizes: Array, given: Candidates, threshold: float) -> Candidates:
    """The candidates that R-Net takes for faces, suppressed, corrected and made square."""
    outputs, good = _look("rnet", variables, sums, sizes, given)
    scores = jnp.where(good, jax.nn.softmax(outputs[:, :2])[:, 1], -jnp.inf)
    kept, _ = nms(given.boxes, scores, 0.7, len(scores), given.image, threshold)
    boxes = _square(_corrected(given.boxes, outputs[:, 2:6]))
    return _taken(Candidates(boxes, scores, given.points, given.image, good), kept)


@jax.jit
def _finish(variables: Any, sums: Array, sizes: Array, given: Candidates, threshold: float) -> Candidates:
    """The candidates that O-Net takes for faces, with their points, corrected and suppressed."""
    outputs, good = _look("onet", variables, sums, sizes, given)
    scores = jnp.where(good, jax.nn.softmax(outputs[:, :2])[:, 1], -jnp.inf)
    size = given.boxes[:, 2:] - given.boxes[:, :2] + 1
    shares = outputs[:, 6:16].reshape(-1, 2, 5).swapaxes(1, 2)
    points = shares * size[:, None] + given.boxes[:, None, :2] - 1
    boxes = _corrected(given.boxes, outputs[:, 2:6])
    kept, _ = nms(boxes, scores, 0.7, len(scores), given.image, threshold, overlap=_share_of_smaller)
    return _taken(Candidates(boxes, scores, points, given.image, good), kept)


def _look(name: str, variables: Any, sums: Array, sizes: Array, given: Candidates) -> tuple[Array, Array]:
    """What a network says of the candidates, [M, outputs], and which of them have pixels in their image."""
    side = SIDES[name]
    ends = jnp.flip(sizes, axis=1)[given.image]
    whole = jnp.trunc(given.boxes).astype(jnp.int32)
    low = jnp.maximum(whole[:, :2], 1) - 1
    high = jnp.minimum(whole[:, 2:], ends)
    good = given.valid & jnp.all(high > low, axis=1)
    rectangles = jnp.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], axis=1)
    level = jnp.full((len(low), 2), side)

    def crop(image: Array, rectangle: Array, size: Array) -> Array:
        return _mean_pixels(sums, rectangle, size, side, side, image)

    pixels = jax.vmap(crop)(given.image, jnp.where(good[:, None], rectangles, 0), level)
    with products_of("highest"):
        outputs: Any = create_model(f"mtcnn_{name}").apply(variables, _normalized(pixels))
    return outputs, good


def _integral(image: Array) -> Array:
    """Sums of all pixels above and left, uint32 [H + 1, W + 1, C]; differences of them are exact, also if they wrap."""
    sums = jnp.cumsum(jnp.cumsum(image.astype(jnp.uint32), axis=0), axis=1)
    return jnp.pad(sums, ((1, 0), (1, 0), (0, 0)))


def _mean_pixels(
    sums: Array, rectangle: Array, size: Array, height: int, width: int, image: Array | None = None
) -> Array:
    """A rectangle (top, left, bottom, right) of an image resized to size[0] x size[1], in a frame [height, width, C].

    A pixel is the mean of those that it covers, from the floor of its beginning to the ceiling of its end ("area").
    `sums` is that of the image, or of a batch of which `image` is the number.
    """
    top, left, bottom, right = (rectangle[i] for i in range(4))
    y0, y1 = _bins(height, size[0], bottom - top)
    x0, x1 = _bins(width, size[1], right - left)

    def at(y: Array, x: Array) -> Array:
        rows, columns = (y + top)[:, None], (x + left)[None]
        return sums[rows, columns] if image is None else sums[image, rows, columns]

    total = (at(y1, x1) - at(y0, x1)) - (at(y1, x0) - at(y0, x0))
    count = (y1 - y0)[:, None] * (x1 - x0)[None]
    return total.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)[..., None]


def _bins(count: int, size: Array, length: Array) -> tuple[Array, Array]:
    """Where each of `count` pixels begins and ends among `length` source pixels; nowhere those beyond `size`."""
    i = jnp.arange(count)
    there = i < size
    size = jnp.maximum(size, 1)
    return jnp.where(there, i * length // size, 0), jnp.where(there, -(-(i + 1) * length // size), 0)


def _normalized(pixels: Array) -> Array:
    return (pixels - 127.5) * 0.0078125


def _square(boxes: Array) -> Array:
    """Squares with the same centres and the longer sides."""
    size = boxes[..., 2:] - boxes[..., :2]
    side = jnp.max(size, axis=-1, keepdims=True)
    low = boxes[..., :2] + size * 0.5 - side * 0.5
    return jnp.concatenate([low, low + side], axis=-1)


def _corrected(boxes: Array, shift: Array) -> Array:
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + shift * jnp.concatenate([size, size], axis=1)


def _share_of_smaller(a: Array, b: Array) -> Array:
    """Intersection over the smaller area, [..., 4] and [..., 4] -> [...], of boxes that count their last pixel."""
    size = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]) + 1, 0)
    areas = [jnp.prod(boxes[..., 2:] - boxes[..., :2] + 1, axis=-1) for boxes in (a, b)]
    return jnp.prod(size, axis=-1) / jnp.minimum(*areas)


def _candidates(boxes: Array, scores: Array, threshold: float) -> Candidates:
    """Candidates [N, K] of a batch as one list."""
    count, each = scores.shape
    image = jnp.broadcast_to(jnp.arange(count)[:, None], (count, each)).reshape(-1)
    flat = scores.reshape(-1)
    points = jnp.zeros((count * each, 5, 2), jnp.float32)
    return Candidates(boxes.reshape(-1, 4), flat, points, image, jnp.isfinite(flat) & (flat >= threshold))


def _taken(given: Candidates, kept: Array) -> Candidates:
    """Those of the places `kept` [M], of which -1 is none."""
    chosen = Candidates(*(values[kept] for values in given))
    return chosen._replace(valid=kept >= 0)


def _compact(given: Candidates) -> Candidates:
    """The valid candidates, on the host, followed by others up to a power of 2."""
    valid = np.asarray(given.valid)
    number = int(np.count_nonzero(valid))
    count = max(FEWEST, 1 << max(number - 1, 0).bit_length())
    order = np.argsort(~valid, kind="stable")
    order = np.pad(order, (0, max(0, count - len(order))))[:count]
    chosen = Candidates(*(jnp.asarray(np.asarray(values)[order]) for values in given))
    return chosen._replace(valid=jnp.arange(count) < number)


def _per_image(given: Candidates, count: int) -> list[Faces]:
    boxes, scores, points, image, valid = (np.asarray(values) for values in given)
    masks = [valid & (image == i) for i in range(count)]
    return [Faces(boxes[mask], scores[mask], points[mask]) for mask in masks]
