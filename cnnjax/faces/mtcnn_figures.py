"""Figures of MT-CNN's networks and of the windows that they were trained with, for reports."""

from collections.abc import Sequence

import numpy as np

from cnnjax.detection.results import Detections, Truth
from cnnjax.drawing.figures import (
    Boxes,
    Picture,
    draw_boxes,
    image_grid,
    names_as_they_are,
    subplots,
)
from cnnjax.faces.mtcnn_samples import KINDS, LANDMARK, Samples
from cnnjax.faces.mtcnn_training import Trained


def found_faces(
    pixels: Sequence[np.ndarray], truths: Sequence[Truth], found: Sequence[Detections]
) -> Picture:
    """The first images, with what was found in them."""
    drawn, texts = [], []
    for image, truth, one in zip(pixels, truths, found, strict=False):
        labels = [f"{100 * score:.0f}" for score in one.scores]
        boxes = Boxes(truth.boxes, [""] * len(truth.boxes), ["white"] * len(truth.boxes))
        drawn.append(draw_boxes(image, boxes + Boxes(one.boxes, labels, ["lime"] * len(labels))))
        texts.append(f"{int((~truth.ignored).sum())} faces, {len(labels)} found")
    caption = "White: real faces, also those too small to be looked for. Green: found, with their scores in percent."
    return image_grid("found", "Faces found", caption, drawn, texts, columns=3)


@names_as_they_are()
def stages(trained: Sequence[Trained]) -> Picture:
    """What each network was trained with, and how much of what was held out it tells right."""
    figure, (counts, rates) = subplots(1, 2, figsize=(11, 3.6))
    places = np.arange(len(trained))
    below = np.zeros(len(trained))
    for kind in KINDS:
        numbers = np.array([stage.counts[kind] for stage in trained], float)
        if numbers.any():
            counts.bar(places, numbers, bottom=below, label=kind)
            below += numbers
    counts.set(ylabel="windows")
    counts.legend()
    for side, (what, called) in enumerate((("accuracy", "all"), ("faces_right", "faces"))):
        shares = [100 * getattr(stage, what) for stage in trained]
        bars = rates.bar(places + 0.4 * side - 0.2, shares, 0.4, label=called)
        rates.bar_label(bars, fmt="%.1f")
    rates.legend(loc="lower right")
    rates.set(ylabel="windows held out told right [%]", ylim=(0, 110))
    for axis in (counts, rates):
        axis.set_xticks(places, [stage.network for stage in trained])
    caption = "Windows that each network was trained with, and its accuracy on faces and non-faces of images that were held out."
    return Picture("stages", "Stages", caption, figure)


def windows(name: str, samples: Samples) -> Picture:
    """A few of the windows that a network was trained with, each kind together."""
    shown, texts = [], []
    for kind, called in enumerate(KINDS):
        for i in samples.of_kind(kind):
            image = samples.pixels[i]
            side = image.shape[0]
            if kind == LANDMARK:
                places = np.clip(np.rint(samples.points[i].reshape(2, 5) * side), 0, side - 1).astype(int)
                image = image.copy()
                image[places[1], places[0]] = (0, 255, 0)
            shown.append(image)
            texts.append(called)
    caption = (
        "Windows as the network sees them: without a face, with one, with a part of one, and with points."
    )
    return image_grid(f"windows_{name}", f"Windows of {name}", caption, shown, texts, columns=16)
