"""The train state and the pure train step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from cnnjax.augment.augment import augment, resize
from cnnjax.augment.draws import keys_of
from cnnjax.config import is_on
from cnnjax.data import buckets
from cnnjax.data.images import FRAMING, PADDING
from cnnjax.network import Apply
from cnnjax.ops.sums import sum_of_squares
from cnnjax.runtime import sharding
from cnnjax.tasks import Batch
from cnnjax.tasks.metrics import Sums, sums_and_counts
from cnnjax.tasks.task import total_loss
from cnnjax.training import gradient, parts
from cnnjax.training.recipe import Recipe

INIT, AUGMENT, DROPOUT, TASK = range(4)  # the streams of random numbers of a run
_LARGE = 2**19  # numbers in an array, to read which takes a GPU longer than to start a kernel
Metrics = dict[str, Array]
Arrays = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes while training. The position in the data is `step`: there is no iterator to save."""

    step: Array  # int32: batches so far; with optimizer.accumulate so many of them make an update
    params: Any
    model_state: Any  # collections besides the parameters, such as batch_stats
    opt_state: Any
    ema: Any  # moving average of params and model_state, or {} without one
    seed: Array  # int32: all randomness of the run, the order of its data too, comes from it and the step

    @property
    def variables(self) -> dict[str, Any]:
        """What evaluation uses: the averaged weights where there are any."""
        return self.ema or {"params": self.params, **self.model_state}


def init_state(
    recipe: Recipe, image_shape: tuple[int, ...], seed: Array, images: Array | None = None
) -> TrainState:
    """A fresh state; pure, so `jax.eval_shape` of it costs nothing.

    `images`, uint8 [N, H, W, C] of the training split, are looked at by models that begin with their statistics.
    """
    variables = recipe.model.init(stream(seed, INIT), jnp.zeros((1, *image_shape), jnp.float32))
    if images is not None and hasattr(recipe.model, "initialize_from"):
        variables = recipe.model.initialize_from(variables, recipe.preprocessing(images))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        opt_state=recipe.optimizer.init(params),
        # A copy, for two leaves of a donated state must not share a buffer.
        ema=jax.tree.map(jnp.copy, {"params": params, **variables}) if is_on(recipe.ema) else {},
        seed=seed,
    )


def train_step(
    recipe: Recipe, state: TrainState, batch: Batch, mesh: Mesh | None = None
) -> tuple[TrainState, Metrics]:
    """One update. Pure: jit, donation and sharding are the caller's.

    The mesh, over which the batch is split, is needed only to keep parts of it apart (Recipe.norm_parts).

    `batch` holds uint8 "image" [N, H, W, C], the targets of the task, and "index" and "epoch" [N], which give each
    example a key of its own. Metrics are means over the batch; "skipped" is 1 where a recipe that skips did.
    """
    batch = augmented(recipe, batch, stream(state.seed, AUGMENT))
    dropout_key = jax.random.fold_in(stream(state.seed, DROPOUT), state.step)
    task_key = jax.random.fold_in(stream(state.seed, TASK), state.step)

    keys = (dropout_key, task_key)

    def loss_fn(
        params: Any, batch: Batch, keys: gradient.Keys
    ) -> tuple[Array, tuple[tuple[Any, Metrics], Sums]]:
        params = jax.tree.map(_as_stored, params)
        variables = {"params": parts.without_gradient(params, recipe.frozen), **state.model_state}
        apply = Apply(recipe.model, variables, recipe.preprocessing, True, keys[0], recipe.frozen)
        outputs = recipe.task.forward(apply, batch, keys[1])
        losses = recipe.task.loss(outputs, batch)
        named = losses if isinstance(losses, Mapping) else {}
        means = {f"loss/{name}": jnp.mean(part) for name, part in named.items()}
        everyone = jnp.ones(len(batch["image"]), bool)
        sums = sums_and_counts(recipe.task.metrics(jax.lax.stop_gradient(outputs), batch), everyone)
        loss = recipe.loss_scale * jnp.mean(total_loss(losses))
        return loss, ((apply.changed, means), sums)

    with recipe.arithmetic.used():
        if recipe.norm_parts == 1:
            found = gradient.whole(loss_fn, state, batch, keys)
        else:
            found = gradient.in_parts(loss_fn, state, batch, keys, recipe.norm_parts, mesh)
    loss, (model_state, means), sums, grads = found
    if recipe.loss_scale != 1:
        loss, grads = jax.tree.map(lambda a: a / recipe.loss_scale, (loss, grads))
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    variables = {"params": optax.apply_updates(state.params, updates), **model_state}
    variables, ema = _averaged(recipe, state, variables, opt_state)
    params = variables.pop("params")
    metrics = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
    metrics |= means | {"loss": loss, "grad_norm": jnp.sqrt(sum_of_squares(grads))}
    new = TrainState(
        step=state.step + 1,
        params=params,
        model_state=variables,
        opt_state=opt_state,
        ema=ema,
        seed=state.seed,
    )
    if recipe.skip_nonfinite:
        finite = is_finite(new, metrics)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        new = dataclasses.replace(kept, step=new.step)
        metrics["skipped"] = 1 - finite.astype(jnp.float32)
    return new, metrics


def _as_stored(weight: Array) -> Array:
    """A weight; it and its gradient meet the network in the layout in which weights are stored.

    Else XLA computes the whole update in that of the library's convolutions, and turns all of a kernel's state there
    and back.
    """
    if weight.ndim < 3:
        return weight
    return jax.lax.optimization_barrier(weight.reshape(-1)).reshape(weight.shape)


def is_finite(state: TrainState, metrics: Metrics) -> Array:
    """Whether a step went well: its loss, its gradient and all of its new state, which a finite gradient may blow up.

    The sum of squares must be finite: weights beyond that are numbers still, but none to go on with.
    """
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # Else XLA computes what is small anew from the old state, and copies that before it is overwritten. What is large
    # it sums in the same pass.
    floats = [leaf if leaf.size >= _LARGE else jax.lax.optimization_barrier(leaf) for leaf in floats]
    # The sum of what is not finite is not finite either.
    finite = jnp.isfinite(metrics["loss"] + metrics["grad_norm"] + sum_of_squares(floats))
    return finite & (metrics["skipped"] == 0) if "skipped" in metrics else finite


def stream(seed: Array, name: int) -> Array:
    """The root key of one stream of random numbers."""
    return jax.random.fold_in(jax.random.key(seed), name)


def augmented(recipe: Recipe, batch: Batch, root: Array) -> Batch:
    """The batch with its images changed at random, float32 of 0 to 255; each example by a key of its own.

    Last of all it is resized to the frame of the recipe, if that has one.
    """
    keys = keys_of(root, batch["epoch"], batch["index"])
    batch = buckets.cut(batch, recipe.bucket) if recipe.bucket else batch
    batch = {**batch, "image": batch["image"].astype(jnp.float32)}
    mean_pixel = 255 * jnp.asarray(recipe.preprocessing.in_rgb(recipe.preprocessing.mean), jnp.float32)
    fill = PADDING if recipe.preprocessing.resize in FRAMING else 0
    changed = augment(recipe.augment, batch, keys, mean_pixel, fill)
    return resize(changed, recipe.frame) if recipe.frame else changed


def _averaged(
    recipe: Recipe, state: TrainState, variables: dict[str, Any], opt_state: Any
) -> tuple[dict[str, Any], Any]:
    """What training goes on with after a batch, and the moving average of it over the updates.

    Early on the average forgets faster, so that the initial weights do not linger. With lookahead (Zhang et al.
    2019; the schedule is airbench's) both are the same every few updates, and the average rests in between.
    """
    if not is_on(recipe.ema):
        return variables, {}
    # Where batches are accumulated into updates, the optimizer counts those.
    before, done = (optax.tree.get(of, "gradient_step", None) for of in (state.opt_state, opt_state))
    before, done = (state.step, state.step + 1) if before is None else (before, done)
    if not recipe.lookahead:
        step = before.astype(jnp.float32)
        keep = jnp.minimum(recipe.ema, (1 + step) / (10 + step))
        return variables, _mix(jnp.where(done > before, keep, 1.0), state.ema, variables)
    keep = recipe.ema**recipe.lookahead * (done / recipe.num_updates) ** 3
    look = (done % recipe.lookahead == 0) & (done > before)
    ema = _mix(jnp.where(look, keep, 1.0), state.ema, variables)
    return jax.tree.map(lambda average, new: jnp.where(look, average, new), ema, variables), ema


def _mix(keep: Array, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, old, new)


def for_each_seed(fn: Callable[..., Any], *trees: Any, unroll: bool = True) -> Any:
    """Applies `fn` to every slice along the leading axis (seeds) of the trees and stacks the results.

    One after the other, or under vmap where the caller compiles for accelerators: XLA:CPU runs the grouped
    convolutions of a vmap far slower.
    """
    seeds = jax.tree.leaves(trees)[0].shape[0]
    if seeds > 1 and not unroll:
        return jax.vmap(fn)(*trees)
    results = [fn(*jax.tree.map(lambda a, i=i: a[i], trees)) for i in range(seeds)]
    return jax.tree.map(lambda *a: jnp.stack(a), *results)


def init_states(
    recipe: Recipe,
    image_shape: tuple[int, ...],
    seeds: Array | np.ndarray,
    images: Array | None = None,
    unroll: bool = True,
) -> TrainState:
    """Fresh states of all seeds [S], stacked along a leading axis."""
    return for_each_seed(lambda seed: init_state(recipe, image_shape, seed, images), seeds, unroll=unroll)


def compile_init(recipe: Recipe, image_shape: tuple[int, ...], mesh: Mesh) -> Callable[..., TrainState]:
    """The jitted `init(seeds, images)` of all seeds; its result is replicated."""
    # Runs once, and its many random draws are slow to optimize: on CPU longer than a training step is.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    on_cpu = sharding.on_cpu(mesh)
    return jax.jit(
        functools.partial(init_states, recipe, image_shape, unroll=on_cpu),
        out_shardings=sharding.replicated(mesh),
        compiler_options=quick if on_cpu else None,
    )


def compile_steps(
    recipe: Recipe, mesh: Mesh, streamed: bool = False, donate: bool = True, unroll: bool | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted `steps(state, arrays, index, epoch, count)`: one update for each row of index and epoch
    [K, seeds, batch], or on accelerators for the first `count` of them.

    `arrays` hold all training examples, best as resident.Rows, from which a step takes its batch; `streamed`: just the
    batch.

    `state` has a leading axis of seeds, is replicated and, with `donate`, gone afterwards; the batch is split over
    the mesh. Metrics are [K, seeds], without meaning from `count` on; "finite" says of each step whether it is. One program serves every count.
    unroll: as in for_each_seed; None: on CPUs.
    """
    on_cpu = sharding.on_cpu(mesh)
    unroll = on_cpu if unroll is None else unroll
    # float64 on the host: sliced, each is the number itself; under vmap it is rounded to float32 as a constant would be.
    values = {name: np.array(of) for name, of in (recipe.varied.values if recipe.varied else {}).items()}

    def one(state: TrainState, arrays: Arrays, index: Array, epoch: Array) -> tuple[TrainState, Metrics]:
        def of_seed(
            state: TrainState, index: Array, epoch: Array, values: Mapping[str, Any]
        ) -> tuple[TrainState, Metrics]:
            batch = batch_of(arrays, index, epoch, streamed)
            new, metrics = train_step(recipe.of_seed(values), state, batch, mesh)
            return new, {**metrics, "finite": is_finite(new, metrics)}

        return for_each_seed(of_seed, state, index, epoch, values, unroll=unroll)

    @functools.partial(
        jax.jit, donate_argnums=(0,) if donate else (), out_shardings=sharding.replicated(mesh)
    )
    def steps(
        state: TrainState, arrays: Arrays, index: Array, epoch: Array, count: Array | None = None
    ) -> tuple[TrainState, Metrics]:
        if index.shape[0] == 1:
            state, metrics = one(state, arrays, index[0], epoch[0])
            return state, jax.tree.map(lambda a: a[None], metrics)
        if on_cpu:  # XLA:CPU optimizes convolutions only outside loops
            return jax.lax.scan(
                lambda state, rows: one(state, arrays, *rows), state, (index, epoch), unroll=True
            )
        shapes = jax.eval_shape(one, state, arrays, index[0], epoch[0])[1]
        empty = jax.tree.map(lambda a: jnp.zeros((index.shape[0], *a.shape), a.dtype), shapes)

        def step(i: Array, carried: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = one(carried[0], arrays, index[i], epoch[i])
            return state, jax.tree.map(lambda all, a: all.at[i].set(a), carried[1], metrics)

        return jax.lax.fori_loop(0, len(index) if count is None else count, step, (state, empty))

    return steps


def batch_of(arrays: Arrays, index: Array, epoch: Array, streamed: bool) -> Batch:
    """What `train_step` takes: the examples of index [batch] of all, or those that were streamed."""
    batch = arrays if streamed else {k: v[index] for k, v in arrays.items()}
    return {**batch, "index": index, "epoch": epoch}
