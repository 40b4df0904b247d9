"""Several objects per image: the cell of a grid that holds an object's centre answers for it."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError, Experiment
from cnnjax.detection.detect import detect, form_of
from cnnjax.detection.grid import Grid, Targets, encode
from cnnjax.models import create_model
from cnnjax.tasks.box_detection import BoxDetection, check_similar
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class GridDetection(BoxDetection):
    """Outputs [N, rows, columns, D]."""

    grid: Grid

    @classmethod
    def of(
        cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]
    ) -> "GridDetection":
        """The task with the grid that the experiment's model lays over an image.

        Raises ConfigError if the model's output is no grid, or similar classes are none of the classes.
        """
        model = create_model(experiment.model.name, 2, options=experiment.model.options)
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        output = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)
        if getattr(output, "ndim", 0) != 4:
            raise ConfigError(
                f"model.name={experiment.model.name!r} has no grid as output; grid16 has, for example"
            )
        check_similar(experiment, classes)
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
        how = cls.framing(experiment.data.resize)
        return cls(classes, experiment.detection, (grid.height, grid.width), how, grid)

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
