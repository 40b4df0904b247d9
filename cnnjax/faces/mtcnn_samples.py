"""Windows of images to train MT-CNN's networks with: which are faces, which are not, and which are left alone.

Boxes and windows are continuous here, xyxy in pixels: a pixel lies between whole numbers.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

NEGATIVE, POSITIVE, PART, LANDMARK = range(4)
KINDS = ("negative", "positive", "part", "landmark")
_NONE = -1
# IoU with a face (Zhang et al. 2016, section 2.3).
_BELOW, _PART, _FACE = 0.3, 0.4, 0.65
_NEAR = 5  # windows near each face without the face
_TRIES = 20  # windows about each face, for faces and parts
_FACES = 10  # of an image that windows are drawn about: of a crowd, these at random
_MIRRORED = np.array([1, 0, 2, 4, 3])  # of the points: eyes, nose, corners of the mouth


@dataclasses.dataclass(frozen=True)
class Samples:
    """N windows brought to a side of S pixels.

    pixels: uint8 [N, S, S, 3]. kind: int8 [N], an index of KINDS. boxes: float32 [N, 4], how far each side of the face
    is from the window's, in sides of the window; for POSITIVE and PART. points: float32 [N, 10], x of five points and
    then their y, in shares of the window; for LANDMARK.
    """

    pixels: np.ndarray
    kind: np.ndarray
    boxes: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: np.ndarray) -> "Samples":
        return Samples(self.pixels[rows], self.kind[rows], self.boxes[rows], self.points[rows])

    def mirrored(self, which: np.ndarray) -> "Samples":
        """Those of bool [N] as in a mirror."""
        flipped = np.where(which[:, None, None, None], self.pixels[:, :, ::-1], self.pixels)
        boxes = np.where(
            which[:, None], self.boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32), self.boxes
        )
        x, y = self.points[:, :5], self.points[:, 5:]
        points = np.concatenate([1 - x[:, _MIRRORED], y[:, _MIRRORED]], axis=1)
        return Samples(flipped, self.kind, boxes, np.where(which[:, None], points, self.points))

    def of_kind(self, kind: int) -> np.ndarray:
        """Their rows."""
        return np.flatnonzero(self.kind == kind)

    def counts(self) -> dict[str, int]:
        return {name: int(np.count_nonzero(self.kind == kind)) for kind, name in enumerate(KINDS)}


def joined(parts: Iterable[Samples], side: int) -> Samples:
    """All of them; of none, no window of that side."""
    every = [*parts, Samples(np.zeros((0, side, side, 3), np.uint8), *_empty(0))]
    names = [field.name for field in dataclasses.fields(Samples)]
    return Samples(*(np.concatenate([getattr(part, name) for part in every]) for name in names))


def _empty(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.full(count, NEGATIVE, np.int8),
        np.zeros((count, 4), np.float32),
        np.zeros((count, 10), np.float32),
    )


def thinned(samples: Samples, most: int, rng: np.random.Generator) -> Samples:
    """At most so many of each kind, at random."""
    rows = [samples.of_kind(kind) for kind in range(len(KINDS))]
    kept = [one if len(one) <= most else rng.choice(one, most, replace=False) for one in rows]
    return samples[np.sort(np.concatenate(kept))]


def overlaps(windows: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """IoU of windows [N, 4] and faces [M, 4]: [N, M]."""
    low = np.maximum(windows[:, None, :2], faces[None, :, :2])
    high = np.minimum(windows[:, None, 2:], faces[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (windows, faces)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def sort_windows(
    windows: np.ndarray, faces: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What windows [N, 4] are: an index of KINDS or -1, where a window is neither; and which face they are about.

    A window about one of the faces that are `ignored`, bool [M], is neither, and near one no proof of there being none.
    """
    if not len(faces):
        return np.full(len(windows), NEGATIVE), np.zeros(len(windows), np.int64)
    shares = overlaps(windows, faces)
    about = shares.argmax(axis=1)
    share = shares[np.arange(len(windows)), about]
    kind = np.select([share < _BELOW, share >= _FACE, share >= _PART], [NEGATIVE, POSITIVE, PART], _NONE)
    return np.where((kind != NEGATIVE) & ignored[about], _NONE, kind), about


def draw_elsewhere(
    size: tuple[int, int], faces: np.ndarray, count: int, least: int, rng: np.random.Generator
) -> np.ndarray:
    """Squares [n, 4] anywhere in an image of (height, width), and near each face: most of them without one."""
    height, width = size
    largest = min(height, width) / 2
    if largest <= least:
        return np.zeros((0, 4))
    sides = rng.uniform(least, largest, count)
    low = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides[:, None])
    squares = [np.concatenate([low, low + sides[:, None]], axis=1)]
    for face in _chosen(faces, rng):
        sides = rng.uniform(least, largest, _NEAR)
        reach = np.maximum(face[2:] - face[:2], sides[:, None])
        low = face[:2] + rng.uniform(-1, 1, (_NEAR, 2)) * reach
        squares.append(np.concatenate([low, low + sides[:, None]], axis=1))
    return _inside(np.concatenate(squares), size)


def draw_about(size: tuple[int, int], faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Squares [n, 4] about faces, a little elsewhere, smaller and larger."""
    squares = [np.zeros((0, 4))]
    for face in _chosen(faces, rng):
        extent = face[2:] - face[:2]
        sides = rng.uniform(0.8 * extent.min(), 1.25 * extent.max(), (_TRIES, 1))
        middle = (face[:2] + face[2:]) / 2 + rng.uniform(-0.2, 0.2, (_TRIES, 2)) * extent
        squares.append(np.concatenate([middle - sides / 2, middle + sides / 2], axis=1))
    return _inside(np.concatenate(squares), size)


def _chosen(faces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return faces if len(faces) <= _FACES else faces[rng.choice(len(faces), _FACES, replace=False)]


def _inside(squares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Those that lie in an image of (height, width)."""
    limit = np.array([size[1], size[0]])
    return squares[np.all((squares[:, :2] >= 0) & (squares[:, 2:] <= limit), axis=1)]


def cut_windows(image: np.ndarray, windows: np.ndarray, side: int) -> np.ndarray:
    """Windows [N, 4] of an image, uint8 [H, W, 3], brought to `side` pixels as MT-CNN sees them: uint8 [N, S, S, 3].

    Only what lies in the image counts. A pixel is the mean of all those that it covers ("area").
    """
    sums = np.zeros((image.shape[0] + 1, image.shape[1] + 1, image.shape[2]), np.int64)
    sums[1:, 1:] = image.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    limit = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(windows[:, :2]).astype(np.int64), 0, limit - 1)
    high = np.clip(np.floor(windows[:, 2:]).astype(np.int64), low + 1, limit)
    steps, extent = np.arange(side), (high - low)[:, :, None]
    begin = low[:, :, None] + steps * extent // side  # [N, 2, S]
    end = low[:, :, None] - (-(steps + 1) * extent // side)
    (x0, y0), (x1, y1) = (np.moveaxis(places, 1, 0) for places in (begin, end))

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return sums[y[:, :, None], x[:, None, :]]

    total = at(y1, x1) - at(y0, x1) - at(y1, x0) + at(y0, x0)
    count = ((y1 - y0)[:, :, None] * (x1 - x0)[:, None, :])[..., None]
    return np.rint(total / count).astype(np.uint8)


def take_windows(
    image: np.ndarray,
    windows: np.ndarray,
    faces: np.ndarray,
    ignored: np.ndarray,
    side: int,
    most: int,
    rng: np.random.Generator,
) -> Samples:
    """At most so many windows [N, 4] of an image of each kind that they are, at random."""
    kind, about = sort_windows(windows, faces, ignored)
    rows = [np.flatnonzero(kind == one) for one in (NEGATIVE, POSITIVE, PART)]
    kept = np.concatenate([rng.permutation(one)[:most] for one in rows])
    windows, kind = windows[kept], kind[kept].astype(np.int8)
    _, boxes, points = _empty(len(windows))
    found = kind != NEGATIVE
    boxes[found] = offsets(windows[found], faces[about[kept][found]])
    return Samples(cut_windows(image, windows, side), kind, boxes, points)


def offsets(windows: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """How far the sides of faces [N, 4] are from those of windows [N, 4], by the windows' sizes."""
    size = windows[:, 2:] - windows[:, :2]
    return (faces - windows) / np.concatenate([size, size], axis=1)


def five_points(points: np.ndarray) -> np.ndarray:
    """Eyes, nose and corners of the mouth [..., 5, 2] of faces with 68 points, or with these five."""
    if points.shape[-2] == 5:
        return points
    eyes = [points[..., begin : begin + 6, :].mean(axis=-2) for begin in (36, 42)]
    return np.stack([*eyes, points[..., 30, :], points[..., 48, :], points[..., 54, :]], axis=-2)


def face_box(points: np.ndarray) -> np.ndarray:
    """The square [4] of a face with five points [5, 2]: 2.6 times as wide as eyes and mouth are apart, which on
    photographs is about what MT-CNN's published networks find."""
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    apart = float(np.linalg.norm(mouth - eyes))
    middle, half = (eyes + mouth) / 2 + 0.24 * (eyes - mouth), 1.3 * apart
    return np.concatenate([middle - half, middle + half])


def landmark_windows(
    image: np.ndarray, points: np.ndarray, side: int, count: int, rng: np.random.Generator
) -> Samples:
    """So many windows about the face of an image whose five points [5, 2] are known."""
    face = face_box(points)
    extent = face[2] - face[0]
    sides = extent * rng.uniform(0.85, 1.2, (count, 1))
    middle = (face[:2] + face[2:]) / 2 + rng.uniform(-0.1, 0.1, (count, 2)) * extent
    windows = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
    _, boxes, _ = _empty(count)
    shares = (points[None] - windows[:, None, :2]) / sides[:, None]
    told = shares.transpose(0, 2, 1).reshape(count, 10).astype(np.float32)
    return Samples(cut_windows(image, windows, side), np.full(count, LANDMARK, np.int8), boxes, told)
