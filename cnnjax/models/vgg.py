"""VGG networks (Simonyan & Zisserman 2015)."""

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
    flatten,
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
    """

    num_outputs: int = 1000
    convs: tuple[int, ...] = VGG16
    width: int = 64
    hidden: tuple[int, ...] = (4096, 4096)
    grid: int = 7
    dropout: float = 0.5
    act: Activation = nn.relu
    norm: Norm | None = None
    pool: Pool = max_pool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, number in enumerate(self.convs, start=1):
            features = self.width * min(2 ** (i - 1), 8)
            for j in range(1, number + 1):
                x = conv(features, 3, padding=1, dtype=self.dtype, name=f"conv{i}_{j}")(x)
                if self.norm:
                    x = self.norm(train, name=f"bn{i}_{j}")(x)
                x = activate(self, f"conv{i}_{j}", x)
            x = stage(self, f"pool{i}", self.pool(x))
        x = flatten(adaptive_avg_pool(x, self.grid))
        for i, width in enumerate(self.hidden, start=6):
            dense = nn.Dense(width, kernel_init=he_init, dtype=self.dtype, name=f"fc{i}")
            x = activate(self, f"fc{i}", dense(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return stage(self, "logits", nn.Dense(self.num_outputs, dtype=self.dtype, name="output")(x))
