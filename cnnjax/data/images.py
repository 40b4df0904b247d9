"""Image files to uint8 arrays: reading, resizing, cropping. Training and prediction share these.

Colours are left in the order R, G, B; `data.channel_order` is applied where the model's input is made.
"""

import contextlib
import contextvars
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from cnnjax.config import CROPPING, DARKNET, SHORT_SIDE, ConfigError, Data, Framing, frame_of
from cnnjax.data import buckets

if TYPE_CHECKING:
    from cnnjax.detection.boxes import Letterbox

# Told by content. Pillow reads more formats than these; some of those start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
PADDING = 128  # grey around a letterboxed image
FRAMING = ("letterbox", *DARKNET, SHORT_SIDE)  # of data.resize: to any height and width
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})


def read_image(path: str | Path, data: Data, channels: int = 3) -> np.ndarray:
    """One image file as uint8 [H, W, channels], resized as `data` says (image_size, resize, resize_short).

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, the first
    frame of an animation is taken. Colour becomes grey by ITU-R 601 luma.

    Raises:
      ConfigError: no such file, not an image, damaged, or too large (Pillow's `Image.MAX_IMAGE_PIXELS`).
    """
    check_header(path)
    return decode(path, str(path), data, channels)


def check_header(source: str | Path | bytes, name: str = "") -> bool:
    """Whether the image file, or its bytes, is grey. Reads its header only, and refuses what `read_image` would."""
    with _errors_name(name or str(source)), _open(source) as image:
        return image.mode in GREY_MODES


def size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Height and width of an image file, or its bytes, as `decode` would return it. Reads its header only."""
    with _errors_name(name), _open(source) as image:
        return _upright(image)


def _upright(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # by a quarter
    return (image.width, image.height) if turned else (image.height, image.width)


def decode(source: str | Path | bytes, name: str, data: Data, channels: int) -> np.ndarray:
    """Like `read_image`, of a file or its bytes; `name` is what errors call it. Safe in threads."""
    with _errors_name(name), _open(source) as image:
        array = np.asarray(fit(_convert(ImageOps.exif_transpose(image), channels), data))
    return array if array.ndim == 3 else array[..., None]


@contextlib.contextmanager
def read_reduced(
    path: Path, channels: int, side: int, room: Callable[[int], contextlib.AbstractContextManager[None]]
) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    """As `read_image` in whole, with the height, width and channels of the whole image; but a JPEG comes at the smallest
    of the scales 1, 1/2, 1/4 and 1/8, at which it decodes faster, that leaves each side at least `side` pixels.

    room: entered with the pixels that there will be, from before these are decoded until the caller is done with them.
    """
    height, width = size(path, str(path))
    with contextlib.ExitStack() as held:
        with _errors_name(str(path)):
            image = held.enter_context(_open(path))
            image.draft(None, (side, side))  # of other formats nothing
            held.enter_context(room(image.width * image.height))
            array = np.asarray(_convert(ImageOps.exif_transpose(image), channels))
        yield (array if array.ndim == 3 else array[..., None]), (height, width, channels)


def decode_window(
    source: bytes,
    name: str,
    data: Data,
    channels: int,
    draw: Callable[[int, int], tuple[int, int, int, int]],
) -> np.ndarray:
    """The window that `draw` gives for height and width, as uint8 [image_size, image_size, channels]; else as `decode`.

    A JPEG is decoded at the smallest of its scales at which the window still has so many pixels.
    """
    side = data.image_size
    with _errors_name(name), _open(source) as image:
        height, width = _upright(image)
        left, top, right, bottom = draw(height, width)
        less, whole_width = max(1, min(right - left, bottom - top) // side), image.width
        drafted = image.draft(None, (image.width // less, image.height // less))  # of other formats nothing
        scale = drafted[1][2] / whole_width if drafted else 1.0
        ImageOps.exif_transpose(image, in_place=True)
        whole = _convert(image, channels)
        box = (left * scale, top * scale, min(right * scale, whole.width), min(bottom * scale, whole.height))
        array = np.asarray(whole.resize(_within_limits(side, side), _filter(data), box))
    return array if array.ndim == 3 else array[..., None]


def fit(image: Image.Image, data: Framing) -> Image.Image:
    """Resizes to a square of `data.image_size` by `data.interpolation`; 0 leaves the image as it is.

    resize="stretch" ignores the aspect ratio. resize="crop" is the ImageNet protocol: the short side
    becomes `data.resize_short` (0: image_size), then the centre is cropped. resize="stretch_crop" is Caffe's: both sides
    become that. resize="letterbox" fits all of it in.
    """
    how = _filter(data)
    size, short = data.image_size, data.resize_short or data.image_size
    if not size:
        return image
    if data.resize == "letterbox":
        return Image.fromarray(letterbox_image(np.asarray(image), (size, size), how))
    if data.resize == "stretch":
        return image.resize(_within_limits(size, size), how)
    if short < size:
        raise ConfigError(f"data.resize_short={short} is smaller than data.image_size={size}")
    # The long side is rounded down, and half pixels of the offset to even: as in torchvision.
    width, height = (short * side // min(image.size) for side in image.size)
    if data.resize == "stretch_crop":
        width = height = short
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize(_within_limits(width, height), how)
    return scaled.crop((left, top, left + size, top + size))


def _filter(data: Framing) -> Image.Resampling:
    return Image.Resampling[data.interpolation.upper()]


def resize(image: np.ndarray, data: Framing, shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] brought to the frame [height, width, C] of a network, as `data.resize` says; darknet's ways give
    float32, and by the short side it is brought to the frame for its shape."""
    if data.resize == "letterbox":
        return letterbox_image(image, (shape[0], shape[1]), _filter(data))
    if data.resize == SHORT_SIDE:
        return frame_image(image, frame_of(data), SHORT_SIDE)
    if data.resize in FRAMING:
        return frame_image(image, (shape[0], shape[1]), data.resize)
    whole = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    if data.image_size:
        resized = np.asarray(fit(whole, data))
    else:  # the data came in the size of the network
        resized = np.asarray(whole.resize((shape[1], shape[0]), _filter(data)))
    return resized.reshape(*resized.shape[:2], shape[-1])


def frame_image(image: np.ndarray, frame: tuple[int, int], how: str) -> np.ndarray:
    """uint8 [H, W, C] in a frame (height, width) by one of the FRAMING ways; those of darknet give float32.

    By the short side the two are the limits of its sides, and the result is the bucket for them (buckets.py).
    """
    if how == "letterbox":
        return letterbox_image(image, frame)
    if how == SHORT_SIDE:
        size = (image.shape[0], image.shape[1])
        number = buckets.bucket(*size, frame)
        return _placed(image, buckets.geometry(*size, frame), buckets.frames(frame)[number])
    from cnnjax.data import darknet_resize  # imports jax

    return darknet_resize.resize(image, how, frame)


def letterbox_image(
    image: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """uint8 [H, W] or [H, W, C] scaled and padded to `size`, height and width, as boxes.letterbox says."""
    from cnnjax.detection.boxes import letterbox  # imports jax, which reading other images does without

    return _placed(image, letterbox(image.shape[0], image.shape[1], size), size, how)


def _placed(
    image: np.ndarray,
    geometry: "Letterbox",
    size: tuple[int, int],
    how: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """uint8 [H, W] or [H, W, C] in its place in a frame of `size`, height and width."""
    inner = (geometry.inner_width, geometry.inner_height)
    frame = np.full((*size, *image.shape[2:]), PADDING, np.uint8)
    rows = slice(geometry.top, geometry.top + geometry.inner_height)
    columns = slice(geometry.left, geometry.left + geometry.inner_width)
    whole = Image.fromarray(image.squeeze(-1) if image.shape[-1:] == (1,) else image)
    resized = np.asarray(whole.resize(inner, how))
    frame[rows, columns] = resized.reshape(frame[rows, columns].shape)
    return frame


def on_canvas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C] in the upper left corner of `size`, height and width; the rest is PADDING."""
    if image.shape[:2] == size:
        return image
    whole = np.full((*size, image.shape[2]), PADDING, image.dtype)
    whole[: image.shape[0], : image.shape[1]] = image
    return whole


def resize_all(images: np.ndarray, data: Data) -> np.ndarray:
    """`fit` for uint8 [N, H, W, C] with 1 or 3 channels."""
    height, width, channels = images.shape[1:]
    zooms = data.resize in CROPPING and data.resize_short > data.image_size
    if not data.image_size or (height == width == data.image_size and not zooms):
        return images

    def read(index: int) -> np.ndarray:
        image = images[index, ..., 0] if channels == 1 else images[index]
        resized = np.asarray(fit(Image.fromarray(image), data))
        return resized.reshape(*resized.shape[:2], channels)

    return stack(read, len(images), "resizing images", workers=1)


def stack(
    read: Callable[[int], np.ndarray], count: int, doing: str, workers: int | None = None
) -> np.ndarray:
    """`read(0)`, ..., `read(count - 1)` as one array; a progress bar tells what is done.

    Args:
      workers: threads to call `read` in; None: as many as there are processors. One is fastest for images
        of a few kilobytes, because decoding these leaves Python no time to do anything else meanwhile.

    Raises ConfigError if shapes differ, or if the array would not fit into the memory of this machine.
    """
    image = read(0)
    check_memory(f"{count:,} images of {image.shape[0]}x{image.shape[1]}", (count, *image.shape))
    images = np.empty((count, *image.shape), image.dtype)

    def fill(indices: range) -> int:
        for index in indices:
            image = read(index)
            if image.shape != images.shape[1:]:
                sizes = " and ".join(f"{shape[0]}x{shape[1]}" for shape in (images.shape[1:], image.shape))
                raise ConfigError(f"images differ in size ({sizes}, height x width): set data.image_size")
            images[index] = image
        return len(indices)

    chunks = [range(start, min(start + 64, count)) for start in range(0, count, 64)]
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        tqdm(total=count, desc=doing, unit=" images", delay=1, leave=False, disable=None) as progress,
    ):
        try:
            for done in pool.map(fill, chunks):
                progress.update(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return images


_ON_DEMAND = contextvars.ContextVar("on_demand", default=False)


@contextlib.contextmanager
def on_demand() -> Iterator[None]:
    """While data are read: what lies in files of its own is not decoded, but when a batch asks for it."""
    token = _ON_DEMAND.set(True)
    try:
        yield
    finally:
        _ON_DEMAND.reset(token)


def is_on_demand() -> bool:
    """Whether `on_demand` is in force."""
    return _ON_DEMAND.get()


class Pending:
    """Stands for uint8 [N, H, W, C], as stream.StreamedImages does: `read(i)` gives an image when it is asked for."""

    ndim = 4

    def __init__(
        self, read: Callable[[int], np.ndarray], index: np.ndarray, shape: tuple[int, ...], dtype: np.dtype
    ):
        self._read, self._index, self.dtype = read, index, dtype
        self.shape = (len(index), *shape)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return Pending(self._read, self._index[key], self.shape[1:], self.dtype)
        return self._read(int(self._index[key]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = stack(lambda row: self[row], len(self), "reading images")
        return array if dtype is None else array.astype(dtype)

    def with_channels(self, channels: int) -> "Pending":
        """The same images, whose grey is repeated if there shall be colours."""
        shape = (*self.shape[1:-1], channels)
        return Pending(lambda i: np.broadcast_to(self._read(i), shape), self._index, shape, self.dtype)


def column(read: Callable[[int], np.ndarray], count: int, doing: str) -> Any:
    """As `stack`; on_demand, what stands for the same array."""
    if not _ON_DEMAND.get() or not count:
        return stack(read, count, doing)
    first = read(0)
    return Pending(read, np.arange(count), first.shape, first.dtype)


@contextlib.contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Turns whatever a bad image file makes Pillow raise into a ConfigError that begins with its name."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ConfigError(f"{name}: not an image, or none of {', '.join(FORMATS)}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{name}: no such file") from error
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        raise ConfigError(f"{name}: cannot be read as an image: {error}") from error


def _open(source: str | Path | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    try:
        _within_limits(*image.size)
    except ConfigError:
        image.close()
        raise
    return image


def _within_limits(width: int, height: int) -> tuple[int, int]:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ConfigError(f"an image of {width}x{height} is too large: the limit is {limit:,} pixels")
    return width, height


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """To mode L (1 channel) or RGB (3 channels)."""
    if image.mode.startswith("I"):  # 16 bits, in the modes that Pillow has had for them
        values = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
        image = Image.fromarray(np.round(values).astype(np.uint8))
    elif image.mode == "F":
        raise ConfigError("images of floating-point values are not supported")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), foreground)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1] of uint8 [H, W, C], by ITU-R 601 luma."""
    return image if image.shape[-1] == 1 else np.asarray(_convert(Image.fromarray(image), 1))[..., None]


def check_memory(title: str, shape: Sequence[int]) -> None:
    """Raises ConfigError, which begins with `title`, if so many bytes are more than the machine's memory."""
    need = math.prod(shape)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        size = f"{title} need {need / 2**30:.1f} GiB of memory"
        raise ConfigError(f"{size}, this machine has {have / 2**30:.1f}: lower data.image_size or data.limit")
