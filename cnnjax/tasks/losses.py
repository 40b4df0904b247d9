"""Losses as functions of one batch; each returns one value per example, which the caller sums and counts."""

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import is_on


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Cross-entropy of softmax(logits) [N, K] with integer labels [N]; in nats, [N].

    Label smoothing spreads its share of the target evenly over all K classes (Szegedy et al. 2016, section 7).
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # Not picked by index: the gradient of that is a scatter, on accelerators three kernels more.
    chosen = labels[:, None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)[None]
    picked = jnp.sum(jnp.where(chosen, log_p, 0.0), axis=-1)
    if not is_on(label_smoothing):  # 0 times the logarithm of a probability of 0 would be NaN
        return -picked
    return -(1 - label_smoothing) * picked - label_smoothing * jnp.mean(log_p, axis=-1)
