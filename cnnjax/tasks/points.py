"""Points of one face or body per image: whether it is there, and where each of them is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cnnjax.config import Experiment
from cnnjax.data.formats.poses import LSP_NAMES, LSP_TORSO
from cnnjax.detection.boxes import box_from_letterbox, letterbox
from cnnjax.detection.judge import points as judge
from cnnjax.tasks.metrics import Values
from cnnjax.tasks.result import Result
from cnnjax.tasks.task import Batch, Judgement, Split, Task

if TYPE_CHECKING:
    from cnnjax.drawing.figures import Picture

NEAR = 0.05  # of the longer side of the box around the visible points: what "pck" takes for right
_SHOWN = 8  # images of the best, of the middle and of the worst


@dataclasses.dataclass(frozen=True)
class PointTask(Task):
    """A task whose predictions hold "points" [N, K, 2] in pixels. The batch holds those, and "visible" [N, K]."""

    targets: ClassVar[tuple[str, ...]] = ("points", "visible")
    headline: ClassVar[str] = "pck"
    names: tuple[str, ...]
    height: int
    width: int

    def judge(self, predictions: Mapping[str, np.ndarray], split: Split) -> Judgement:
        return Judgement(point_metrics(predictions["points"], split, self.names))

    def pictures(self, predictions: Mapping[str, np.ndarray], split: Split) -> "list[Picture]":
        return point_pictures(predictions["points"], split, self.names)

    def placed(self, points: np.ndarray, shape: tuple[int, ...], there: bool = True) -> Result:
        """Points [K, 2] of the letterboxed frame as those of an image of this shape; none if there is nothing."""
        # A point is a box without extent.
        boxes = np.concatenate([points, points], axis=-1)
        geometry = letterbox(shape[0], shape[1], (self.height, self.width))
        found = box_from_letterbox(boxes, geometry)[None, :, :2]
        return Result(shape[0], shape[1], (), points=found[: int(there)], point_names=tuple(self.names))


@dataclasses.dataclass(frozen=True)
class Points(PointTask):
    """Outputs [N, 1 + 2 K]: the logit of presence, then x and y of each point as shares of the image from its centre.

    An image without a visible point has nothing. The loss is the logistic loss of presence and, of images that have
    something, `weight` times the mean over the visible points of the smooth L1 distance in shares: what an image does
    not say, its outputs do not learn.
    """

    options: ClassVar[tuple[str, ...]] = ("points",)
    weight: float = 1.0
    beta: float = 0.02

    @classmethod
    def of(cls, experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...]) -> "Points":
        options = experiment.points
        return cls(classes, image_shape[0], image_shape[1], options.weight, options.beta)

    @property
    def num_outputs(self) -> int:
        return 1 + 2 * len(self.names)

    def loss(self, outputs: Array, batch: Batch) -> Mapping[str, Array]:
        outputs = outputs.astype(jnp.float32)
        visible = batch["visible"]
        present = jnp.any(visible, axis=1)
        target = batch["points"] / self._size() - 0.5
        # What is not known is left out before anything is computed of it, so that its gradient is exactly zero.
        difference = jnp.where(visible[..., None], self._shares(outputs) - target, jnp.float32(0))
        known = jnp.sum(optax.huber_loss(difference, delta=self.beta) / self.beta, axis=(1, 2))
        count = jnp.maximum(visible.sum(axis=1), 1).astype(jnp.float32)
        presence = optax.sigmoid_binary_cross_entropy(outputs[:, 0], present.astype(jnp.float32))
        return {"presence": presence, "points": self.weight * known / count}

    def metrics(self, outputs: Array, batch: Batch) -> Values:
        found = outputs[:, 0] > 0
        present = jnp.any(batch["visible"], axis=1)
        values = super().metrics(outputs, batch)
        return {**values, "accuracy": (found == present).astype(jnp.float32)}

    def predict(self, outputs: Array) -> dict[str, Array]:
        outputs = outputs.astype(jnp.float32)
        points = (self._shares(outputs) + 0.5) * self._size()
        return {"points": points, "present": jax.nn.sigmoid(outputs[:, 0])}

    def result(self, prediction: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Result:
        """The points, if there are any, in pixels of the image."""
        there = float(prediction["present"]) > 0.5
        return self.placed(prediction["points"], shape, there)

    def _shares(self, outputs: Array) -> Array:
        return outputs[:, 1:].reshape(len(outputs), -1, 2)

    def _size(self) -> Array:
        return jnp.array([[[self.width, self.height]]], jnp.float32)


def point_metrics(found: np.ndarray, split: Split, names: Sequence[str]) -> dict[str, float]:
    """Of images that have visible points: "pck", the share of these within NEAR of the longer side of the box around
    them; of 68 points NME, by outer eye corners and by pupils, failures and the area under the curve; of LSP's joints
    "pck_torso", the share within 0.2 of the distance from left shoulder to right hip."""
    visible = np.asarray(split["visible"])
    some = visible.any(axis=1)
    real, said, visible = np.asarray(split["points"])[some], found[some], visible[some]
    errors = judge.point_errors(said, real)
    metrics = {"pck": judge.pck(errors, visible, extents(real, visible), NEAR).mean}
    if len(names) == 68:
        nme = judge.nme_outer_eyes(said, real, visible)
        metrics |= {"nme": float(np.nanmean(nme)), "failures": judge.failure_rate(nme)}
        metrics |= {"auc": judge.area_under_curve(nme)}
        metrics |= {"nme_inter_pupil": float(np.nanmean(judge.nme_inter_pupil(said, real, visible)))}
    if tuple(names) == LSP_NAMES:
        torso = np.where(visible[:, LSP_TORSO].all(axis=1), judge.torso_size(real, LSP_TORSO), np.nan)
        metrics["pck_torso"] = judge.pck(errors, visible, torso, 0.2).mean
    return metrics


def extents(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The longer side [N] of the box around the visible points; 0 where there are none."""
    low = np.where(visible[..., None], points, np.inf).min(axis=1)
    high = np.where(visible[..., None], points, -np.inf).max(axis=1)
    return np.where(visible.any(axis=1), (high - low).max(axis=1), 0.0)


def point_pictures(found: np.ndarray, split: Split, names: Sequence[str]) -> "list[Picture]":
    """The best, the median and the worst images by their mean error, of 68 points by NME; the real points white, the
    predicted red."""
    from cnnjax.drawing import figures
    from cnnjax.drawing.points import draw_points, lines_of

    real, visible = np.asarray(split["points"]), np.asarray(split["visible"])
    if len(names) == 68:
        means, of = judge.nme_outer_eyes(found, real, visible), "the distance of the outer eye corners"
    else:
        means, of = judge.nme(judge.point_errors(found, real), visible, extents(real, visible)), "their box"
    order = [int(i) for i in np.argsort(means) if np.isfinite(means[i])]
    middle = max(0, len(order) // 2 - _SHOWN // 2)
    rows = {"best": order[:_SHOWN], "median": order[middle : middle + _SHOWN], "worst": order[-_SHOWN:]}
    images, texts = [], []
    for name, chosen in rows.items():
        for i in chosen:
            # Zoom once, then draw in pixels of the enlarged picture.
            image = draw_points(split["image"][i], real[i], visible[i], lines_of(names), "white")
            zoom = image.shape[1] / split["image"].shape[2]
            images.append(draw_points(image, found[i] * zoom, visible[i], lines_of(names), "red"))
            texts.append(f"{name}  {100 * means[i]:.1f} %")
    caption = f"White: the real points. Red: the predicted ones; the mean error as a share of {of}."
    return [figures.image_grid("points", "Points", caption, images, texts)] if images else []
