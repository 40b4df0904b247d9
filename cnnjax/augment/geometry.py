"""How a picture is moved: one matrix for each example, and one resampling of its pixels.

Places are (x, y) in pixels, continuous as those of boxes are: the first pixel covers 0 to 1, and its centre is 0.5.
A matrix [N, 2, 3] says where the places (x, y, 1) of an image go. Cropping, flipping, rotating, ... each make one;
their product moves boxes and points, and its inverse says where the pixels come from. `Form` says what is known of
a matrix when the step is compiled, so that flips and crops copy whole pixels.
"""

import dataclasses
import enum
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment import draws, rand_augment
from cnnjax.augment.draws import Keys
from cnnjax.config import Augment, is_on


class Form(enum.IntEnum):
    """What a matrix can do, from the cheapest to all."""

    FLIPS = 0  # mirrors the picture or not
    SHIFT = 1  # and shifts it by whole pixels
    STRETCH = 2  # and zooms and shifts along the axes
    FREE = 3


@dataclasses.dataclass(frozen=True)
class Motion:
    """How the pictures of a batch are moved.

    Attributes:
      matrix: [N, 2, 3], on (x, y, 1).
      form: what the matrix is at most.
      size: height and width of the picture that comes out.
      flips: the axes of images that the matrix may turn around: 1 top and bottom, 2 left and right.
      reflect: what lies outside the picture is its mirror image; of FLIPS and SHIFT.
      displacement: [N, height, width, 2] (row, column) of elastic distortion, added to where a pixel comes from.
        Boxes and points cannot follow it.
    """

    matrix: Array
    form: Form
    size: tuple[int, int]
    flips: tuple[int, ...] = ()
    reflect: bool = False
    displacement: Array | None = None

    @property
    def mirrored(self) -> Array:
        """bool [N]: whether left and right of what is shown are exchanged; not so if it is turned around twice."""
        (a, b), (c, d) = (self.matrix[:, row, :2].T for row in (0, 1))
        return a * d - b * c < 0

    def points(self, points: Array) -> Array:
        """Where places [N, K, 2] go."""
        matrix = self.matrix.astype(points.dtype)[:, None]
        # Not a matrix product: those are of low precision on accelerators.
        return points[..., :1] * matrix[..., 0] + points[..., 1:] * matrix[..., 1] + matrix[..., 2]

    def pixels(self, images: Array, fill: float = 0.0) -> Array:
        """The moved images float [N, H, W, C], interpolated linearly; `fill` is around them.

        STRETCH smooths what it makes smaller, as Pillow does; FREE takes the four pixels next to each place.
        """
        if self.form == Form.FLIPS:
            return self._flipped(images)
        if self.form == Form.SHIFT:
            return self.nearest(images, fill)
        if self.form == Form.STRETCH:
            return _stretch(self._flipped(images), self.matrix, self.size, fill)
        return sample(images, self._sources(), fill)

    def nearest(self, images: Array, fill: float = 0.0) -> Array:
        """The same of any type, such as masks: the nearest pixel of the image for each of the result."""
        if self.form == Form.FLIPS:
            return self._flipped(images)
        if self.form == Form.FREE:
            nearest = jnp.floor(self._sources() + 0.5).astype(jnp.int32)
            return pick(images, nearest[..., 0], nearest[..., 1], fill)
        rows = _whole_sources(self.size[0], self.matrix[:, 1, 1:])
        columns = _whole_sources(self.size[1], self.matrix[:, 0, ::2])
        return pick(images, rows[:, :, None], columns[:, None], fill, self.reflect)

    def _flipped(self, images: Array) -> Array:
        for axis in self.flips:
            turned = self.matrix[:, 2 - axis, 2 - axis] < 0
            images = jnp.where(turned[:, None, None, None], jnp.flip(images, axis), images)
        return images

    def _sources(self) -> Array:
        points = sources(self.matrix, *self.size)
        return points if self.displacement is None else points + self.displacement


def draw_motions(options: Augment, keys: Keys, height: int, width: int) -> list[Motion]:
    """The movement that `options` ask for, drawn for each example; none if they ask for none.

    They are two if the padding of a crop is reflected and the picture interpolated afterwards.
    """
    first = []
    size = height, width
    if options.crop:
        offsets = draws.integers(keys.example, draws.CROP, options.crop).astype(jnp.float32)
        first.append(Motion(translation(-offsets[:, ::-1]), Form.SHIFT, size))
    rest = []
    if is_on(options.random_crop):
        window = jax.vmap(lambda key: random_window(key, height, width, 1 - options.random_crop))
        rest.append(Motion(window(draws.fold(keys.example, draws.RANDOM_CROP)), Form.STRETCH, size))
    rest += _draw_flips(options, keys, size)
    rest += _draw_affine(options, keys, size)
    if options.rand_augment:
        which, sign = rand_augment.draw(options, keys.example)
        for i in range(options.rand_augment):
            matrix = rand_augment.matrices(which[:, i], sign[:, i], options.rand_magnitude, size)
            rest.append(Motion(matrix, Form.FREE, size))
    if is_on(options.elastic):
        # Drawn flat: XLA's CPU compiler needs seconds for a draw of many axes.
        noise = draws.uniform(keys.example, draws.ELASTIC, (height * width * 2,)).reshape(-1, *size, 2)
        moved = options.elastic * gaussian_blur(noise, options.elastic_sigma)
        nowhere = translation(jnp.zeros((len(moved), 2)))
        rest.append(Motion(nowhere, Form.FREE, size, displacement=moved))
    if not first + rest:
        return []
    reflect = bool(first) and options.crop_fill == "reflect"
    if reflect and any(motion.form > Form.SHIFT for motion in rest):
        return [dataclasses.replace(first[0], reflect=True), _joined(rest)]
    return [dataclasses.replace(_joined(first + rest), reflect=reflect)]


def _draw_flips(options: Augment, keys: Keys, size: tuple[int, int]) -> list[Motion]:
    found = []
    if options.flip != "none":
        alternating = options.flip == "alternating"
        flip_keys = keys.first_flip if alternating else keys.example
        flipped = jax.vmap(jax.random.bernoulli)(draws.fold(flip_keys, draws.FLIP))
        found.append(flip(flipped ^ keys.odd if alternating else flipped, size))
    if options.flip_vertical:
        flipped = jax.vmap(jax.random.bernoulli)(draws.fold(keys.example, draws.FLIP_VERTICAL))
        found.append(flip_vertical(flipped, size))
    return found


def _draw_affine(options: Augment, keys: Keys, size: tuple[int, int]) -> list[Motion]:
    if not any(map(is_on, (options.rotate, options.scale, options.translate, options.shear))):
        return []
    share = draws.uniform(keys.example, draws.AFFINE, (5,))
    matrix = affine(
        jnp.deg2rad(options.rotate * share[:, 0]),
        1.0 + options.scale * share[:, 1],
        jnp.deg2rad(options.shear * share[:, 2]),
        options.translate * share[:, :2:-1] * np.array(size[::-1], np.float32)[None],
        size,
    )
    return [
        Motion(matrix, Form.FREE if is_on(options.rotate) or is_on(options.shear) else Form.STRETCH, size)
    ]


def _joined(motions: list[Motion]) -> Motion:
    """One after the other, as one; only the last may have a displacement."""
    matrix = motions[0].matrix
    for motion in motions[1:]:
        matrix = compose(matrix, motion.matrix)
    flips = {axis for motion in motions for axis in motion.flips}
    form = max(motion.form for motion in motions)
    last = motions[-1]
    return Motion(matrix, form, last.size, tuple(sorted(flips)), displacement=last.displacement)


def compose(first: Array, then: Array) -> Array:
    """The matrix of `first` and `then`, one after the other."""
    product = jnp.sum(then[:, :, :2, None] * first[:, None], axis=2)
    return product.at[:, :, 2].add(then[:, :, 2])


def translation(shift: Array) -> Array:
    """Shifts by [N, 2] (x, y) pixels."""
    linear = jnp.broadcast_to(jnp.eye(2)[None], (len(shift), 2, 2))
    return jnp.concatenate([linear, shift[:, :, None]], axis=2)


def along_axes(scale: Array, shift: Array) -> Array:
    """Takes (x, y) to (x, y) * scale + shift, both [N, 2]."""
    return jnp.concatenate([scale[:, :, None] * jnp.eye(2)[None], shift[:, :, None]], axis=2)


def flip(flipped: Array, size: tuple[int, int]) -> Motion:
    """Left and right exchanged where `flipped` [N]."""
    turn = flipped.astype(jnp.float32)
    still = jnp.zeros_like(turn)
    matrix = along_axes(jnp.stack([1 - 2 * turn, still + 1], 1), jnp.stack([size[1] * turn, still], 1))
    return Motion(matrix, Form.FLIPS, size, flips=(2,))


def flip_vertical(flipped: Array, size: tuple[int, int]) -> Motion:
    """Top and bottom exchanged where `flipped` [N]: for pictures without an up, such as those of microscopes."""
    turn = flipped.astype(jnp.float32)
    still = jnp.zeros_like(turn)
    matrix = along_axes(jnp.stack([still + 1, 1 - 2 * turn], 1), jnp.stack([still, size[0] * turn], 1))
    return Motion(matrix, Form.FLIPS, size, flips=(1,))


def random_window(
    key: Array, height: int, width: int, smallest: float = 0.5, stretch: float = 4 / 3
) -> Array:
    """[2, 3]: a random window, of `smallest` to all of the area, enlarged to the whole frame. The window's shape is
    that of the image, stretched by up to `stretch` one way or the other, as far as it fits."""
    area_key, shape_key, place_key = jax.random.split(key, 3)
    share = jax.random.uniform(area_key, (), minval=smallest, maxval=1.0)
    limit = jnp.log(stretch)
    ratio = jnp.exp(jax.random.uniform(shape_key, (), minval=-limit, maxval=limit))
    window = jnp.minimum(jnp.sqrt(jnp.stack([share / ratio, share * ratio])), 1.0)
    start = jax.random.uniform(place_key, (2,)) * (1 - window)
    size = np.array([width, height], np.float32)
    return along_axes((1 / window)[None], (-start * size / window)[None])[0]


def affine(angle: Array, scale: Array, shear: Array, shift: Array, size: tuple[int, int]) -> Array:
    """Zooms by `scale`, shears rows sideways, then rotates, all about the centre; then shifts by [N, 2] (x, y) pixels.

    Angles [N] are in radians: a positive angle turns what is shown counter-clockwise, a positive shear moves lower
    rows to the right.
    """
    cos, sin, tan = scale * jnp.cos(angle), scale * jnp.sin(angle), jnp.tan(shear)
    rows = jnp.stack([cos, cos * tan + sin], 1), jnp.stack([-sin, cos - sin * tan], 1)
    linear = jnp.stack(rows, 1)
    centre = np.array([size[1] / 2, size[0] / 2], np.float32)
    moved = jnp.sum(linear * centre[None, None], axis=2)
    return jnp.concatenate([linear, (centre[None] + shift - moved)[:, :, None]], axis=2)


def sources(matrix: Array, height: int, width: int) -> Array:
    """Where the pixels of the moved image come from: [N, H, W, 2], (row, column) of pixels, the first being 0."""
    (a, b, x), (c, d, y) = (matrix[:, row].T[:, :, None, None] for row in (0, 1))
    determinant = a * d - b * c
    right = jnp.arange(width, dtype=jnp.float32)[None, None] + 0.5 - x
    down = jnp.arange(height, dtype=jnp.float32)[None, :, None] + 0.5 - y
    return jnp.stack([a * down - c * right, d * right - b * down], axis=-1) / determinant[..., None] - 0.5


def _whole_sources(size: int, scale_and_shift: Array) -> Array:
    """int32 [N, size]: the row, or column, of an image that shows where those of the moved one have their centres."""
    scale, shift = scale_and_shift[:, :1], scale_and_shift[:, 1:]
    return jnp.floor((jnp.arange(size, dtype=jnp.float32)[None] + 0.5 - shift) / scale).astype(jnp.int32)


def pick(images: Array, rows: Array, columns: Array, fill: float = 0.0, reflect: bool = False) -> Array:
    """The pixels of images [N, H, W, C] in `rows` and `columns`, int [N, h, w] or with an axis of 1: [N, h, w, C].

    What lies outside is `fill`, or reflected: that leaves out the border pixel, as numpy.pad's, and reaches less than
    the size of the image.
    """
    n, height, width, channels = images.shape
    inside = ((rows >= 0) & (rows < height)) & ((columns >= 0) & (columns < width))
    if reflect:
        rows, columns = _reflect(rows, height), _reflect(columns, width)
    index = rows * width + columns
    index = index if reflect else jnp.where(inside, index, 0)
    # One gather of whole pixels is faster on CPU than N slices, and than one gather per axis.
    pixels = jnp.take_along_axis(images.reshape(n, height * width, channels), index.reshape(n, -1, 1), axis=1)
    found = pixels.reshape(*index.shape, channels)
    return found if reflect else jnp.where(inside[..., None], found, jnp.asarray(fill, images.dtype))


def sample(images: Array, points: Array, fill: float = 0.0) -> Array:
    """Bilinear values of images [N, H, W, C] at points [N, h, w, 2] (row, column); `fill` around the image."""
    corner = jnp.floor(points)
    share = points - corner
    images = images - fill if fill else images
    total = jnp.zeros((*points.shape[:3], images.shape[3]), images.dtype)
    for down in (0, 1):
        for right in (0, 1):
            row, column = corner[..., 0].astype(jnp.int32) + down, corner[..., 1].astype(jnp.int32) + right
            weight = (share[..., 0] if down else 1 - share[..., 0]) * (
                share[..., 1] if right else 1 - share[..., 1]
            )
            total = total + weight[..., None] * pick(images, row, column)
    return total + fill if fill else total


def _stretch(images: Array, matrix: Array, size: tuple[int, int], fill: float) -> Array:
    """Moves images along their axes, which are turned around already where the matrix does so."""
    scale, shift = jnp.stack([matrix[:, 1, 1], matrix[:, 0, 0]], 1), matrix[:, ::-1, 2]
    whole = np.array(images.shape[1:3], np.float32)[None]
    shift = shift + jnp.where(scale < 0, scale * whole, 0.0)

    def move(image: Array, scale: Array, shift: Array) -> Array:
        shape = (*size, image.shape[2])
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, shift, "linear", antialias=True)

    return fill + jax.vmap(move)(images - fill, jnp.abs(scale), shift)


def gaussian_blur(fields: Array, sigma: float) -> Array:
    """Smooths [N, H, W, C] by a Gaussian of `sigma` pixels, cut at 4 sigma; zero around the field."""
    blur_rows, blur_columns = (jnp.asarray(_blur_matrix(size, sigma)) for size in fields.shape[1:3])
    return jnp.einsum("hi,wj,nijc->nhwc", blur_rows, blur_columns, fields, precision="highest")


def _reflect(index: Array, size: int) -> Array:
    """Indices outside 0 .. size - 1, by less than size, reflected into it."""
    index = jnp.abs(index)
    return jnp.where(index >= size, 2 * (size - 1) - index, index)


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    """[size, size]: row i holds the weights by which all positions enter position i."""
    radius = math.floor(4 * sigma + 0.5)
    distance = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    total = weights.sum()
    apart = np.arange(size)[None] - np.arange(size)[:, None]
    return np.where(abs(apart) <= radius, np.exp(-0.5 * (apart / sigma) ** 2) / total, 0).astype(np.float32)
