"""Several objects per image, found by heads at several scales with anchors: YOLOv3 and darknet's other detectors."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError, Experiment
from cnnjax.detection.detect import Found
from cnnjax.detection.multiscale import Head, Objects, Scales, candidates, flipped
from cnnjax.detection.multiscale_losses import DarknetLoss, OverlapLoss, Parts
from cnnjax.detection.nms import multi_label_nms
from cnnjax.models import create_model
from cnnjax.tasks.box_detection import BoxDetection, check_similar
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.task import Batch, mean_of_maps, total_loss

Maps = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class MultiscaleDetection(BoxDetection):
    """Outputs are the maps of the model's heads, each [N, rows, columns, A (5 + C)]."""

    views: ClassVar[tuple[str, ...]] = ("flip", "flips")
    of_classes: ClassVar[bool] = False
    scales: Scales

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "MultiscaleDetection":
        """The task with the heads of the experiment's model, and its anchors or those of detection.anchors.

        Raises ConfigError if the model has no heads at several scales, or the anchors are not as many as it has.
        """
        model = create_model(experiment.model.name, options=experiment.model.options)
        heads: tuple[Head, ...] = getattr(model, "heads", ())
        own: tuple[tuple[float, float], ...] = getattr(model, "anchors", ())
        if not heads:
            raise ConfigError(
                f"model.name={experiment.model.name!r} has no heads at several scales; yolov3_tiny has, for example"
            )
        check_similar(experiment, classes)
        flat = experiment.detection.anchors
        if flat and len(flat) != 2 * len(own):
            raise ConfigError(
                f"detection.anchors has {len(flat)} numbers; model.name={experiment.model.name!r} has {len(own)} "
                f"anchors, which are {2 * len(own)}: leave it empty for these, or set detection.kmeans"
            )
        anchors = tuple(zip(flat[::2], flat[1::2], strict=True)) or own
        scales = Scales(anchors, heads, len(classes))
        how = cls.framing(experiment.data.resize)
        return cls(classes, experiment.detection, (image_shape[0], image_shape[1]), how, scales)

    @property
    def num_outputs(self) -> int:
        return len(self.scales.heads[0].mask) * (5 + self.scales.num_classes)

    def _parts(self, outputs: Maps, batch: Batch) -> tuple[Parts, Array]:
        settings = self.settings
        loss = DarknetLoss(settings.ignore_iou)
        if settings.loss == "ciou":
            loss = OverlapLoss(settings.ignore_iou, label_smoothing=settings.label_smoothing)
        objects = Objects(batch["boxes"], batch["classes"], batch["valid"])
        return loss(self.scales, outputs, objects, self.frame)

    def loss(self, outputs: Maps, batch: Batch) -> Parts:
        return self._parts(outputs, batch)[0]

    def metrics(self, outputs: Maps, batch: Batch) -> Values:
        """The loss, and how many objects of an image had to leave their place to another."""
        parts, lost = self._parts(outputs, batch)
        return {"loss": total_loss(parts), "collisions": lost.astype(jnp.float32)}

    def average(self, outputs: Maps, weights: Array) -> Maps:
        """The mean of what is said of each anchor in each cell: logits, and logarithms of sizes."""
        return mean_of_maps(outputs, weights)

    def flipped_back(self, outputs: Maps, axes: tuple[int, ...]) -> Maps:
        return flipped(self.scales, outputs, axes)

    def predict(self, outputs: Maps) -> dict[str, Array]:
        """darknet's rule: an anchor gives a detection of each class whose score, objectness times its probability, is
        above the threshold. Boxes are not clipped, as these may lie partly outside."""
        settings, found = self.settings, candidates(self.scales, outputs, self.frame)

        def one_image(boxes: Array, scores: Array) -> Found:
            chosen, labels, count = multi_label_nms(
                boxes, scores, settings.iou_threshold, settings.max_detections, settings.score_threshold
            )
            real = chosen >= 0
            return Found(
                jnp.where(real[:, None], boxes[chosen], 0),
                jnp.where(real, scores[chosen, labels], 0),
                labels,
                count,
            )

        return jax.vmap(one_image)(found.boxes, found.scores)._asdict()
