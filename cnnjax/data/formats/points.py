"""Images with K named points each, whatever file these came from, and the rules that they must obey."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.config import ConfigError
from cnnjax.data import images

# A point farther outside of its image than this share of the longer side is a mistake, such as another unit.
OUTSIDE = 0.25

# The points that a left-right flip swaps, for schemes whose files name no points.
MIRROR_68 = (
    *range(16, -1, -1), *range(26, 16, -1),  # the jaw, the brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,  # the nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # the eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,  # the mouth
)  # fmt: skip
MIRROR_5 = (1, 0, 2, 4, 3)  # eyes, nose, corners of the mouth
MIRRORS = {68: MIRROR_68, 5: MIRROR_5}


@dataclasses.dataclass(frozen=True)
class PointSet:
    """N images of one face or body each; an image with several people stands in it several times.

    Points are x and y in pixels of the image as its file has them, counted from 0. `mirror` says for each point
    which one takes its place when the image is flipped left to right. Raises ConfigError, naming the file and the
    image, for points that are not finite or far outside of their image, and for a `mirror` that does not undo itself.
    """

    source: str  # the annotation file, for messages
    folder: Path  # of the images
    files: tuple[str, ...]  # below it
    points: np.ndarray  # float32 [N, K, 2]
    visible: np.ndarray  # bool [N, K]: the point is known
    names: tuple[str, ...]  # of the K points
    mirror: tuple[int, ...]  # [K]
    boxes: np.ndarray | None = None  # float32 [N, 4] xyxy, where the file has them: of the person
    heads: np.ndarray | None = None  # float32 [N, 4] xyxy: of the head
    areas: np.ndarray | None = None  # float32 [N] square pixels of the person

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError(f"{self.source}: no image with points")
        check_mirror(self.mirror, len(self.names), self.source)
        wrong = ~np.isfinite(self.points).all(axis=-1) & self.visible
        if wrong.any():
            n, k = np.argwhere(wrong)[0]
            raise ConfigError(f"{self.source}: {self.files[n]}: point {self.names[k]} is not a finite number")
        hidden = np.where(self.visible[..., None], self.points, np.float32(0)).astype(np.float32)
        object.__setattr__(self, "points", hidden)

    def sizes(self) -> np.ndarray:
        """Height and width [N, 2] of the images, by their headers; refuses points far outside of them."""
        known: dict[str, tuple[int, int]] = {}
        for name in self.files:
            if name not in known:
                known[name] = images.size(self.folder / name, str(self.folder / name))
        sizes = np.array([known[name] for name in self.files], np.int32)
        margin = OUTSIDE * sizes.max(axis=1)[:, None, None]
        far = (self.points < -margin) | (self.points > sizes[:, None, ::-1] + margin)
        far = far.any(axis=-1) & self.visible
        if far.any():
            n, k = np.argwhere(far)[0]
            x, y = self.points[n, k]
            where = f"point {self.names[k]} ({x:g}, {y:g}) lies far outside of its {sizes[n][1]}x{sizes[n][0]} pixels"
            raise ConfigError(f"{self.source}: {self.files[n]}: {where}")
        return sizes


def check_mirror(mirror: Sequence[int], count: int, source: str) -> None:
    """Raises ConfigError unless `mirror` is a permutation of `count` points that undoes itself."""
    if sorted(mirror) != list(range(count)):
        raise ConfigError(f"{source}: the mirror list is no permutation of {count} points")
    if any(mirror[mirror[i]] != i for i in range(count)):
        first = next(i for i in range(count) if mirror[mirror[i]] != i)
        raise ConfigError(f"{source}: the mirror list does not undo itself at point {first}")


def known_mirror(names: Sequence[str]) -> tuple[int, ...] | None:
    """The mirror that the names tell or, of a scheme whose files name no points, their number."""
    return mirror_of_names(names) or MIRRORS.get(len(names))


def mirror_of_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """The mirror list of names with "left" and "right" in them; None if no name has these."""
    other = {"left": "right", "right": "left"}

    def swapped(name: str) -> str:
        side = next((side for side in other if side in name), None)
        return name if side is None else name.replace(side, other[side])

    if not any("left" in name or "right" in name for name in names):
        return None
    places = {name: i for i, name in enumerate(names)}
    return tuple(places.get(swapped(name), i) for i, name in enumerate(names))


def mirror_of(names: Sequence[str], source: str, file: Path) -> tuple[int, ...]:
    """The mirror list of a data set: of `file` if there is one (K numbers from 0), else of the names, else of their
    number. Raises ConfigError if none of these tells it."""
    if file.is_file():
        words = file.read_text(encoding="utf-8").replace(",", " ").split()
        if not all(word.isdigit() for word in words):
            raise ConfigError(f"{file}: the mirror list is to be {len(names)} numbers from 0")
        mirror = tuple(map(int, words))
        check_mirror(mirror, len(names), str(file))
        return mirror
    found = known_mirror(names)
    if found is None:
        raise ConfigError(
            f"{source}: which of its {len(names)} points a flip swaps is not known: name them left_... and right_..., "
            f"or list the mirrored numbers in {file}"
        )
    return found
