"""Figures with matplotlib: what reports and predictions show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the report: a file of plots/ with a title and a sentence below it."""

    name: str
    title: str
    caption: str
    figure: Figure


def learning_curves(lines: Sequence[Mapping[str, Any]], headline: str) -> Picture:
    """Loss and headline metric of the training batches and of the evaluated split over the steps."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, name in zip(axes, ("loss", headline), strict=True):
        for split, style in (("train", "-"), ("test", "o-")):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=split, markersize=4)
        axis.set(xlabel="training step", ylabel=f"{name} [nats]" if name == "loss" else name)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    caption = "Training values are means over the batches since the last point, with augmentation; test values are of the whole split."
    return Picture("curves", "Learning curves", caption, figure)


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Picture:
    """Rows are true classes, columns predicted ones; counts are written in where they fit."""
    size = min(14.0, 3 + 0.45 * len(classes))
    figure, axis = plt.subplots(figsize=(size, size))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted class", ylabel="true class")
    ticks = range(0, len(classes), 1 if len(classes) <= 50 else 10)
    axis.set_xticks(ticks, [classes[i] for i in ticks], rotation=90 if max(map(len, classes)) > 2 else 0)
    axis.set_yticks(ticks, [classes[i] for i in ticks])
    if len(classes) <= 20:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if share[row, column] > 0.5 else "black"
            axis.text(
                column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color
            )
    figure.colorbar(image, shrink=0.7, label="share of the true class")
    return Picture(
        "confusion", "Confusion matrix", "How many examples of each true class were given each label.", figure
    )


def image_grid(
    name: str, title: str, caption: str, images: Sequence[np.ndarray], labels: Sequence[str]
) -> Picture:
    """Images with a line or two of text under each, eight to a row."""
    columns = min(8, max(1, len(images)))
    rows = max(1, -(-len(images) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 2.05 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, images, labels, strict=False):
        axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(label, fontsize=8)
    figure.tight_layout()
    return Picture(name, title, caption, figure)
