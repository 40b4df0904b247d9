"""Helpers of the model tests."""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models import create_model


def abstract(name, shape, **kwargs):
    """Shapes of variables, logits and stages for two images, without computing anything."""
    model = create_model(name, **kwargs)
    key, x = jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(model.init, key, x)
    logits, state = jax.eval_shape(lambda v, x: model.apply(v, x, mutable=["stages"]), variables, x)
    return variables, logits, flax.traverse_util.flatten_dict(state["stages"], sep="/")


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(model, x, seed=0):
    """Variables of the right shapes that keep activations of order one; quicker than a compiled init."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            local = path[-2].key.startswith("local")
            fan_in = leaf.shape[-2] if local else np.prod(leaf.shape[:-1])
            value = rng.normal(0, np.sqrt(2 / fan_in), leaf.shape)
        elif name in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.normal(0, 0.1, leaf.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))
