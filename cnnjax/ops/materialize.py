"""A way to tell XLA:CPU that a value is to be stored, not computed again."""

import jax
from jax import Array, lax


def materialize(x: Array) -> Array:
    """`x`; on CPU the compiler computes it, and its gradient, once and stores them.

    XLA:CPU fuses a chain of elementwise operations into every reader, as long as the last one has a single large
    operand. In a residual network the chain that leads to a layer holds all the blocks before it, and reading it
    for a weight's gradient took longer than the convolution. (An optimization_barrier is removed before fusion.)
    """
    return _materialize(x) if jax.default_backend() == "cpu" else x


@jax.custom_vjp
def _materialize(x: Array) -> Array:
    # Equal to x for every x, infinite and NaN included, in a form that the compiler does not see through and
    # whose last operation has two large operands.
    return lax.max(x, lax.min(x, lax.full_like(x, 0)))


_materialize.defvjp(lambda x: (_materialize(x), None), lambda _, gradient: (_materialize(gradient),))
