"""A fixed number of candidates, with a certain share of positive ones, for a loss that most would swamp."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Sample(NamedTuple):
    """`count` slots, those of positive candidates first."""

    indices: Array  # [count] int32, of candidates
    positive: Array  # [count] bool
    valid: Array  # [count] bool: False where there were not enough candidates


def sample(positive: Array, negative: Array, count: int, share: float, key: Array | None = None) -> Sample:
    """`count` of N candidates, at most `share` of them positive and all others negative, as many as there are.

    Positive ones lie in the first int(share * count) slots only. Chosen are random ones, or without a key the first.
    Both masks are bool [N]; a candidate in neither is never chosen.
    """
    candidates = len(positive)
    order = -jnp.arange(candidates, dtype=jnp.float32)
    priority = order if key is None else jax.random.uniform(key, (candidates,))

    def first(members: Array, most: int) -> tuple[Array, Array]:
        """The `most` members of highest priority, padded, and how many they are."""
        most = min(most, candidates)
        _, indices = jax.lax.top_k(jnp.where(members, priority, -jnp.inf), most)
        padded = jnp.pad(indices.astype(jnp.int32), (0, count - most))
        return padded, jnp.minimum(jnp.sum(members, dtype=jnp.int32), most)

    of_positive, positives = first(positive, int(count * share))
    of_negative, negatives = first(negative, count)
    slot = jnp.arange(count, dtype=jnp.int32)
    is_positive = slot < positives
    indices = jnp.where(is_positive, of_positive, jnp.roll(of_negative, positives))
    return Sample(indices, is_positive, slot < positives + negatives)
