"""Faces in photographs: MT-CNN and cascades against their peers, and the traditional way beside the deep one."""

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.config import ConfigError, Data
from cnnjax.data import images
from cnnjax.detection.judge.points import nme_outer_eyes
from cnnjax.faces.mtcnn import find_faces, load_networks

NAME = "multiface.jpg"  # of facenet-pytorch: six people
# What MT-CNN's published networks find there, which are the six faces.
FACES = (
    (859.193, 436.556, 953.557, 558.579), (554.093, 45.483, 632.844, 158.138), (420.143, 133.003, 502.675, 240.196),
    (225.799, 249.074, 304.812, 356.839), (722.153, 464.386, 797.568, 573.201), (622.182, 197.508, 694.833, 296.765),
)  # fmt: skip
PHOTOGRAPHS = 50
BATCH = 16
_SHARE = 1.25  # of the crop that landmarks are placed on, by the longer side of MT-CNN's box


class Said(NamedTuple):
    """What a way says of a photograph: boxes [n, 4] xyxy and points [n, 68, 2]."""

    boxes: np.ndarray
    points: np.ndarray


Way = Callable[[np.ndarray], Said]


def faces_in_photographs(options: Options) -> Iterator[Measured]:
    """MT-CNN on a photograph of 1200x630 and on 16, against facenet-pytorch; a cascade against OpenCV; and the traditional
    way to 68 points beside the deep one, if --benchmark.traditional names a run of it."""
    if not options.faces:
        yield Measured("speed", "faces", skipped="needs --benchmark.faces=FOLDER with mtcnn/ and face_api/")
        return
    folder = Path(options.faces)
    photograph = images.read_image(folder / "mtcnn" / NAME, Data())
    yield against_facenet(folder / "mtcnn", photograph, 1, options)
    yield against_facenet(folder / "mtcnn", photograph, BATCH, options)
    yield against_opencv(photograph, options)
    if options.traditional:
        yield from beside(folder, Path(options.traditional), photograph)


def against_facenet(folder: Path, photograph: np.ndarray, batch: int, options: Options) -> Measured:
    networks, several = load_networks(folder), [photograph] * batch
    sides: dict[str, Any] = {"cnnjax": lambda: find_faces(networks, several)}
    note, peers = missing("facenet_pytorch") or missing("torchvision"), {}
    if not note:
        peer: Any = importlib.import_module("facenet_pytorch").MTCNN(keep_all=True)
        peers = version("facenet-pytorch")
        sides["facenet-pytorch"] = lambda: peer.detect(several, landmarks=True)
    values = comparison(interleave(sides, options.repetitions))
    values["faces per photograph"] = [len(find_faces(networks, several)[0].boxes)]
    height, width = photograph.shape[:2]
    return Measured("speed", f"MT-CNN, {width}x{height}, batch {batch}", values, note=note, peers=peers)


def against_opencv(photograph: np.ndarray, options: Options) -> Measured:
    subject = "cascade, frontal faces of OpenCV"
    if note := missing("cv2"):
        return Measured("speed", subject, skipped=note)
    cv2: Any = importlib.import_module("cv2")
    from cnnjax.faces.cascade import read_cascade
    from cnnjax.faces.scan import detect

    path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
    cascade, peer = read_cascade(path), cv2.CascadeClassifier(str(path))
    grey = images.grey(photograph)[..., 0]
    sides = {"cnnjax": lambda: detect(cascade, grey), "OpenCV": lambda: peer.detectMultiScale(grey, 1.1, 3)}
    values = comparison(interleave(sides, options.repetitions))
    values["faces"] = [len(detect(cascade, grey)[0])]
    return Measured("speed", subject, values, peers={"opencv": cv2.__version__})


def beside(folder: Path, workdir: Path, photograph: np.ndarray) -> Iterator[Measured]:
    """A row for each way and each kind of photographs; and both in traditional_and_deep.png of the run."""
    from cnnjax.drawing import figures
    from cnnjax.runs import fitted
    from cnnjax.runs.workdir import Workdir

    run = Workdir(workdir)
    model: Any = fitted.restore(run)
    if getattr(model, "cascade", None) is None:
        raise ConfigError(f"benchmark.traditional={workdir}: not a run of faces_shape_model with a cascade")
    ways: dict[str, Way] = {"traditional": functools.partial(_traditional, model), "deep": _deep(folder)}
    crops, known = _portraits(run.read_config().data)
    drawn, texts = [], []
    for name, way in ways.items():
        said, seconds = _timed(way, [photograph])
        found, false = matched(said[0].boxes, np.array(FACES))
        yield _row(name, "six people", [found], [false], seconds, [])
        drawn.append(_drawn(photograph, said[0]))
        texts.append(f"{name}: {found} of 6 faces, {false} false")
        said, seconds = _timed(way, crops)
        counts = [matched(one.boxes, _box(points)[None]) for one, points in zip(said, known, strict=True)]
        told = (_error(one, points) for one, points in zip(said, known, strict=True))
        errors = [error for error in told if error is not None]
        portraits = f"{len(crops)} portraits"
        yield _row(name, portraits, [one for one, _ in counts], [more for _, more in counts], seconds, errors)
        drawn += [_drawn(image, one) for image, one in zip(crops[:3], said, strict=False)]
        texts += [f"{name}: portrait {i + 1}" for i in range(len(crops[:3]))]
    caption = "Boxes and 68 points: a cascade and a shape model above, MT-CNN and a landmark network below."
    picture = figures.image_grid("traditional_and_deep", "", caption, drawn, texts, columns=4)
    figures.write(picture.figure, workdir / "traditional_and_deep.png")


def _row(
    way: str, what: str, found: Sequence[int], false: Sequence[int], seconds: float, errors: Sequence[float]
) -> Measured:
    values = {
        "faces found": [float(sum(found))],
        "false ones": [float(sum(false))],
        "ms per photograph": [1e3 * seconds],
    }
    if errors:
        values["NME"] = [float(np.mean(errors))]
    return Measured(
        "faces", f"{way}, {what}", values, note="NME is of the faces that were found." if errors else ""
    )


def matched(found: np.ndarray, known: np.ndarray) -> tuple[int, int]:
    """How many of the known faces [M, 4] a box was found for, and how many boxes [N, 4] are for none.

    A box is for a face if each has the centre of the other inside: ways differ in what they count to a face.
    """
    centers = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (found, known)]

    def inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        return np.all((points[:, None] > boxes[None, :, :2]) & (points[:, None] < boxes[None, :, 2:]), axis=2)

    fits = inside(centers[0], known) & inside(centers[1], found).T
    return int(fits.any(axis=0).sum()), int((~fits.any(axis=1)).sum())


def _error(said: Said, known: np.ndarray) -> float | None:
    """NME of the first box that is for the face, if there is one."""
    for box, points in zip(said.boxes, said.points, strict=True):
        if matched(box[None], _box(known)[None])[0]:
            return float(nme_outer_eyes(points[None], known[None], np.ones((1, 68), bool))[0])
    return None


def _box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _timed(way: Way, photographs: Sequence[np.ndarray]) -> tuple[list[Said], float]:
    """What is said, and the mean seconds of a photograph when all shapes are compiled."""
    for one in photographs:
        way(one)
    began = time.perf_counter()
    said = [way(one) for one in photographs]
    return said, (time.perf_counter() - began) / len(photographs)


def _traditional(model: Any, photograph: np.ndarray) -> Said:
    result = model.result(photograph)
    return Said(result.boxes, result.points)


def _deep(folder: Path) -> Way:
    from cnnjax.faces.landmarks import place_points
    from cnnjax.models import create_model
    from cnnjax.models.parts import shapes_of
    from cnnjax.weights.convert import FACE_API, load_weights

    networks, name = load_networks(folder / "mtcnn"), "face_landmarks68"
    model = create_model(name)
    template = shapes_of(model, (FACE_API.image_size, FACE_API.image_size, 3))
    path = folder / "face_api" / "face_landmark_68_model-weights_manifest.json"
    apply = jax.jit(functools.partial(model.apply, load_weights(path, name, template)))

    def way(photograph: np.ndarray) -> Said:
        (found,) = find_faces(networks, [photograph])
        points = place_points(apply, FACE_API, photograph, found.boxes, _SHARE)
        return Said(found.boxes, points.reshape(-1, 68, 2))

    return way


def _portraits(data: Data) -> tuple[list[np.ndarray], np.ndarray]:
    """The first test faces with 68 known points of the run's data, uint8 [H, W, 3], and their points [N, 68, 2]."""
    from cnnjax.data.sources import load_evaluated

    split, _ = load_evaluated(data, None, 3, False)
    rows = np.flatnonzero(np.asarray(split["visible"]).all(axis=1))[:PHOTOGRAPHS]
    crops = [np.broadcast_to(image, (*image.shape[:2], 3)).copy() for image in split["image"][rows]]
    return crops, np.asarray(split["points"])[rows].astype(np.float64)


def _drawn(image: np.ndarray, said: Said) -> np.ndarray:
    from cnnjax.drawing.results import draw
    from cnnjax.faces.fitted import NAMES
    from cnnjax.tasks.result import Result

    height, width = image.shape[:2]
    count = len(said.boxes)
    result = Result(
        height, width, ("face",), boxes=said.boxes, scores=np.ones(count), labels=np.zeros(count, np.int64),
        points=said.points, point_names=NAMES,
    )  # fmt: skip
    return draw(image, result)[0]
