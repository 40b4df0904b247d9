"""What differs between classification, localization, detection, ...: everything else is shared.

A task turns the outputs of a network and a batch into per-example losses, metrics and predictions.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax import losses, metrics
from cnnjax.config import ConfigError, Experiment

if TYPE_CHECKING:  # matplotlib, which takes half a second, is imported when a picture is made
    from cnnjax.pictures import Picture

Batch = Mapping[str, Array]
Outputs = Any


class Task(Protocol):
    """Pure functions of (outputs, batch); arrays have the examples of the batch as first axis."""

    @property
    def headline(self) -> str:
        """The metric that decides which checkpoint is best; higher is better."""
        ...

    @property
    def num_outputs(self) -> int:
        """Width of the network's last layer."""
        ...

    def loss(self, outputs: Outputs, batch: Batch) -> Array:
        """What training minimises, [N]."""
        ...

    def metrics(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Values to be averaged over examples, each [N]."""
        ...

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """What a user wants to know of each image, each [N, ...]; runs in the jit of the network."""
        ...

    def average(self, outputs: Outputs, weights: Array) -> Outputs:
        """Outputs [V, N, ...] of several views or several networks as one; the weights [V] sum to 1."""
        ...

    def summarize(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """On the host: results of a whole split that are not means, such as a confusion matrix."""
        ...

    def pictures(
        self,
        predictions: Mapping[str, np.ndarray],
        summary: Mapping[str, Any],
        truth: Mapping[str, np.ndarray],
    ) -> "list[Picture]":
        """What the report of a run shows of a whole split."""
        ...

    def record(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The prediction for one image as it is written to JSON."""
        ...

    def contact_sheet(
        self, images: np.ndarray, names: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> "Picture":
        """Images beside what `record` says of them."""
        ...


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
        p, label = jax.lax.top_k(jax.nn.softmax(outputs.astype(jnp.float32)), min(5, self.num_outputs))
        return {"label": label.astype(jnp.int32), "probability": p}

    def average(self, outputs: Array, weights: Array) -> Array:
        """The logarithm of the averaged probabilities: again logits."""
        p = jax.nn.softmax(outputs.astype(jnp.float32))
        return jnp.log(jnp.einsum("v,vnk->nk", weights, p))

    def summarize(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """The confusion matrix: rows are true classes, columns predicted ones."""
        matrix = np.zeros((self.num_outputs, self.num_outputs), np.int64)
        np.add.at(matrix, (truth["label"], predictions["label"][:, 0]), 1)
        return {"confusion": matrix}

    def pictures(
        self,
        predictions: Mapping[str, np.ndarray],
        summary: Mapping[str, Any],
        truth: Mapping[str, np.ndarray],
    ) -> "list[Picture]":
        """The confusion matrix and the mistakes that the network was most sure of."""
        from cnnjax import pictures

        label, p = predictions["label"][:, 0], predictions["probability"][:, 0]
        wrong = np.flatnonzero(label != truth["label"])
        worst = wrong[np.argsort(-p[wrong], kind="stable")][:32]
        texts = [
            f"{self.classes[label[i]]}  {100 * p[i]:.0f} %\n(is {self.classes[truth['label'][i]]})"
            for i in worst
        ]
        caption = f"{len(wrong):,} of {len(label):,} examples are wrong; these {len(worst)} were the most confident."
        return [
            pictures.confusion_matrix(summary["confusion"], self.classes),
            pictures.image_grid(
                "mistakes", "Most confident mistakes", caption, [truth["image"][i] for i in worst], texts
            ),
        ]

    def record(self, prediction: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The most probable class, and up to five with their probabilities."""
        top = [
            {"class": self.classes[label], "probability": float(p)}
            for label, p in zip(prediction["label"], prediction["probability"], strict=True)
        ]
        return {"class": top[0]["class"], "top": top}

    def contact_sheet(
        self, images: np.ndarray, names: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> "Picture":
        from cnnjax import pictures

        texts = [
            f"{name[:18]}\n{record['class']}  {100 * record['top'][0]['probability']:.0f} %"
            for name, record in zip(names, records, strict=True)
        ]
        return pictures.image_grid(
            "contact_sheet", "Predictions", "The most probable class.", list(images), texts
        )


def _classification(experiment: Experiment, classes: tuple[str, ...]) -> Task:
    return Classification(classes, experiment.classification.label_smoothing)


TASKS: dict[str, Callable[[Experiment, tuple[str, ...]], Task]] = {
    "classification": _classification,
}


def make_task(experiment: Experiment, classes: tuple[str, ...]) -> Task:
    """The task of an experiment on a dataset with these classes. Raises ConfigError for an unknown name."""
    if experiment.task not in TASKS:
        raise ConfigError(f"task={experiment.task!r}: choose one of {', '.join(TASKS)}")
    return TASKS[experiment.task](experiment, classes)
