"""What a training step needs on a device that is not here: its memory, kernels, traffic, arithmetic and exchanges."""

import collections
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data import sources
from cnnjax.inspect.program import Kernel, collectives, kernels, layer_of, parse
from cnnjax.ops import onednn
from cnnjax.runs import convolutions
from cnnjax.runs.plan import Given, with_statistics
from cnnjax.runs.refusals import check_names
from cnnjax.runtime import compile_for, sharding
from cnnjax.training.recipe import Recipe, make_recipe
from cnnjax.training.resident import as_rows
from cnnjax.training.step import compile_steps, init_states

_SHOWN = 12
_LAYER_WIDTH = 44
_UNNAMED = "of unknown layers"  # XLA:CPU forgets the names of gradients of kernels


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training step is compiled from: an experiment that lacks nothing, and its training split without contents."""

    experiment: Experiment
    classes: tuple[str, ...]
    split: dict[str, jax.ShapeDtypeStruct]
    given: Given = Given()

    @property
    def bytes(self) -> int:
        return sum(array.size * array.dtype.itemsize for array in self.split.values())


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """A compiled training step of one update, on each of its devices.

    arguments: bytes of the state and the data; temporary: of all that lives within the step; peak: of both, and of
    results that take no place of an argument. donated: bytes of arguments whose place results take. exchanges: by
    kind, such as "all-reduce", number and bytes.
    """

    target: compile_for.Target
    experiment: Experiment
    arguments: int
    temporary: int
    peak: int
    donated: int
    kernels: tuple[Kernel, ...]
    exchanges: dict[str, tuple[int, int]]
    streamed: bool
    text: str  # the program itself

    def __str__(self) -> str:
        return describe(self)

    @property
    def num_kernels(self) -> int:
        return sum(kernel.times for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(kernel.times * kernel.bytes for kernel in self.kernels)

    @property
    def flops(self) -> int:
        return sum(kernel.times * kernel.flops for kernel in self.kernels)

    @property
    def seconds(self) -> float:
        """By the roofline of the device's data sheet, kernel after kernel; exchanges between devices come on top."""
        return sum(self.seconds_of(kernel) for kernel in self.kernels)

    def seconds_of(self, kernel: Kernel) -> float:
        chip = self.target.chip
        return kernel.seconds(chip.bandwidth, chip.half, chip.single)

    @property
    def single_products(self) -> list[Kernel]:
        """Kernels with convolutions or matrix products of float32."""
        return [kernel for kernel in self.kernels if "f32" in kernel.products]


def describe_training(experiment: Experiment, data_dir: str | None, given: Given | None = None) -> Training:
    """The training split by its shapes alone where it is one of tensorflow-datasets, which need not be here; else read.

    given: what a program brings itself; its data are looked at where it has some.

    Raises ConfigError as reading does, and for data sets with boxes that are not here.
    """
    given = given or Given()
    experiment = given.named(experiment)
    given.check(experiment)
    check_names(experiment)
    data = experiment.data
    if given.data or any(one.kind for one in sources.parse(data.name)):
        dataset = given.data or sources.load(data, data_dir)
        split = {name: _shape_of(array) for name, array in dataset.train.items()}
        return Training(with_statistics(experiment, dataset, given.task), dataset.classes, split, given)
    if experiment.task != "classification":
        raise ConfigError(
            f"--device reads the boxes of task={experiment.task} from files: give --data.name=voc:, coco: or yolo:PATH"
        )
    shape = sources.image_shape(data, data_dir)
    if not data.mean:
        unknown = {"data.mean": (0.5,) * shape[2], "data.std": (0.25,) * shape[2]}
        experiment = config.replace(experiment, unknown)
    count, classes = sources.labelled_training(data, data_dir)
    image, label = (count, *shape), (count,)
    split = {"image": jax.ShapeDtypeStruct(image, np.uint8), "label": jax.ShapeDtypeStruct(label, np.int32)}
    return Training(experiment, classes, split, given)


def compile_training(training: Training, target: compile_for.Target, late: bool = False) -> StepCosts:
    """The training step of one update, compiled for the devices of `target` as `launch.py` would there.

    late: the last of a run, of an experiment that has a program of its own for these.

    A training split that takes more than half of a device's memory counts as streamed. Raises DoesNotFit if the
    program does not fit a device, with what would.
    """
    experiment = training.experiment
    data = experiment.data
    mesh = sharding.make_mesh(data.batch_size, experiment.train.data_parallel, target.devices)
    streamed = data.stream or training.bytes > target.chip.memory / 2
    recipe = _recipe(training, num_steps=1000)
    recipe = recipe.programs[-1] if late else recipe
    step, arguments = _step(training, recipe, mesh, streamed)
    try:
        compiled = compile_for.compile_step(step, target, *arguments)
    except compile_for.DoesNotFit as error:
        hint = _hint(data.batch_size, error.needed, error.room)
        raise compile_for.DoesNotFit(target, error.needed, error.room, hint) from error
    memory, text = compiled.memory_analysis(), compiled.as_text()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    costs = StepCosts(
        target=target,
        experiment=experiment,
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes + memory.temp_size_in_bytes + max(0, new),
        donated=memory.alias_size_in_bytes,
        kernels=tuple(kernels(text, target.is_tpu)),
        exchanges=collectives(text),
        streamed=streamed,
        text=text,
    )
    room = target.chip.memory
    if costs.peak > room:
        hint = _hint(data.batch_size, costs.temporary, room - (costs.peak - costs.temporary))
        raise compile_for.DoesNotFit(target, costs.peak, room, hint)
    return costs


def convolutions_here(training: Training) -> dict[str, collections.Counter[str]]:
    """Whose convolutions the training step has on this CPU: by layer, as in `layer_of`, how many of "oneDNN" and "XLA".

    Those with a kernel of one pixel, which XLA makes matrix products of, are not among them. Raises ConfigError where
    this process computes on an accelerator.
    """
    experiment = training.experiment
    mesh = sharding.make_mesh(experiment.data.batch_size, experiment.train.data_parallel)
    if not sharding.on_cpu(mesh):
        raise ConfigError(
            "device=cpu: this process computes on an accelerator; with JAX_PLATFORMS=cpu it does not"
        )
    shape = training.split["image"].shape
    num_steps = config.total_steps(experiment.train, shape[0], experiment.data.batch_size)
    recipe = convolutions.for_training(_recipe(training, num_steps), experiment, shape[1:], num_steps, mesh)
    step, arguments = _step(training, recipe, mesh, experiment.data.stream)
    found: dict[str, collections.Counter[str]] = {}
    for computation in parse(step.lower(*arguments).compile().as_text()).values():
        for one in computation:
            whose = (
                "oneDNN" if onednn.TARGET in one.attributes else "XLA" if one.opcode == "convolution" else ""
            )
            if whose:
                found.setdefault(layer_of(one.label), collections.Counter())[whose] += 1
    return found


def describe_convolutions(training: Training) -> str:
    """`convolutions_here` as lines of text."""
    found = convolutions_here(training)
    total = sum(found.values(), collections.Counter())
    rows = {layer or _UNNAMED: _counted(found[layer]) for layer in sorted(found, key=lambda layer: not layer)}
    width = max(map(len, rows), default=0)
    head = f"convolutions of a training step, batch {training.experiment.data.batch_size}, on this CPU: "
    lines = [f"  {layer:<{width}}  {counts}" for layer, counts in rows.items()]
    return "\n".join([head + (_counted(total) or "none"), *lines])


def _counted(whose: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(whose.items()))


def _recipe(training: Training, num_steps: int) -> Recipe:
    """Of the largest images, where a run has several sizes."""
    given, image_shape = training.given, training.split["image"].shape[1:]
    recipe = make_recipe(
        training.experiment, training.classes, image_shape, num_steps, given.model, given.task
    )
    return max(recipe.sized, key=lambda one: one.frame or one.bucket or (0, 0), default=recipe)


def _step(training: Training, recipe: Recipe, mesh: Mesh, streamed: bool) -> tuple[Any, tuple[Any, ...]]:
    """The step of one update, and abstract arguments for it."""
    batch_size, seeds = training.experiment.data.batch_size, training.experiment.train.seeds
    everywhere, by_rows = sharding.replicated(mesh), sharding.sharded(mesh, 2)
    batch = sharding.sharded(mesh, 0) if streamed else everywhere
    state = jax.eval_shape(
        functools.partial(init_states, recipe, training.split["image"].shape[1:]),
        jax.ShapeDtypeStruct((seeds,), np.int32),
    )
    if streamed:
        arrays = {name: _placed(array, batch, batch_size) for name, array in training.split.items()}
    else:
        held = jax.eval_shape(as_rows, training.split)
        arrays = jax.tree.map(lambda a: _placed(a, batch), held)
    rows = jax.ShapeDtypeStruct((1, seeds, batch_size), np.int32, sharding=by_rows)
    state = jax.tree.map(lambda a: _placed(a, everywhere), state)
    return compile_steps(recipe, mesh, streamed), (state, arrays, rows, rows)


def describe(costs: StepCosts) -> str:
    """The costs as lines of text: totals, memory, exchanges, and the kernels that take longest."""
    chip, experiment = costs.target.chip, costs.experiment
    data = experiment.data
    count = len(costs.target.devices)
    each = f", on each of {count} devices" if count > 1 else ""
    roofline = f"roofline of {chip.bandwidth / 1e12:.3g} TB/s and {chip.half / 1e12:.0f} TFLOP/s"
    lines = [
        f"a training step on {costs.target.name}, batch {data.batch_size}, {experiment.model.dtype}{each}:",
        f"  {costs.num_kernels:,} kernels, {_rounded(costs.bytes / 1e9)} GB, {_rounded(costs.flops / 1e12)} TFLOP, "
        f"{_rounded(1e3 * costs.seconds)} ms ({roofline})",
        f"  memory: {_gb(costs.arguments)} arguments, {_gb(costs.temporary)} temporary, {_gb(costs.peak)} at the "
        f"peak of {_gb(chip.memory)}",
    ]
    if costs.streamed and not data.stream:
        lines.append("  the training images do not fit: counted as streamed (--mode=prepare, --data.stream)")
    for kind, (number, size) in sorted(costs.exchanges.items()):
        lines.append(f"  {number:,} {kind}{'s' * (number > 1)} of {_rounded(size / 1e6)} MB")
    if experiment.model.dtype != "float32":
        named = sorted({kernel.layer for kernel in costs.single_products})
        lines += [f"  products of float32: {', '.join(named)}"] if named else []
    if experiment.model.precision != "default":
        lines.append(
            f"  precision={experiment.model.precision}: products of float32 take longer than these times, which count "
            "them as by default, in TF32 or one pass of bfloat16"
        )
    lines.append("  the kernels that take longest:")
    head = ("ms", "MB", "GFLOP", "layer", "kernel")
    lines.append(f"  {head[0]:>9}{head[1]:>10}{head[2]:>10}  {head[3]:<{_LAYER_WIDTH}}  {head[4]}")
    for kernel in sorted(costs.kernels, key=costs.seconds_of, reverse=True)[:_SHOWN]:
        layer = kernel.layer[-_LAYER_WIDTH:]
        lines.append(
            f"  {1e3 * costs.seconds_of(kernel):>9.4f}{kernel.times * kernel.bytes / 1e6:>10,.1f}"
            f"{kernel.times * kernel.flops / 1e9:>10,.1f}  {layer:<{_LAYER_WIDTH}}  {kernel.name}"
        )
    return "\n".join(lines)


def _hint(batch_size: int, temporary: float, room: float) -> str:
    """What would fit: a batch smaller by a power of two, with which temporary memory shrinks, or more devices."""
    batch = batch_size
    while batch > 1 and temporary * batch > room * batch_size:
        batch //= 2
    fits = f"--data.batch_size={batch} should fit" if room > 0 else "the state and the data alone do not fit"
    return f"; {fits}, or more devices share the batch"


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _placed(array: Any, where: Any, rows: int | None = None) -> jax.ShapeDtypeStruct:
    shape = array.shape if rows is None else (rows, *array.shape[1:])
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=where)


def _gb(number: int) -> str:
    return f"{_rounded(number / 1e9)} GB"


def _rounded(number: float) -> str:
    """Two places behind the point, or two digits of what is smaller than one."""
    return f"{number:,.2f}" if number >= 1 else f"{number:.2g}"
