"""What differs between classification, localization, detection, ...: everything else is shared.

A task turns the outputs of a network and a batch into per-example losses, metrics and predictions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.augment.views import VIEWS
from cnnjax.config import DARKNET, SHORT_SIDE, ConfigError, Experiment
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.result import Result

if TYPE_CHECKING:  # matplotlib, which takes half a second, is imported when a picture is made
    from cnnjax.drawing.figures import Picture

Batch = Mapping[str, Array]
Outputs = Any
Split = Mapping[str, np.ndarray]


class Apply(Protocol):
    """A network with its variables, as `Task.forward` is given it. Images are [N, H, W, C], 0 to 255."""

    model: Any

    def __call__(self, images: Array, **more: Any) -> Outputs:
        """What the model returns; `more` are arguments of its own."""
        ...

    def with_stages(self, images: Array, **more: Any) -> tuple[Outputs, dict[str, Any]]:
        """The same, and the named stages of the model."""
        ...


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the host makes of the predictions for a whole split.

    metrics: those that are no means over examples, such as average precision. chosen: fields of the experiment, by
    name, that a validation split decides where the experiment leaves them at 0.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    chosen: dict[str, float] = dataclasses.field(default_factory=dict)


class Table(NamedTuple):
    """What becomes a file of comma-separated values: names of the columns, and rows of as many values."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Task:
    """Pure functions of (outputs, batch); arrays have the examples of the batch as first axis.

    A task derives from this class as a frozen dataclass, and says `targets`, `headline`, `num_outputs`, `options` and `loss`;
    all else has a default.
    """

    targets: ClassVar[tuple[str, ...]]  # entries of a batch, beside "image", that it learns from
    # sections of an experiment, such as "detection", that only some tasks read
    options: ClassVar[tuple[str, ...]] = ()
    # Where outputs have an average: the views of evaluate.augment that it may be taken of, and whether it may be taken of
    # several runs, whose outputs are [..., classes].
    views: ClassVar[tuple[str, ...]] = tuple(mode for mode in VIEWS if mode != "none")
    of_classes: ClassVar[bool] = True
    headline: ClassVar[str] = "score"  # the metric that decides which checkpoint is best; higher is better

    @classmethod
    def framing(cls, resize: str) -> str:
        """How images with boxes get into their frame where data.resize says `resize`.

        Raises ConfigError if that is a way whose boxes this task cannot tell in pixels of the images.
        """
        if resize in (*DARKNET, SHORT_SIDE):
            raise ConfigError(f"data.resize={resize}: {cls.__name__} takes letterboxed images only")
        return "letterbox"

    @classmethod
    def of(cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]) -> "Task":
        """The task of an experiment, on images [H, W, C] of these classes."""
        return cls()

    @property
    def num_outputs(self) -> int | None:
        """Width of the network's last layer; None: as many as the model has by itself."""
        return None

    def forward(self, apply: Apply, batch: Batch, key: Array | None = None) -> Outputs:
        """What the other methods take as outputs. `key` is there in training only, when batch has the targets, too."""
        return apply(batch["image"])

    def loss(self, outputs: Outputs, batch: Batch) -> Array | Mapping[str, Array]:
        """What training minimises, [N]; or parts of it by name, which are summed, and logged each."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def metrics(self, outputs: Outputs, batch: Batch) -> Values:
        """Values to be averaged over examples."""
        return {"loss": total_loss(self.loss(outputs, batch))}

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """What a user wants to know of each image, each [N, ...]; runs in the jit of the network."""
        return outputs if isinstance(outputs, dict) else {"outputs": outputs}

    def in_full(self) -> "Task":
        """The same task, whose predictions and results leave out as little as can be written to a file: for others that
        judge these."""
        return self

    def tables(self, predictions: Mapping[str, np.ndarray], split: Split) -> Mapping[str, Table]:
        """What an evaluation says of a whole split beside the metrics, such as "per_class"."""
        return {}

    def average(self, outputs: Outputs, weights: Array) -> Outputs:
        """Outputs [V, N, ...] of several views or several networks as one; the weights [V] sum to 1.

        Raises ConfigError if outputs of this task have no meaningful average.
        """
        raise ConfigError(f"{type(self).__name__} cannot average outputs")

    @classmethod
    def has_average(cls) -> bool:
        return cls.average is not Task.average

    def flipped_back(self, outputs: Outputs, axes: tuple[int, ...]) -> Outputs:
        """Outputs for images [N, H, W, C] that were flipped along these axes as those for the images themselves."""
        return outputs

    def check_views(self, mode: str) -> None:
        """Raises ConfigError if evaluate.augment=mode has views whose outputs have no average."""
        views = self.views if self.has_average() else ()
        if mode not in ("none", *views):
            raise ConfigError(
                f"evaluate.augment={mode}: {type(self).__name__} averages {' or '.join(views) or 'no views'}"
            )

    def judge(self, predictions: Mapping[str, np.ndarray], split: Split) -> Judgement:
        """On the host, of a whole split."""
        return Judgement()

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        """What the report of a run shows of a whole split."""
        return []

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """The prediction for one image, which was [H, W, C] before it was resized, in terms of its pixels."""
        values = {name: np.asarray(value).tolist() for name, value in prediction.items()}
        return Result(shape[0], shape[1], (), values=values)


def average(task: Task, outputs: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
    """Outputs [N, ...] of several views or networks as one; those of one are left as they are."""
    if len(outputs) == 1:
        return outputs[0]
    return task.average(jax.tree.map(lambda *a: jnp.stack(a), *outputs), jnp.asarray(weights, jnp.float32))


def mean_of_maps(outputs: Outputs, weights: Array) -> Outputs:
    """`Task.average` where that of the numbers has a meaning."""
    return jax.tree.map(
        lambda maps: jnp.tensordot(weights, maps.astype(jnp.float32), 1, precision="highest"), outputs
    )


def total_loss(loss: Array | Mapping[str, Array]) -> Array:
    """The sum of the parts of a loss, [N]."""
    if not isinstance(loss, Mapping):
        return loss
    first, *others = loss.values()
    return sum(others, start=first)
