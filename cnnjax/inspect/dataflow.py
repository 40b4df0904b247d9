"""What a model computes between its named stages, from its traced program: nothing is run or allocated."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from cnnjax.models import Model
from cnnjax.models.parts import shapes_of

# An axis over positions of the image: position i sees pixels i * stride + first to i * stride + last.
Field = tuple[int, int, int]  # first, last, stride
Fields = Mapping[int, Field]


@dataclasses.dataclass(frozen=True)
class Flow:
    """How a value depends on the image and the parameters.

    `fields` belong to axes of the value; `whole`: it sees the whole image, as after a global mean. `origin`
    is the step of the program that made it, or below zero -1 - i for input i of the program.
    """

    of_image: bool = False
    of_parameters: bool = False
    fields: Fields = dataclasses.field(default_factory=dict)
    whole: bool = False
    origin: int = 0


@dataclasses.dataclass(frozen=True)
class Stage:
    """One named stage for one image, and what is used and computed for it since the stage before.

    receptive_field and stride are in pixels, the larger of height and width; None where the whole image is
    seen.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int
    parameters: int
    multiply_adds: int
    receptive_field: int | None
    stride: int | None


def trace_stages(model: Model, input_shape: tuple[int, int, int]) -> list[Stage]:
    """The named stages of a model in the order of computation, for evaluation of one image [H, W, C].

    A parameter and a multiplication count for the first stage that is complete after their use. Multiply-adds
    are those of convolutions and matrix products with parameters. Values before an activation function
    (..._pre_relu) are no stages of their own; a value of two names is one stage, under the shorter path.
    """
    image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = shapes_of(model, input_shape)

    def named(variables: Any, image: Any) -> Any:
        return model.apply(variables, image, mutable=["stages"])[1]["stages"]

    program, result = jax.make_jaxpr(named, return_shape=True)(variables, image)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    inputs = [Flow(of_parameters=True, origin=-1 - i) for i in range(len(leaves))]
    walk = _Walk()
    flows = walk.run(
        program.jaxpr, [*inputs, Flow(True, fields={1: (0, 0, 1), 2: (0, 0, 1)}, origin=-1 - len(leaves))]
    )
    made: dict[int, tuple[str, Any, Flow]] = {}  # by step: name, shape, flow
    for (path, value), flow in zip(jax.tree_util.tree_leaves_with_path(result), flows, strict=True):
        name = "/".join(part.key for part in path)
        if not name.endswith("_pre_relu"):
            best = made.get(flow.origin, (name,))[0]
            made[flow.origin] = (min(name, best, key=lambda n: (n.count("/"), n)), value, flow)
    stages, done = [], 0
    trainable = {-1 - i: leaf.size for i, (path, leaf) in enumerate(leaves) if path[0].key == "params"}
    for step in sorted(made):
        name, value, flow = made[step]
        axes = [(last - first + 1, stride) for first, last, stride in flow.fields.values()]
        size, stride = (None, None) if flow.whole else max(axes, default=(None, None))
        stages.append(
            Stage(
                name=name,
                shape=value.shape[1:],
                bytes=value.size * value.dtype.itemsize,
                parameters=sum(
                    n for leaf, n in trainable.items() if done < walk.first_use.get(leaf, 0) <= step
                ),
                multiply_adds=sum(n for at, n in walk.multiply_adds if done < at <= step),
                receptive_field=size,
                stride=stride,
            )
        )
        done = step
    return stages


class _Walk:
    """Follows a program step by step, into called programs, and notes what is used and computed when."""

    def __init__(self) -> None:
        self.step = 0
        self.first_use: dict[int, int] = {}  # origin of an input -> step
        self.multiply_adds: list[tuple[int, int]] = []  # step, number

    def run(self, program: Jaxpr, inputs: Sequence[Flow]) -> list[Flow]:
        known: dict[Any, Flow] = dict(zip(program.invars, inputs, strict=True))

        def flow_of(atom: Any) -> Flow:
            return Flow() if isinstance(atom, Literal) else known.get(atom, Flow())

        for equation in program.eqns:
            flows = [flow_of(atom) for atom in equation.invars]
            called = _called_program(equation)
            if called is not None:
                outputs = self.run(called, flows[len(flows) - len(called.invars) :])
            else:
                self.step += 1
                for flow in flows:
                    if flow.origin < 0:
                        self.first_use.setdefault(flow.origin, self.step)
                outputs = [
                    _flow(equation, flows, getattr(out.aval, "shape", ()), self.step)
                    for out in equation.outvars
                ]
                number = _multiply_adds(equation, flows)
                if number:
                    self.multiply_adds.append((self.step, number))
            known.update(zip(equation.outvars, outputs, strict=True))
        return [flow_of(atom) for atom in program.outvars]


def _called_program(equation: Any) -> Jaxpr | None:
    """The program inside jit, custom_jvp and the like, run once on the same inputs; not that of loops.

    Of a choice between platforms, whose first input is their number, it is the last one's, which is for all others.
    """
    if equation.params.get("branches_platforms"):
        return equation.params["branches"][-1].jaxpr
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    for value in equation.params.values():
        program = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(program, Jaxpr) and len(program.invars) == len(equation.invars):
            return program
    return None


def _multiply_adds(equation: Any, flows: Sequence[Flow]) -> int:
    """Of a convolution or matrix product of something that depends on the image with parameters; else 0."""
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name not in ("conv_general_dilated", "dot_general"):
        return 0
    left, right = flows
    if not (left.of_image and right.of_parameters or left.of_parameters and right.of_image):
        return 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return out.size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    kernel = equation.invars[1].aval
    return out.size * kernel.size // kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]


def _flow(equation: Any, flows: Sequence[Flow], shape: tuple[int, ...], step: int) -> Flow:
    """Of one output: the union of what the inputs see, each moved by the rule of the operation."""
    parameters = any(flow.of_parameters for flow in flows)
    rule = RULES.get(equation.primitive.name, _elementwise)
    fields: dict[int, Field] = {}
    for index, flow in enumerate(flows):
        for axis, (first, last, stride) in (
            rule(equation, index, flow.fields, shape) if flow.fields else {}
        ).items():
            before = fields.get(axis, (first, last, stride))
            fields[axis] = (min(first, before[0]), max(last, before[1]), max(stride, before[2]))
    whole = any(flow.whole or len(fields) < len(flow.fields) for flow in flows)
    return Flow(any(flow.of_image for flow in flows), parameters, fields, whole, step)


def _elementwise(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    """Positions stay where they are if the number of axes does."""
    return fields if len(equation.invars[index].aval.shape) == len(shape) else {}


def _windows(field: Field, size: int, padding: int, step: int) -> Field:
    """Of windows over `size` positions, `step` apart, with `padding` positions before the first."""
    first, last, stride = field
    return first - padding * stride, last + (size - 1 - padding) * stride, stride * step


def _convolution(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    params, kernel = equation.params, equation.invars[1].aval.shape
    spec, result = params["dimension_numbers"], {}
    for k, (before, after) in enumerate(zip(spec.lhs_spec[2:], spec.out_spec[2:], strict=True)):
        if before in fields and index == 0 and params["lhs_dilation"][k] == 1:
            size = (kernel[spec.rhs_spec[2 + k]] - 1) * params["rhs_dilation"][k] + 1
            result[after] = _windows(
                fields[before], size, params["padding"][k][0], params["window_strides"][k]
            )
    return result


def _window(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    params = equation.params
    size, padding, step = params["window_dimensions"], params["padding"], params["window_strides"]
    return {a: _windows(field, size[a], padding[a][0], step[a]) for a, field in fields.items()}


def _slice(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    start, step = equation.params["start_indices"], equation.params["strides"] or (1,) * len(shape)
    return {a: _windows(field, 1, -start[a], step[a]) for a, field in fields.items()}


def _pad(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    return {a: _windows(field, 1, equation.params["padding_config"][a][0], 1) for a, field in fields.items()}


def _concatenate(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    return {a: field for a, field in fields.items() if a != equation.params["dimension"]}


def _reduction(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    axes = equation.params["axes"]
    return {a - sum(gone < a for gone in axes): f for a, f in fields.items() if a not in axes}


def _squeeze(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    gone = equation.params["dimensions"]
    return {a - sum(g < a for g in gone): f for a, f in fields.items() if a not in gone}


def _broadcast(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    return {equation.params["broadcast_dimensions"][axis]: f for axis, f in fields.items()}


def _transpose(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    return {equation.params["permutation"].index(axis): f for axis, f in fields.items()}


def _reshape(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    """An axis that is kept, or split into windows (for pooling), has as many elements before it as ever."""
    before, result = equation.invars[0].aval.shape, {}
    for axis, field in fields.items():
        for place, size in enumerate(shape):
            same_place = math.prod(shape[:place]) == math.prod(before[:axis])
            if same_place and size > 1 and before[axis] % size == 0:
                window = before[axis] // size
                result[place] = _windows(field, window, 0, window)
    return result


def _product(equation: Any, index: int, fields: Fields, shape: tuple[int, ...]) -> Fields:
    """The axes of a matrix product: those of the batch, then the free ones of the left and right factor."""
    contracted, batch = equation.params["dimension_numbers"]
    kept = list(batch[index])
    for side in range(index + 1):
        rank = len(equation.invars[side].aval.shape)
        free = [a for a in range(rank) if a not in contracted[side] and a not in batch[side]]
        kept += free if side == index else [None] * len(free)
    return {kept.index(axis): f for axis, f in fields.items() if axis in kept}


Rule = Callable[[Any, int, Fields, tuple[int, ...]], Fields]

RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "reduce_window_max": _window,
    "reduce_window_sum": _window,
    "reduce_window": _window,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "reduce_sum": _reduction,
    "reduce_max": _reduction,
    "reduce_min": _reduction,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "reshape": _reshape,
}
