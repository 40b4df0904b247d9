"""Which parameters of a model learn, and which are its head."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
from jax import lax

from cnnjax.config import ConfigError, did_you_mean
from cnnjax.models.head import head_layers
from cnnjax.models.parts import stages_of_layers, variables_of

TRUNK = "trunk"  # all layers but the head, of a model without a part of that name


def frozen_variables(model: Any, image_shape: Sequence[int], patterns: Sequence[str]) -> frozenset[str]:
    """Paths of the variables, "conv1/kernel" and "bn1/mean", of layers that the patterns of optimizer.frozen name.

    A pattern names layers or variables by their path, "block1_1/conv1", with all below it; or by the stage in which
    they lie, "stage1". A "*" stands for anything. Raises ConfigError if one matches nothing, or nothing is left.
    """
    if not patterns:
        return frozenset()
    variables = variables_of(model, image_shape)
    stages = stages_of_layers(model, image_shape)
    frozen: set[str] = set()
    for pattern in patterns:
        found = {path for path in variables if _named(pattern, path, stages)}
        if not found and pattern == TRUNK:
            found = in_trunk(model, image_shape)
        if not found:
            known = {path.partition("/")[0] for path in variables} | {s for of in stages.values() for s in of}
            hint = did_you_mean(pattern, sorted(known), "--mode=summarize shows the layers")
            raise ConfigError(f"optimizer.frozen: {pattern!r} matches no layer, parameter or stage: {hint}")
        frozen |= found
    if all(path in frozen for path, kind in variables.items() if kind == "params"):
        raise ConfigError(f"optimizer.frozen={','.join(patterns)}: nothing is left to learn")
    return frozenset(frozen)


def in_trunk(model: Any, image_shape: Sequence[int]) -> set[str]:
    """Paths of all variables that are not of the head. Raises ConfigError if there are none."""
    head = head_layers(model, image_shape)
    found = {path for path in variables_of(model, image_shape) if path.rpartition("/")[0] not in head}
    if not found:
        raise ConfigError(
            f"this model has a head only ({', '.join(sorted(head))}), and no trunk to hold back"
        )
    return found


def has_statistics(model: Any, image_shape: Sequence[int]) -> bool:
    """Whether batch normalization, other than by constants, is anywhere in the model."""
    variables = variables_of(model, image_shape)
    means = [path for path, kind in variables.items() if kind == "batch_stats" and path.endswith("mean")]
    return any(variables.get(f"{path.removesuffix('mean')}bias") == "params" for path in means)


def without_gradient(params: Any, frozen: Collection[str]) -> Any:
    """The parameters, of which those with these paths are constants: what lies below them is not differentiated."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: lax.stop_gradient(leaf) if "/".join(part.key for part in path) in frozen else leaf,
        params,
    )


def _named(pattern: str, path: str, stages: Mapping[str, frozenset[str]]) -> bool:
    """Whether a variable, or what it lies in, has this name."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    names = [*above, *(stage for layer in above for stage in stages.get(layer, ()))]
    return any(fnmatchcase(name, pattern) for name in names)
