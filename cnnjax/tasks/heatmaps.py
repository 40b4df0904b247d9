"""Points of one face or body per image, each by a heatmap."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.config import ConfigError, Experiment
from cnnjax.data.formats.points import known_mirror
from cnnjax.detection import heatmaps
from cnnjax.tasks.points import PointTask
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Batch, mean_of_maps

SHARPNESS = 0.05  # temperature of the soft-argmax of maps whose bumps are 1 high: thousands of empty pixels weigh nothing


@dataclasses.dataclass(frozen=True)
class Heatmaps(PointTask):
    """Outputs [N, h, w, K], a bump where each point is.

    As in Xiao, Wu & Wei 2018: half the squared error of the maps, of visible points only, averaged over pixels and
    points.
    """

    options: ClassVar[tuple[str, ...]] = ("heatmaps",)
    views: ClassVar[tuple[str, ...]] = ("flip",)
    of_classes: ClassVar[bool] = False
    sigma: float = 2.0
    decode: str = "quarter"

    @classmethod
    def of(cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]) -> "Heatmaps":
        options = experiment.heatmaps
        return cls(classes, image_shape[0], image_shape[1], options.sigma, options.decode)

    @property
    def num_outputs(self) -> int:
        return len(self.names)

    def check_views(self, mode: str) -> None:
        super().check_views(mode)
        if mode != "none":
            self._mirror()

    def _mirror(self) -> tuple[int, ...]:
        found = known_mirror(self.names)
        if found is None:
            raise ConfigError("evaluate.augment=flip: which points it swaps is not known from their names")
        return found

    def average(self, outputs: Array, weights: Array) -> Array:
        return mean_of_maps(outputs, weights)

    def flipped_back(self, outputs: Array, axes: tuple[int, ...]) -> Array:
        return heatmaps.flipped_back(outputs, self._mirror()) if axes else outputs

    def loss(self, outputs: Array, batch: Batch) -> Array:
        size = (outputs.shape[1], outputs.shape[2])
        target, weight = heatmaps.encode_heatmaps(
            batch["points"], batch["visible"], size, self._stride(outputs), self.sigma
        )
        squared = jnp.mean((outputs.astype(jnp.float32) - target) ** 2, axis=(1, 2))
        return 0.5 * jnp.mean(squared * weight, axis=1)

    def predict(self, outputs: Array) -> dict[str, Array]:
        outputs = outputs.astype(jnp.float32)
        found = heatmaps.decode_heatmaps(outputs)
        points = found.points if self.decode == "quarter" else heatmaps.soft_argmax(outputs, SHARPNESS)
        return {"points": points * self._stride(outputs), "scores": found.scores}

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        return self.placed(prediction["points"], shape)

    def _stride(self, outputs: Array) -> float:
        """Pixels of the image for one of the map."""
        return self.width / outputs.shape[2]
