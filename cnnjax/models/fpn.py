"""Feature pyramid networks (Lin et al. 2017): what a trunk says at every scale, with the meaning of the last."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from cnnjax.models.layers import conv


class FPN(nn.Module):
    """Maps [N, H_l, W_l, C_l] of a trunk, finest first -> as many maps with `features` channels, of the same sizes.

    From the coarsest down, each map is enlarged by repetition and added to the next finer one. `pooled_level`: one
    more map at the end, every second place of the coarsest, for the largest anchors (section 4.1).
    """

    features: int = 256
    pooled_level: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Array]) -> list[Array]:
        levels: list[Array] = []
        above: Array | None = None
        for i in reversed(range(len(maps))):
            inner = conv(self.features, 1, padding=0, dtype=self.dtype, name=f"inner{i + 1}")(maps[i])
            above = inner if above is None else inner + enlarge(above, inner.shape[1], inner.shape[2])
            levels.insert(0, conv(self.features, 3, padding=1, dtype=self.dtype, name=f"layer{i + 1}")(above))
        return [*levels, levels[-1][:, ::2, ::2]] if self.pooled_level else levels


def enlarge(x: Array, rows: int, columns: int) -> Array:
    """[N, h, w, C] -> [N, rows, columns, C] by repetition: nearest values, also where a stride has rounded up."""
    for axis, length in ((1, rows), (2, columns)):
        x = jnp.repeat(x, -(-length // x.shape[axis]), axis=axis)
    return x[:, :rows, :columns]
