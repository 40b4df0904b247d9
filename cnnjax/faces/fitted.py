"""Models of faces that are fitted in one go, and not trained step by step: a cascade, and a shape model; FITTED, all."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data import images, listing, point_sources
from cnnjax.data.dataset import Dataset
from cnnjax.data.splits import stratified_split
from cnnjax.detection.judge import points as judge
from cnnjax.faces import crops, scan
from cnnjax.faces.boosting import Photographs, Stage, fit_cascade
from cnnjax.faces.cascade import MARGIN, Cascade, read_cascade, write_cascade
from cnnjax.faces.fitted_model import Fitted, Say
from cnnjax.faces.mtcnn_fitted import FaceNetworks
from cnnjax.faces.search import LINES68, ActiveShape, Searching, fit_shape_model
from cnnjax.faces.shape_model import ShapeModel
from cnnjax.faces.traditional import Traditional
from cnnjax.tasks.points import point_metrics, point_pictures
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Split

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

NAMES = tuple(map(str, range(68)))
_WINDOW = 24  # pixels of a side
_HELD_OUT = 0.25  # of the training faces, by which stages set their thresholds
_JITTERED = 2  # times that each face is seen a little elsewhere and larger or smaller


@dataclasses.dataclass(frozen=True)
class FaceCascade(Fitted):
    """Finds faces (Viola & Jones 2001). Its negatives are windows of the photographs in data.backgrounds."""

    options: ClassVar[tuple[str, ...]] = ("cascade",)
    file: ClassVar[str] = "cascade.xml"
    cascade: Cascade
    stages: tuple[Stage, ...]
    neighbors: int
    backgrounds: str

    @classmethod
    def fit(cls, experiment: Experiment, dataset: Dataset, folder: Path, say: Say) -> "FaceCascade":
        asked, seed = experiment.cascade, experiment.train.seed
        if not experiment.data.backgrounds:
            raise ConfigError("task=cascade needs --data.backgrounds, a folder of photographs without faces")
        faces, squares = _faces(dataset.train)
        rng = np.random.default_rng(seed)
        rest, held = stratified_split(
            np.zeros(len(faces), np.int64), max(1, round(_HELD_OUT * len(faces))), seed
        )
        moved = [crops.jitter_squares(squares[rest], rng, 0.04, 0.06) for _ in range(_JITTERED)]
        seen = np.concatenate(
            [crops.cut_squares(faces[rest], places, _WINDOW) for places in (squares[rest], *moved)]
        )
        found = fit_cascade(
            _mirrored(seen),
            _mirrored(crops.cut_squares(faces[held], squares[held], _WINDOW)),
            photographs(experiment.data.backgrounds)[0],
            asked,
            seed,
            say,
        )
        return cls(found.cascade, found.stages, asked.neighbors, experiment.data.backgrounds)

    @classmethod
    def load(cls, experiment: Experiment, folder: Path) -> "FaceCascade":
        found = json.loads((folder / "stages.json").read_text())
        stages = tuple(Stage(**stage) for stage in found)
        cascade = read_cascade(folder / cls.file)
        return cls(cascade, stages, experiment.cascade.neighbors, experiment.data.backgrounds)

    def save(self, folder: Path) -> None:
        write_cascade(self.cascade, folder / self.file)
        rows = [{name: float(value) for name, value in stage._asdict().items()} for stage in self.stages]
        whole = {"stumps", "windows_left"}
        rows = [{name: int(v) if name in whole else v for name, v in row.items()} for row in rows]
        (folder / "stages.json").write_text(json.dumps(rows, indent=2) + "\n")

    def judge(self, split: Split) -> "tuple[dict[str, float], list[Picture]]":
        from cnnjax.faces import figures

        faces, squares = _faces(split)
        windows = crops.cut_squares(faces, squares, _WINDOW)
        kept = np.all(scan.stage_margins(self.cascade, windows) >= -MARGIN, axis=1)
        pool = Photographs(photographs(self.backgrounds)[1], self.cascade.size)
        for stage in range(len(self.cascade.trees)):
            pool.reject(self.cascade, stage)
        metrics = {
            "faces_kept": float(kept.mean()),
            "windows_kept": len(pool.windows) / pool.total,
            "stages": float(len(self.stages)),
            "features": float(len(self.cascade.feature)),
        }
        left = pool.draw(32, np.random.default_rng(0))
        pictures = [
            figures.chosen_features(self.cascade, windows[kept.argmax()]),
            figures.stage_rates(self.stages),
        ]
        return metrics, [*pictures, *([figures.mined_windows(left)] if len(left) else [])]

    def result(self, image: np.ndarray) -> Result:
        boxes, counts = scan.detect(self.cascade, images.grey(image)[..., 0], neighbors=self.neighbors)
        height, width = image.shape[:2]
        labels = np.zeros(len(boxes), np.int64)
        return Result(height, width, ("face",), boxes=boxes, scores=counts.astype(float), labels=labels)


@dataclasses.dataclass(frozen=True)
class FaceShape(Fitted):
    """Places 68 points by their profiles and shape (Cootes et al. 1995), on an image that is one face or, with a
    cascade, on all faces that this finds."""

    options: ClassVar[tuple[str, ...]] = ("shape_model",)
    file: ClassVar[str] = "shape_model.npz"
    shape: ActiveShape
    cascade: Cascade | None
    frame: tuple[int, int]  # height and width of the training images

    @classmethod
    def fit(cls, experiment: Experiment, dataset: Dataset, folder: Path, say: Say) -> "FaceShape":
        cascade = _cascade(experiment)  # before what takes a minute
        faces, _ = _faces(dataset.train)
        known = np.asarray(dataset.train["points"])[_whole(dataset.train)]
        shape = fit_shape_model(faces, known.astype(np.float64), _searching(experiment))
        say(f"{len(faces):,} faces: {len(shape.shape.modes)} modes of their shape")
        return cls(shape, cascade, (faces.shape[1], faces.shape[2]))

    @classmethod
    def load(cls, experiment: Experiment, folder: Path) -> "FaceShape":
        with np.load(folder / cls.file, allow_pickle=False) as arrays:
            shape = ShapeModel(arrays["mean"], arrays["modes"], arrays["variances"])
            found = ActiveShape(
                shape,
                arrays["start"],
                arrays["profile_mean"],
                arrays["profile_inverse"],
                float(arrays["unit"]),
                LINES68,
                _searching(experiment),
            )
            height, width = arrays["frame"].tolist()
        return cls(found, _cascade(experiment), (height, width))

    def save(self, folder: Path) -> None:
        one = self.shape
        np.savez(
            folder / self.file,
            mean=one.shape.mean,
            modes=one.shape.modes,
            variances=one.shape.variances,
            start=one.start,
            profile_mean=one.profile_mean,
            profile_inverse=one.profile_inverse,
            unit=np.float64(one.unit),
            frame=np.array(self.frame),
        )

    def judge(self, split: Split) -> "tuple[dict[str, float], list[Picture]]":
        """From the mean shape where faces usually are; "nme_jittered" from the mean shape at the real place, nearly."""
        from cnnjax.faces import figures

        faces, _ = _faces(split)
        whole = {name: np.asarray(split[name])[_whole(split)] for name in ("image", "points", "visible")}
        known = whole["points"].astype(np.float64)
        searched = [self.shape.search(face, self.shape.start) for face in faces]
        found = np.stack([points for points, _ in searched])
        rng = np.random.default_rng(0)
        near = []
        for face, points in zip(faces, known, strict=True):
            start = self.shape.shape.place(points)
            middle, width = start.mean(0), 0.04 * face.shape[1]
            start = (start - middle) * rng.uniform(0.95, 1.05) + middle + rng.uniform(-width, width, 2)
            near.append(self.shape.search(face, start)[0])
        jittered = judge.nme_outer_eyes(np.stack(near), known, whole["visible"])
        metrics = point_metrics(found, whole, NAMES) | {"nme_jittered": float(np.nanmean(jittered))}
        metrics |= {"modes": float(len(self.shape.shape.modes))}
        errors = judge.nme_outer_eyes(found, known, whole["visible"])
        middle = int(np.argsort(errors)[len(errors) // 2])
        return metrics, [
            *point_pictures(found, whole, NAMES),
            figures.shape_modes(self.shape.shape, LINES68),
            figures.search_steps(faces[middle], searched[middle][1], LINES68),
        ]

    def result(self, image: np.ndarray) -> Result:
        height, width = image.shape[:2]
        if self.cascade is None:
            scale = min(height / self.frame[0], width / self.frame[1])
            shift = (np.array([width, height]) - scale * np.array(self.frame[::-1])) / 2
            points, _ = self.shape.search(images.grey(image)[..., 0], self.shape.start * scale + shift)
            return Result(height, width, (), points=points[None], point_names=NAMES)
        faces = Traditional(self.cascade, self.shape)(images.grey(image)[..., 0])
        return Result(
            height,
            width,
            ("face",),
            boxes=np.array([face.box for face in faces]).reshape(-1, 4),
            scores=np.array([face.windows for face in faces], float),
            labels=np.zeros(len(faces), np.int64),
            points=np.array([face.points for face in faces]).reshape(-1, 68, 2),
            point_names=NAMES,
        )


FITTED: dict[str, type[Fitted]] = {"cascade": FaceCascade, "shape_model": FaceShape, "mtcnn": FaceNetworks}


def photographs(folder: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The grey images below a folder: those to train with, and a fixed fifth to judge by."""
    files = listing.list_files(Path(folder).expanduser())
    if len(files) < 2:
        raise ConfigError(f"data.backgrounds={folder}: {len(files)} images; there must be one for each split")
    kept, apart = point_sources.parted(len(files))
    whole = [images.read_image(file, config.Data(), channels=1)[..., 0] for file in files]
    return [whole[i] for i in kept], [whole[i] for i in apart]


def _faces(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Grey images [N, H, W] of the faces whose 68 points are all known, and their squares (crops.face_squares)."""
    if np.shape(split["points"])[1] != 68:
        raise ConfigError(f"faces are known by 68 points here, not by {np.shape(split['points'])[1]}")
    whole = _whole(split)
    if not whole.any():
        raise ConfigError("there is no face whose 68 points are all known")
    faces = np.stack([images.grey(image)[..., 0] for image in np.asarray(split["image"])[whole]])
    return faces, crops.face_squares(np.asarray(split["points"])[whole].astype(np.float64))


def _whole(split: Split) -> np.ndarray:
    return np.logical_and.reduce(np.asarray(split["visible"]), axis=1)


def _mirrored(windows: np.ndarray) -> np.ndarray:
    return np.concatenate([windows, windows[:, :, ::-1]])


def _searching(experiment: Experiment) -> Searching:
    options: dict[str, Any] = dataclasses.asdict(experiment.shape_model)
    del options["cascade"]
    return Searching(**options)


def _cascade(experiment: Experiment) -> Cascade | None:
    path = experiment.shape_model.cascade
    return read_cascade(Path(path).expanduser()) if path else None
