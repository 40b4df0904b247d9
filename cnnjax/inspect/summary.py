"""What a model costs, layer by layer: shapes, parameters, memory, multiply-adds, receptive fields."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from cnnjax.config import ConfigError, Experiment
from cnnjax.data import sources
from cnnjax.drawing import figures
from cnnjax.inspect.dataflow import Stage, trace_stages
from cnnjax.models import Model, create_model
from cnnjax.models.parts import shapes_of
from cnnjax.network import Network
from cnnjax.runtime import sharding

IMAGE = "image"
MAX_BARS = 60  # with more layers, the figure adds up those of a block


@dataclasses.dataclass(frozen=True)
class Summary:
    """Costs of a model for one image. The first row is the image itself.

    Activation memory counts the output of each named layer once, in the precision in which it is computed:
    activation functions and normalizations work in place. That is how published tables count; what a compiler
    really allocates is in `compiler_costs`.
    """

    rows: tuple[Stage, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activations(self) -> int:
        """Values, with those of the image."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        return sum(row.bytes for row in self.rows)


def summarize(model: Model, input_shape: tuple[int, int, int]) -> Summary:
    """Traces the model on one image [height, width, channels]; nothing is computed or allocated.

    Raises ConfigError if the images do not fit the model.
    """
    image = Stage(IMAGE, tuple(input_shape), 4 * math.prod(input_shape), 0, 0, receptive_field=1, stride=1)
    try:
        stages = trace_stages(model, input_shape)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, ConfigError):
            raise
        shape = "x".join(map(str, input_shape))
        raise ConfigError(f"images of {shape} do not fit this model: {str(error).splitlines()[0]}") from error
    return Summary((image, *stages))


def text_table(summary: Summary) -> str:
    """The rows and their totals, aligned; memory in decimal units, receptive field and stride in pixels."""
    head = ("layer", "output", "parameters", "memory", "multiply-adds", "field", "stride")
    body = [
        (
            row.name,
            "x".join(map(str, row.shape)),
            f"{row.parameters:,}",
            _bytes(row.bytes),
            f"{row.multiply_adds:,}",
            "all" if row.receptive_field is None else str(row.receptive_field),
            "" if row.stride is None else str(row.stride),
        )
        for row in summary.rows
    ]
    total = (
        "total",
        f"{summary.activations:,} values",
        f"{summary.parameters:,}",
        _bytes(summary.activation_bytes),
        f"{summary.multiply_adds:,}",
        "",
        "",
    )
    widths = [max(len(line[i]) for line in (head, *body, total)) for i in range(len(head))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_line(head, widths), rule, *(_line(line, widths) for line in body), rule, _line(total, widths)]
    return "\n".join(lines)


def bar_figure(summary: Summary, title: str = "") -> Figure:
    """Activation memory and parameters of each layer side by side: where its memory is, and its weights.

    With more than 60 rows, the layers inside a block are added up.
    """
    rows = (
        _blocks(summary.rows)
        if len(summary.rows) > MAX_BARS
        else [(r.name, r.bytes, r.parameters) for r in summary.rows]
    )
    names = [name for name, _, _ in rows]
    figure = Figure(figsize=(11, 1.6 + 0.2 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(names, [memory / 1e6 for _, memory, _ in rows], color="tab:blue")
    left.set(xlabel="activation memory of one image [MB]")
    right.barh(names, [parameters / 1e6 for _, _, parameters in rows], color="tab:orange")
    right.set(xlabel="parameters [millions]")
    left.invert_yaxis()
    left.set_ylim(len(rows) - 0.5, -0.5)
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    totals = f"{summary.activation_bytes / 1e6:,.2f} MB of activations, {summary.parameters:,} parameters"
    figure.suptitle(f"{title}: {totals}" if title else totals)
    return figure


def compiler_costs(model: Model, input_shape: tuple[int, int, int], batch_size: int = 1) -> dict[str, float]:
    """What XLA says of the compiled evaluation of a batch on the default device. Compiling takes seconds."""
    images = jax.ShapeDtypeStruct((batch_size, *input_shape), jnp.float32)
    return compiled_costs(jax.jit(model.apply).lower(shapes_of(model, input_shape), images).compile())


def compiled_costs(compiled: jax.stages.Compiled) -> dict[str, float]:
    """What XLA says of a compiled program.

    flops: arithmetic operations, a multiply-add being two; bytes_accessed: memory traffic. bytes of arguments
    (weights and images), output and temporaries (activations alive together). What a backend does not report
    is left out: some report no flops.
    """
    analysis: Any = compiled.cost_analysis() or {}
    if isinstance(analysis, Sequence):
        analysis = analysis[0] if analysis else {}
    costs = {"flops": analysis.get("flops", 0.0), "bytes_accessed": analysis.get("bytes accessed", 0.0)}
    memory = compiled.memory_analysis()
    if memory is not None:
        costs["argument_bytes"] = memory.argument_size_in_bytes
        costs["output_bytes"] = memory.output_size_in_bytes
        costs["temporary_bytes"] = memory.temp_size_in_bytes
    return {name: float(value) for name, value in costs.items() if value > 0}


def _blocks(rows: Sequence[Stage]) -> list[tuple[str, int, int]]:
    """Name, memory and parameters of the layers, those of a block ("block1_2/sum") added up."""
    blocks: dict[str, tuple[int, int]] = {}
    for row in rows:
        name = row.name.split("/")[0]
        memory, parameters = blocks.get(name, (0, 0))
        blocks[name] = (memory + row.bytes, parameters + row.parameters)
    return [(name, *values) for name, values in blocks.items()]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names and shapes to the left, numbers to the right."""
    aligned = [
        cell.ljust(w) if i < 2 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} B"


def summarize_experiment(
    experiment: Experiment, data_dir: str | None, ask_compiler: bool, picture: str | None
) -> str:
    """The table of an experiment's model on one image, as text; `picture` names a file for its bars."""
    shape = sources.image_shape(experiment.data, data_dir)
    named = experiment.model
    model = create_model(named.name, dtype=named.dtype, options=named.options)
    costs = summarize(model, shape)
    text = text_table(costs)
    if ask_compiler:
        found = compiler_costs(model, shape)
        computer = "CPU" if sharding.process_on_cpu() else "accelerator"
        lines = [f"  {name:<16}{value:>20,.0f}" for name, value in found.items()]
        text += "\n".join(["", f"the compiler on this {computer}, for one image:", *lines])
    if picture:
        figures.write(bar_figure(costs, experiment.model.name), picture)
    return text


def list_layers(network: Network) -> str:
    """Names and shapes of all stages, a line each."""
    layers = network.layers()
    width = max(map(len, layers))
    return "\n".join(f"{name:<{width}}  {'x'.join(map(str, shape))}" for name, shape in layers.items())
