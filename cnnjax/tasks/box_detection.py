"""Several objects per image, whatever finds them: how boxes are judged, drawn and told."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cnnjax import config
from cnnjax.config import SHORT_SIDE, ConfigError, Experiment
from cnnjax.data.buckets import bucket, frames
from cnnjax.data.darknet_resize import geometry
from cnnjax.data.images import FRAMING
from cnnjax.data.letterbox import detections_in_originals, truths_in_originals
from cnnjax.detection.boxes import box_from_letterbox
from cnnjax.detection.judge.coco import AREAS, coco_evaluate
from cnnjax.detection.judge.errors import confusion_matrix, error_analysis
from cnnjax.detection.judge.voc import best_f1, mean_of_known, precision_recall, voc_evaluate
from cnnjax.detection.results import Detections, Truth, unpad
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Judgement, Split, Table, Task

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

_DRAWN = 12  # images with real and found boxes
SHOWN_SCORE = 0.3  # where neither a flag nor a validation split says what pictures and predictions show


@dataclasses.dataclass(frozen=True)
class BoxDetection(Task):
    """A task whose predictions are those of `detect.Found`. The batch holds "boxes" [N, M, 4] xyxy pixels, "classes"
    and "valid" [N, M]."""

    targets: ClassVar[tuple[str, ...]] = ("boxes", "classes", "valid")
    options: ClassVar[tuple[str, ...]] = ("detection",)
    headline: ClassVar[str] = "ap50"
    classes: tuple[str, ...]
    settings: config.Detection
    # height and width of the images that the network sees; by the short side, their limits
    frame: tuple[int, int]
    resize: str  # how images get into the frame: one of images.FRAMING

    @classmethod
    def framing(cls, resize: str) -> str:
        return resize if resize in FRAMING and resize != SHORT_SIDE else super().framing(resize)

    @property
    def shown_score(self) -> float:
        """From which score on boxes are drawn, predicted and counted as confusions."""
        return self.settings.shown_score or SHOWN_SCORE

    def judge(self, predictions: Mapping[str, np.ndarray], split: Split) -> Judgement:
        """Average precision in pixels of the images before letterboxing: by pycocotools COCO's means, those of small,
        medium and large objects and AP50 of each class; and the mean at IoU 0.5 by the rules of Pascal VOC. What there
        is no object of is left out. Chosen: the score from which on detections at IoU 0.5 have the best F1."""
        truths, found = self._in_originals(predictions, split)
        result = coco_evaluate(truths, found, len(self.classes))
        per_class = {
            f"ap50/{name}": float(value)
            for name, value in zip(self.classes, result.class_ap50, strict=True)
            if not np.isnan(value)
        }
        named = {"ap50": result.ap50, "ap": result.ap, "ap75": result.ap75}
        curves = voc_evaluate(truths, found, len(self.classes)).curves
        for rule in ("voc2007", "voc2010"):
            named[rule] = mean_of_known([curve.average_precision(rule) for curve in curves])
        named = {name: 0.0 if np.isnan(value) else float(value) for name, value in named.items()}
        sizes = {f"ap/{area}": getattr(result, f"ap_{area}") for area in AREAS[1:]}
        sizes = {name: float(value) for name, value in sizes.items() if not np.isnan(value)}
        score, _ = best_f1([precision_recall(truths, found, index) for index in range(len(self.classes))])
        return Judgement(
            named | sizes | (per_class if len(per_class) <= 20 else {}),
            {} if np.isnan(score) else {"detection.shown_score": score},
        )

    def in_full(self) -> "BoxDetection":
        everything = dataclasses.replace(self.settings, shown_score=1e-9)
        return dataclasses.replace(self, settings=everything)

    def tables(self, predictions: Mapping[str, np.ndarray], split: Split) -> dict[str, Table]:
        """ "per_class": objects that count, detections that score enough to be shown, and COCO's averages; and
        "confusion_matrix" of those detections, whose last class is the background."""
        truths, found = self._in_originals(predictions, split)
        count = len(self.classes)
        result = coco_evaluate(truths, found, count)
        # of an image without objects none
        objects = np.bincount(np.concatenate([t.classes[~t.ignored] for t in truths]), minlength=count)
        shown = np.bincount(
            np.concatenate([f.classes[f.scores >= self.shown_score] for f in found]).astype(np.int64),
            minlength=count,
        )
        columns = (result.class_ap50.tolist(), result.class_ap.tolist())
        rows = [
            [
                i,
                self.classes[i],
                int(objects[i]),
                int(shown[i]),
                *(None if np.isnan(c[i]) else c[i] for c in columns),
            ]
            for i in range(count)
        ]
        matrix = confusion_matrix(truths, found, count, score_threshold=self.shown_score)
        names = (*self.classes, "background")
        return {
            "per_class": Table(["index", "class", "objects", "found", "ap50", "ap"], rows),
            "confusion_matrix": Table(
                ["true", *names], [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
            ),
        }

    def _in_originals(
        self, predictions: Mapping[str, np.ndarray], split: Split
    ) -> tuple[list[Truth], list[Detections]]:
        """Objects and detections in pixels of the images before letterboxing."""
        return truths_in_originals(split, self.frame, self.resize), detections_in_originals(
            _unpadded(predictions), split, self.frame, self.resize
        )

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        """Precision over recall, confusions, kinds of errors, and examples and mistakes with real and found boxes."""
        from cnnjax.drawing import figures

        truths, found = self._in_originals(predictions, split)
        result = coco_evaluate(truths, found, len(self.classes))
        matrix = confusion_matrix(truths, found, len(self.classes), score_threshold=self.shown_score)
        analysis = error_analysis(truths, found, len(self.classes), self._similar())
        caption = f"White: real boxes. Colour: boxes found with a score of {self.shown_score:.2f} or more."
        wrong = np.array([self._mistakes(truth, one) for truth, one in zip(truths, found, strict=True)])
        worst = [i for i in np.argsort(-wrong, kind="stable")[:_DRAWN].tolist() if wrong[i]]
        return [
            figures.precision_recall_curves(result.precision[0], self.classes),
            figures.confusion_matrix(matrix, (*self.classes, "background")),
            figures.error_kinds(analysis.shares),
            self._drawn("examples", "Examples", caption, range(min(_DRAWN, len(truths))), predictions, split),
            self._drawn(
                "mistakes",
                "Images with most mistakes",
                f"{caption} Missed, or found and not there.",
                worst,
                predictions,
                split,
            ),
        ]

    def _mistakes(self, truth: Truth, found: Detections) -> int:
        """In one image: objects that are missed or called otherwise, and what is found where nothing is."""
        matrix = confusion_matrix([truth], [found], len(self.classes), score_threshold=self.shown_score)
        return int(matrix.sum() - np.trace(matrix))

    def _drawn(
        self, name: str, title: str, caption: str, rows: Iterable[int],
        predictions: Mapping[str, np.ndarray], split: Split,
    ) -> "Picture":  # fmt: skip
        """These images with real and found boxes."""
        from cnnjax.drawing import figures
        from cnnjax.drawing.results import boxes_of, with_masks, with_points

        images, texts = [], []
        for i in rows:
            prediction = {key: values[i] for key, values in predictions.items()}
            image = self._shown(split, i)
            said = dataclasses.replace(self, resize="letterbox", frame=image.shape[:2]).result(
                prediction, image.shape
            )
            drawn = boxes_of(said)
            boxes = split["boxes"][i][split["valid"][i]]
            both = figures.Boxes(boxes, [""] * len(boxes), ["white"] * len(boxes)) + drawn
            drawing = figures.draw_boxes(with_masks(image.astype(np.uint8), said), both)
            images.append(with_points(drawing, said))
            texts.append(f"{len(boxes)} objects, {len(drawn.boxes)} found")
        return figures.image_grid(name, title, caption, images, texts, columns=4)

    def _shown(self, split: Split, i: int) -> np.ndarray:
        """An image of a split in its frame."""
        image = split["image"][i]
        if self.resize != SHORT_SIDE or "size" not in split:
            return image
        height, width = split["size"][i].tolist()
        height, width = frames(self.frame)[bucket(height, width, self.frame)]
        return image[:height, :width]

    def _similar(self) -> list[list[int]]:
        """Of each group of classes that are alike their numbers."""
        return [[self.classes.index(name) for name in group.split("/")] for group in self.settings.similar]

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """What scores enough to be shown, best first."""
        place = geometry(self.resize, shape[0], shape[1], self.frame)
        count = int(prediction["counts"])
        boxes = box_from_letterbox(prediction["boxes"][:count], place)
        boxes = np.clip(boxes, 0, [[shape[1], shape[0]] * 2])
        scores, labels = prediction["scores"][:count], prediction["classes"][:count]
        shown = scores >= self.shown_score
        return Result(
            shape[0], shape[1], self.classes, boxes=boxes[shown], scores=scores[shown], labels=labels[shown]
        )


def _unpadded(predictions: Mapping[str, np.ndarray]) -> list[Detections]:
    return unpad(predictions["boxes"], predictions["scores"], predictions["classes"], predictions["counts"])


def check_similar(experiment: Experiment, classes: tuple[str, ...]) -> None:
    """Raises ConfigError if classes that are said to be alike are none of the classes."""
    names = [name for group in experiment.detection.similar for name in group.split("/")]
    if unknown := [name for name in names if name not in classes]:
        raise ConfigError(f"detection.similar: no class is called {unknown[0]!r}, but {', '.join(classes)}")
