"""Figures with matplotlib: what reports and predictions show."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image, ImageDraw, ImageFont

from cnnjax.config import ConfigError

DPI = 100  # of saved figures
_LETTER = 14  # pixels: least height of a line that is drawn into an image
_LINES = 40  # of such height a large image has room for along its shorter side
_POINTS = 9.0  # of a line over an image: 12.5 pixels, as figures are saved
_READABLE, _SHOWN = 60, 40  # classes of a confusion matrix: above the first so many of them


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the report: a file of plots/ with a title and a sentence below it."""

    name: str
    title: str
    caption: str
    figure: Figure


@contextlib.contextmanager
def names_as_they_are() -> Iterator[None]:
    """While a figure is made: in names of files and classes "$" begins no formula, what the font lacks is an empty box."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def subplots(rows: int = 1, columns: int = 1, squeeze: bool = True, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes, as pyplot makes them but without its state: there is nothing to close."""
    figure = Figure(**options)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def logarithmic(axes: Axes, which: str) -> None:
    """Makes an axis, "x" or "y", logarithmic, with numbers that are no formulas: `names_as_they_are` would show these."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    for formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        formatter(LogFormatter())


@names_as_they_are()
def save(figure: Figure, path: str | Path | IO[bytes], kind: str | None = None) -> None:
    """Writes a figure, cut to what is drawn in it, in the format that the name ends in, or `kind`."""
    figure.savefig(path, format=kind, dpi=DPI, bbox_inches="tight")


def write(figure: Figure, path: str | Path) -> None:
    """Saves to a file that the user names; ConfigError if it cannot be written."""
    try:
        kind = Path(path).suffix[1:] or "png"  # given, or matplotlib would write to another name
        save(figure, path, kind)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the picture cannot be written: {error}") from error


@names_as_they_are()
def learning_curves(lines: Sequence[Mapping[str, Any]], headline: str) -> Picture:
    """Loss and headline metric of the training batches and of the evaluated split over the steps."""
    figure, axes = subplots(1, 2, figsize=(11, 4))
    for axis, name in zip(axes, ("loss", headline), strict=True):
        for split, style in (("train", "-"), ("test", "o-")):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=split, markersize=4)
        axis.set(xlabel="training step", ylabel=f"{name} [nats]" if name == "loss" else name)
        axis.grid(alpha=0.3)
        axis.legend()
    logarithmic(axes[0], "y")
    caption = "Training values are means over the batches since the last point, with augmentation; test values are of the whole split."
    return Picture("curves", "Learning curves", caption, figure)


@names_as_they_are()
def compared_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], headline: str) -> Picture:
    """Of several runs, by name, the loss in training and the headline metric of the evaluated split over the steps."""
    figure, axes = subplots(1, 2, figsize=(12.8, 4.8))
    for axis, name, split in zip(axes, ("loss", headline), ("train", "test"), strict=True):
        for run, lines in runs.items():
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            if points:
                marker = "o" if len(points) < 50 else None
                axis.plot(*zip(*points, strict=True), marker=marker, label=run, markersize=4)
        axis.set(
            xlabel="training step",
            title=f"{name} of the {'training' if split == 'train' else 'evaluated'} examples",
        )
        axis.grid(alpha=0.3)
    if any(line.get_ydata().size for line in axes[0].lines):
        logarithmic(axes[0], "y")
    entries = {
        label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(),
        entries,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=min(3, max(1, len(entries))),
    )
    caption = "Training values are means over the batches since the last point, with augmentation."
    return Picture("curves", "Curves", caption, figure)


@names_as_they_are()
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Picture:
    """Rows are true classes, columns predicted ones; counts are written in where they fit. Of very many classes those are
    shown that take part in most mistakes."""
    caption = "How many examples of each true class were given each label."
    totals = matrix.sum(axis=1)
    if len(classes) > _READABLE:
        mistakes = matrix - np.diag(np.diag(matrix))
        worst = np.argsort(-(mistakes.sum(axis=0) + mistakes.sum(axis=1)), kind="stable")
        chosen = np.sort(worst[:_SHOWN])
        caption += f" Of {len(classes):,} classes the {_SHOWN} that take part in most mistakes."
        matrix, totals = matrix[np.ix_(chosen, chosen)], totals[chosen]
        classes = [classes[i] for i in chosen]
    size = min(14.0, 3 + 0.45 * len(classes))
    figure, axis = subplots(figsize=(size, size))
    share = matrix / np.maximum(totals, 1)[:, None]
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted class", ylabel="true class")
    names = [name if len(name) <= 24 else f"{name[:23]}\N{HORIZONTAL ELLIPSIS}" for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axis.set_yticks(range(len(names)), names)
    if len(classes) <= 20:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if share[row, column] > 0.5 else "black"
            axis.text(
                column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color
            )
    figure.colorbar(image, shrink=0.7, label="share of the true class")
    return Picture("confusion", "Confusion matrix", caption, figure)


@names_as_they_are()
def precision_recall_curves(precision: np.ndarray, classes: Sequence[str]) -> Picture:
    """Curves of precision [recalls, C] at IoU 0.5; NaN where a class has no object."""
    figure, axis = subplots(figsize=(6.5, 5))
    recall = np.linspace(0, 1, len(precision))
    for index, name in enumerate(classes):
        if not np.isnan(precision[:, index]).all():
            label = f"{name}: {np.mean(precision[:, index]):.3f}"
            axis.plot(recall, precision[:, index], label=label if len(classes) <= 20 else None)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    if axis.lines and len(classes) <= 20:
        axis.legend(title="class: AP50")
    caption = "COCO's interpolated precision at IoU 0.5; the area under a curve is the class's AP50."
    return Picture("precision_recall", "Precision and recall", caption, figure)


@names_as_they_are()
def error_kinds(shares: Mapping[str, float]) -> Picture:
    """Bars of the kinds of detections (Redmon et al. 2016, section 4.2)."""
    figure, axis = subplots(figsize=(6.5, 2.6))
    names = list(shares)[::-1]
    bars = axis.barh(names, [100 * shares[name] for name in names])
    axis.bar_label(bars, fmt="%.1f %%", padding=3)
    axis.set(xlabel="share of the most confident detections [%]", xlim=(0, 110))
    caption = "Of each class as many detections are looked at, best first, as there are objects of it."
    return Picture("error_kinds", "What the detections are", caption, figure)


@dataclasses.dataclass(frozen=True)
class Boxes:
    """What to draw: boxes [n, 4] xyxy pixels, with a label (or "") and a colour each."""

    boxes: np.ndarray
    labels: Sequence[str]
    colours: Sequence[str]

    def __add__(self, other: "Boxes") -> "Boxes":
        boxes = np.concatenate([self.boxes.reshape(-1, 4), other.boxes.reshape(-1, 4)])
        return Boxes(boxes, [*self.labels, *other.labels], [*self.colours, *other.colours])


def draw_boxes(image: np.ndarray, boxes: Boxes) -> np.ndarray:
    """A copy of the image, uint8 [H, W, C], enlarged if small, with the boxes drawn in. Labels stay inside of it: above
    their box if there is room, in several lines where a name is long."""
    zoom = max(1, round(320 / max(image.shape[:2])))
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("RGB")
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    letter = max(_LETTER, min(picture.size) // _LINES)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(letter)
    scaled = boxes.boxes.astype(np.float64) * zoom
    for box, label, colour in zip(scaled, boxes.labels, boxes.colours, strict=True):
        x0, y0, x1, y1 = box.tolist()
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=max(2, letter // 7))
        if label:
            lines = _wrapped(label, lambda line: draw.textlength(line, font=font) <= picture.width)
            _, top, width, height = draw.multiline_textbbox((0, 0), lines, font=font)
            x, y = (
                max(0.0, min(at, room - size))
                for at, room, size in zip((x0 + 2, y0 - height), picture.size, (width, height), strict=True)
            )
            draw.rectangle((x, y + top, x + width - 1, y + height - 1), fill="black")
            draw.multiline_text((x, y), lines, fill=colour, font=font)
    return np.asarray(picture)


def _wrapped(text: str, fits: Callable[[str], bool]) -> str:
    """The text in lines that fit, broken at spaces, and inside of a word that has no room in a line of its own."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if fits(joined):
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and not fits(lines[-1] + letter):
                lines.append("")
            lines[-1] += letter
    return "\n".join(line for line in lines if line)


def _cut(line: str, letters: int) -> str:
    """The line, or as much of its beginning as there is room for."""
    return line if len(line) <= letters else f"{line[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"


@names_as_they_are()
def image_grid(
    name: str,
    title: str,
    caption: str,
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    columns: int = 8,
    width: float = 0.0,
) -> Picture:
    """Images with a line or two of text over each, `columns` to a row, each of them `width` inches wide; 0: so that a row
    fills a page."""
    columns = min(columns, max(1, len(images)))
    rows = max(1, -(-len(images) // columns))
    width = width or 12.8 / max(columns, 4)
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    letters = max(8, int(width * DPI / 7.5))  # of a line over an image, at _POINTS
    side = 0.94 * width  # inches: of the square that an image fits into
    # A row is as high as the highest image.
    tallest = side * max((image.shape[0] / max(image.shape[:2]) for image in images), default=1.0)
    height = tallest + 0.1 + 0.06 * width + 0.18 * lines
    figure = Figure(figsize=(width * columns, height * rows))
    # One pair of axes in inches: matplotlib takes longer to make and lay out one for each image than to draw the images.
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for i, (image, label) in enumerate(zip(images, labels, strict=False)):
        row, column = divmod(i, columns)
        x, y = width * (column + 0.5), height * (row + 1) - tallest / 2  # the middle of the image
        high, wide = (side / 2 * extent / max(image.shape[:2]) for extent in image.shape[:2])
        pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
        extent = (x - wide, x + wide, y + high, y - high)
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
        text = "\n".join(_cut(line, letters) for line in label.split("\n"))
        axis.text(x, y - high - 0.06, text, fontsize=_POINTS, ha="center", va="bottom")
    axis.set(xlim=(0, width * columns), ylim=(height * rows, 0))
    return Picture(name, title, caption, figure)
