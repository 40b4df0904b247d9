"""One network of MT-CNN trained on windows, with the losses and the online hard example mining of Zhang et al. 2016."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from cnnjax.config import ConfigError, Mtcnn
from cnnjax.faces.mtcnn import SIDES
from cnnjax.faces.mtcnn_progress import Progress, Reached
from cnnjax.faces.mtcnn_samples import LANDMARK, NEGATIVE, PART, POSITIVE, Samples
from cnnjax.models import create_model

# Section 2.3: what detection, box and points count.
WEIGHTS = {"pnet": (1.0, 0.5, 0.5), "rnet": (1.0, 0.5, 0.5), "onet": (1.0, 0.5, 1.0)}
# Of a batch, by KINDS; the share of a kind that there is none of goes to the others.
SHARES = (3, 1, 1, 1)
_JUDGED_AT_ONCE = 512
_KEPT_EVERY = 100  # steps: one to three minutes of O-Net's on two cores


@dataclasses.dataclass(frozen=True)
class Trained:
    """How the training of a network went: steps, counts of the windows by their kind, and on windows of images that were
    held out the share told right of faces and non-faces together and of faces alone, the mean distance of a box's side in sides of the window, and
    that of the points by the distance of the eyes."""

    network: str
    steps: int
    counts: dict[str, int]
    held_out: dict[str, int]
    accuracy: float
    faces_right: float
    box_error: float
    point_error: float | None
    seconds: float


def hard_mean(losses: Array, valid: Array, share: float) -> Array:
    """The mean of the largest losses [N]: of a `share` of those that are valid, bool [N]. 0 if none is.

    Only valid losses count and are ranked: others would take places among the largest, or be what is left out.
    """
    count = jnp.ceil(jnp.float32(share) * jnp.sum(valid.astype(jnp.float32)))
    order = jnp.argsort(jnp.where(valid, -losses, jnp.inf))
    rank = jnp.zeros(len(losses), jnp.int32).at[order].set(jnp.arange(len(losses), dtype=jnp.int32))
    taken = valid & (rank.astype(jnp.float32) < count)
    return _mean(losses, taken)


def _mean(losses: Array, taken: Array) -> Array:
    return jnp.sum(jnp.where(taken, losses, 0.0)) / jnp.maximum(jnp.sum(taken.astype(jnp.float32)), 1.0)


def losses(outputs: Array, batch: dict[str, Array], hard: float) -> tuple[Array, Array, Array]:
    """Of face or not, of boxes and of points, each from the windows of the kinds that tell of it.

    Cross-entropy of faces and non-faces, the hard ones of them; squared distances of boxes and points.

    outputs: [N, 6], or [N, 16] with points. batch: kind [N], boxes [N, 4], points [N, 10] of `Samples`.
    """
    kind = batch["kind"].astype(jnp.int32)
    face = (kind == POSITIVE).astype(jnp.int32)
    told = optax.softmax_cross_entropy_with_integer_labels(outputs[:, :2], face)
    sorted_out = (kind == POSITIVE) | (kind == NEGATIVE)
    boxes = jnp.sum((outputs[:, 2:6] - batch["boxes"]) ** 2, axis=1)
    with_box = (kind == POSITIVE) | (kind == PART)
    placed = jnp.zeros(())
    if outputs.shape[1] == 16:
        squared = jnp.sum((outputs[:, 6:] - batch["points"]) ** 2, axis=1)
        placed = _mean(squared, kind == LANDMARK)
    return hard_mean(told, sorted_out, hard), _mean(boxes, with_box), placed


def batches(
    samples: Samples, size: int, rng: np.random.Generator, begin: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of so many windows, half of them mirrored, in the proportions SHARES; from number `begin` on.

    Each kind is gone through in a new random order each time. Raises ConfigError without faces or without non-faces.
    """
    rows = [samples.of_kind(kind) for kind in range(len(SHARES))]
    for kind, name in ((NEGATIVE, "without"), (POSITIVE, "with")):
        if not len(rows[kind]):
            raise ConfigError(
                f"no windows {name} a face to train with: are there boxes, and are they large enough?"
            )
    shares = np.where([len(one) > 0 for one in rows], SHARES, 0)
    counts = size * shares // shares.sum()
    counts[NEGATIVE] += size - counts.sum()
    queues = [np.zeros(0, np.int64) for _ in rows]
    for number in itertools.count():
        taken = []
        for kind, count in enumerate(counts.tolist()):
            while len(queues[kind]) < count:
                queues[kind] = np.concatenate([queues[kind], rng.permutation(rows[kind])])
            taken.append(queues[kind][:count])
            queues[kind] = queues[kind][count:]
        mirrored = rng.random(size) < 0.5
        if number >= begin:
            yield dataclasses.asdict(samples[np.concatenate(taken)].mirrored(mirrored))


def train_network(
    name: str,
    samples: Samples,
    held_out: Samples,
    steps: int,
    settings: Mtcnn,
    seed: int,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[Any, Trained]:
    """The variables of "pnet", "rnet" or "onet" after so many steps, and how good it is on windows held out.

    It goes on from the state that `progress` kept, with equal bits.
    """
    model, side = create_model(f"mtcnn_{name}"), SIDES[name]
    variables = model.init(jax.random.key(seed), jnp.zeros((1, side, side, 3)))

    def rate(count: Array) -> Array:
        return settings.learning_rate * (1 + jnp.cos(jnp.pi * count.astype(jnp.float32) / max(1, steps))) / 2

    optimizer = optax.adam(rate)
    state = optimizer.init(variables)
    weights = WEIGHTS[name]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Any, state: Any, batch: dict[str, Array]) -> tuple[Any, Any, Array]:
        def loss(variables: Any) -> tuple[Array, Array]:
            parts = losses(_outputs(model, variables, batch["pixels"]), batch, settings.hard)
            return sum(weight * part for weight, part in zip(weights, parts, strict=True)), jnp.stack(parts)  # type: ignore[return-value]

        gradients, parts = jax.grad(loss, has_aux=True)(variables)
        with jax.numpy_dtype_promotion("standard"):  # optax counts in int32
            updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, parts

    first = progress.reached(variables, state)
    variables, state = first.variables, first.state
    begun = time.monotonic() - first.seconds
    if first.step:
        say(f"{name}: goes on after step {first.step:,} of {steps:,}")
    stream = batches(samples, settings.batch_size, np.random.default_rng(seed), first.step)
    for number in range(first.step + 1, steps + 1):
        variables, state, parts = step(variables, state, next(stream))
        if number % max(1, steps // 5) == 0 or number == steps:
            told = dict(zip(("faces", "boxes", "points"), np.asarray(parts).tolist(), strict=True))
            shown = ", ".join(f"{what} {value:.4f}" for what, value in told.items() if value)
            say(f"{name}: step {number:,} of {steps:,}, losses: {shown}")
            if not np.isfinite(np.asarray(parts)).all():
                raise ConfigError(f"{name}: the loss is not finite; a smaller mtcnn.learning_rate may help")
        if number % _KEPT_EVERY == 0:
            progress.keep(Reached(number, time.monotonic() - begun, variables, state))
    judged = judge_windows(model, variables, held_out)
    trained = Trained(name, steps, samples.counts(), held_out.counts(), *judged, time.monotonic() - begun)
    said = f"{name}: of windows held out {100 * trained.accuracy:.1f} % told right, of faces {100 * trained.faces_right:.1f} %"
    said += f", boxes {100 * trained.box_error:.1f} % off"
    if trained.point_error is not None:
        said += f", points {100 * trained.point_error:.1f} % of the eyes' distance off"
    say(said)
    return variables, trained


def _outputs(model: Any, variables: Any, pixels: Array) -> Array:
    """[N, outputs] of uint8 windows."""
    said: Array = model.apply(variables, (pixels.astype(jnp.float32) - 127.5) * 0.0078125)
    return said.reshape(len(pixels), -1)


def judge_windows(model: Any, variables: Any, samples: Samples) -> tuple[float, float, float, float | None]:
    """Accuracy, of all and of faces, error of boxes and of points, as `Trained` has them; NaN where there is nothing to judge by."""
    apply = jax.jit(partial(_outputs, model))
    parts = []
    for begin in range(0, len(samples), _JUDGED_AT_ONCE):
        pixels = samples.pixels[begin : begin + _JUDGED_AT_ONCE]
        room = np.zeros((_JUDGED_AT_ONCE, *pixels.shape[1:]), np.uint8)
        room[: len(pixels)] = pixels
        parts.append(np.asarray(apply(variables, room))[: len(pixels)])
    if not parts:
        return float("nan"), float("nan"), float("nan"), None
    said, kind = np.concatenate(parts), samples.kind
    sorted_out, with_box, with_points = (
        np.isin(kind, kinds) for kinds in ((NEGATIVE, POSITIVE), (POSITIVE, PART), (LANDMARK,))
    )
    face = kind == POSITIVE
    right = (said[:, 1] > said[:, 0]) == face
    boxes = np.abs(said[:, 2:6] - samples.boxes)
    points = None
    if said.shape[1] == 16 and with_points.any():
        known = samples.points[with_points].reshape(-1, 2, 5)
        errors = np.linalg.norm(said[with_points, 6:].reshape(-1, 2, 5) - known, axis=1).mean(axis=1)
        points = float(np.mean(errors / np.linalg.norm(known[:, :, 0] - known[:, :, 1], axis=1)))
    return _known_mean(right[sorted_out]), _known_mean(right[face]), _known_mean(boxes[with_box]), points


def _known_mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
