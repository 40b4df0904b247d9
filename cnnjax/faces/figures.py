"""Figures of the traditional pipeline, for reports."""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from cnnjax.drawing.figures import Picture, image_grid, logarithmic, names_as_they_are, subplots
from cnnjax.faces.boosting import Stage
from cnnjax.faces.cascade import Cascade
from cnnjax.faces.search import Step
from cnnjax.faces.shape_model import DEVIATIONS, ShapeModel

Lines = Sequence[tuple[int, int, bool]]


@names_as_they_are()
def shape_modes(model: ShapeModel, lines: Lines, count: int = 3) -> Picture:
    """The first modes, each at -3 to +3 standard deviations of itself alone."""
    count = min(count, len(model.modes))
    places = np.linspace(-DEVIATIONS, DEVIATIONS, 7)
    figure, axes = subplots(count, len(places), figsize=(12, 1.9 * count), squeeze=False)
    share = model.variances / model.variances.sum()
    for mode in range(count):
        for axis, place in zip(axes[mode], places, strict=True):
            parameters = np.zeros(len(model.modes))
            parameters[mode] = place * np.sqrt(model.variances[mode])
            _draw_lines(axis, model.shape(parameters), lines, "black")
            axis.set(aspect="equal", xticks=[], yticks=[])
            axis.invert_yaxis()
            axis.set_title(f"{place:+.0f} σ", fontsize=8)
        axes[mode, 0].set_ylabel(f"mode {mode + 1}\n{100 * share[mode]:.0f} %", fontsize=8)
    caption = "What a mode changes, from minus to plus three standard deviations; its share of the variance of the modes that are kept."
    return Picture("shape_modes", "Modes of the shape", caption, figure)


@names_as_they_are()
def search_steps(image: np.ndarray, steps: Sequence[Step], lines: Lines) -> Picture:
    """The shape after each step of a search, over the image [H, W]."""
    columns = min(6, len(steps))
    rows = -(-len(steps) // columns)
    figure, axes = subplots(rows, columns, figsize=(2.1 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, step in zip(axes.flat, steps, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        _draw_lines(axis, step.points, lines, "lime")
        title = "start" if step.iteration == 0 else f"1/{2**step.level} of the size, step {step.iteration}"
        axis.set_title(title, fontsize=8)
    caption = "Each point goes along its normal to where its profile is the most likely; then the shape is made one that the model allows."
    return Picture("search_steps", "The search, step by step", caption, figure)


def _draw_lines(axis, points: np.ndarray, lines: Lines, colour: str) -> None:
    for begin, end, closed in lines:
        line = points[[*range(begin, end), *([begin] if closed else [])]]
        axis.plot(*line.T, color=colour, linewidth=1)


@names_as_they_are()
def chosen_features(cascade: Cascade, face: np.ndarray, count: int = 5) -> Picture:
    """The first features that boosting chose, over a face [height, width] of the cascade's size."""
    count = min(count, len(cascade.feature))
    figure, axes = subplots(1, count + 1, figsize=(2.1 * (count + 1), 2.4), squeeze=False)
    for index, axis in enumerate(axes[0]):
        axis.imshow(face, cmap="gray", vmin=0, vmax=255)
        axis.axis("off")
        if index == 0:
            axis.set_title("face", fontsize=8)
            continue
        feature = cascade.feature[index - 1, 0]
        axis.set_title(f"feature {index}", fontsize=8)
        rectangles, weights = cascade.features.rectangles[feature], cascade.features.weights[feature]
        for (x, y, width, height), weight in zip(rectangles, weights, strict=True):
            if weight:
                colour = "white" if weight > 0 else "black"
                box = Rectangle((x - 0.5, y - 0.5), width, height, facecolor=colour, edgecolor="red")
                axis.add_patch(box)
    caption = "The sum below white counts against the sum below black, in the order in which the features were chosen."
    return Picture("chosen_features", "First features", caption, figure)


@names_as_they_are()
def stage_rates(stages: Sequence[Stage]) -> Picture:
    """What each stage keeps of faces and of the windows of photographs."""
    figure, (faces, windows) = subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    numbers = range(1, len(stages) + 1)
    faces.plot(numbers, [100 * stage.training_detection for stage in stages], "o-", label="training faces")
    faces.plot(numbers, [100 * stage.detection for stage in stages], "o-", label="held-out faces")
    faces.set(xlabel="stages", ylabel="faces kept [%]")
    faces.legend()
    windows.plot(numbers, [stage.overall_false_positives for stage in stages], "o-", color="tab:red")
    logarithmic(windows, "y")
    windows.set(xlabel="stages", ylabel="share of windows kept")
    for number, stage in zip(numbers, stages, strict=True):
        windows.annotate(
            f"{stage.stumps}", (number, stage.overall_false_positives), xytext=(3, 5), textcoords="offset points", fontsize=8
        )  # fmt: skip
    for axis in (faces, windows):
        axis.grid(alpha=0.3)
    caption = "What is left after so many stages; beside the points, how many stumps the stage has."
    return Picture("stage_rates", "Stages of the cascade", caption, figure)


def mined_windows(windows: np.ndarray, count: int = 32) -> Picture:
    """Windows [n, height, width] of photographs that the cascade takes for faces."""
    shown = [window[..., None] for window in windows[:count]]
    caption = "Windows of photographs that pass all stages so far: what the next stage is trained against."
    return image_grid("mined_windows", "Mined windows", caption, shown, [""] * len(shown))
