"""Points drawn into an image: as dots, with lines between those that belong together."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from cnnjax.data.formats.poses import COCO_NAMES, LSP_NAMES
from cnnjax.data.synthetic.figures import LIMBS

_CLOSED = ((36, 42), (42, 48), (48, 60), (60, 68))  # eyes and lips
_OPEN = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36))  # jaw, brows, nose
FACE_LINES = (
    *((i, i + 1) for first, end in (*_OPEN, *_CLOSED) for i in range(first, end - 1)),
    *((end - 1, first) for first, end in _CLOSED),
)
_COCO_LINES = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"), ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"),
)  # fmt: skip


def lines_of(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Which of the points with these names are joined by lines: of 68 points, of LSP and of COCO; of others none."""
    if tuple(names) == LSP_NAMES:
        return LIMBS
    if tuple(names) == COCO_NAMES:
        return tuple((COCO_NAMES.index(a), COCO_NAMES.index(b)) for a, b in _COCO_LINES)
    return FACE_LINES if len(names) == 68 else ()


def draw_points(
    image: np.ndarray, points: np.ndarray, visible: np.ndarray, lines: Sequence[tuple[int, int]], colour: str
) -> np.ndarray:
    """A copy of the image, uint8 [H, W, C], enlarged if small, with points [K, 2] where they are visible [K].

    The points are in pixels of the given image.
    """
    zoom = max(1, round(320 / max(image.shape[:2])))
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("RGB")
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    places = [tuple(place) for place in (np.asarray(points, np.float64) * zoom).tolist()]
    for a, b in lines:
        if visible[a] and visible[b]:
            draw.line([places[a], places[b]], fill=colour, width=2)
    for (x, y), shown in zip(places, visible, strict=True):
        if shown:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return np.asarray(picture)
