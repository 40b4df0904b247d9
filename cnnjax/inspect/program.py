"""What a compiled program does, kernel by kernel, read from the text that XLA gives of it.

A kernel is an instruction of the entry computation, or of one that it calls or loops over, that a device starts on
its own: a fusion, a convolution, a copy. It reads its operands from memory and writes its results.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# Instructions that start nothing: names for memory, and those whose computations are looked into instead.
FREE = frozenset(
    "parameter constant bitcast get-tuple-element tuple after-all iota partition-id replica-id while conditional call "
    "opt-barrier add-dependency domain".split()
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SLICES = ("slice", "dynamic-slice", "gather")
_BITS = {"pred": 8}
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)|(?:branch_computations|called_computations)=\{([^}]*)\}"
)


class Shape(NamedTuple):
    """One array: its element type, its sizes, its bytes in memory, padding to tiles included; in_memory: not on the chip."""

    dtype: str
    sizes: tuple[int, ...]
    bytes: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of the result; several if it is a tuple
    operands: tuple[str, ...]
    argument: str  # what stands in the brackets: of a parameter its number
    attributes: str
    root: bool

    @property
    def label(self) -> str:
        """The operation in the Python program that it comes from, as a path of scopes."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        found = _CALLED.findall(self.attributes)
        return [name.strip().lstrip("%") for one, several in found for name in (one or several).split(",")]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel: how often a call of the program starts it, and what each start moves and computes."""

    name: str
    opcode: str
    label: str
    times: int
    bytes: int
    flops: int
    products: frozenset[str]  # element types of the factors of its convolutions and matrix products

    @property
    def layer(self) -> str:
        return layer_of(self.label)

    def seconds(self, bandwidth: float, half: float, single: float) -> float:
        """Of all starts by the roofline: as long as memory or arithmetic takes, whichever is longer."""
        speed = half if self.products <= {"bf16", "f16"} else single
        return self.times * max(self.bytes / bandwidth, self.flops / speed)


def kernels(text: str, tpu: bool = False) -> list[Kernel]:
    """The kernels of a compiled program, in the order in which they start."""
    computations = parse(text, tpu)
    found = []
    for name, times in _started(computations).items():
        inside = {one.name: one for one in computations[name]}
        for one in computations[name]:
            if one.opcode in FREE or one.opcode.endswith("-done") or _is_free_fusion(one, computations):
                continue
            products = list(_products(one, inside, computations))
            found.append(
                Kernel(
                    name=one.name,
                    opcode=one.opcode,
                    label=one.label,
                    times=times,
                    bytes=_traffic(one, inside, computations),
                    flops=sum(flops for flops, _ in products),
                    products=frozenset(dtype for _, dtypes in products for dtype in dtypes),
                )
            )
    return found


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """By kind, such as "all-reduce": how many exchanges a call of the program makes, and the bytes of their results."""
    computations = parse(text)
    count: collections.Counter[str] = collections.Counter()
    size: collections.Counter[str] = collections.Counter()
    for name, times in _started(computations, fusions=True).items():
        for one in computations[name]:
            kind = one.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                shapes = one.shapes
                if one.opcode.endswith("-start") and kind != "all-reduce":
                    shapes = shapes[len(shapes) // 2 :]  # what goes in comes first
                count[kind] += times
                size[kind] += times * sum(shape.bytes for shape in shapes)
    return {kind: (count[kind], size[kind]) for kind in count}


def layer_of(label: str) -> str:
    """The layer in the scopes of an operation, such as "block1/conv1" of "jit(f)/jvp(Net)/block1/conv1/dot_general".

    With "backward" behind it where it belongs to a gradient; else the first part that is no wrapper of JAX.
    """
    parts = re.sub(r"\bjit\([^()]*\)|\w+\(|\)", "", label.split(";")[0]).split("/")
    named = [
        part for part in parts if part and part not in _WRAPPERS and not part.startswith(("<", "branch_"))
    ]
    scopes = named[:-1] if len(named) > 1 else named
    return "/".join(scopes) + (" backward" if "transpose(" in label else "")


_WRAPPERS = frozenset(
    ["jit", "main", "steps", "vmap", "jvp", "transpose", "closed_call", "while", "body", "cond", "shard_map"]
)


def parse(text: str, tpu: bool = False) -> dict[str, list[Instruction]]:
    """The computations of a program by name; the one that is run is "ENTRY". On TPUs arrays are padded to tiles."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault("ENTRY" if head[1] else head[2], [])
            continue
        found = _INSTRUCTION.match(line) if current is not None else None
        if found and current is not None:
            current.append(_instruction(found[2], found[3], bool(found[1]), tpu))
    return computations


def _instruction(name: str, text: str, root: bool, tpu: bool) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    close = _closing("(" + rest, 0) - 2  # the place of its closing bracket
    argument, attributes = rest[:close], rest[close + 1 :]
    operands = tuple(re.findall(r"%([\w.\-]+)", argument))
    return Instruction(name, opcode, _shapes(text[:end], tpu), operands, argument, attributes, root)


def _closing(text: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place + 1
    return len(text)


@functools.lru_cache(maxsize=4096)
def _shapes(text: str, tpu: bool) -> tuple[Shape, ...]:
    return tuple(_shape(dtype, sizes, layout, tpu) for dtype, sizes, layout in _ARRAY.findall(text))


def _shape(dtype: str, sizes: str, layout: str, tpu: bool) -> Shape:
    numbers = [int(size.lstrip("<=")) for size in sizes.split(",") if size]
    bits = _BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])
    order, _, tiling = layout.partition(":")
    padded = list(numbers)
    tile = re.match(r"T\(([\d,]+)\)", tiling) if tpu else None
    if tile:
        minor = [int(axis) for axis in order.split(",") if axis]
        for axis, size in zip(minor, reversed([int(n) for n in tile[1].split(",")]), strict=False):
            padded[axis] = -(-padded[axis] // size) * size
    in_memory = not (tpu and re.search(r"S\([1-9]", tiling))
    return Shape(dtype, tuple(numbers), math.prod(padded) * bits // 8, in_memory)


def _started(computations: Mapping[str, Sequence[Instruction]], fusions: bool = False) -> dict[str, int]:
    """How often a call of the program runs each computation whose instructions start by themselves.

    fusions: of those inside kernels, too. A loop of unknown length counts as one turn.
    """
    times: collections.Counter[str] = collections.Counter()
    opened = {"while", "conditional", "call"} | ({"fusion", "async-start"} if fusions else set())

    def visit(name: str, count: int) -> None:
        times[name] += count
        for one in computations.get(name, ()):
            if one.opcode in opened:
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', one.attributes)
                for inner in one.called:
                    if inner in computations:
                        visit(inner, count * (int(trips[1]) if trips else 1))

    visit("ENTRY", 1)
    return dict(times)


def _is_free_fusion(one: Instruction, computations: Mapping[str, Sequence[Instruction]]) -> bool:
    """A fusion of bitcasts alone, as TPUs have them."""
    bodies = [computations.get(name, ()) for name in one.called] if one.opcode == "fusion" else []
    return bool(bodies) and all(inner.opcode in FREE for body in bodies for inner in body)


def _traffic(
    one: Instruction,
    inside: Mapping[str, Instruction],
    computations: Mapping[str, Sequence[Instruction]],
) -> int:
    """Bytes that a kernel reads and writes: all of its operands, each once, of which it takes slices only these."""
    names = list(dict.fromkeys(one.operands))
    body = computations.get(one.called[0], ()) if one.opcode == "fusion" and one.called else ()
    written = _memory(one.shapes)
    if one.opcode == "custom-call":  # a workspace holds nothing before or after
        written = sum(
            s.bytes for s in one.shapes if s.in_memory and not (len(one.shapes) > 1 and s.dtype == "u8")
        )
    if one.opcode in _SLICES:
        return 2 * written + sum(_memory(inside[name].shapes) for name in names[1:] if name in inside)
    if one.opcode == "dynamic-update-slice":
        return 2 * _memory(inside[names[1]].shapes)
    if one.opcode == "slice-start":  # of TPUs, into the chip's own memory: of what, what, and a token
        return one.shapes[1].bytes * (1 + one.shapes[1].in_memory)
    if one.opcode in ("copy-start", "async-start"):  # what is copied, what it becomes and a token
        return sum(s.bytes for s in one.shapes[:2] if s.in_memory)
    read = 0
    for name in names:
        whole = _memory(inside[name].shapes) if name in inside else 0
        read += min([whole, *(_taken(body, i, whole) for i, o in enumerate(one.operands) if o == name)])
    root = next((inner for inner in body if inner.root), None)
    if root and root.opcode == "dynamic-update-slice":  # in place
        update = next((inner for inner in body if inner.name == root.operands[1]), None)
        if update:
            written = min(written, sum(shape.bytes for shape in update.shapes))
    return read + written


def _taken(body: Sequence[Instruction], number: int, whole: int) -> int:
    """Bytes of a fusion's operand that its body reads: all, unless nothing but slices of it are used."""
    parameter = next((i for i in body if i.opcode == "parameter" and i.argument == str(number)), None)
    if parameter is None:
        return whole
    names = {parameter.name}
    for inner in body:  # each after its operands
        if inner.opcode == "bitcast" and names & set(inner.operands):
            names.add(inner.name)
    users = [inner for inner in body if inner.opcode != "bitcast" and names & set(inner.operands)]
    total = 0
    for user in users:
        if user.opcode in _SLICES and not names & set(user.operands[1:]):
            total += sum(shape.bytes for shape in user.shapes)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] not in names:
            return whole
    return total if users else whole


def _memory(shapes: Sequence[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.in_memory)


def _products(
    one: Instruction, inside: Mapping[str, Instruction], computations: Mapping[str, Sequence[Instruction]]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Operations, two for a multiply-add, and factors' element types of each convolution and product in a kernel."""
    factors = [inside[name].shapes[0] for name in one.operands[:2] if name in inside and inside[name].shapes]
    target = re.search(r'custom_call_target="([^"]*)"', one.attributes)
    library = target[1] if target else ""
    if len(factors) == 2:
        dtypes = tuple(factor.dtype for factor in factors)
        if one.opcode == "dot" or "gemm" in library or "matmul" in library:
            yield _dot_flops(one, factors), dtypes
        elif one.opcode == "convolution" or library.startswith("__cudnn$conv"):
            yield _convolution_flops(one, factors, library), dtypes
    if one.opcode in ("fusion", "async-start"):
        for name in one.called:
            body = {inner.name: inner for inner in computations.get(name, ())}
            for inner in body.values():
                yield from _products(inner, body, computations)


def _dot_flops(one: Instruction, factors: Sequence[Shape]) -> int:
    found = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)', one.attributes)
    contracted = [int(axis) for axis in re.findall(r"\d+", found[1])] if found else []
    return 2 * math.prod(one.shapes[0].sizes) * math.prod(factors[0].sizes[axis] for axis in contracted)


def _convolution_flops(one: Instruction, factors: Sequence[Shape], library: str) -> int:
    """Without what meets padding or the zeros of a dilation, as XLA counts.

    cuDNN's gradients are described as the convolution that they belong to: the one for its input is given the
    gradient of its output and the kernel, the one for its kernel the input and the gradient of its output.
    """
    images, kernel, result = (*factors, one.shapes[0])
    if "BackwardInput" in library:
        images, kernel, result = result, kernel, images
    elif "BackwardFilter" in library:
        images, kernel, result = images, result, kernel
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if not labels:
        return 0
    before, weights, after = labels.groups()
    pairs = 1
    for number, axis in enumerate(sorted(c for c in weights if c.isdigit())):
        pairs *= _pairs(
            images.sizes[before.index(axis)],
            kernel.sizes[weights.index(axis)],
            result.sizes[after.index(axis)],
            *_window(one.attributes, number),
        )
    places = math.prod(size for axis, size in zip(after, result.sizes, strict=True) if not axis.isdigit())
    return 2 * places * pairs * kernel.sizes[weights.index("i")]


def _window(attributes: str, number: int) -> tuple[int, int, int, int]:
    """Stride, padding before the first place, and dilation of the image and the kernel along a spatial axis."""

    window = attributes.partition("window=")[2].partition("}")[0]

    def value(name: str, default: str) -> str:
        found = re.search(rf"[{{ ]{name}=([\dx_\-]+)", window)
        return found[1].split("x")[number] if found else default

    text = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    stride, pad, images, kernel = (value(name, default) for name, default in text.items())
    return int(stride), int(pad.split("_")[0]), int(images), int(kernel)


@functools.lru_cache(maxsize=4096)
def _pairs(size: int, window: int, places: int, stride: int, pad: int, spread: int, dilation: int) -> int:
    """How many products of a kernel's positions with an image's there are along one axis."""
    last = (size - 1) * spread
    return sum(
        1
        for place in range(places)
        for tap in range(window)
        for at in [place * stride - pad + tap * dilation]
        if 0 <= at <= last and at % spread == 0
    )
