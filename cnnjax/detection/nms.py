"""Non-maximum suppression that is exact, jitted and of static size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection.boxes import iou


def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    max_outputs: int,
    classes: Array | None = None,
    score_threshold: float | Array = -jnp.inf,
    overlap: Callable[[Array, Array], Array] = iou,
) -> tuple[Array, Array]:
    """Greedy non-maximum suppression of one image's boxes; `jax.vmap` it for a batch.

    Takes the best box, drops every other one whose IoU with it is above the threshold (equal is kept), and
    repeats. Of equal scores the first wins. With `classes`, boxes of different classes do not suppress each
    other. Boxes and scores that are not finite, and scores not above `score_threshold`, are never taken.

    Args:
      boxes: [N, 4] xyxy. scores: [N]. classes: [N] integers, or None.
      overlap: what is compared with the threshold, in place of the IoU, of boxes [1, 4] and [N, 4].
      max_outputs: K, how many are returned at most; the first K of the full greedy result.

    Returns:
      indices [K] int32 into the input, best first, padded with -1; and how many there are, int32.
    """
    if len(scores) == 0:
        return jnp.full(max_outputs, -1, jnp.int32), jnp.zeros((), jnp.int32)
    # One maximum and one row of IoUs per output: no N x N matrix, and no sort.
    finite = jnp.isfinite(scores) & jnp.all(jnp.isfinite(boxes), axis=-1)
    alive = jnp.where(finite & (scores > score_threshold), scores, -jnp.inf)
    boxes = jnp.where(finite[:, None], boxes, 0)

    def take(alive: Array, _) -> tuple[Array, Array]:
        best = jnp.argmax(alive)
        found = alive[best] > -jnp.inf
        suppressed = overlap(boxes[best][None], boxes) > iou_threshold
        if classes is not None:
            suppressed &= classes == classes[best]
        # The winner itself always goes: without an inside its IoU with itself is 0.
        suppressed = suppressed.at[best].set(True)
        return jnp.where(suppressed, -jnp.inf, alive), jnp.where(found, best, -1).astype(jnp.int32)

    _, indices = jax.lax.scan(take, alive, length=max_outputs)
    return indices, jnp.sum(indices >= 0, dtype=jnp.int32)
