"""Which parts a model has: its variables, the stages in which its layers lie, norms that are held still. Costs no
arithmetic but within `still_norms`."""

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from cnnjax.models.layers import BatchNorm

Path = tuple[str, ...]
_BEFORE = "_pre_relu"  # ends the name of a stage that lies inside another: before its activation function


def variables_of(model: Any, image_shape: Sequence[int]) -> dict[str, str]:
    """The collection, such as "params", by the path of each variable in it: "block1_1/conv1/kernel"."""
    shapes = shapes_of(model, image_shape)
    return {"/".join(path): kind for kind, of in shapes.items() for path in flatten_dict(of)}


def stages_of_layers(model: Any, image_shape: Sequence[int]) -> dict[str, frozenset[str]]:
    """The stages in which each layer, "block1_1/conv1", lies: "stage1" if it is called after the stage before that one
    and so contributes to it; "trunk/model/stage1" inside of modules."""
    called: dict[Path, dict[Path, list[str]]] = {}  # of layers, by scope: the stages that were there already
    own: dict[Path, list[str]] = {}  # all stages, in their order

    def names(stages: Any, scope: Path) -> list[str]:
        for part in scope:
            stages = stages.get(part, {})
        return [name for name, value in stages.items() if not isinstance(value, Mapping)]

    def look(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = context.module.path
        if path and path not in called:
            stages = context.module.scope.root.variables().get("stages", {})
            called[path] = {path[:i]: names(stages, path[:i]) for i in range(len(path))}
        return next_fun(*args, **kwargs)

    def forward(variables: Any, images: Any) -> Any:
        with nn.intercept_methods(look):
            _, state = model.apply(variables, images, mutable=["stages"])
        for path in called:
            for i in range(len(path)):
                own[path[:i]] = names(state.get("stages", {}), path[:i])
        return state

    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(forward, shapes_of(model, image_shape), images)
    found = {}
    for path, before in called.items():
        nexts = {scope: [name for name in own[scope] if name not in there] for scope, there in before.items()}
        found["/".join(path)] = frozenset(
            "/".join((*scope, name[0].removesuffix(_BEFORE))) for scope, name in nexts.items() if name
        )
    return found


@contextlib.contextmanager
def still_norms(variables: Collection[str]) -> Iterator[None]:
    """While a model is applied: layers of batch normalization whose mean is among these variables, "bn1/mean",
    normalize by their running statistics, and keep them, in training too."""

    def hold(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        norm = isinstance(module, BatchNorm | nn.BatchNorm) and context.method_name == "__call__"
        if not norm or "/".join((*module.path, "mean")) not in variables:
            return next_fun(*args, **kwargs)
        # linen's takes it from the constructor or from the call, and refuses both.
        kwargs = {name: value for name, value in kwargs.items() if name != "use_running_average"}
        before = module.use_running_average
        object.__setattr__(module, "use_running_average", True)
        try:
            return next_fun(*args[:1], **kwargs)
        finally:
            object.__setattr__(module, "use_running_average", before)

    with nn.intercept_methods(hold):
        yield


def shapes_of(model: Any, image_shape: Sequence[int]) -> Any:
    """Shapes and types of the variables of a model that sees such images [H, W, C], by collection; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.eval_shape(functools.partial(jax.random.key, 0)), images)
