"""Grid detection with anchors, as YOLOv2 and v3 have it: boxes are predicted relative to typical shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cnnjax.detection.boxes import ciou, iou, pairwise
from cnnjax.detection.grid import Candidates, Grid, Targets, candidates, cells_to_pixels

# exp of more than this many log-units is no box; keeps a young network's sizes finite.
MAX_LOG_SIZE = 6.0


def kmeans_anchors(sizes: np.ndarray, k: int, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """The k typical shapes (width, height) of boxes [n, 2], smallest area first (Redmon & Farhadi 2017, 2).

    k-means with the distance 1 - IoU of centred boxes, the first centres drawn with chances in proportion to that
    distance (k-means++); the best of ten runs by the mean IoU of each box with its nearest anchor.

    Raises ValueError if there are fewer different shapes than k.
    """
    sizes = np.asarray(sizes, np.float64)
    distinct = len(np.unique(sizes, axis=0))
    if distinct < k:
        raise ValueError(f"{k} anchors need {k} different box shapes; there are {distinct}")
    rng = np.random.default_rng(seed)
    runs = [_kmeans(sizes, k, rng) for _ in range(10)]
    best = max(runs, key=lambda centres: _shape_ious(sizes, centres).max(1).mean())
    return tuple((float(w), float(h)) for w, h in sorted(best.tolist(), key=lambda s: s[0] * s[1]))


def _kmeans(sizes: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """One run, until no box changes its cluster: [k, 2]."""
    centres = sizes[rng.integers(len(sizes))][None]
    while len(centres) < k:
        distance = 1 - _shape_ious(sizes, centres).max(1)
        distance[distance < 1e-12] = 0
        centres = np.vstack([centres, sizes[rng.choice(len(sizes), p=distance / distance.sum())]])
    cluster = np.full(len(sizes), -1)
    for _ in range(1000):
        nearest = _shape_ious(sizes, centres).argmax(1)
        if np.array_equal(nearest, cluster):
            break
        cluster = nearest
        centres = np.array(
            [sizes[cluster == i].mean(0) if np.any(cluster == i) else centres[i] for i in range(k)]
        )
    return centres


def mean_best_iou(sizes: np.ndarray, anchors: tuple[tuple[float, float], ...]) -> float:
    """How well anchors cover box shapes [n, 2]: the mean IoU with the best one."""
    return float(_shape_ious(np.asarray(sizes, np.float64), np.asarray(anchors)).max(1).mean())


def decode_anchors(grid: Grid, outputs: Array) -> Candidates:
    """Outputs [N, rows, columns, A (5 + C)] as boxes; sigmoids for P, centre and classes, exp for sizes
    (Redmon & Farhadi 2018, section 2.1)."""
    split = _split(grid, outputs)
    return candidates(
        grid, _boxes(grid, split), jax.nn.sigmoid(split[..., 0]), jax.nn.sigmoid(split[..., 5:])
    )


@dataclasses.dataclass(frozen=True)
class AnchorLoss:
    """The loss of a grid with anchors: `loss(grid, outputs, targets)` -> [N].

    P: logistic loss, or focal (Lin et al. 2017) with `focal_gamma` > 0 and `focal_alpha`. An anchor that has no
    object but overlaps one by more than `ignore_iou` is left alone. Box: 1 - CIoU. Classes: logistic loss each.
    """

    box: float = 5.0
    presence: float = 1.0
    classes: float = 1.0
    ignore_iou: float = 0.7
    focal_gamma: float = 0.0
    focal_alpha: float = 0.25

    def __call__(self, grid: Grid, outputs: Array, targets: Targets) -> Array:
        split = _split(grid, outputs)
        wanted = targets.cells
        present = wanted[..., 0] > 0.5
        boxes = cells_to_pixels(grid, _boxes(grid, split))

        if self.focal_gamma:
            presence = optax.sigmoid_focal_loss(
                split[..., 0], wanted[..., 0], alpha=self.focal_alpha, gamma=self.focal_gamma
            )
        else:
            presence = optax.sigmoid_binary_cross_entropy(split[..., 0], wanted[..., 0])
        presence = jnp.where(_ignored(boxes, targets, self.ignore_iou) & ~present, 0, presence)

        care = present[..., None]
        real = cells_to_pixels(grid, wanted[..., 1:5])
        # Where there is no object both sides are the same box, so that no gradient can come from there.
        box = 1 - ciou(jnp.where(care, boxes, 1), jnp.where(care, real, 1))
        label = optax.sigmoid_binary_cross_entropy(
            jnp.where(care, split[..., 5:], 0), jnp.where(care, wanted[..., 5:], 0)
        )
        per_object = self.box * box + self.classes * jnp.sum(label, axis=-1)
        return jnp.sum(self.presence * presence + jnp.where(present, per_object, 0), axis=(1, 2, 3))


def _split(grid: Grid, outputs: Array) -> Array:
    return outputs.reshape(*outputs.shape[:3], len(grid.anchors), 5 + grid.num_classes)


def _boxes(grid: Grid, split: Array) -> Array:
    """[..., A, 5 + C] -> [bx, by, bw, bh] of the cells."""
    anchors = jnp.asarray(grid.anchors, split.dtype) / jnp.asarray([grid.cell], split.dtype)
    sizes = jnp.exp(jnp.minimum(split[..., 3:5], MAX_LOG_SIZE)) * anchors[None, None, None]
    return jnp.concatenate([jax.nn.sigmoid(split[..., 1:3]), sizes], axis=-1)


def _ignored(boxes: Array, targets: Targets, threshold: float) -> Array:
    """[N, rows, columns, A]: boxes that overlap any object of their image by more than the threshold."""
    boxes = jax.lax.stop_gradient(boxes)
    flat = boxes.reshape(boxes.shape[0], -1, 4)
    overlap = jnp.where(targets.valid[:, None], pairwise(iou, flat, targets.boxes), 0)
    return jnp.any(overlap > threshold, axis=-1).reshape(boxes.shape[:-1])


def _shape_ious(sizes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    both = np.minimum(sizes[:, None], centres[None]).prod(-1)
    return both / (sizes.prod(-1)[:, None] + centres.prod(-1)[None] - both)
