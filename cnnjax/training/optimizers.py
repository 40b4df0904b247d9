"""Update rules and learning-rate schedules, composed of optax parts."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from cnnjax import config
from cnnjax.config import is_on
from cnnjax.ops.sums import sum_of_squares

Params = Any
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# numbers in a matrix: its products take no longer than starting the kernels of smaller ones
_PADDED_TO = 2**20


def scaled_rates(optimizer: config.Optimizer, batch_size: int) -> config.Optimizer:
    """With the learning rates for updates of this batch size, if those of optimizer.reference_batch are given: in
    proportion (Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.1)."""
    if not optimizer.reference_batch:
        return optimizer
    factor = batch_size * optimizer.accumulate / optimizer.reference_batch
    rates = ("learning_rate", "bias_learning_rate", "dense_learning_rate")
    scaled = {name: getattr(optimizer, name) * factor for name in rates}
    return dataclasses.replace(optimizer, **scaled)


def make_schedule(optimizer: config.Optimizer, total_steps: int) -> Callable[[Array | int], Array]:
    """The learning rate as a function of the number of updates done, float32.

    There are total_steps / accumulate updates; the rate is at its peak after the share `warmup` of them and
    would reach `final` after the last one. Raises ConfigError for shares that cannot be meant.
    """
    _check(optimizer)
    updates = max(1, total_steps // optimizer.accumulate)
    warmup = round(optimizer.warmup * updates)

    def shape(count: Array) -> Array:
        """Share of the peak rate once the warm-up is over."""
        left = 1.0 - jnp.minimum((count - warmup) / max(1, updates - warmup), 1.0)
        if optimizer.schedule in ("linear", "triangular"):
            return _between(optimizer.final, 1.0, left)
        if optimizer.schedule in ("cosine", "one_cycle"):
            return _between(optimizer.final, 1.0, _half_cosine(left))
        if optimizer.schedule == "piecewise":
            passed = [count >= round(boundary * updates) for boundary in optimizer.boundaries]
            return math.prod((jnp.where(p, optimizer.decay, 1.0) for p in passed), start=jnp.ones_like(count))
        return jnp.ones_like(count)

    def schedule(count: Array | int) -> Array:
        count = jnp.asarray(count, jnp.float32)
        rise = count / max(1, warmup)
        if optimizer.schedule == "one_cycle":
            rise = _half_cosine(rise)
        share = jnp.where(count < warmup, _between(optimizer.initial, 1.0, rise), shape(count))
        return optimizer.learning_rate * share

    return schedule


def make_optimizer(
    optimizer: config.Optimizer,
    total_steps: int,
    frozen: Collection[str] = (),
    trunk: Collection[str] = (),
) -> optax.GradientTransformation:
    """The update rule with schedule, clipping, weight decay and accumulation; `update` needs the parameters.

    Weight decay spares biases and norms, which have their own. As in torch, sgd and adam add it to the gradient (L2), adamw and
    muon shrink the weight by rate * weight_decay. `muon` treats convolution kernels only (see
    `orthogonalize`); everything else follows `muon_rest`. Gradients are those of a mean over the batch.

    Of parameters by path, such as "conv1/kernel": those `frozen` stay as they are, count in no norm and have no
    momentum; the rate of those of the `trunk` is the share optimizer.trunk_learning_rate.
    """
    o = optimizer
    schedule = make_schedule(o, total_steps)
    decay = _decay(o)
    sgd = optax.trace(o.momentum, o.nesterov) if is_on(o.momentum) else optax.identity()
    if o.name == "sgd":
        rule = optax.chain(decay, sgd)
    elif o.name == "adam":
        rule = optax.chain(decay, optax.scale_by_adam(o.momentum, o.b2))
    elif o.name == "adamw":
        rule = optax.chain(optax.scale_by_adam(o.momentum, o.b2), decay)
    elif o.name == "muon":
        rest = (
            optax.trace(o.muon_rest_momentum, o.nesterov)
            if o.muon_rest == "sgd"
            else optax.scale_by_adam(o.muon_rest_momentum, o.b2)
        )
        rules = {"conv": optax.chain(sgd, orthogonalize(o.muon_steps)), "dense": rest, "bias": rest}
        rule = optax.chain(optax.partition(rules, groups), decay)
    else:
        raise config.ConfigError(f"optimizer.name={o.name!r}: choose one of sgd, adam, adamw, muon")

    factors = {
        "conv": 1.0,
        "dense": o.dense_learning_rate / o.learning_rate if is_on(o.dense_learning_rate) else 1.0,
        "bias": o.bias_learning_rate / o.learning_rate if is_on(o.bias_learning_rate) else 1.0,
    }
    parts = [rule, optax.scale_by_learning_rate(schedule)]
    if is_on(o.clip_norm):
        parts.insert(0, _clip_by_norm(o.clip_norm))
    if is_on(o.bias_learning_rate) or is_on(o.dense_learning_rate):
        parts.append(_scale_groups(factors))
    if o.trunk_learning_rate != 1:
        parts.append(optax.masked(optax.scale(o.trunk_learning_rate), functools.partial(_among, trunk)))
    if o.whitening:
        limit = o.whitening * max(1, total_steps // o.accumulate)

        def rate(count: Array) -> Array:
            if o.whitening_rate == "weights":
                return jnp.where(count < limit, 1 / factors["bias"], 0.0)
            # In place of the schedule, by which the update has been multiplied already.
            return jnp.maximum(1 - count / limit, 0) / jnp.maximum(schedule(count) / o.learning_rate, 1e-6)

        parts.append(optax.masked(optax.scale_by_schedule(rate), of_whitening))
    if o.name == "muon" and o.muon_normalize:
        parts.append(normalize_kernels())
    transform = optax.chain(*parts)
    if o.accumulate > 1:
        transform = optax.MultiSteps(transform, every_k_schedule=o.accumulate).gradient_transformation()
    if frozen:
        rules = {"learns": transform, "frozen": optax.set_to_zero()}

        def kinds(params: Params) -> Params:
            return jax.tree.map(lambda is_so: "frozen" if is_so else "learns", _among(frozen, params))

        transform = optax.partition(rules, kinds)
    return _with_standard_promotion(transform)


def _clip_by_norm(most: float) -> optax.GradientTransformation:
    """optax.clip_by_global_norm with the norm that a step tells anyway."""

    def update(updates: Params, params: Params = None) -> Params:
        norm = jnp.sqrt(sum_of_squares(updates))
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(update)


def _decay(o: config.Optimizer) -> optax.GradientTransformation:
    """Adds to an update its share of the parameters: of weights, and of biases and norms."""

    def weights(params: Params) -> Params:
        if not o.whitening or o.whitening_rate != "weights":
            return decayed(params)
        return jax.tree.map(operator.or_, decayed(params), of_whitening(params))

    def others(params: Params) -> Params:
        return jax.tree.map(operator.not_, weights(params))

    shares = ((o.weight_decay, weights), (o.bias_weight_decay, others))
    parts = [optax.add_decayed_weights(share, mask=mask) for share, mask in shares if is_on(share)]
    if len(parts) == 1:
        return parts[0]  # not as a chain of one, whose state older checkpoints do not have
    return optax.chain(*parts) if parts else optax.identity()


def groups(params: Params) -> Params:
    """Label of every parameter: "conv" (kernels with a window), "dense" (matrices) or "bias" (biases, norms)."""

    def label(path: tuple, leaf: Array) -> str:
        if leaf.ndim < 2 or path[-1].key in ("bias", "scale"):
            return "bias"
        return "dense" if leaf.ndim == 2 else "conv"

    return jax.tree_util.tree_map_with_path(label, params)


def decayed(params: Params) -> Params:
    """True for parameters that weight decay applies to: kernels, not biases or norms."""
    return jax.tree.map(lambda label: label != "bias", groups(params))


def _among(paths: Collection[str], params: Params) -> Params:
    """True for the parameters that have one of these paths, such as "conv1/kernel"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(part.key for part in path) in paths, params
    )


def of_whitening(params: Params) -> Params:
    """True for the parameters of layers named "whitening"."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(part, "key", None) == "whitening" for part in path), params
    )


def orthogonalize(steps: int = 5) -> optax.GradientTransformation:
    """Replaces each convolution's update by the nearest semi-orthogonal matrix, roughly: Muon (Jordan 2024).

    A kernel [H, W, I, O] counts as the matrix [H*W*I, O]. Kernels of equal matrix shape are stacked, so that
    `steps` iterations are few batched products; for GPUs all are, with zeros around the smaller ones, unless
    they are large. The result is scaled by sqrt(max(1, O / (H*W*I))).
    """

    def update(updates: Params, params: Params = None) -> Params:
        leaves, tree = jax.tree.flatten(updates)
        # Else XLA keeps the momentum that they come from as turned as the products want them, and copies it back.
        leaves = lax.optimization_barrier(leaves)
        matrices = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
        wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
        by_shape = functools.partial(_orthogonal, steps=steps)
        padded = functools.partial(by_shape, most=_PADDED_TO)
        found = lax.platform_dependent(*wide, cpu=by_shape, tpu=by_shape, default=padded)
        for i, (matrix, new) in enumerate(zip(matrices, found, strict=True)):
            fan_in, fan_out = matrix.shape
            new = new.T if fan_in > fan_out else new
            leaves[i] = (new * math.sqrt(max(1.0, fan_out / fan_in))).reshape(leaves[i].shape)
        return jax.tree.unflatten(tree, leaves)

    return optax.stateless(update)


def _orthogonal(*matrices: Array, steps: int, most: int = 0) -> list[Array]:
    """`newton_schulz` of each of several wide matrices, in stacks of one shape; zeros do not change it.

    Those that become no larger than `most` by it are padded to the largest shape among them.
    """
    small = [matrix.shape for matrix in matrices if matrix.size <= most]
    common = tuple(map(max, zip(*small, strict=True))) if small else (0, 0)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        alike.setdefault(
            common if matrix.size <= most and math.prod(common) <= most else matrix.shape, []
        ).append(i)
    results = list(matrices)
    for shape, members in alike.items():
        padded = [
            jnp.pad(matrices[i], [(0, n - k) for n, k in zip(shape, matrices[i].shape, strict=True)])
            for i in members
        ]
        for i, new in zip(members, newton_schulz(jnp.stack(padded), steps), strict=True):
            rows, columns = matrices[i].shape
            results[i] = new[:rows, :columns]
    return results


def newton_schulz(x: Array, steps: int = 5) -> Array:
    """Moves the singular values of matrices [N, A, B] towards 1, into about [0.7, 1.2] with 5 steps.

    Each step applies s -> a s + b s^3 + c s^5 with Jordan's coefficients, after division by the Frobenius norm.
    Products are in bfloat16 except on CPU, which has no fast ones.
    """
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
    x = lax.platform_dependent(
        x,
        cpu=functools.partial(_iterate, steps=steps, dtype=x.dtype),
        default=functools.partial(_iterate, steps=steps, dtype=jnp.bfloat16),
    )
    return x.mT if tall else x


def _iterate(x: Array, steps: int, dtype: Any) -> Array:
    """The steps of `newton_schulz` on wide matrices of at most unit norm, with products in `dtype`."""
    a, b, c = NEWTON_SCHULZ
    y = x.astype(dtype)
    unit = jnp.eye(x.shape[1], dtype=dtype)[None]
    for _ in range(steps):
        gram = y @ y.mT
        y = (a * unit + b * gram + c * (gram @ gram)) @ y
    return y.astype(x.dtype)


def normalize_kernels() -> optax.GradientTransformation:
    """Makes the update start from kernels of norm sqrt(filters), whatever norm they have (airbench).

    Comes last in a chain: new = kernel * sqrt(filters) / |kernel| + update.
    """

    def update(updates: Params, params: Params) -> Params:
        changes, tree = jax.tree.flatten(updates)
        labels, kernels = jax.tree.leaves(groups(params)), jax.tree.leaves(params)
        which = [i for i, label in enumerate(labels) if label == "conv"]
        norms = _norms([kernels[i] for i in which]) if which else jnp.zeros(0)
        for i, norm in zip(which, norms, strict=True):
            factor = math.sqrt(kernels[i].shape[-1]) / norm - 1.0
            changes[i] = changes[i] + kernels[i] * factor
        return jax.tree.unflatten(tree, changes)

    return optax.stateless(update)


def _norms(arrays: list[Array]) -> Array:
    """The Euclidean norm of each, as one vector: the rows of each and then all of these, one kernel more on a GPU."""
    rows = [jnp.sum(jnp.square(array), axis=-1).reshape(-1) for array in arrays]
    longest = max(map(len, rows))
    padded = jnp.stack([jnp.pad(row, (0, longest - len(row))) for row in rows])
    return jnp.sqrt(jnp.sum(lax.optimization_barrier(padded), axis=1))


def _with_standard_promotion(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax itself mixes floats with int32 counts, which callers with strict promotion cannot trace."""

    def update(
        updates: Params, state: optax.OptState, params: Params = None
    ) -> tuple[Params, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)


def _scale_groups(factors: dict[str, float]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda label, u: factors[label] * u, groups(updates), updates)
    )


def _between(low: float, high: float, share: Array) -> Array:
    return low + (high - low) * share


def _half_cosine(share: Array) -> Array:
    """0 -> 0 and 1 -> 1 along half a cosine."""
    return 0.5 - 0.5 * jnp.cos(math.pi * share)


def _check(o: config.Optimizer) -> None:
    if not 0 <= o.whitening <= 1:
        raise config.ConfigError(f"optimizer.whitening={o.whitening}: a share of the run, from 0 to 1")
    if not 0 <= o.warmup < 1:
        raise config.ConfigError(f"optimizer.warmup={o.warmup}: a share of the run, at least 0 and below 1")
    if o.schedule in ("one_cycle", "triangular") and not o.warmup:
        raise config.ConfigError(
            f"optimizer.schedule={o.schedule} needs optimizer.warmup, the share of the run before the peak, e.g. 0.3"
        )
    if o.schedule == "piecewise" and not o.boundaries:
        raise config.ConfigError("optimizer.schedule=piecewise needs optimizer.boundaries, e.g. 0.5,0.75")
    if list(o.boundaries) != sorted(o.boundaries) or any(not 0 < b < 1 for b in o.boundaries):
        raise config.ConfigError(
            f"optimizer.boundaries={o.boundaries}: ascending shares of the run, between 0 and 1"
        )
    if isinstance(o.learning_rate, int | float) and o.learning_rate <= 0:
        raise config.ConfigError(f"optimizer.learning_rate={o.learning_rate}: must be above 0")
