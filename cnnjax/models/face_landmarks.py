"""The networks of face-api.js that place 68 points on a face."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import Activation, avg_pool, class_scores, conv, flatten, stage


class FaceLandmarks(nn.Module):
    """[N, 112, 112, 3] -> [N, 136]: x0, y0, x1, ... of 68 points as shares of the image.

    Blocks of `convs` 3x3 convolutions, all but the first of the network depthwise and pointwise, the first of each
    block with stride 2; each convolution sees the rectified sum of the outputs before it in its block. An average over
    `window` and a fully connected layer follow. 356,840 parameters; 77,224 of the tiny one, which has three blocks of
    three and a window of 14. Stages: dense0, dense1, ..., pool, logits.
    """

    num_outputs: int | None = 136
    features: tuple[int, ...] = (32, 64, 128, 256)
    convs: int = 4
    window: int = 7
    act: Activation = nn.relu
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for i, features in enumerate(self.features):
            name = f"dense{i}"
            total = (
                self._full(f"{name}_conv0", x) if i == 0 else self._separable(f"{name}_conv0", x, features, 2)
            )
            total = self.act(total)
            x = total
            for j in range(1, self.convs):
                total = total + self._separable(f"{name}_conv{j}", x, features)
                x = self.act(total)
            x = stage(self, name, x)
        return class_scores(self, flatten(stage(self, "pool", avg_pool(x, self.window, 2))))

    def _full(self, name: str, x: Array) -> Array:
        return conv(self.features[0], 3, 2, dtype=self.dtype, name=name)(x)

    def _separable(self, name: str, x: Array, features: int, stride: int = 1) -> Array:
        channels = x.shape[-1]
        depthwise = conv(
            channels,
            3,
            stride,
            use_bias=False,
            feature_group_count=channels,
            dtype=self.dtype,
            name=f"{name}_depthwise",
        )
        return conv(features, 1, dtype=self.dtype, name=name)(depthwise(x))
