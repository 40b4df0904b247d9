"""The model zoo: one explicit table. Outside this package nothing imports linen."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from cnnjax.models import classic, grid

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": classic.LeNet5,
    "sliding_window": grid.SlidingWindow,
}


def create_model(name: str, num_outputs: int, dtype: str = "float32") -> nn.Module:
    """A model of the table: a linen module with `init(key, x)` and `apply(variables, x, train=...)`.

    Weights are float32; `dtype` is what the layers compute in.
    """
    return MODELS[name](num_outputs=num_outputs, dtype=jnp.dtype(dtype))
