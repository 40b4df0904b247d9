"""Whose convolutions a CPU computes with: XLA's, which are compiled once for all runs, or oneDNN's, which are faster."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.models.parts import shapes_of
from cnnjax.network import Network
from cnnjax.ops import onednn
from cnnjax.runtime import sharding
from cnnjax.training.recipe import Recipe

# FLOP: two to three minutes of a core. oneDNN saves about a fifth of that, and takes some seconds to compile at each start.
_WORTH_COMPILING = 1e13


def for_training(
    recipe: Recipe, experiment: config.Experiment, image_shape: tuple[int, ...], num_steps: int, mesh: Mesh
) -> Recipe:
    """`chosen` for a run of so many steps."""
    seen = 3 * num_steps * experiment.data.batch_size * experiment.train.seeds
    return chosen(recipe, experiment.model, image_shape, seen, mesh)


def chosen(
    recipe: Recipe, model: config.Model, image_shape: tuple[int, ...], images: int, mesh: Mesh
) -> Recipe:
    """The recipe with the convolutions that `model.convolutions` asks for.

    images: how many the network is to see, a gradient counting as two more.
    """
    asked = model.convolutions
    possible = asked != "xla" and sharding.on_cpu(mesh) and mesh.size == 1 and model.dtype == "float32"
    if not possible:
        return recipe
    if asked == "auto" and images * _flops(recipe, image_shape, images) <= _WORTH_COMPILING:
        return recipe
    if not onednn.available():  # last, for it compiles a program at each start
        return recipe
    return recipe.computed_by(dataclasses.replace(recipe.arithmetic, onednn=True))


def _flops(recipe: Recipe, image_shape: tuple[int, ...], images: int) -> float:
    """Of one image forward; or a bound of them that says already that the work is small."""
    variables = shapes_of(recipe.model, image_shape)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    most = 2.0 * numbers * image_shape[0] * image_shape[1]  # each weight once at each place
    if images * most <= _WORTH_COMPILING:
        return most
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    program = jax.jit(Network.outputs).lower(recipe.network(variables, image_shape), image)
    costs = program.cost_analysis()
    return float(costs["flops"]) if costs else 0.0
