"""One hidden layer, connected in three ways: all to all, locally, and locally with shared weights."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import Activation, activate, flatten, he_init, stage


class OneHiddenLayer(nn.Module):
    """The lecture's comparison of what a layer over a 200x200 image costs, as networks that train.

    connections="full": as many hidden units as pixels, each connected to all pixels: 1.6e9 weights.
    connections="local": four 10x10 filters of its own at every pixel: 16e6 weights.
    connections="shared": the same four 10x10 filters at every pixel, a convolution: 400 weights.

    The counts are of the module "layer", which has no biases. Stages: layer, logits.
    """

    num_outputs: int = 10
    connections: str = "shared"
    features: int = 4
    kernel: int = 10
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        size = (self.kernel, self.kernel)
        options: dict[str, Any] = {
            "use_bias": False,
            "kernel_init": he_init,
            "dtype": self.dtype,
            "name": "layer",
        }
        if self.connections == "full":
            x = nn.Dense(x.shape[1] * x.shape[2], **options)(flatten(x))
        elif self.connections == "local":
            x = nn.ConvLocal(self.features, size, **options)(x)
        else:
            x = nn.Conv(self.features, size, **options)(x)
        x = activate(self, "layer", x)
        return stage(self, "logits", nn.Dense(self.num_outputs, dtype=self.dtype, name="output")(flatten(x)))
