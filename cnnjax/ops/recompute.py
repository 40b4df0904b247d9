"""Functions whose gradient computes them again, where memory is slower than arithmetic."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax

Function = Callable[..., Array]


def computed_again(function: Function, on_gpu: Function | None = None) -> Function:
    """`function` of arrays; on accelerators its gradient keeps nothing but them, on CPUs what autodiff keeps.

    Unlike jax.checkpoint, which is one thing for every platform. on_gpu: the same values in another form, for GPUs.
    """
    gpu = on_gpu or function

    @jax.custom_vjp
    def again(*args: Array) -> Array:
        return lax.platform_dependent(*args, cpu=function, tpu=function, default=gpu)

    def forward(*args: Array) -> tuple[Array, Any]:
        return again(*args), (args, jax.vjp(function, *args)[1])

    def backward(saved: Any, gradient: Array) -> tuple[Array, ...]:
        def kept(args: tuple[Array, ...], pull_back: Any, gradient: Array) -> tuple[Array, ...]:
            return pull_back(gradient)

        def anew(form: Function) -> Callable[..., tuple[Array, ...]]:
            def compute(args: tuple[Array, ...], _: Any, gradient: Array) -> tuple[Array, ...]:
                # Else XLA would see that it has computed this before, and keep it.
                args, gradient = lax.optimization_barrier((args, gradient))
                return jax.vjp(form, *args)[1](gradient)

            return compute

        return lax.platform_dependent(*saved, gradient, cpu=kept, tpu=anew(function), default=anew(gpu))

    again.defvjp(forward, backward)
    return again
