"""The model zoo: one explicit table. Outside this package nothing imports linen."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cnnjax.models import classic, grid

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": classic.LeNet5,
    "sliding_window": grid.SlidingWindow,
    # Grid detectors, by the pixels per cell.
    "grid8": partial(grid.GridNet, widths=(16, 32, 64), blocks=(0, 1, 2)),
    "grid16": grid.GridNet,
    "grid32": partial(grid.GridNet, widths=(16, 32, 64, 128, 256), blocks=(0, 1, 2, 2, 1)),
    "yolov1": grid.YoloV1,
}


def create_model(name: str, num_outputs: int, dtype: str = "float32") -> nn.Module:
    """A model of the table: a linen module with `init(key, x)` and `apply(variables, x, train=...)`.

    Weights are float32; `dtype` is what the layers compute in.
    """
    return MODELS[name](num_outputs=num_outputs, dtype=jnp.dtype(dtype))
