"""How exactly products and convolutions of float32 are computed where a device has several ways."""

import contextlib

import jax


def products_of(precision: str) -> contextlib.AbstractContextManager[None]:
    """What is traced within computes its products in this way, their gradients too, unless a product says itself how.

    "highest" is float32. A TPU's "default" is one pass of bfloat16, "high" three; a GPU may compute both in TF32, of
    ten bits. A CPU always computes in float32. "default" leaves it to JAX and what was set in it.
    """
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)
