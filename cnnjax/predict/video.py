"""A video or a camera in, frame by frame; a line of JSON for each frame and an annotated video out.

PyAV (the package av), which holds FFmpeg's libraries, reads and writes; it is imported when a video is named.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from cnnjax.config import ConfigError
from cnnjax.data.images import grey
from cnnjax.drawing.results import draw
from cnnjax.network import Batches
from cnnjax.runs.committee import RunCommittee
from cnnjax.runs.run import Run
from cnnjax.tasks.result import Result

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
)
CAMERA = "camera:"  # and its number, or device
_PIXELS = 32 * 2**20  # of frames that are held at a time, and again of those read ahead
_CODECS = ("libx264", "h264", "mpeg4")  # the first that there is
_LETTER = 18  # pixels: height of a line of text in a frame 400 pixels high; more in a higher one

Answers = Callable[[Sequence[np.ndarray]], list[Result]]


class Frame(NamedTuple):
    seconds: float  # since the beginning
    pixels: np.ndarray  # uint8 [H, W, 3]


def is_video(name: str) -> bool:
    """Whether an input is a camera, such as camera:0, or is called like a video."""
    return name.startswith(CAMERA) or Path(name).suffix.lower() in SUFFIXES


def only_video(inputs: Sequence[str]) -> str:
    """The video among the inputs; "" where all are images. Raises ConfigError for a video beside something else."""
    names = [name for text in inputs for name in ([text] if Path(text).exists() else text.split(","))]
    videos = [name for name in names if is_video(name)]
    if videos and len(names) > 1:
        raise ConfigError(
            f"{videos[0]}: a video is predicted alone, not beside {len(names) - 1} other inputs"
        )
    return videos[0] if videos else ""


def _library() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos and cameras need the package av: pip install av") from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is told once, below
    return av


class Source:
    """An open video or camera: its frames, one after the other, and what is known of it.

    rate: frames per second, 25 where nothing is said. count: how many frames there are said to be.
    """

    def __init__(self, name: str):
        self.name, self.is_camera = name, name.startswith(CAMERA)
        av = _library()
        device = name.removeprefix(CAMERA)
        if self.is_camera and device.isdecimal():
            device = f"/dev/video{device}"
        if not Path(device).exists():
            raise ConfigError(
                f"{name}: there is no camera {device}"
                if self.is_camera
                else f"no such file or folder: {name}"
            )
        try:
            self._container = av.open(device, format="v4l2" if self.is_camera else None)
            self._stream = self._container.streams.video[0]
        except IndexError as error:
            raise ConfigError(f"{name}: there is no picture in it") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            kind = "camera" if self.is_camera else "video"
            raise ConfigError(f"{name}: cannot be read as a {kind}: {error}") from error
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or 25)
        self.count: int | None = self._stream.frames or None
        self._errors = (av.FFmpegError, OSError, ValueError)

    def frames(self) -> Iterator[Frame]:
        """Raises ConfigError if there is none. One that is damaged ends the video, as a file that was cut off does."""
        number = -1
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                at = number / float(self.rate) if frame.time is None else frame.time
                yield Frame(float(at), frame.to_ndarray(format="rgb24"))
        except self._errors as error:
            if number < 0:
                raise ConfigError(f"{self.name}: cannot be read as a video: {error}") from error
        if number < 0:
            raise ConfigError(f"{self.name}: there is no frame in it")

    def close(self) -> None:
        self._container.close()


class Annotated:
    """A video that is written frame by frame, in the size of the first, whose sides are made even."""

    def __init__(self, path: Path, rate: Fraction):
        self._path, self._rate, self._av = path, rate, _library()
        self._container: Any = None

    def write(self, pixels: np.ndarray) -> None:
        """uint8 [H, W, 3]"""
        height, width = (side - side % 2 for side in pixels.shape[:2])
        if self._container is None:
            self._container = self._av.open(str(self._path), "w")
            codec = next(name for name in _CODECS if name in self._av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        if (height, width) != (self._stream.height, self._stream.width):
            fitted = Image.fromarray(pixels).resize((self._stream.width, self._stream.height))
            pixels, height, width = np.asarray(fitted), fitted.height, fitted.width
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[:height, :width]), format="rgb24"
        )
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """What was written until here is a whole video."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()


def answers_of(run: Run | RunCommittee) -> tuple[Answers, int]:
    """What a run, or several, say of frames, and how many they take at once."""
    predictor: Batches = run.predictor()
    channels = run.image_shape[-1]

    def answers(frames: Sequence[np.ndarray]) -> list[Result]:
        framed = [predictor.framed(grey(frame) if channels == 1 else frame) for frame in frames]
        rows = predictor.predictions(framed, predictor.batch if len(frames) > 1 else 1)
        return [predictor.result(row, frame.shape) for row, frame in zip(rows, frames, strict=True)]

    return answers, predictor.batch


def predict_video(name: str, answers: Answers, at_once: int, output: Path) -> int:
    """Writes `output`/predictions.jsonl, a line for each frame with its number and its time, and annotated.mp4.

    A camera is answered for frame by frame, until it ends or the user interrupts. Returns how many frames there were.
    """
    count = 0
    with contextlib.ExitStack() as open_now:
        source = Source(name)
        open_now.callback(source.close)
        batches = _batches(source, 1 if source.is_camera else at_once)
        batch = next(batches)  # what cannot be read is told before anything is written
        output.mkdir(parents=True, exist_ok=True)
        lines = open_now.enter_context(open(output / "predictions.jsonl", "w", encoding="utf-8"))
        video = Annotated(output / "annotated.mp4", source.rate)
        open_now.callback(video.close)
        bar = open_now.enter_context(
            tqdm(total=source.count, desc="predicting", unit=" frames", delay=2, leave=False, disable=None)
        )
        ahead = open_now.enter_context(ThreadPoolExecutor(1))
        try:
            while batch:
                following: Future[list[Frame]] = ahead.submit(next, batches, [])
                found = answers([frame.pixels for frame in batch])
                for frame, result in zip(batch, found, strict=True):
                    entry = {
                        "file": name,
                        "frame": count,
                        "seconds": round(frame.seconds, 6),
                        **result.to_json(),
                    }
                    lines.write(json.dumps(entry) + "\n")
                    video.write(annotated(frame.pixels, result))
                    count += 1
                lines.flush()
                bar.update(len(batch))
                batch = following.result()
        except KeyboardInterrupt:
            if not source.is_camera:
                raise
    return count


def _batches(source: Source, at_once: int) -> Iterator[list[Frame]]:
    """The frames in groups of no more than so many, and no more than _PIXELS."""
    waiting: list[Frame] = []
    for frame in source.frames():
        waiting.append(frame)
        most = max(1, _PIXELS // (frame.pixels.shape[0] * frame.pixels.shape[1]))
        if len(waiting) >= min(at_once, most):
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def annotated(pixels: np.ndarray, result: Result) -> np.ndarray:
    """The frame with what was found drawn in; of a whole image its class is written over it."""
    image, caption = draw(pixels, result)
    if result.top is None:
        return image
    picture = Image.fromarray(image)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(_LETTER, _LETTER * picture.height // 400))
    text = caption.strip()
    pen.rectangle(pen.textbbox((6, 4), text, font=font), fill="black")
    pen.text((6, 4), text, fill="white", font=font)
    return np.asarray(picture)
