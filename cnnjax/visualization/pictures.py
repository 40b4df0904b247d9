"""From arrays to pictures on disk: grids, heat maps, plots, PNG and GIF."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

NOTHING = (205, 220, 240)  # light blue, where a picture has no pixels


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a gallery.

    name: of the file, without extension. image: uint8 [H, W, 3]. caption: what it shows, one or two sentences.
    layer: the layer or address it is about, "" if none. command: what makes it again.
    frames: uint8 [H, W, 3] each; if given, also written as an animation.
    """

    name: str
    image: np.ndarray
    caption: str
    layer: str = ""
    command: str = ""
    frames: tuple[np.ndarray, ...] = ()


def to_uint8(images: Any) -> np.ndarray:
    """[..., H, W, 1 or 3] uint8 or floats in [0, 1] -> uint8 [..., H, W, 3]. NaN has the colour NOTHING."""
    images = np.asarray(images)
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    if images.dtype == np.uint8:
        return images
    missing = np.isnan(images)
    numbers = np.round(np.clip(np.where(missing, 0, images), 0, 1) * 255).astype(np.uint8)
    return np.where(missing, np.asarray(NOTHING, np.uint8), numbers)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> [height, width, same], smoothly."""
    resized = Image.fromarray(to_uint8(image)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)[..., : image.shape[2]]


def enlarge(images: np.ndarray, side: int) -> np.ndarray:
    """Repeats pixels a whole number of times, so that the long side of [..., H, W, C] is near `side`."""
    factor = max(1, round(side / max(images.shape[-3:-1])))
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def _shrink(image: np.ndarray, largest: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = largest / max(height, width)
    return resize(image, round(height * factor), round(width * factor)) if 0 < factor < 1 else image


def signed(values: Any) -> np.ndarray:
    """Signed values [N, H, W, C] -> floats in [0, 1], each picture on its own scale: 0 is grey.

    One in 200 values is beyond the scale, so that single peaks leave something to see. NaN stays.
    """
    values = np.asarray(values, np.float32)
    axes = tuple(range(1, values.ndim))
    largest = np.nanquantile(np.abs(values), 0.995, axis=axes, keepdims=True)
    highest = np.nanmax(np.abs(values), axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest, np.maximum(highest, 1e-12))
    return np.clip(0.5 + 0.5 * values / scale, 0, 1)


def heat(maps: Any) -> np.ndarray:
    """Maps [N, H, W] -> colours uint8 [N, H, W, 3], each map from its lowest to its highest value."""
    maps = np.asarray(maps, np.float32)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    colors = matplotlib.colormaps["inferno"]((maps - low) / np.maximum(high - low, 1e-12))
    return to_uint8(colors[..., :3])


def grid(
    pictures: Any,
    columns: int = 0,
    *,
    titles: Sequence[str] = (),
    rows: Sequence[str] = (),
    side: int = 96,
    largest: int = 0,
    space: int = 4,
) -> np.ndarray:
    """Pictures [N, H, W, 1 or 3], or a list of different sizes, side by side on white. uint8 [H', W', 3].

    titles: above each picture. rows: to the left of each row. side: small pictures are enlarged to about this.
    largest: larger ones are shrunk to this; 0 leaves them. columns: about square if 0.
    """
    cells = [enlarge(_shrink(to_uint8(picture), largest), side) for picture in pictures]
    columns = columns or int(np.ceil(np.sqrt(len(cells))))
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    head = 16 if titles else 0
    left = 8 + max((_text_width(row) for row in rows), default=-8)
    lines = -(-len(cells) // columns)
    shape = (lines * (height + head + space) + space, left + columns * (width + space) + space, 3)
    canvas = Image.fromarray(np.full(shape, 255, np.uint8))
    draw = ImageDraw.Draw(canvas)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        x, y = left + space + column * (width + space), space + row * (height + head + space)
        if i < len(titles):
            draw.text((x, y), _fit(titles[i], width), fill="black", font=_FONT)
        if column == 0 and row < len(rows):
            draw.text((space, y + head + height // 2 - 6), rows[row], fill="black", font=_FONT)
        canvas.paste(Image.fromarray(cell), (x, y + head))
    return np.asarray(canvas)


def plot(figure: Figure) -> np.ndarray:
    """A matplotlib figure as uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_gif(path: Path, frames: Sequence[np.ndarray], seconds: float = 0.4) -> None:
    """An endless animation of uint8 [H, W, 3] frames of one size.

    It begins with the last frame, shown for longer: that is what a page that stands still shows.
    """
    last, *others = [Image.fromarray(frame) for frame in (frames[-1], *frames[:-1])]
    times = [round(4000 * seconds)] + [round(1000 * seconds)] * len(others)
    last.save(path, save_all=True, append_images=others, duration=times, loop=0)


_FONT = ImageFont.load_default(11)


def _text_width(text: str) -> int:
    return round(_FONT.getlength(text))


def _fit(text: str, width: int) -> str:
    """The text, shortened until it fits into so many pixels."""
    if _text_width(text) <= width:
        return text
    while text and _text_width(text + "…") > width:
        text = text[:-1]
    return text + "…"
