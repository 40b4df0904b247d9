"""Ways back through a ReLU. Forward they are all max(x, 0); g is the gradient that arrives from above.

plain       g where x > 0                               the derivative
guided      g where x > 0 and g > 0                     Springenberg et al. 2015
deconv      g where g > 0                               Zeiler & Fergus 2014
open        g                                           as if there were no ReLU
redirected  plain, but where it would block everything  lucid's, for units that are dead at the start
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Rule = Callable[[Array], Array]

REDIRECTED_STEPS = 16


def _rule(backward: Callable[[Array, Array], Array]) -> Rule:
    @jax.custom_vjp
    def relu(x: Array) -> Array:
        return jax.nn.relu(x)

    relu.defvjp(lambda x: (relu(x), x), lambda x, g: (backward(x, g),))
    return relu


def _where(condition: Array, g: Array) -> Array:
    return jnp.where(condition, g, jnp.zeros_like(g))


plain = _rule(lambda x, g: _where(x > 0, g))
guided = _rule(lambda x, g: _where((x > 0) & (g > 0), g))
deconv = _rule(lambda x, g: _where(g > 0, g))
open_ = _rule(lambda x, g: g)

RULES: dict[str, Rule] = {"plain": plain, "guided": guided, "deconv": deconv, "open": open_}


@jax.custom_vjp
def redirected(x: Array, step: Array) -> Array:
    """ReLU whose gradient, in steps 0 to 16, finds a way where the plain one is zero for a whole example.

    Then the gradient also passes negative inputs, except where descent would make them smaller still: g must be
    the gradient of something that is minimized. x: [N, ...]; step: integer scalar, may be traced.
    """
    return jax.nn.relu(x)


def _redirected_forward(x: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
    return redirected(x, step), (x, step)


def _redirected_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, None]:
    x, step = saved
    through = _where(x >= 0, g)
    redirected = _where((x >= 0) | (g <= 0), g)
    blocked = jnp.all(through == 0, axis=tuple(range(1, x.ndim)), keepdims=True)
    return jnp.where(blocked & (step <= REDIRECTED_STEPS), redirected, through), None


redirected.defvjp(_redirected_forward, _redirected_backward)


def is_relu(act: Any) -> bool:
    """Whether a model's field `act` computes max(x, 0)."""
    probe = np.asarray([-8.0, -1.0, 0.0, 0.5, 8.0], np.float32)
    return act is not None and bool(np.array_equal(act(jnp.asarray(probe)), np.maximum(probe, 0)))


def count_relus(function: Callable[..., Any], *arguments: Any) -> int:
    """How often max(., 0) occurs in the program of a function; nothing is computed."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    found = 0
    zeros = set()  # variables that hold a broadcast 0
    for equation in jaxpr.eqns:
        is_zero = [v in zeros if not hasattr(v, "val") else np.all(v.val == 0) for v in equation.invars]
        if equation.primitive.name == "broadcast_in_dim" and is_zero[0]:
            zeros.update(equation.outvars)
        found += equation.primitive.name == "max" and any(is_zero)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # a closed jaxpr holds an open one
                found += _count(inner) if hasattr(inner, "eqns") else 0
    return found
