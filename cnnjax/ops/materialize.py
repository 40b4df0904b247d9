"""A way to tell XLA:CPU that a value is to be stored, not computed again."""

import jax
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def materialize(x: Array) -> Array:
    """`x`; compiled for a CPU it is computed, and its gradient too, once and stored.

    XLA:CPU fuses a chain of elementwise operations into every reader, as long as the last one has a single large
    operand. In a residual network the chain that leads to a layer holds all the blocks before it, and reading it
    for a weight's gradient took longer than the convolution. (An optimization_barrier is removed before fusion.)
    """
    return _materialize(x)


def _opaque(x: Array) -> Array:
    # Equal to x for every x, infinite and NaN included, in a form that the compiler does not see through and
    # whose last operation has two large operands.
    return lax.max(x, lax.min(x, lax.full_like(x, 0)))


# An operation of its own, for what it is must be decided where a program is made for a platform, not where it is traced.
_stored = Primitive("materialize")
_stored.def_impl(lambda x: x)
_stored.def_abstract_eval(lambda x: x)
batching.defvectorized(_stored)
mlir.register_lowering(_stored, lambda _, x: [x])
mlir.register_lowering(_stored, mlir.lower_fun(_opaque, multiple_results=False), platform="cpu")


@jax.custom_vjp
def _materialize(x: Array) -> Array:
    return _stored.bind(x)


_materialize.defvjp(lambda x: (_materialize(x), None), lambda _, gradient: (_materialize(gradient),))
