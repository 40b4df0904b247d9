"""How products and convolutions of float32 are computed where a device has several ways."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from cnnjax.ops import onednn


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """precision: as in `products_of`. onednn: convolutions by oneDNN where a program for a CPU of one device is compiled."""

    precision: str = "default"
    onednn: bool = False

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """What is traced within is computed so; where this leaves a choice open, as is said around it."""
        with products_of(self.precision), onednn.used() if self.onednn else contextlib.nullcontext():
            yield


AS_IT_IS = Arithmetic()


def products_of(precision: str) -> contextlib.AbstractContextManager[None]:
    """What is traced within computes its products in this way, their gradients too, unless a product says itself how.

    "highest" is float32. A TPU's "default" is one pass of bfloat16, "high" three; a GPU may compute both in TF32, of
    ten bits. A CPU always computes in float32. "default" leaves it to JAX and what was set in it.
    """
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)
