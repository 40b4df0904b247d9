"""What was found in an image, drawn into it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import ImageColor

from cnnjax.detection.rle import rle_to_mask
from cnnjax.drawing.figures import Boxes, draw_boxes
from cnnjax.drawing.points import draw_points, lines_of

if TYPE_CHECKING:
    from cnnjax.tasks.result import Result

COLOURS = ("lime", "red", "deepskyblue", "orange", "magenta", "yellow", "cyan", "white")


def draw(image: np.ndarray, result: "Result", name: str = "") -> tuple[np.ndarray, str]:
    """The image, uint8 [H, W, C], with what was found drawn in, and a caption of a line or a few. It may be smaller
    than the image that the result is about."""
    if result.top is not None:
        # With many classes the right one is often among the next few.
        shown = result.top[: 5 if len(result.classes) > 100 else 1]
        lines = [f"{100 * p:.0f} % {_called(result.classes, label)}" for label, p in shown]
        return image, "\n".join([name[:24], *lines])
    if result.boxes is not None:
        boxes = boxes_of(result)
        share = np.array([image.shape[1] / result.width, image.shape[0] / result.height] * 2)
        smaller = Boxes(boxes.boxes * share[None], boxes.labels, boxes.colours)
        found = draw_boxes(with_masks(image, result), smaller)
        return with_points(found, result), f"{name}\n{len(result.boxes)} found"
    if result.points is not None:
        return with_points(image, result), f"{name}{'' if len(result.points) else ': nothing'}"
    return image, name


def _called(classes: Sequence[str], label: int) -> str:
    """The name of a class, with its index where another one has the same name."""
    name = classes[label]
    return f"{name[:16]} ({label})" if classes.count(name) > 1 else name[:22]


def with_points(image: np.ndarray, result: "Result") -> np.ndarray:
    """The image with all points of a result; it may have another size than that of the result."""
    for points in () if result.points is None else result.points:
        # What was drawn before may have enlarged it.
        places = points * (image.shape[1] / result.width)
        image = draw_points(image, places, np.ones(len(points), bool), lines_of(result.point_names), "lime")
    return image


def with_masks(image: np.ndarray, result: "Result") -> np.ndarray:
    """A copy of the image, uint8 [H, W, 3], with the masks of a result laid over it, half transparent, in the colours of
    their classes and the best on top; the image itself without masks. It may be smaller than that of the result."""
    if result.masks is None:
        return image
    assert result.labels is not None
    shown = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float32)
    rows, columns = (
        (np.arange(side) * whole) // side
        for side, whole in zip(image.shape[:2], (result.height, result.width), strict=True)
    )
    for mask, label in reversed(list(zip(result.masks, result.labels.tolist(), strict=True))):
        inside = rle_to_mask(mask)[rows][:, columns]
        colour = np.asarray(ImageColor.getrgb(COLOURS[label % len(COLOURS)]), np.float32)
        shown[inside] = (shown[inside] + colour) / 2
    return shown.astype(np.uint8)


def boxes_of(result: "Result") -> Boxes:
    """The boxes of a result, in the colours of their classes, the best last: it is drawn over the others."""
    assert result.boxes is not None and result.scores is not None and result.labels is not None
    order = np.argsort(result.scores, kind="stable")
    numbers = result.labels[order].tolist()
    labels = [
        f"{result.classes[i]} {100 * score:.0f}"
        for i, score in zip(numbers, result.scores[order], strict=True)
    ]
    return Boxes(result.boxes[order], labels, [COLOURS[i % len(COLOURS)] for i in numbers])
