"""VGG networks (Simonyan & Zisserman 2015)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import (
    Activation,
    Norm,
    Pool,
    activate,
    adaptive_avg_pool,
    conv,
    fully_connected,
    he_init,
    max_pool,
    stage,
)

# 3x3 convolutions in each of the five stages: configurations A, B, D and E of the paper's table 1.
VGG11 = (1, 1, 2, 2, 2)
VGG13 = (2, 2, 2, 2, 2)
VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """3x3 convolutions and pools, then fc6 and fc7. VGG16 has 138,357,544 parameters.

    `norm` adds batch normalization before each ReLU of the convolutions. The last map is averaged to `grid` x
    `grid`, which changes nothing for the paper's 224x224 images and lets other sizes fit. The form for CIFAR
    has no hidden fully connected layers and grid=1.

    With `dense` it takes larger images, without that average, and gives the outputs of every window, 224 pixels at
    stride 32 (the paper's section 3.2; see ops/dense.py). Across their borders windows see their neighbours, where
    the network was trained on zeros; `padded=False` leaves the zeros out, which shrinks the maps, and then each
    output is exactly that of its window alone.
    """

    num_outputs: int | None = 1000
    convs: tuple[int, ...] = VGG16
    width: int = 64
    hidden: tuple[int, ...] = (4096, 4096)
    grid: int = 7
    dropout: float = 0.5
    act: Activation = nn.relu
    norm: Norm | None = None
    pool: Pool = max_pool
    padded: bool = True
    dense: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, number in enumerate(self.convs, start=1):
            features = self.width * min(2 ** (i - 1), 8)
            for j in range(1, number + 1):
                x = conv(features, 3, padding=int(self.padded), dtype=self.dtype, name=f"conv{i}_{j}")(x)
                if self.norm:
                    x = self.norm(train, name=f"bn{i}_{j}")(x)
                x = activate(self, f"conv{i}_{j}", x)
            x = stage(self, f"pool{i}", self.pool(x))
        if self.num_outputs is None:
            return x
        window = self.grid
        if not self.dense:
            x = adaptive_avg_pool(x, self.grid)
        fc = partial(fully_connected, dense=self.dense, dtype=self.dtype)
        for i, width in enumerate(self.hidden, start=6):
            x = activate(self, f"fc{i}", fc(x, width, window=window, kernel_init=he_init, name=f"fc{i}"))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            window = 1
        return stage(self, "logits", fc(x, self.num_outputs, window=window, name="output"))
