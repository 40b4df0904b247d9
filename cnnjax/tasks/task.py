"""What differs between classification, localization, detection, ...: everything else is shared.

A task turns the outputs of a network and a batch into per-example losses, metrics and predictions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jax import Array

from cnnjax.tasks.metrics import Values

if TYPE_CHECKING:  # matplotlib, which takes half a second, is imported when a picture is made
    from cnnjax.drawing.figures import Picture

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

    def metrics(self, outputs: Outputs, batch: Batch) -> Values:
        """Values to be averaged over examples."""
        ...

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """What a user wants to know of each image, each [N, ...]; runs in the jit of the network."""
        ...

    def average(self, outputs: Outputs, weights: Array) -> Outputs:
        """Outputs [V, N, ...] of several views or several networks as one; the weights [V] sum to 1.

        Raises ConfigError if outputs of this task have no meaningful average.
        """
        ...

    def summarize(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """On the host: metrics of a whole split that are not means over examples, such as average precision."""
        ...

    def choose(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """On the host: the fields of the experiment, by name, that a validation split decides (config.CHOSEN)."""
        ...

    def pictures(
        self, predictions: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]
    ) -> "list[Picture]":
        """What the report of a run shows of a whole split."""
        ...

    def record(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
        """The prediction for one image, which was [H, W, C] before it was resized, as it is written to JSON."""
        ...

    def draw(self, image: np.ndarray, name: str, record: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        """An image [H, W, C] as a contact sheet shows it, with what `record` says drawn in or in the caption."""
        ...
