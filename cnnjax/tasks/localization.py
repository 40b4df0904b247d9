"""One object or none per image: whether it is there, where, and of which class."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import Experiment
from cnnjax.detection import localization
from cnnjax.detection.boxes import box_from_letterbox, iou, letterbox
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Batch, Split, Task

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture


@dataclasses.dataclass(frozen=True)
class Localization(Task):
    """Outputs [N, 5 + C]. The batch holds "boxes" [N, M, 4] xyxy pixels, "classes" and "valid" [N, M]; the first
    valid box of an image is its object."""

    targets: ClassVar[tuple[str, ...]] = ("boxes", "classes", "valid")
    options: ClassVar[tuple[str, ...]] = ("localization",)
    headline: ClassVar[str] = "iou"
    classes: tuple[str, ...]
    height: int
    width: int
    loss_name: str = "logistic"
    box_weight: float = 1.0

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "Localization":
        options = experiment.localization
        return cls(classes, image_shape[0], image_shape[1], options.loss, options.box_weight)

    @property
    def num_outputs(self) -> int:
        return 5 + len(self.classes)

    def encode(self, batch: Batch) -> Array:
        first = jnp.argmax(batch["valid"], axis=1)[:, None]
        box = jnp.take_along_axis(batch["boxes"], first[:, :, None], axis=1)[:, 0]
        label = jnp.take_along_axis(batch["classes"], first, axis=1)[:, 0]
        present = jnp.any(batch["valid"], axis=1)
        return localization.encode_localization(
            box, label, present, self.height, self.width, len(self.classes)
        )

    def loss(self, outputs: Array, batch: Batch) -> Array:
        losses = {"squared": localization.squared_loss, "logistic": localization.logistic_loss}
        return losses[self.loss_name](outputs.astype(jnp.float32), self.encode(batch), self.box_weight)

    def metrics(self, outputs: Array, batch: Batch) -> Values:
        """IoU over the images with an object; accuracy of presence and, where there is an object, its class."""
        targets = self.encode(batch)
        present = targets[:, 0] > 0.5
        found = self._decode(outputs)
        right = jnp.where(present, found.classes == jnp.argmax(targets[:, 5:], axis=1), True)
        first = jnp.argmax(batch["valid"], axis=1)[:, None, None]
        box = jnp.take_along_axis(batch["boxes"], first, axis=1)[:, 0]
        return {
            "loss": self.loss(outputs, batch),
            "iou": (iou(found.boxes, box), present),
            "accuracy": (((found.scores > 0.5) == present) & right).astype(jnp.float32),
        }

    def predict(self, outputs: Array) -> dict[str, Array]:
        return self._decode(outputs)._asdict()

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        """The first images with the real box in white and the predicted one in colour."""
        from cnnjax.drawing import figures
        from cnnjax.drawing.results import boxes_of

        shown = range(min(24, len(split["image"])))
        images, texts = [], []
        for i in shown:
            real = split["boxes"][i][split["valid"][i]][:1]
            prediction = {name: values[i] for name, values in predictions.items()}
            found = self.result(prediction, split["image"][i].shape)
            boxes = figures.Boxes(real, [""] * len(real), ["white"] * len(real)) + boxes_of(found)
            images.append(figures.draw_boxes(split["image"][i], boxes))
            name = self.classes[int(prediction["classes"])] if len(boxes_of(found).boxes) else "nothing"
            texts.append(f"{name}  {100 * float(prediction['scores']):.0f} %")
        caption = "White: the real box. Colour: the predicted box, with its class and score."
        return [figures.image_grid("examples", "Examples", caption, images, texts)]

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """The box of the object, if there is one."""
        geometry = letterbox(shape[0], shape[1], (self.height, self.width))
        box = box_from_letterbox(prediction["boxes"][None], geometry)
        box = np.clip(box, 0, [[shape[1], shape[0]] * 2])[: int(prediction["scores"] > 0.5)]
        scores, labels = prediction["scores"].reshape(1), prediction["classes"].reshape(1)
        return Result(
            shape[0], shape[1], self.classes, boxes=box, scores=scores[: len(box)], labels=labels[: len(box)]
        )

    def _decode(self, outputs: Array) -> localization.Localized:
        return localization.decode_localization(
            outputs.astype(jnp.float32), self.height, self.width, logits=self.loss_name == "logistic"
        )
