"""Which layers of a model are its head: those that other classes make anew."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict


def head_layers(model: Any, image_shape: Sequence[int]) -> frozenset[str]:
    """Paths of the layers whose weights have other shapes with another number of outputs; of a model whose outputs are
    fixed, the last layer that it calls. Images are [H, W, C]. Costs no arithmetic."""
    layers, shapes = _layers(model, image_shape)
    if getattr(model, "num_outputs", None):
        # Twice as many: of several anchors' outputs, too, each anchor has its share.
        _, others = _layers(model.clone(num_outputs=2 * model.num_outputs), image_shape)
        changed = {layer for layer, found in shapes.items() if others.get(layer) != found}
        if changed:
            return frozenset(changed)
    return frozenset(layers[-1:])


def _layers(model: Any, image_shape: Sequence[int]) -> tuple[list[str], dict[str, list[Any]]]:
    """Layers in the order in which they are called, and the shapes of the parameters of each."""
    order: list[str] = []

    def init(key: jax.Array) -> Any:
        params = model.init(key, jnp.zeros((1, *image_shape), jnp.float32))["params"]
        order.extend(dict.fromkeys("/".join(path[:-1]) for path in flatten_dict(params)))
        return params

    params = jax.eval_shape(init, jax.eval_shape(functools.partial(jax.random.key, 0)))
    shapes: dict[str, list[Any]] = {}
    for path, leaf in sorted(flatten_dict(params).items()):
        shapes.setdefault("/".join(path[:-1]), []).append((path[-1], leaf.shape))
    return order, shapes
