"""Several objects per image: the cell of a grid that holds an object's centre answers for it."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.letterbox import detections_in_originals, truths_in_originals
from cnnjax.detection.boxes import box_from_letterbox, letterbox
from cnnjax.detection.detect import detect, form_of
from cnnjax.detection.grid import Grid, Targets, encode
from cnnjax.detection.judge.coco import AREAS, coco_evaluate
from cnnjax.detection.judge.errors import confusion_matrix, error_analysis
from cnnjax.detection.judge.voc import best_f1, mean_of_known, precision_recall, voc_evaluate
from cnnjax.detection.results import Detections, Truth, unpad
from cnnjax.models import create_model
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Batch, Judgement, Split, Task

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

SHOWN_SCORE = 0.3  # where neither a flag nor a validation split says what pictures and predictions show


@dataclasses.dataclass(frozen=True)
class GridDetection(Task):
    """Outputs [N, rows, columns, D]. The batch holds "boxes" [N, M, 4] xyxy pixels, "classes", "valid" [N, M]."""

    targets: ClassVar[tuple[str, ...]] = ("boxes", "classes", "valid")
    options: ClassVar[tuple[str, ...]] = ("detection",)
    headline: ClassVar[str] = "ap50"
    classes: tuple[str, ...]
    grid: Grid
    settings: config.Detection

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "GridDetection":
        """The task with the grid that the experiment's model lays over an image.

        Raises ConfigError if the model's output is no grid, or similar classes are none of the classes.
        """
        model = create_model(experiment.model.name, 1, options=experiment.model.options)
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        output = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)
        if output.ndim != 4:
            raise ConfigError(
                f"model.name={experiment.model.name!r} has no grid as output; grid16 has, for example"
            )
        names = [name for group in experiment.detection.similar for name in group.split("/")]
        if unknown := [name for name in names if name not in classes]:
            raise ConfigError(
                f"detection.similar: no class is called {unknown[0]!r}, but {', '.join(classes)}"
            )
        flat = experiment.detection.anchors
        anchors = (
            tuple(zip(flat[::2], flat[1::2], strict=True)) if experiment.detection.form == "anchors" else ()
        )
        grid = Grid(
            rows=output.shape[1],
            columns=output.shape[2],
            height=image_shape[0],
            width=image_shape[1],
            num_classes=len(classes),
            boxes=experiment.detection.boxes if experiment.detection.form == "yolov1" else 1,
            anchors=anchors,
        )
        return cls(classes, grid, experiment.detection)

    @property
    def shown_score(self) -> float:
        """From which score on boxes are drawn, predicted and counted as confusions."""
        return self.settings.shown_score or SHOWN_SCORE

    @property
    def num_outputs(self) -> int:
        return self.grid.num_outputs

    def _loss(self, grid: Grid, outputs: Array, targets: Targets) -> Array:
        return form_of(self.settings.form, self.settings.focal_gamma).loss(grid, outputs, targets)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        targets = encode(self.grid, batch["boxes"], batch["classes"], batch["valid"])
        return self._loss(self.grid, outputs.astype(jnp.float32), targets)

    def metrics(self, outputs: Array, batch: Batch) -> Values:
        """The loss, and how many objects of an image had to be left out because their cell was taken."""
        targets = encode(self.grid, batch["boxes"], batch["classes"], batch["valid"])
        loss = self._loss(self.grid, outputs.astype(jnp.float32), targets)
        return {"loss": loss, "collisions": targets.collisions.astype(jnp.float32)}

    def predict(self, outputs: Array) -> dict[str, Array]:
        found = detect(
            self.grid,
            outputs.astype(jnp.float32),
            self.settings.form,
            self.settings.score_threshold,
            self.settings.iou_threshold,
            self.settings.max_detections,
        )
        return found._asdict()

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

    def _in_originals(
        self, predictions: Mapping[str, np.ndarray], split: Split
    ) -> tuple[list[Truth], list[Detections]]:
        """Objects and detections in pixels of the images before letterboxing."""
        frame = (self.grid.height, self.grid.width)
        return truths_in_originals(split, frame), detections_in_originals(
            _unpadded(predictions), split, frame
        )

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        """Precision over recall, confusions, kinds of errors, and examples with real and found boxes."""
        from cnnjax.drawing import figures
        from cnnjax.drawing.results import boxes_of

        truths, found = self._in_originals(predictions, split)
        result = coco_evaluate(truths, found, len(self.classes))
        matrix = confusion_matrix(truths, found, len(self.classes), score_threshold=self.shown_score)
        analysis = error_analysis(truths, found, len(self.classes), self._similar())
        images, texts = [], []
        for i in range(min(12, len(truths))):
            prediction = {name: values[i] for name, values in predictions.items()}
            drawn = boxes_of(self.result(prediction, split["image"][i].shape))
            boxes = split["boxes"][i][split["valid"][i]]
            both = figures.Boxes(boxes, [""] * len(boxes), ["white"] * len(boxes)) + drawn
            images.append(figures.draw_boxes(split["image"][i], both))
            texts.append(f"{len(boxes)} objects, {len(drawn.boxes)} found")
        caption = f"White: real boxes. Colour: boxes found with a score of {self.shown_score:.2f} or more."
        return [
            figures.precision_recall_curves(result.precision[0], self.classes),
            figures.confusion_matrix(matrix, (*self.classes, "background")),
            figures.error_kinds(analysis.shares),
            figures.image_grid("examples", "Examples", caption, images, texts, columns=4),
        ]

    def _similar(self) -> list[list[int]]:
        """Of each group of classes that are alike their numbers."""
        return [[self.classes.index(name) for name in group.split("/")] for group in self.settings.similar]

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """What scores enough to be shown, best first."""
        geometry = letterbox(shape[0], shape[1], (self.grid.height, self.grid.width))
        count = int(prediction["counts"])
        boxes = box_from_letterbox(prediction["boxes"][:count], geometry)
        boxes = np.clip(boxes, 0, [[shape[1], shape[0]] * 2])
        scores, labels = prediction["scores"][:count], prediction["classes"][:count]
        shown = scores >= self.shown_score
        return Result(
            shape[0], shape[1], self.classes, boxes=boxes[shown], scores=scores[shown], labels=labels[shown]
        )


def _unpadded(predictions: Mapping[str, np.ndarray]) -> list[Detections]:
    return unpad(predictions["boxes"], predictions["scores"], predictions["classes"], predictions["counts"])
