"""One object or none per image: whether it is there, where, and of which class."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.detection import localization
from cnnjax.detection.boxes import box_from_letterbox, iou, letterbox
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.task import Batch

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Boxes, Picture


@dataclasses.dataclass(frozen=True)
class Localization:
    """Outputs [N, 5 + C]. The batch holds "boxes" [N, M, 4] xyxy pixels, "classes" and "valid" [N, M]; the first
    valid box of an image is its object."""

    classes: tuple[str, ...]
    height: int
    width: int
    loss_name: str = "logistic"
    box_weight: float = 1.0
    headline: str = "iou"

    @property
    def num_outputs(self) -> int:
        return 5 + len(self.classes)

    def targets(self, batch: Batch) -> Array:
        first = jnp.argmax(batch["valid"], axis=1)[:, None]
        box = jnp.take_along_axis(batch["boxes"], first[:, :, None], axis=1)[:, 0]
        label = jnp.take_along_axis(batch["classes"], first, axis=1)[:, 0]
        present = jnp.any(batch["valid"], axis=1)
        return localization.encode_localization(
            box, label, present, self.height, self.width, len(self.classes)
        )

    def loss(self, outputs: Array, batch: Batch) -> Array:
        losses = {"squared": localization.squared_loss, "logistic": localization.logistic_loss}
        return losses[self.loss_name](outputs.astype(jnp.float32), self.targets(batch), self.box_weight)

    def metrics(self, outputs: Array, batch: Batch) -> Values:
        """IoU over the images with an object; accuracy of presence and, where there is an object, its class."""
        targets = self.targets(batch)
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

    def average(self, outputs: Array, weights: Array) -> Array:
        raise ConfigError("localization cannot average outputs: set evaluate.augment=none")

    def summarize(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        return {}

    def choose(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        return {}

    def pictures(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> "list[Picture]":
        """The first images with the real box in white and the predicted one in colour."""
        from cnnjax.drawing import figures

        shown = range(min(24, len(truth["image"])))
        images, texts = [], []
        for i in shown:
            real = truth["boxes"][i][truth["valid"][i]][:1]
            record = self.record(
                {name: values[i] for name, values in predictions.items()}, truth["image"][i].shape
            )
            boxes = figures.Boxes(real, [""] * len(real), ["white"] * len(real)) + self._drawing(record)
            images.append(figures.draw_boxes(truth["image"][i], boxes))
            texts.append(_describe(record))
        caption = "White: the real box. Colour: the predicted box, with its class and score."
        return [figures.image_grid("examples", "Examples", caption, images, texts)]

    def record(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
        if prediction["scores"] <= 0.5:
            return {"class": None, "score": float(prediction["scores"])}
        box = box_from_letterbox(
            prediction["boxes"][None], letterbox(shape[0], shape[1], (self.height, self.width))
        )
        x0, y0, x1, y1 = np.clip(box[0], 0, [shape[1], shape[0]] * 2).tolist()
        return {
            "class": self.classes[int(prediction["classes"])],
            "score": float(prediction["scores"]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }

    def draw(self, image: np.ndarray, name: str, record: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        from cnnjax.drawing import figures

        return figures.draw_boxes(image, self._drawing(record)), f"{name}\n{_describe(record)}"

    def _drawing(self, record: Mapping[str, Any]) -> "Boxes":
        from cnnjax.drawing import figures

        if record["class"] is None:
            return figures.Boxes(np.zeros((0, 4)), [], [])
        x, y, w, h = record["bbox"]
        return figures.Boxes(np.array([[x, y, x + w, y + h]]), [""], ["lime"])

    def _decode(self, outputs: Array) -> localization.Localized:
        return localization.decode_localization(
            outputs.astype(jnp.float32), self.height, self.width, logits=self.loss_name == "logistic"
        )


def _describe(record: Mapping[str, Any]) -> str:
    return f"{record['class'] or 'nothing'}  {100 * record['score']:.0f} %"
