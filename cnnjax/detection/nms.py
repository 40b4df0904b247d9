"""Non-maximum suppression that is exact, jitted and of static size."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.detection.boxes import iou, pairwise

_TILE = 256  # candidates that are compared with each other at once on CPUs
_LAUNCHED_TILE = 1024  # and on accelerators, which need longer to start a kernel than to compare as many
_ROUNDS = 4  # of the fixed point between two looks there whether it is reached


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
      overlap: what is compared with the threshold, in place of the IoU, of boxes that broadcast.
      max_outputs: K, how many are returned at most; the first K of the full greedy result.

    Returns:
      indices [K] int32 into the input, best first, padded with -1; and how many there are, int32.
    """
    labels = jnp.zeros(len(scores), jnp.int32) if classes is None else classes

    def look_up(indices: Array) -> tuple[Array, Array]:
        return boxes[indices], labels[indices]

    alive = _alive(boxes, scores, score_threshold)
    return _suppress(alive, look_up, iou_threshold, max_outputs, overlap)


def multi_label_nms(
    boxes: Array, scores: Array, iou_threshold: float, max_outputs: int, score_threshold: float = -jnp.inf
) -> tuple[Array, Array, Array]:
    """The same for boxes [P, 4] that may be of several classes: scores [P, C], each of them a detection.

    Returns indices [K] of boxes and their classes [K], best first, padded with -1; and how many there are.
    """
    num_classes = scores.shape[1]
    alive = _alive(boxes[:, None], scores, score_threshold).reshape(-1)

    def look_up(indices: Array) -> tuple[Array, Array]:
        return boxes[indices // num_classes], indices % num_classes

    found, count = _suppress(alive, look_up, iou_threshold, max_outputs, iou)
    real = found >= 0
    return jnp.where(real, found // num_classes, -1), jnp.where(real, found % num_classes, -1), count


def _alive(boxes: Array, scores: Array, score_threshold: float | Array) -> Array:
    """Scores of what can be taken, -inf of all else."""
    finite = jnp.isfinite(scores) & jnp.all(jnp.isfinite(boxes), axis=-1)
    return jnp.where(finite & (scores > score_threshold), scores, -jnp.inf)


class _State(NamedTuple):
    alive: Array  # [N] scores of what was not looked at, else -inf
    taken: Array  # [K] indices, -1 where there is none yet
    boxes: Array  # [K, 4] and their boxes
    classes: Array  # [K]
    number: Array  # int32, how many are taken
    more: Array  # bool, whether any is left


def _suppress(
    alive: Array,
    look_up: Callable[[Array], tuple[Array, Array]],
    iou_threshold: float,
    max_outputs: int,
    overlap: Callable[[Array, Array], Array],
) -> tuple[Array, Array]:
    """Greedy suppression of candidates with scores [N], whose boxes and classes `look_up` gives by index."""
    if not max_outputs or not len(alive):
        return jnp.full(max_outputs, -1, jnp.int32), jnp.zeros((), jnp.int32)
    fixed = (look_up, iou_threshold, max_outputs, overlap)
    return jax.lax.platform_dependent(
        alive,
        cpu=lambda alive: _by_tiles(alive, *fixed, min(_TILE, len(alive)), 1),
        default=lambda alive: _by_tiles(alive, *fixed, min(_LAUNCHED_TILE, len(alive)), _ROUNDS),
    )


def _by_tiles(
    alive: Array,
    look_up: Callable[[Array], tuple[Array, Array]],
    iou_threshold: float,
    max_outputs: int,
    overlap: Callable[[Array, Array], Array],
    tile: int,
    rounds: int,
) -> tuple[Array, Array]:
    """`_suppress`, as many candidates at once as a tile has.

    The best that were not looked at are compared with what was taken so far and with each other, and so on until
    enough are taken or none is left: what is held at once grows neither with N x N nor with N x K.
    """
    at_once = tile == len(alive)
    earlier = jnp.tri(tile, k=-1, dtype=bool)  # [i, j]: j has the better score

    def step(state: _State) -> _State:
        scores, indices = jax.lax.top_k(state.alive, tile)
        indices = indices.astype(jnp.int32)
        boxes, classes = look_up(indices)
        boxes = jnp.where((scores > -jnp.inf)[:, None], boxes, 0)

        def clash(others: Array, other_classes: Array) -> Array:
            over = pairwise(overlap, boxes, others) > iou_threshold
            return over & (classes[:, None] == other_classes[None])

        free = scores > -jnp.inf
        if not at_once:
            real = state.taken >= 0
            free &= ~jnp.any(clash(state.boxes, state.classes) & real[None], axis=1)
        keep = _fixed_point(free, clash(boxes, classes) & earlier, rounds)
        place = jnp.where(keep, state.number + jnp.cumsum(keep, dtype=jnp.int32) - 1, max_outputs)
        count = jnp.minimum(state.number + jnp.sum(keep, dtype=jnp.int32), max_outputs)
        return _State(
            state.alive.at[indices].set(-jnp.inf),
            state.taken.at[place].set(indices, mode="drop"),
            state.boxes.at[place].set(boxes, mode="drop"),
            state.classes.at[place].set(classes, mode="drop"),
            count,
            # The last is the least. A slice of them would have XLA:CPU sort all candidates, twenty times as slow.
            (count < max_outputs) & (jnp.min(scores) > -jnp.inf),
        )

    boxes, classes = jax.eval_shape(look_up, jax.ShapeDtypeStruct((max_outputs,), jnp.int32))
    start = _State(
        alive,
        jnp.full(max_outputs, -1, jnp.int32),
        jnp.zeros(boxes.shape, boxes.dtype),
        jnp.zeros(classes.shape, classes.dtype),
        jnp.zeros((), jnp.int32),
        jnp.ones((), bool),
    )
    end = step(start) if at_once else jax.lax.while_loop(lambda state: state.more, step, start)
    return end.taken, end.number


def _fixed_point(free: Array, suppresses: Array, rounds: int) -> Array:
    """Which of T candidates, best first, greedy suppression keeps: free, and suppressed by none that is kept.

    suppresses [T, T]: whether j would suppress i; j is better. Each round makes at least one more of them final, the
    first that was not, so the values that no round changes are those of the greedy rule. Whether a round changed any is
    asked after every `rounds` of them: on a GPU the host waits for the answer.
    """

    def some(state: tuple[Array, Array]) -> tuple[Array, Array]:
        before = keep = state[0]
        for _ in range(rounds):
            before, keep = keep, free & ~jnp.any(suppresses & keep[None], axis=1)
        return keep, jnp.any(keep != before)

    return jax.lax.while_loop(lambda state: state[1], some, (free, jnp.ones((), bool)))[0]
