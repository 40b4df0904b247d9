"""Metrics as sums and counts, so that their value does not depend on how examples are split into batches."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

Sums = dict[str, tuple[Array, Array]]


def sums_and_counts(values: Mapping[str, Array], mask: Array) -> Sums:
    """Sums each per-example value [N, ...] over the examples that `mask` [N] counts."""

    def total(value: Array) -> Array:
        weight = mask.reshape((-1,) + (1,) * (value.ndim - 1))
        return jnp.sum(jnp.where(weight, value, jnp.zeros((), value.dtype)), axis=0)

    count = jnp.sum(mask.astype(jnp.float32))
    return {name: (total(value), count) for name, value in values.items()}


def means(sums: Sums) -> dict[str, float]:
    """On the host: the mean of each scalar metric."""
    return {name: float(total) / max(float(count), 1.0) for name, (total, count) in sums.items()}


def in_top_k(logits: Array, labels: Array, k: int) -> Array:
    """Whether fewer than k classes score above the label's, [N] of 0.0 and 1.0. Not finite is never right."""
    score = jnp.take_along_axis(logits, labels[:, None], axis=1)
    rank = jnp.sum((logits > score).astype(jnp.int32), axis=1)
    return ((rank < k) & jnp.isfinite(score[:, 0])).astype(jnp.float32)
