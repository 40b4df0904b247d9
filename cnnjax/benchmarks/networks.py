"""Training step and inference of whole networks, against the same networks in torch."""

from typing import Any

import jax

from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.steps import Steps
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.benchmarks.workload import CPU_WORKLOADS, GPU_WORKLOADS, TINY_WORKLOADS, Workload
from cnnjax.runtime import sharding

_PLACES = {"train": "training step", "infer": "inference"}


def cpu_networks(options: Options) -> list[Measured]:
    """Training step and inference in float32, batch 128: five networks against torch, channels_last."""
    if not sharding.process_on_cpu():
        return [Measured("speed", "networks on CPU", skipped="this process computes on an accelerator")]
    return [found for name, work in CPU_WORKLOADS.items() for found in compare(name, work, options)]


def resnet50_throughput(options: Options) -> list[Measured]:
    """Training step and inference of ResNet-50 in bfloat16, 256 images, against torch.compile in its default mode."""
    return on_accelerator("resnet50_bfloat16", options)


def wrn28_10_throughput(options: Options) -> list[Measured]:
    """Training step and inference of WRN-28-10 in bfloat16, 512 images, against torch.compile in its default mode."""
    return on_accelerator("wrn28_10_bfloat16", options)


def resnet18_throughput(options: Options) -> list[Measured]:
    """Training step and inference of ResNet-18 in bfloat16, 1,024 small images, against torch.compile in its default mode."""
    return on_accelerator("resnet18_bfloat16", options)


def on_accelerator(name: str, options: Options) -> list[Measured]:
    """The records of one network on an accelerator; `tiny`: of a small one in its place, not compiled by torch."""
    if options.tiny:
        return compare("tiny_resnet", TINY_WORKLOADS["tiny_resnet"], options, "bfloat16")
    if sharding.process_on_cpu():
        return [Measured("speed", f"{name}, training step", skipped="there is no accelerator")]
    return compare(name, GPU_WORKLOADS[name], options, "bfloat16", "default")


def compare(
    name: str, work: Workload, options: Options, dtype: str = "float32", compiler: str = ""
) -> list[Measured]:
    """The records of one network: its training step and its inference, ours and torch's in turns."""
    ours = Steps(work, dtype)
    sides: dict[str, Any] = {"cnnjax": ours}
    note, peers = missing("torch"), {}
    if not note:
        from cnnjax.benchmarks import torch_steps

        sides["torch"] = torch_steps.Steps(work, ours.variables, dtype == "bfloat16", compiler)
        peers = version("torch")
    shared = f", shared by {jax.device_count()} devices" if jax.device_count() > 1 else ""
    found = []
    for kind, title in _PLACES.items():
        seconds = interleave(
            {side: getattr(steps, kind) for side, steps in sides.items()}, options.repetitions, options.calls
        )
        values = comparison(seconds)
        values["compilation, s"] = [ours.compile_seconds[kind]]
        subject = f"{name}, {title}, {dtype}, batch {work.batch_size}{shared}"
        found.append(Measured("speed", subject, values, note=note, peers=peers))
    return found


def steps_per_call(options: Options) -> list[Measured]:
    """ResNet-18 in bfloat16: one step in a call against 25 of them."""
    if options.tiny:
        return [many_steps("tiny_resnet", TINY_WORKLOADS["tiny_resnet"], 2, options, "bfloat16")]
    if sharding.process_on_cpu():
        return [Measured("steps per call", "resnet18_bfloat16", skipped="there is no accelerator")]
    return [many_steps("resnet18_bfloat16", GPU_WORKLOADS["resnet18_bfloat16"], 25, options, "bfloat16")]


def many_steps(name: str, work: Workload, count: int, options: Options, dtype: str = "float32") -> Measured:
    """Milliseconds of `count` steps, in one call and in as many."""
    one, many = Steps(work, dtype), Steps(work, dtype, num_steps=count)

    def separately() -> None:
        for _ in range(count - 1):
            one.start()
        one.train()

    seconds = interleave(
        {f"{count} steps in one call": many.train, f"{count} calls": separately}, options.repetitions
    )
    return Measured("steps per call", f"{name}, batch {work.batch_size}", comparison(seconds))
