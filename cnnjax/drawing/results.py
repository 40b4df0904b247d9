"""What was found in an image, drawn into it."""

from typing import TYPE_CHECKING

import numpy as np

from cnnjax.drawing.figures import Boxes, draw_boxes

if TYPE_CHECKING:
    from cnnjax.tasks.result import Result

COLOURS = ("lime", "red", "deepskyblue", "orange", "magenta", "yellow", "cyan", "white")


def draw(image: np.ndarray, result: "Result", name: str = "") -> tuple[np.ndarray, str]:
    """The image, uint8 [H, W, C], with what was found drawn in, and a caption of a line or a few. It may be smaller
    than the image that the result is about."""
    if result.top is not None:
        # With many classes the right one is often among the next few.
        shown = result.top[: 5 if len(result.classes) > 100 else 1]
        lines = [f"{100 * p:.0f} % {result.classes[label][:22]}" for label, p in shown]
        return image, "\n".join([name[:24], *lines])
    if result.boxes is not None:
        boxes = boxes_of(result)
        share = np.array([image.shape[1] / result.width, image.shape[0] / result.height] * 2)
        smaller = Boxes(boxes.boxes * share[None], boxes.labels, boxes.colours)
        return draw_boxes(image, smaller), f"{name}\n{len(result.boxes)} found"
    return image, name


def boxes_of(result: "Result") -> Boxes:
    """The boxes of a result, in the colours of their classes."""
    assert result.boxes is not None and result.scores is not None and result.labels is not None
    numbers = result.labels.tolist()
    labels = [
        f"{result.classes[i]} {100 * score:.0f}" for i, score in zip(numbers, result.scores, strict=True)
    ]
    return Boxes(result.boxes, labels, [COLOURS[i % len(COLOURS)] for i in numbers])
