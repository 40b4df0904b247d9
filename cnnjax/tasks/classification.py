"""One label per image."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.tasks import losses, metrics
from cnnjax.tasks.task import Batch

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label per image. The batch holds "label" [N] and, after mixup or CutMix, "label_b" and "mix" [N]."""

    classes: tuple[str, ...]
    label_smoothing: float = 0.0
    headline: str = "accuracy"

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        value = losses.softmax_cross_entropy(outputs, batch["label"], self.label_smoothing)
        if "label_b" not in batch:
            return value
        other = losses.softmax_cross_entropy(outputs, batch["label_b"], self.label_smoothing)
        return batch["mix"] * value + (1 - batch["mix"]) * other

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        label = batch["label"]
        values = {
            "loss": losses.softmax_cross_entropy(outputs, label),
            "accuracy": metrics.in_top_k(outputs, label, 1),
        }
        if self.num_outputs > 5:
            values["top5"] = metrics.in_top_k(outputs, label, 5)
        return values

    def predict(self, outputs: Array) -> dict[str, Array]:
        # Ranked by the outputs, as the metrics are: probabilities of sure networks are rounded to equal ones.
        outputs = outputs.astype(jnp.float32)
        _, label = jax.lax.top_k(outputs, min(5, self.num_outputs))
        p = jnp.take_along_axis(jax.nn.softmax(outputs), label, axis=1)
        return {"label": label.astype(jnp.int32), "probability": p}

    def average(self, outputs: Array, weights: Array) -> Array:
        """The logarithm of the averaged probabilities: again logits. Finite also where the probabilities underflow."""
        log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
        return jax.nn.logsumexp(log_p, axis=0, b=weights[:, None, None])

    def summarize(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        return {}

    def choose(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        return {}

    def confusion(self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> np.ndarray:
        """Counts [K, K]: rows are true classes, columns predicted ones."""
        matrix = np.zeros((self.num_outputs, self.num_outputs), np.int64)
        np.add.at(matrix, (truth["label"], predictions["label"][:, 0]), 1)
        return matrix

    def pictures(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> "list[Picture]":
        """The confusion matrix and the mistakes that the network was most sure of."""
        from cnnjax.drawing import figures

        label, p = predictions["label"][:, 0], predictions["probability"][:, 0]
        wrong = np.flatnonzero(label != truth["label"])
        worst = wrong[np.argsort(-p[wrong], kind="stable")][:32]
        texts = [
            f"{self.classes[label[i]]}  {100 * p[i]:.0f} %\n(is {self.classes[truth['label'][i]]})"
            for i in worst
        ]
        caption = f"{len(wrong):,} of {len(label):,} examples are wrong; these {len(worst)} were the most confident."
        return [
            figures.confusion_matrix(self.confusion(predictions, truth), self.classes),
            figures.image_grid(
                "mistakes", "Most confident mistakes", caption, [truth["image"][i] for i in worst], texts
            ),
        ]

    def record(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
        """The most probable class, and up to five with their probabilities."""
        top = [
            {"class": self.classes[label], "probability": float(p)}
            for label, p in zip(prediction["label"], prediction["probability"], strict=True)
        ]
        return {"class": top[0]["class"], "top": top}

    def draw(self, image: np.ndarray, name: str, record: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        # With many classes the right one is often among the next few.
        shown = record["top"][: 5 if self.num_outputs > 100 else 1]
        lines = [f"{100 * entry['probability']:.0f} % {entry['class'][:22]}" for entry in shown]
        return image, "\n".join([name[:24], *lines])
