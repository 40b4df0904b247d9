"""Recurrent networks that read an image row by row, from top to bottom, as a sequence."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.config import ConfigError
from cnnjax.models.layers import class_scores, stage

CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "lstm": nn.OptimizedLSTMCell,  # Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000)
    "gru": nn.GRUCell,  # Cho et al. 2014, with the reset gate after the product, as cuDNN and torch have it
}


class RowReader(nn.Module):
    """LSTM or GRU over the rows of images [N, H, W, C]; a row is a vector of W * C numbers.

    The class is read off the state after the last row; of a bidirectional reader, off this and the state after the
    first row of a second reader that goes upwards. Stages: rows1, rows2, ... (the states of each layer after each
    row, [N, H, features]), state, logits.

    An LSTM's forget gates begin training with a bias of `forget_bias`, as is usual: with 0 they would halve what is
    remembered at each row (Gers et al. 2000; Jozefowicz et al. 2015, section 3.2).
    """

    num_outputs: int | None = 10
    cell: str = "lstm"
    hidden: int = 128
    layers: int = 1
    bidirectional: bool = False
    forget_bias: float = 1.0
    dtype: jnp.dtype = jnp.float32

    def initialize_from(self, variables: Mapping[str, Any], images: Array) -> dict[str, Any]:
        """The initial variables with the biases of the forget gates; `images` have no influence."""

        def begin(path: Any, value: Array) -> Array:
            names = [key.key for key in path[-2:]]
            return jnp.full_like(value, self.forget_bias) if names == ["hf", "bias"] else value

        return cast(dict[str, Any], jax.tree_util.tree_map_with_path(begin, dict(variables)))

    @nn.compact
    def __call__(self, x: Array, train: bool = False, rows: Array | None = None) -> Array:
        """`rows` int [N]: how many rows of each image count, at least 1. What is below changes nothing."""
        if self.cell not in CELLS:
            raise ConfigError(f"cell={self.cell!r}: choose one of {', '.join(CELLS)}")
        count = x.shape[0], x.shape[1]
        lengths = jnp.full(count[:1], count[1], jnp.int32) if rows is None else rows
        x = x.reshape(*count, -1).astype(self.dtype)
        for i in range(1, self.layers + 1):
            x = stage(self, f"rows{i}", self._layer(f"{self.cell}{i}", x, lengths))
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        if self.bidirectional:  # the upward reader ends at the first row
            last = jnp.concatenate([last[:, : self.hidden], x[:, 0, self.hidden :]], axis=-1)
        return class_scores(self, stage(self, "state", last))

    def _layer(self, name: str, x: Array, lengths: Array) -> Array:
        """The states after each row, [N, H, hidden], of both directions [N, H, 2 * hidden]; zero below `lengths`."""

        def reader(name: str, reverse: bool) -> Array:
            def start(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
                return jnp.zeros(shape, self.dtype)

            cell = CELLS[self.cell](self.hidden, dtype=self.dtype, carry_init=start, name=name)
            return cast(Array, nn.RNN(cell, reverse=reverse, keep_order=True)(x, seq_lengths=lengths))

        states = reader(name, False)
        if self.bidirectional:
            states = jnp.concatenate([states, reader(f"{name}_up", True)], axis=-1)
        counts = jnp.arange(x.shape[1])[None] < lengths[:, None]
        return jnp.where(counts[..., None], states, 0)
