"""Where the first value that is not finite appeared in a training step."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array

from cnnjax.network import Apply
from cnnjax.tasks import Batch
from cnnjax.tasks.task import total_loss
from cnnjax.training.recipe import Recipe
from cnnjax.training.step import AUGMENT, DROPOUT, TASK, TrainState, augmented, stream  # fmt: skip


def first_appearance(recipe: Recipe, state: TrainState, batch: Batch) -> str:
    """Says in a few words in which part of a step, given what `train_step` was given, it first appeared.

    Looks, in the order of computation, at the weights, the images after augmentation, the named stages of the
    network, the losses of the examples, and at the gradients: of the stages, last one first, and of the weights.
    """
    names: list[str] = []

    @jax.jit
    def look(state: TrainState, batch: Batch) -> tuple[Array, Array]:
        places = _places(recipe, state, batch)
        names[:] = places  # in this order: jit would sort them
        counts = [jnp.sum(~jnp.isfinite(a)) for a in places.values()]
        largest = [_largest(a) for a in places.values()]
        return jnp.stack(counts), jnp.stack(largest)

    counts, largest = jax.device_get(look(state, batch))
    bad = counts.nonzero()[0]
    if not len(bad):
        return "computed again layer by layer, every value is finite"
    at = int(bad[0])
    text = f"the first such value is in {names[at]} ({counts[at]:,} in all)"
    if names[at].startswith(("the layer", "the losses")):
        text += f"; what goes in reaches {largest[at - 1]:.2g} in {names[at - 1]}"
    return text


class _Watched(Apply):
    """Keeps the named stages of what it was last called with."""

    stages: dict[str, Any]

    def __call__(self, images: Array, **more: Any) -> Any:
        return self.with_stages(images, **more)[0]

    def with_stages(self, images: Array, **more: Any) -> tuple[Any, dict[str, Any]]:
        outputs, self.stages = super().with_stages(images, **more)
        return outputs, self.stages


def _places(recipe: Recipe, state: TrainState, batch: Batch) -> dict[str, Array]:
    """What a training step computes, by the name under which a user knows it, in the order of computation."""
    dropout = jax.random.fold_in(stream(state.seed, DROPOUT), state.step)
    batch = augmented(recipe, batch, stream(state.seed, AUGMENT))
    key = jax.random.fold_in(stream(state.seed, TASK), state.step)

    def forward(params: Any, perturbations: Any) -> tuple[Array, Any]:
        variables = {"params": params, **state.model_state, "perturbations": perturbations}
        apply = _Watched(recipe.model, variables, recipe.preprocessing, True, dropout, recipe.frozen)
        losses = total_loss(recipe.task.loss(recipe.task.forward(apply, batch, key), batch))
        return jnp.mean(losses), (losses, apply.stages)

    # The gradient with respect to a zero that is added to a stage is that with respect to the stage.
    shapes = jax.eval_shape(lambda params: forward(params, {})[1][1], state.params)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    differentiate = jax.grad(forward, argnums=(0, 1), has_aux=True)
    (of_weights, of_stages), (losses, stages) = differentiate(state.params, zeros)
    layers = flatten_dict(dict(stages), sep="/")
    gradients = flatten_dict(dict(of_stages), sep="/")
    return {
        **{f"the weights {name}": a for name, a in flatten_dict(dict(state.params), sep="/").items()},
        **{f"the statistics {name}": a for name, a in flatten_dict(dict(state.model_state), sep="/").items()},
        "the images after augmentation": recipe.preprocessing(batch["image"]),
        **{f"the layer {name}": a for name, a in layers.items()},
        "the losses": losses,
        **{f"the gradient of the layer {name}": gradients[name] for name in reversed(layers)},
        **{
            f"the gradient of the weights {name}": a
            for name, a in flatten_dict(dict(of_weights), sep="/").items()
        },
    }


def _largest(a: Array) -> Array:
    """The largest absolute value of those that are finite."""
    a = a.astype(jnp.float32)
    return jnp.max(jnp.where(jnp.isfinite(a), jnp.abs(a), 0), initial=0)
