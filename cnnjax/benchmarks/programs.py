"""What compiled training steps start, move and hold on one GPU: counted by compiling for it, not measured."""

from typing import Any

from cnnjax.benchmarks.compiled import counted
from cnnjax.benchmarks.options import Measured, Options

DEVICE = "h200"
# Name, experiment, changes to it, and whether the last steps of a run are meant, which have a program of their own.
PROGRAMS: tuple[tuple[str, str, dict[str, Any], bool], ...] = (
    ("cifar10_airbench", "cifar10_airbench", {}, False),
    ("cifar10_airbench, once the whitening rests", "cifar10_airbench", {}, True),
    ("bccd_grid", "bccd_grid", {}, False),
    # Streamed, the host cuts out windows.
    (
        "imagenet_resnet50, bfloat16, 256 images",
        "imagenet_resnet50",
        {"model.dtype": "bfloat16", "augment.random_crop": 0.0, "data.batch_size": 256},
        False,
    ),
)


def compiled_programs(options: Options) -> list[Measured]:
    """Training steps compiled for an H200: kernels, bytes moved, memory, and time by the roofline.

    Needs the compilers for devices that are not here (pip install -e '.[devices]'); a minute for each of them.
    Detection reads its boxes: start in the folder where bccd/ lies.
    """
    return [counted("programs", f"{subject}, {DEVICE}", *step) for subject, *step in PROGRAMS]


def count(experiment: str, changes: dict[str, Any], late: bool) -> dict[str, float]:
    """What a compiled step needs. For a process that compiles for devices elsewhere."""
    from cnnjax import config, experiments
    from cnnjax.inspect import step_costs
    from cnnjax.runtime import compile_for

    training = step_costs.describe_training(config.changed(experiments.named(experiment), changes), None)
    costs = step_costs.compile_training(training, compile_for.find(DEVICE), late)
    return {
        "kernels": costs.num_kernels,
        "GB moved": costs.bytes / 1e9,
        "temporary memory, GB": costs.temporary / 1e9,
        "step by the roofline, ms": 1e3 * costs.seconds,
    }
