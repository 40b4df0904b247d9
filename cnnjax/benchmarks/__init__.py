"""Named benchmarks: one explicit table. Each function's docstring opens with what it measures."""

from collections.abc import Callable, Iterable

from cnnjax.benchmarks.decoding import decode_crops
from cnnjax.benchmarks.detection import grid_detection
from cnnjax.benchmarks.faces import faces_in_photographs
from cnnjax.benchmarks.faults import survive_faults
from cnnjax.benchmarks.inputs import against_grain, input_share
from cnnjax.benchmarks.joined import several_processes
from cnnjax.benchmarks.networks import (
    cpu_networks,
    resnet18_throughput,
    resnet50_throughput,
    steps_per_call,
    wrn28_10_throughput,
)
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.benchmarks.prediction import predict_photographs
from cnnjax.benchmarks.programs import compiled_programs
from cnnjax.benchmarks.recipes import reduced_recipes
from cnnjax.benchmarks.rendering import feature_visualization
from cnnjax.benchmarks.scale import scaling
from cnnjax.benchmarks.soak import long_run
from cnnjax.benchmarks.speed_run import airbench94_muon, cifar10_94, cifar10_96, hiverge, mnist_99
from cnnjax.benchmarks.startup import compilation, first_step
from cnnjax.benchmarks.streaming import stream_records
from cnnjax.benchmarks.two_stage import two_stages
from cnnjax.benchmarks.yolo import yolo_detection
from cnnjax.config import ConfigError, did_you_mean

__all__ = ["BENCHMARKS", "GROUPS", "Measured", "Options", "chosen"]

# Each of what it gives is recorded at once; where one takes minutes it gives them as an iterator.
Benchmark = Callable[[Options], Iterable[Measured]]
BENCHMARKS: dict[str, Benchmark] = {
    "first_step": first_step,
    "compilation": compilation,
    "networks": cpu_networks,
    "detection": grid_detection,
    "rendering": feature_visualization,
    "input_share": input_share,
    "input_grain": against_grain,
    "decoding": decode_crops,
    "resnet50": resnet50_throughput,
    "wrn28_10": wrn28_10_throughput,
    "resnet18": resnet18_throughput,
    "steps_per_call": steps_per_call,
    "mnist_99": mnist_99,
    "cifar10_94": cifar10_94,
    "airbench94_muon": airbench94_muon,
    "hiverge": hiverge,
    "cifar10_96": cifar10_96,
    "recipes": reduced_recipes,
    "faults": survive_faults,
    "soak": long_run,
    "streaming": stream_records,
    "scale": scaling,
    "programs": compiled_programs,
    "processes": several_processes,
    "prediction": predict_photographs,
    "two_stage": two_stages,
    "yolo": yolo_detection,
    "faces": faces_in_photographs,
}
GROUPS = {
    "cpu": ("first_step", "compilation", "networks", "detection", "rendering", "input_share", "input_grain"),
    # The most important first: a machine may be lent for minutes.
    "accelerator": (
        "cifar10_94",
        "airbench94_muon",
        "resnet50",
        "wrn28_10",
        "mnist_99",
        "rendering",
        "cifar10_96",
        "steps_per_call",
        "hiverge",
        "yolo",
    ),  # fmt: skip
    "throughput": ("resnet50", "wrn28_10", "resnet18"),
}


def chosen(names: Iterable[str]) -> dict[str, Benchmark]:
    """The benchmarks of these names and groups, each once. Raises ConfigError for another name."""
    found: dict[str, Benchmark] = {}
    for name in names:
        for member in GROUPS.get(name, (name,)):
            if member not in BENCHMARKS:
                hint = did_you_mean(name, [*BENCHMARKS, *GROUPS], "--mode=benchmark --list shows all")
                raise ConfigError(f"unknown benchmark {name!r}: {hint}")
            found[member] = BENCHMARKS[member]
    return found
