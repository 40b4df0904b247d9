"""MT-CNN as a model that is fitted in one go: its three networks, one after the other, each on what the last let pass."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.darknet_resize import geometry
from cnnjax.data.dataset import Dataset
from cnnjax.detection.judge.coco import coco_evaluate
from cnnjax.detection.judge.voc import precision_recall
from cnnjax.detection.results import Detections, Truth
from cnnjax.faces import mtcnn_samples as sampling
from cnnjax.faces.fitted_model import Fitted, Say
from cnnjax.faces.mtcnn import SIDES, Faces, Settings, find_faces, load_networks
from cnnjax.faces.mtcnn_samples import Samples
from cnnjax.runs.workdir import write_atomically
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Split

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture
    from cnnjax.faces.mtcnn_training import Trained

POINT_NAMES = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")  # as one sees them
_STAGES = "stages.json"
_HELD_OUT = 0.1  # of the training images, by whose windows each network is judged
_ELSEWHERE = {"pnet": 50, "rnet": 5, "onet": 5}  # windows of an image that are drawn anywhere
_NEGATIVES = 60  # most of an image
_OF_A_FACE = 4  # windows about each face with points
_AT_ONCE = 4  # images that are searched in a call
_SHOWN = 16  # windows of each kind in the report
_LEAST_SCORE = 0.05  # of what counts in average precision
_DRAWN = 12


class Photograph(NamedTuple):
    """An image without the border of its frame, uint8 [H, W, 3], its faces [n, 4] in its pixels, and which of them are
    neither looked for nor wrong."""

    pixels: np.ndarray
    faces: np.ndarray
    ignored: np.ndarray


@dataclasses.dataclass(frozen=True)
class FaceNetworks(Fitted):
    """Finds faces, and five points of each (Zhang et al. 2016)."""

    options: ClassVar[tuple[str, ...]] = ("mtcnn",)
    targets: ClassVar[tuple[str, ...]] = ("boxes", "classes", "valid")
    file: ClassVar[str] = _STAGES
    networks: Mapping[str, Any]
    settings: Settings
    stages: "tuple[Trained, ...]"  # none of networks that were given
    windows: Mapping[str, Samples]  # a few of what each was trained with
    frame: tuple[int, int]
    places_points: bool

    @classmethod
    def fit(cls, experiment: Experiment, dataset: Dataset, folder: Path, say: Say) -> "FaceNetworks":
        asked, frame = experiment.mtcnn, _frame(dataset.train)
        if asked.weights:
            networks = load_networks(Path(asked.weights).expanduser())
            return cls(networks, _settings(asked), (), {}, frame, True)
        _check(asked)
        work = _Training(experiment, dataset, folder, say)
        for number, name in enumerate(SIDES):
            if name not in work.networks:
                work.train(number, name)
        return cls(
            work.networks, _settings(asked), tuple(work.stages), work.windows, frame, bool(asked.landmarks)
        )

    @classmethod
    def load(cls, experiment: Experiment, folder: Path) -> "FaceNetworks":
        about = _read_stages(folder)
        return cls(
            load_networks(folder), _settings(experiment.mtcnn), about.stages, about.windows,
            about.frame, bool(experiment.mtcnn.landmarks or experiment.mtcnn.weights),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        from cnnjax.weights.convert import save_torchvision

        for name, variables in self.networks.items():
            if not (folder / f"{name}.safetensors").exists():
                save_torchvision(folder / f"{name}.safetensors", f"mtcnn_{name}", variables)
        if not self.stages:
            _write_stages(folder, {}, (), self.frame)

    def judge(self, split: Split) -> "tuple[dict[str, float], list[Picture]]":
        """Average precision of faces at least `min_face` wide, smaller ones being neither found nor missed, "ap50_all" of
        all; precision and recall of what the thresholds let pass. In pixels of the frames."""
        from cnnjax.drawing.figures import precision_recall_curves
        from cnnjax.faces import mtcnn_figures as figures

        low = (*self.settings.thresholds[:2], min(_LEAST_SCORE, self.settings.thresholds[2]))
        settings = dataclasses.replace(self.settings, thresholds=low)
        truths, everything, found = list[Truth](), list[Truth](), list[Detections]()
        shown: list[np.ndarray] = []
        for one, faces in self._search(split, settings):
            none = np.zeros(len(one.faces), np.int64)
            truths.append(Truth(one.faces, none, one.ignored | _small(one.faces, self.settings.min_face)))
            everything.append(Truth(one.faces, none, one.ignored))
            found.append(
                Detections(
                    _continuous(faces.boxes, one.pixels.shape), faces.scores, np.zeros(len(faces.boxes))
                )
            )
            if len(shown) < _DRAWN:
                shown.append(one.pixels)
        passed = [_scoring(one, self.settings.thresholds[2]) for one in found]
        curve = precision_recall(truths, passed, 0)
        right = int(np.count_nonzero(curve.correct))
        judged = coco_evaluate(truths, found, 1)
        metrics = {
            "ap50": judged.ap50,
            "ap": judged.ap,
            "ap50_all": coco_evaluate(everything, found, 1).ap50,
            "recall": right / max(1, curve.num_objects),
            "precision": right / max(1, len(curve.correct)),
            "faces": float(curve.num_objects),
        }
        for stage in self.stages:
            for what in ("accuracy", "faces_right", "box_error"):
                metrics[f"{stage.network}/{what}"] = getattr(stage, what)
            if stage.point_error is not None:
                metrics[f"{stage.network}/point_error"] = stage.point_error
            metrics |= {
                f"{stage.network}/{kind}": float(count) for kind, count in stage.counts.items() if count
            }
        metrics = {name: value for name, value in metrics.items() if not np.isnan(value)}
        return metrics, [
            figures.found_faces(shown, truths, passed),
            precision_recall_curves(judged.precision[0], ("face",)),
            *([figures.stages(self.stages)] if self.stages else []),
            *(figures.windows(name, some) for name, some in self.windows.items()),
        ]

    def result(self, image: np.ndarray) -> Result:
        colour = np.broadcast_to(image, (*image.shape[:2], 3)).copy()
        (faces,) = find_faces(dict(self.networks), [colour], self.settings)
        height, width = image.shape[:2]
        return Result(
            height, width, ("face",), boxes=_continuous(faces.boxes, image.shape), scores=faces.scores,
            labels=np.zeros(len(faces.boxes), np.int64), points=faces.points if self.places_points else None,
            point_names=POINT_NAMES if self.places_points else (),
        )  # fmt: skip

    def _search(self, split: Split, settings: Settings) -> Iterator[tuple[Photograph, Faces]]:
        return search(self.networks, photographs(split, range(len(split["valid"]))), settings, self.frame)


def photographs(split: Split, rows: Sequence[int]) -> Iterator[Photograph]:
    """These images of a split with boxes, one at a time."""
    from cnnjax.data.examples import Columns

    columns = Columns.of(split)
    for i in rows:
        row = {name: values[0] for name, values in columns[np.array([i])].items()}
        frame = row["image"].shape[:2]
        height, width = row["size"].tolist() if "size" in row else frame
        place = geometry("letterbox", height, width, frame)
        ignored = row.get("ignored", np.zeros_like(row["valid"]))
        there = row["valid"] | ignored
        faces = row["boxes"][there].astype(np.float64) - [place.left, place.top, place.left, place.top]
        inner = row["image"][
            place.top : place.top + place.inner_height, place.left : place.left + place.inner_width
        ]
        pixels = np.broadcast_to(inner, (*inner.shape[:2], 3)).astype(np.uint8)
        yield Photograph(np.ascontiguousarray(pixels), faces, ignored[there])


def search(
    networks: Mapping[str, Any], images: Iterator[Photograph], settings: Settings, frame: tuple[int, int]
) -> Iterator[tuple[Photograph, Faces]]:
    """What the networks let pass of each image, none of which is larger than `frame`."""
    nothing = np.zeros((1, 1, 3), np.uint8)
    while chunk := [one for one, _ in zip(images, range(_AT_ONCE), strict=False)]:
        padded = [one.pixels for one in chunk] + [nothing] * (_AT_ONCE - len(chunk))
        yield from zip(chunk, find_faces(dict(networks), padded, settings, frame), strict=False)


class _Training:
    """The stages of a run, in its folder: weights, what is told of them, and a few windows, each as soon as it is done, and
    of the one that is not, what `Progress` keeps."""

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: Path, say: Say):
        self.asked, self.seed, self.folder, self.say = experiment.mtcnn, experiment.train.seed, folder, say
        self.split, self.frame = dataset.train, _frame(dataset.train)
        order = np.random.default_rng(self.seed).permutation(len(self.split["valid"]))
        count = max(1, round(_HELD_OUT * len(order)))
        self.held_out, self.rest = sorted(order[:count].tolist()), sorted(order[count:].tolist())
        if not self.rest:
            raise ConfigError(f"data.name={dataset.name!r}: a single image cannot be trained and judged with")
        self.points = _faces_with_points(self.asked.landmarks) if self.asked.landmarks else None
        self.networks: dict[str, Any] = {}
        self.stages: list[Trained] = []
        self.windows: dict[str, Samples] = {}
        self.settings = self._of(experiment)
        if (folder / _STAGES).exists():
            self._go_on()
        else:  # by which what is kept of the first is known, too
            _write_stages(folder, self.settings, (), self.frame)

    @staticmethod
    def _of(experiment: Experiment) -> dict[str, Any]:
        """What the stages depend on."""
        asked = dataclasses.asdict(experiment.mtcnn)
        del asked["thresholds"]
        data = experiment.data
        told = {
            "data": data.name,
            "image_size": data.image_size,
            "limit": data.limit,
            "validation": data.validation,
        }
        return json.loads(json.dumps(asked | told | {"seed": experiment.train.seed}))

    def _go_on(self) -> None:
        about = _read_stages(self.folder)
        other = [name for name, value in self.settings.items() if about.settings.get(name) != value]
        if other:
            raise ConfigError(
                f"workdir {self.folder} holds networks that were trained with another {other[0]}; use another --workdir"
            )
        self.stages, self.windows = list(about.stages), dict(about.windows)
        names = [stage.network for stage in self.stages]
        self.networks = load_networks(self.folder, names)
        if names:
            self.say(f"there already: {', '.join(names)}")

    def train(self, number: int, name: str) -> None:
        from cnnjax.faces.mtcnn_progress import Progress
        from cnnjax.faces.mtcnn_training import train_network
        from cnnjax.weights.convert import save_torchvision

        rng, most = np.random.default_rng([self.seed, number]), self.asked.samples[number]
        progress = Progress(self.folder, name)

        def mine() -> tuple[Samples, Samples]:
            return self._mine(name, self.rest, most, rng), self._mine(name, self.held_out, most, rng)

        kept, held = progress.windows(mine)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kept.counts().items() if count)
        self.say(f"{name}: {told} windows of {len(self.rest):,} images")
        variables, trained = train_network(
            name, kept, held, self.asked.steps[number], self.asked, self.seed + number, self.say, progress
        )
        some = sampling.thinned(kept, _SHOWN, np.random.default_rng(self.seed))
        save_torchvision(self.folder / f"{name}.safetensors", f"mtcnn_{name}", variables)
        np.savez(self.folder / f"{name}_windows.npz", **dataclasses.asdict(some))
        self.networks[name], self.windows[name] = variables, some
        self.stages.append(trained)
        _write_stages(self.folder, self.settings, self.stages, self.frame)
        progress.forget()

    def _mine(self, name: str, rows: Sequence[int], most: int, rng: np.random.Generator) -> Samples:
        """Windows of images for a network: what the networks before it let pass, and squares that are drawn."""
        side, images = SIDES[name], photographs(self.split, rows)
        each = min(_NEGATIVES, -(-2 * most // max(1, len(rows))))
        first, second = self.asked.mined
        settings = Settings(min_face=self.asked.min_face, thresholds=(first, second, 1.0))
        searched: Iterator[tuple[Photograph, Faces | None]] = ((one, None) for one in images)
        if self.networks:
            searched = search(self.networks, images, settings, self.frame)
        parts = []
        for one, passed in searched:
            size = (one.pixels.shape[0], one.pixels.shape[1])
            ignored = one.ignored | _small(one.faces, self.asked.min_face)
            drawn = [
                sampling.draw_elsewhere(size, one.faces[~ignored], _ELSEWHERE[name], SIDES["pnet"], rng),
                sampling.draw_about(size, one.faces[~ignored], rng),
            ]
            found = [] if passed is None else [passed.boxes.astype(np.float64) - [1, 1, 0, 0]]
            windows = np.concatenate([*found, *drawn])
            windows = windows[(windows[:, 2:] - windows[:, :2]).min(axis=1) >= SIDES["pnet"]]
            parts.append(sampling.take_windows(one.pixels, windows, one.faces, ignored, side, each, rng))
        if name == "onet" and self.points is not None:
            parts.append(self._with_points(rows is self.held_out, rng))
        return sampling.thinned(sampling.joined(parts, side), most, rng)

    def _with_points(self, held_out: bool, rng: np.random.Generator) -> Samples:
        assert self.points is not None
        split = self.points.test if held_out else self.points.train
        side, parts = SIDES["onet"], []
        for image, points, visible in zip(split["image"], split["points"], split["visible"], strict=True):
            if visible.all():
                colour = np.broadcast_to(image, (*image.shape[:2], 3))
                five = sampling.five_points(points.astype(np.float64))
                parts.append(sampling.landmark_windows(colour, five, side, _OF_A_FACE, rng))
        return sampling.joined(parts, side)


class _Told(NamedTuple):
    settings: dict[str, Any]
    stages: "tuple[Trained, ...]"
    windows: dict[str, Samples]
    frame: tuple[int, int]


def _read_stages(folder: Path) -> _Told:
    from cnnjax.faces.mtcnn_training import Trained

    about = json.loads((folder / _STAGES).read_text())
    stages = tuple(Trained(**stage) for stage in about["stages"])
    windows = {}
    for stage in stages:
        with np.load(folder / f"{stage.network}_windows.npz", allow_pickle=False) as arrays:
            windows[stage.network] = Samples(**arrays)
    height, width = about["frame"]
    return _Told(about["settings"], stages, windows, (height, width))


def _write_stages(
    folder: Path, settings: Mapping[str, Any], stages: "Sequence[Trained]", frame: tuple[int, int]
) -> None:
    rows = [dataclasses.asdict(stage) for stage in stages]
    told = {"settings": settings, "frame": frame, "stages": rows}
    write_atomically(folder / _STAGES, json.dumps(told, indent=2) + "\n")


def _faces_with_points(name: str) -> Dataset:
    from cnnjax.data.sources import load

    found = load(config.Data(name=name, image_size=128))
    if "points" not in found.train or np.shape(found.train["points"])[1:] not in ((68, 2), (5, 2)):
        raise ConfigError(f"mtcnn.landmarks={name!r}: not images of a face each with 68 or 5 points")
    return found


def _check(asked: config.Mtcnn) -> None:
    for name, count in (("steps", 3), ("samples", 3), ("mined", 2), ("thresholds", 3)):
        values = getattr(asked, name)
        if len(values) != count or min(values) < 0:
            raise ConfigError(f"mtcnn.{name}: {count} numbers, of its networks, not {values}")


def _settings(asked: config.Mtcnn) -> Settings:
    first, second, third = asked.thresholds
    return Settings(min_face=asked.min_face, thresholds=(first, second, third))


def _frame(split: Split) -> tuple[int, int]:
    height, width = split["image"].shape[1:3]
    return height, width


def _small(faces: np.ndarray, least: int) -> np.ndarray:
    return (faces[:, 2:] - faces[:, :2]).max(axis=1, initial=0) < least


def _continuous(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Of boxes that count pixels from 1, those between pixels, as far as they lie in an image [H, W, ...]."""
    moved = boxes.astype(np.float64) - [1, 1, 0, 0]
    return np.clip(moved, 0, [shape[1], shape[0], shape[1], shape[0]])


def _scoring(found: Detections, least: float) -> Detections:
    kept = found.scores >= least
    return Detections(found.boxes[kept], found.scores[kept], found.classes[kept])
