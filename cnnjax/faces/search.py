"""Points found in an image by their profiles and the shape they form: active shape models (Cootes et al. 1995)."""

import dataclasses
from typing import NamedTuple

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.faces.shape_model import ShapeModel, fit_shape
from cnnjax.faces.warp import fit_similarity

# Where lines of points begin and end (the last excluded), and whether the last goes on to the first: jaw, brows, bridge
# and foot of the nose, eyes, outer and inner lips of 68 points.
LINES68 = (
    (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False),
    (36, 42, True), (42, 48, True), (48, 60, True), (60, 68, True),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Searching:
    """How profiles are learned and points are looked for.

    explained: share of the variance that the modes explain; more modes follow noise.
    half_length: a profile is so many samples to each side of a point, a pixel of its level apart.
    reach: a point is looked for so many samples to each side of where it is, on each level; level 0 is the whole image.
    iterations: at most on each level; fewer once nine of ten points move no more than half the reach.
    ridge: share of the mean variance added to each variance of a profile.
    """

    explained: float = 0.9
    half_length: int = 7
    reach: tuple[int, ...] = (2, 2, 2)
    iterations: int = 5
    ridge: float = 0.05

    @property
    def levels(self) -> int:
        """Sizes of the image, each half the one before."""
        return len(self.reach)


class Step(NamedTuple):
    """A shape on the way, for drawing: its points [n, 2] in pixels of the image, level and number of the step."""

    level: int
    iteration: int
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class ActiveShape:
    """A shape model with what its points look like.

    start: [n, 2] mean of the training shapes in their images.
    profile_mean: [levels, n, 2 k + 1], level 0 is the whole image; profile_inverse: [levels, n, 2 k + 1, 2 k + 1], the
      inverses of covariances.
    unit: mean root mean square size of the training shapes in pixels; images are scaled so that a shape has it.
    """

    shape: ShapeModel
    start: np.ndarray
    profile_mean: np.ndarray
    profile_inverse: np.ndarray
    unit: float
    lines: tuple[tuple[int, int, bool], ...]
    options: Searching

    def search(self, image: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, list[Step]]:
        """Moves points from `start` to where the image looks as it should around each.

        Args:
          image: uint8 [H, W], grey.
          start: [n, 2] in pixels, such as `start` or `in_box`.

        Returns:
          The points [n, 2] and all steps on the way, the first of them `start`.
        """
        if image.ndim != 2:
            raise ConfigError(f"points are looked for in grey images [H, W], not in {list(image.shape)}")
        size = np.sqrt(np.mean(np.sum((start - start.mean(0)) ** 2, axis=1)))
        zoom = max(size, 1e-6) / self.unit  # pixels of the image to one of the training images
        pyramid = make_levels(image, self.options.levels)
        points, steps = np.asarray(start, np.float64), [Step(-1, 0, start)]
        for level in reversed(range(self.options.levels)):
            for iteration in range(self.options.iterations):
                wanted, moved = self._look(pyramid[level], points, level, zoom)
                points, _ = self.shape.project(wanted)
                steps.append(Step(level, iteration + 1, points))
                if np.mean(np.abs(moved) <= self.options.reach[level] / 2) >= 0.9:
                    break
        return points, steps

    def _look(
        self, image: np.ndarray, points: np.ndarray, level: int, zoom: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each point the place along its normal whose profile is the most likely, and how many samples away it is."""
        reach, half = self.options.reach[level], self.options.half_length
        normals = unit_normals(points, self.lines) * zoom
        long = sample_profiles(image, points / 2**level, normals, half + reach)
        width = 2 * half + 1
        windows = np.lib.stride_tricks.sliding_window_view(long, width, axis=1)
        offsets = normalize(windows) - self.profile_mean[level][:, None]
        distances = np.einsum("pcw,pwv,pcv->pc", offsets, self.profile_inverse[level], offsets)
        moved = distances.argmin(1) - reach
        return points + moved[:, None] * normals * 2**level, moved

    def in_box(self, box: np.ndarray, mean_box: np.ndarray) -> np.ndarray:
        """`start` moved with a box: [n, 2] where `box` is to a face as `mean_box` is to `start`. Boxes xyxy."""
        corners = [np.asarray(b, np.float64).reshape(2, 2) for b in (mean_box, box)]
        return fit_similarity(*corners)(self.start)


def fit_shape_model(
    images: np.ndarray,
    points: np.ndarray,
    options: Searching | None = None,
    lines: tuple[tuple[int, int, bool], ...] = LINES68,
) -> ActiveShape:
    """Learns shapes and profiles.

    Args:
      images: grey, uint8 [N, H, W]. points: [N, n, 2] in pixels.
      lines: which points lie on a line, which gives the direction across it.

    Raises ConfigError for images and points that do not belong together.
    """
    options = options or Searching()
    if len(images) != len(points):
        raise ConfigError(f"{len(images)} images with points of {len(points)}")
    if max(end for _, end, _ in lines) != points.shape[1]:
        raise ConfigError(
            f"{points.shape[1]} points, of which the lines name {max(end for _, end, _ in lines)}"
        )
    shape = fit_shape(points, options.explained)
    half, width = options.half_length, 2 * options.half_length + 1
    profiles = np.empty((options.levels, len(images), points.shape[1], width))
    for index, (image, known) in enumerate(zip(images, points, strict=True)):
        normals = unit_normals(known, lines)
        for level, smaller in enumerate(make_levels(image, options.levels)):
            profiles[level, index] = normalize(sample_profiles(smaller, known / 2**level, normals, half))
    mean = profiles.mean(1)
    offsets = profiles - mean[:, None]
    covariance = np.einsum("limj,limk->lmjk", offsets, offsets) / max(1, len(images) - 1)
    ridge = options.ridge * np.trace(covariance, axis1=-2, axis2=-1) / width + 1e-9
    covariance += ridge[..., None, None] * np.eye(width)
    centred = points - points.mean(1, keepdims=True)
    unit = float(np.sqrt((centred**2).sum(-1).mean(1)).mean())
    return ActiveShape(shape, points.mean(0), mean, np.linalg.inv(covariance), unit, lines, options)


def unit_normals(points: np.ndarray, lines: tuple[tuple[int, int, bool], ...]) -> np.ndarray:
    """Unit vectors [n, 2] across the lines on which points [n, 2] lie."""
    normals = np.empty_like(points, np.float64)
    for begin, end, closed in lines:
        line = points[begin:end]
        if closed:
            along = np.roll(line, -1, axis=0) - np.roll(line, 1, axis=0)
        else:
            along = np.gradient(line, axis=0)
        length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        normals[begin:end] = np.stack([-along[:, 1], along[:, 0]], axis=1) / length
    return normals


def make_levels(image: np.ndarray, count: int) -> list[np.ndarray]:
    """The image [H, W] in float64, and `count` - 1 times half as large by means of 2x2 pixels."""
    levels = [image.astype(np.float64)]
    for _ in range(count - 1):
        last = levels[-1]
        last = np.pad(last, [(0, side % 2) for side in last.shape], mode="edge")
        levels.append((last[::2, ::2] + last[1::2, ::2] + last[::2, 1::2] + last[1::2, 1::2]) / 4)
    return levels


def sample_profiles(image: np.ndarray, points: np.ndarray, normals: np.ndarray, half: int) -> np.ndarray:
    """Differences of neighbouring samples along normals [n, 2]: [n, 2 half + 1], between pixels by linear interpolation.

    The image's border goes on outside of it.
    """
    steps = np.arange(-half - 1, half + 1) + 0.5
    places = points[:, None] + steps[None, :, None] * normals[:, None]
    x = np.clip(places[..., 0], 0, image.shape[1] - 1)
    y = np.clip(places[..., 1], 0, image.shape[0] - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, image.shape[1] - 1), np.minimum(y0 + 1, image.shape[0] - 1)
    u, v = x - x0, y - y0
    samples = (image[y0, x0] * (1 - u) + image[y0, x1] * u) * (1 - v) + (
        image[y1, x0] * (1 - u) + image[y1, x1] * u
    ) * v
    return np.diff(samples, axis=1)


def normalize(profiles: np.ndarray) -> np.ndarray:
    """Profiles [..., w] divided by the sum of their absolute values; flat ones stay 0."""
    return profiles / np.maximum(np.abs(profiles).sum(-1, keepdims=True), 1e-6)
