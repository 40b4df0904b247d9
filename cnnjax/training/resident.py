"""Training examples that lie on the devices, in a form from which a batch is gathered at once."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Arrays of one shape, each of them a row; indexed as what it stands for, [N, *shape].

    A TPU keeps images [N, H, W, C] with N innermost, and would turn all of them around for each call that gathers some.
    """

    values: Any  # [N, numbers of a row]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, index: Any) -> Array:
        found: Array = self.values[index]
        return found.reshape(*found.shape[:-1], *self.shape)


def as_rows(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The same with arrays [N, ..., ...], of the host, as `Rows`, which costs no copy."""
    return {
        name: Rows(a.reshape(len(a), math.prod(a.shape[1:])), a.shape[1:]) if a.ndim > 2 else a
        for name, a in arrays.items()
    }
