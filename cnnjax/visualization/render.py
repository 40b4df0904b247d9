"""Feature visualization by optimization (Olah et al. 2017): parameters -> picture -> views -> model -> objective."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from cnnjax.config import ConfigError
from cnnjax.network import IMAGE, Network
from cnnjax.runtime import sharding
from cnnjax.visualization.addresses import relus, replace_act
from cnnjax.visualization.objectives import Objective, parse, stack
from cnnjax.visualization.parameterizations import Fourier, Parameterization
from cnnjax.visualization.relu_rules import redirected
from cnnjax.visualization.transforms import STANDARD, Transform

# The rate is lucid's. The decay keeps long runs from ending in pure black and white: amplitudes settle below 1 / 0.3,
# whatever the size of the objective, and those whose gradients only fluctuate fade.
ADAM = optax.adamw(0.05, weight_decay=0.3)

PATIENCE = 8  # steps without a gradient after which a unit counts as dead; one view may miss it


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A picture on its way from noise.

    frames: after so many updates, [N, H, W, C] floats in [0, 1]; 0 is the start.
    values: the objective of each frame, without transformations.
    transparency: [N, H, W], the gradient's size summed over all steps: what the objective cared about.
    alive: whether a gradient still reached the picture in one of the last steps. If not, the unit does not respond
      to anything near the picture, which shows nothing.
    """

    frames: dict[int, np.ndarray]
    values: dict[int, float]
    transparency: np.ndarray
    alive: bool

    @property
    def images(self) -> np.ndarray:
        """The last frame, [N, H, W, C]."""
        return self.frames[max(self.frames)]


class _State(NamedTuple):
    parameters: Any
    optimizer: Any
    transparency: Array
    silent: Array  # steps since the last gradient


def render(network: Network, objective: Objective | str, **options: Any) -> Rendering:
    """A picture that makes one objective large; see render_each."""
    return render_each(network, [objective], **options)[0]


def render_each(
    network: Network,
    objectives: Sequence[Objective | str],
    *,
    key: Array,
    steps: Sequence[int] = (512,),
    parameterization: Parameterization | None = None,
    transform: Transform = STANDARD,
    optimizer: optax.GradientTransformation = ADAM,
    batch: int = 1,
    start: Array | None = None,
    redirect: bool = True,
    chunk: int = 0,
) -> list[Rendering]:
    """One picture for each of several objectives of one form, such as the channels of a layer.

    They are optimized by one compiled program, `chunk` at a time, each as if it were alone: all start from the same
    noise and see the same transformations. The result is a function of the arguments.

    objectives: as objects, or as addresses such as "conv2:3".
    steps: numbers of updates after which a frame is kept; 0 keeps the start.
    parameterization: of [N, H, W, C] pictures; Fourier of the network's image shape by default.
    batch: pictures that share an objective, for those that compare pictures.
    start: parameters to start from, as `parameterization.init` or `encode` gives them.
    redirect: let gradients pass dead ReLUs in the first steps, where the model's ReLUs can be replaced.
    chunk: objectives at a time; 0: 16, or 2 on a CPU, whose caches more of them leave.

    Raises ConfigError for layers, channels or sizes that the network does not have.
    """
    if not steps or min(steps) < 0:
        raise ConfigError(f"steps={tuple(steps)}: give one or more numbers of updates, 0 or more")
    parsed = [(parse(network, o) if isinstance(o, str) else o).check(network) for o in objectives]
    shown = parameterization or Fourier(network.image_shape)
    replaced, missed = relus(network)
    settings = _Options(transform, optimizer, max(steps), redirect and replaced > 0 and missed == 0)
    start_key, key = jax.random.split(key)
    if start is None:
        start = shown.init(start_key, batch)
    renderings: list[Rendering] = []
    mesh = sharding.evaluation_mesh()
    size = min(chunk or (2 if sharding.on_cpu(mesh) else 16), len(parsed))
    for first in range(0, len(parsed), size):
        group = parsed[first : first + size]
        padded = group + [group[-1]] * (size - len(group))  # one shape, one program
        done = _optimize(network, stack(padded), size, shown, settings, start, key, steps, mesh)
        renderings += done[: len(group)]
    return renderings


class _Options(NamedTuple):
    """What is compiled into the program."""

    transform: Transform
    optimizer: optax.GradientTransformation
    total: int
    redirect: bool


class _Frame(NamedTuple):
    steps: int
    images: np.ndarray
    values: np.ndarray


def _optimize(
    network: Network,
    objectives: Objective,
    count: int,
    parameterization: Parameterization,
    options: _Options,
    start: Any,
    key: Array,
    steps: Sequence[int],
    mesh: Mesh,
) -> list[Rendering]:
    objectives = _spread(objectives, mesh)
    state = _begin(parameterization, options, start, count)
    frames = []
    done = 0
    for target in sorted(set(steps)):
        if sharding.on_cpu(mesh):  # a loop inside the program would slow convolutions down
            for step in range(done, target):
                state = _update(network, objectives, parameterization, options, key, state, jnp.int32(step))
        elif target > done:
            state = _advance(network, objectives, parameterization, options, key, state, done, target)
        done = target
        images, values = jax.device_get(_look(network, objectives, parameterization, state))
        frames.append(_Frame(done, images, values))
    transparency, silent = jax.device_get((state.transparency, state.silent))
    return [
        Rendering(
            frames={frame.steps: frame.images[i] for frame in frames},
            values={frame.steps: float(frame.values[i]) for frame in frames},
            transparency=transparency[i],
            alive=done == 0 or int(silent[i]) < min(done, PATIENCE),
        )
        for i in range(count)
    ]


def _spread(objectives: Any, mesh: Mesh) -> Any:
    """Over the devices, if their number divides that of the objectives; nothing is exchanged between them."""
    count = jax.tree.leaves(objectives)[0].shape[0] if jax.tree.leaves(objectives) else 1
    if mesh.size == 1 or count % mesh.size:
        return objectives
    return jax.device_put(objectives, sharding.sharded(mesh, 0))


@functools.partial(jax.jit, static_argnames=("options", "count"))
def _begin(parameterization: Parameterization, options: _Options, start: Any, count: int) -> _State:
    shape = jax.eval_shape(parameterization.image, start).shape
    state = _State(start, options.optimizer.init(start), jnp.zeros(shape[:3]), jnp.int32(0))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)


def _step(
    network: Network,
    objective: Objective,
    parameterization: Parameterization,
    options: _Options,
    key: Array,
    state: _State,
    step: Array,
) -> _State:
    """One update of the picture of one objective."""
    if options.redirect:
        network = replace_act(network, functools.partial(redirected, step=step))

    def loss(images: Array) -> Array:
        progress = step.astype(jnp.float32) / options.total
        views = options.transform(jax.random.fold_in(key, step), images, progress)
        return -objective({**network.stages(views), IMAGE: images})

    images, pull_back = jax.vjp(parameterization.image, state.parameters)
    slope = jax.grad(loss)(images)
    (gradient,) = pull_back(slope)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats with int32 counts
        updates, optimizer = options.optimizer.update(gradient, state.optimizer, state.parameters)
    transparency = state.transparency + jnp.mean(jnp.abs(slope), axis=-1)
    silent = jnp.where(jnp.any(slope != 0), 0, state.silent + 1)
    return _State(optax.apply_updates(state.parameters, updates), optimizer, transparency, silent)


@functools.partial(jax.jit, static_argnames="options", donate_argnames="state")
def _update(network, objectives, parameterization, options, key, state, step):
    return jax.vmap(_step, in_axes=(None, 0, None, None, None, 0, None))(
        network, objectives, parameterization, options, key, state, step
    )


@functools.partial(jax.jit, static_argnames="options", donate_argnames="state")
def _advance(network, objectives, parameterization, options, key, state, first, last):
    def body(step: Array, state: _State) -> _State:
        return _update(network, objectives, parameterization, options, key, state, step)

    return jax.lax.fori_loop(first, last, body, state)


@jax.jit
def _look(network, objectives, parameterization, state):
    def look(objective: Objective, parameters: Any) -> tuple[Array, Array]:
        images = parameterization.image(parameters)
        return images, objective(network.stages(images))

    return jax.vmap(look)(objectives, state.parameters)
