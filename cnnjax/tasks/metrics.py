"""Metrics as sums and counts, so that their value does not depend on how examples are split into batches."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

Sums = dict[str, tuple[Array, Array]]


# A value per example, [N], or such values and which of the examples they are defined for, bool [N].
Values = Mapping[str, Array | tuple[Array, Array]]


def sums_and_counts(values: Values, mask: Array) -> Sums:
    """Sums each value over the examples that `mask` [N] counts and for which it is defined."""

    def total(value: Array, where: Array) -> tuple[Array, Array]:
        return jnp.sum(jnp.where(where, value, 0.0)), jnp.sum(where.astype(jnp.float32))

    return {
        name: total(value[0], mask & value[1]) if isinstance(value, tuple) else total(value, mask)
        for name, value in values.items()
    }


def means(sums: Sums) -> dict[str, float]:
    """On the host: the mean of each scalar metric."""
    return {name: float(total) / max(float(count), 1.0) for name, (total, count) in sums.items()}


def in_top_k(logits: Array, labels: Array, k: int) -> Array:
    """Whether the label is among the k classes of the highest scores, [N] of 0.0 and 1.0.

    Of equal scores the lower index comes first, as in `jax.lax.top_k` and `argmax`. Not finite is never right.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=1)
    lower = jnp.arange(logits.shape[1])[None] < labels[:, None]
    before = (logits > score) | ((logits == score) & lower)
    rank = jnp.sum(before.astype(jnp.int32), axis=1)
    return ((rank < k) & jnp.isfinite(score[:, 0])).astype(jnp.float32)
