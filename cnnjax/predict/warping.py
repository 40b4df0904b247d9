"""Faces on photographs warped to the points of another face, or to the mean shape of all: a picture and a gif of each."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.config import ConfigError, Data
from cnnjax.data.images import read_image
from cnnjax.faces.shape_model import align
from cnnjax.faces.warp import fit_similarity, frame_points, morph, save_gif, triangulate
from cnnjax.predict.predict import Found

MEAN = "mean"
_LONGEST = 640  # pixels of a side of what is written


def remembering(
    found: Iterable[tuple[Path, Found]], points: dict[Path, np.ndarray]
) -> Iterator[tuple[Path, Found]]:
    """The same, while the points [K, 2] of the first face of each image with one are put into `points`."""
    for path, one in found:
        if not isinstance(one, ConfigError) and one[1].points is not None and len(one[1].points):
            points[path] = np.asarray(one[1].points[0], np.float64)
        yield path, one


def points_of(name: str, found: Iterable[tuple[Path, Found]]) -> np.ndarray:
    """Those of the first face of the one image that was looked at. Raises ConfigError if it cannot be read or has none."""
    points: dict[Path, np.ndarray] = {}
    for _, one in remembering(found, points):
        if isinstance(one, ConfigError):
            raise one
    if not points:
        raise ConfigError(f"predict.warp={name}: no points are placed on it")
    return next(iter(points.values()))


def mean_shape(points: Mapping[Path, np.ndarray]) -> np.ndarray:
    """The mean [K, 2] of the faces, aligned by shift, rotation and scale. Raises ConfigError for fewer than two."""
    if len(points) < 2:
        raise ConfigError(
            f"predict.warp=mean is the mean of the faces in --inputs, which are {len(points)}: give two, or a photograph"
        )
    return align(np.stack(list(points.values())))[1]


def write_warped(points: Mapping[Path, np.ndarray], target: np.ndarray, folder: Path) -> int:
    """Writes NUMBER_NAME.png and .gif of each image into `folder`: the face takes the shape of `target` [K, 2] where it
    is, as large and as turned as it is, and the picture around it follows.

    Returns how many were written. Raises ConfigError if none has points, or these are not those of the target.
    """
    if not points:
        raise ConfigError("predict.warp: on none of --inputs are points placed; it needs a model that does")
    folder.mkdir(parents=True, exist_ok=True)
    for number, (path, source) in enumerate(points.items(), start=1):
        frames = warped_frames(read_image(path, Data()), source, target)
        name = folder / f"{number:03d}_{path.stem}"
        Image.fromarray(frames[-1]).save(f"{name}.png")
        save_gif(frames, f"{name}.gif")
    return len(points)


def warped_frames(image: np.ndarray, source: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """From an image, uint8 [H, W, 3], made smaller if need be, to its face in the shape of `target` [K, 2]."""
    if len(source) != len(target):
        raise ConfigError(f"{len(source)} points cannot be warped to {len(target)}")
    scale = min(1.0, _LONGEST / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))
    here = (source + 0.5) * [width / image.shape[1], height / image.shape[0]] - 0.5
    there = fit_similarity(target, here)(target)
    border = frame_points(width, height)
    begin, end = (np.concatenate([border, points]) for points in (here, there))
    return morph(small, begin, end, triangulate(end))
