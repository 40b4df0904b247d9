"""One label per image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import Experiment
from cnnjax.data.examples import Columns
from cnnjax.tasks import losses, metrics
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Apply, Batch, Split, Table, Task

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

FEW = 100  # classes, of which all probabilities and a whole matrix of confusions are written
DRAWN = 100  # mistakes; of more than these only the most confident
AUXILIARY_WEIGHT = 0.3  # of the loss of each head in the middle of a network (Szegedy et al. 2015, section 5)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One label per image. The batch holds "label" [N] and, after mixup or CutMix, "label_b" and "mix" [N].

    Outputs are logits [N, K]; in training, of a model with auxiliary heads, {"logits": ..., "aux1": ..., ...}.
    """

    targets: ClassVar[tuple[str, ...]] = ("label",)
    options: ClassVar[tuple[str, ...]] = ("classification", "visualize")
    headline: ClassVar[str] = "accuracy"
    classes: tuple[str, ...]
    label_smoothing: float = 0.0
    top: int = 5  # of the most probable classes so many are predicted
    class_weights: tuple[float, ...] = ()  # factors of the loss that is learned, not of that which is told

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "Classification":
        asked = experiment.classification
        return cls(classes, asked.label_smoothing, class_weights=asked.class_weights)

    @property
    def num_outputs(self) -> int:
        return len(self.classes)

    def forward(self, apply: Apply, batch: Batch, key: Array | None = None) -> Any:
        auxiliary = getattr(apply.model, "auxiliary", ())
        if key is None or not auxiliary:
            return apply(batch["image"])
        logits, stages = apply.with_stages(batch["image"])
        return {"logits": logits} | {name: stages[name] for name in auxiliary}

    def loss(self, outputs: Any, batch: Batch) -> Array | Mapping[str, Array]:
        if not isinstance(outputs, Mapping):
            return self._loss(outputs, batch)
        weights = {name: 1.0 if name == "logits" else AUXILIARY_WEIGHT for name in outputs}
        return {name: weights[name] * self._loss(values, batch) for name, values in outputs.items()}

    def _loss(self, logits: Array, batch: Batch) -> Array:
        value = self._of_label(logits, batch["label"])
        if "label_b" not in batch:
            return value
        return batch["mix"] * value + (1 - batch["mix"]) * self._of_label(logits, batch["label_b"])

    def _of_label(self, logits: Array, label: Array) -> Array:
        value = losses.softmax_cross_entropy(logits, label, self.label_smoothing)
        return jnp.asarray(self.class_weights, jnp.float32)[label] * value if self.class_weights else value

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        label = batch["label"]
        values = {
            "loss": losses.softmax_cross_entropy(logits, label),
            "accuracy": metrics.in_top_k(logits, label, 1),
        }
        if self.num_outputs > 5:
            values["top5"] = metrics.in_top_k(logits, label, 5)
        return values

    def predict(self, outputs: Array) -> dict[str, Array]:
        # Ranked by the outputs, as the metrics are: probabilities of sure networks are rounded to equal ones.
        outputs = outputs.astype(jnp.float32)
        _, label = jax.lax.top_k(outputs, min(self.top, self.num_outputs))
        p = jnp.take_along_axis(jax.nn.softmax(outputs), label, axis=1)
        return {"label": label.astype(jnp.int32), "probability": p}

    def in_full(self) -> "Classification":
        return dataclasses.replace(self, top=self.num_outputs if self.num_outputs <= FEW else self.top)

    def average(self, outputs: Array, weights: Array) -> Array:
        """The logarithm of the averaged probabilities: again logits. Finite also where the probabilities underflow."""
        log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
        return jax.nn.logsumexp(log_p, axis=0, b=weights[:, None, None])

    def confusion(self, predictions: Mapping[str, np.ndarray], split: Split) -> np.ndarray:
        """Counts [K, K]: rows are true classes, columns predicted ones."""
        matrix = np.zeros((self.num_outputs, self.num_outputs), np.int64)
        np.add.at(matrix, (split["label"], predictions["label"][:, 0]), 1)
        return matrix

    def tables(self, predictions: Mapping[str, np.ndarray], split: Split) -> dict[str, Table]:
        """ "per_class"; "confusion_matrix", of more than FEW classes only what occurs; and "predictions", a row for each
        example, with the probabilities of all classes or, of more than FEW, of those that were predicted."""
        matrix, names = self.confusion(predictions, split), self.classes
        rows = [[i, names[i], *_of_class(i, matrix, names)] for i in range(self.num_outputs)]
        head = [
            "index",
            "class",
            "examples",
            "right",
            "recall",
            "predicted",
            "precision",
            "f1",
            "taken for",
            "times",
        ]
        if self.num_outputs <= FEW:
            confusion = Table(
                ["true", *names], [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
            )
        else:
            confusion = Table(
                ["true index", "true class", "predicted index", "predicted class", "times"],
                [[i, names[i], j, names[j], int(matrix[i, j])] for i, j in np.argwhere(matrix).tolist()],
            )
        return {
            "per_class": Table(head, rows),
            "confusion_matrix": confusion,
            "predictions": self._row_by_row(predictions, split),
        }

    def _row_by_row(self, predictions: Mapping[str, np.ndarray], split: Split) -> Table:
        label, p, names = predictions["label"], predictions["probability"].astype(np.float64), self.classes
        head = [
            "file",
            "true index",
            "true class",
            "predicted index",
            "predicted class",
            "right",
            "probability",
        ]
        more: list[list[Any]] = []
        if label.shape[1] == self.num_outputs:
            head += [f"probability of {name}" for name in names]
            by_class = np.empty(p.shape)
            np.put_along_axis(by_class, label, p, axis=1)
            more = [row.tolist() for row in by_class]
        else:
            ranks = range(1, label.shape[1])
            head += [f"{what} {rank + 1}" for rank in ranks for what in ("index", "class", "probability")]
            for said, sure in zip(label[:, 1:].tolist(), p[:, 1:].tolist(), strict=True):
                more.append([v for i, one in zip(said, sure, strict=True) for v in (i, names[i], one)])
        files, truth = Columns.of(split).files, split["label"].tolist()
        rows = []
        for i, top in enumerate(label[:, 0].tolist()):
            true = truth[i]
            rows.append(
                [files[i], true, names[true], top, names[top], int(top == true), float(p[i, 0]), *more[i]]
            )
        return Table(head, rows)

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        """The confusion matrix and every mistake, the most confident first; of very many the most confident ones."""
        from cnnjax.drawing import figures

        label, p = predictions["label"][:, 0], predictions["probability"][:, 0]
        wrong = np.flatnonzero(label != split["label"])
        worst = wrong[np.argsort(-p[wrong], kind="stable")]
        if len(wrong) <= DRAWN:
            title, shown = "Mistakes", "all are shown, the most confident first"
        else:
            worst = worst[:32]
            title, shown = "Most confident mistakes", f"these {len(worst)} were the most confident"
        texts = [
            f"{self.classes[label[i]]}  {100 * p[i]:.0f} %\n(is {self.classes[split['label'][i]]})"
            for i in worst
        ]
        caption = f"{len(wrong):,} of {len(label):,} examples are wrong; {shown}."
        return [
            figures.confusion_matrix(self.confusion(predictions, split), self.classes),
            figures.image_grid("mistakes", title, caption, [split["image"][i] for i in worst], texts),
        ]

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """The five most probable classes."""
        top = zip(prediction["label"].tolist(), prediction["probability"].tolist(), strict=True)
        return Result(shape[0], shape[1], self.classes, top=tuple(top))


def _of_class(index: int, matrix: np.ndarray, names: Sequence[str]) -> list[Any]:
    """From the matrix of confusions: examples, right ones, recall, predictions, precision, F1, and the class that most of
    the examples were mistaken for. None where nothing is to be counted."""
    examples, predicted, right = (
        int(matrix[index].sum()), int(matrix[:, index].sum()), int(matrix[index, index]),
    )  # fmt: skip
    wrong = matrix[index].copy()
    wrong[index] = 0
    other = int(np.argmax(wrong))
    return [
        examples,
        right,
        right / examples if examples else None,
        predicted,
        right / predicted if predicted else None,
        2 * right / (examples + predicted) if examples + predicted else None,
        names[other] if wrong[other] else None,
        int(wrong[other]) or None,
    ]
