"""What a training step needs and exchanges as its devices become more: counted by compiling for them, not measured."""

import dataclasses
import functools
import io
import time
from collections.abc import Iterator
from typing import Any

from cnnjax.benchmarks.compiled import counted
from cnnjax.benchmarks.options import Measured, Options

DEVICES = ("v5e", "v5e:2x4", "v5e:8x8", "v5e:16x16", "h200", "h200x8")
# Of an experiment: the images of a step on each chip, however many there are.
FLAGSHIPS = {"cifar10_resnet20": 128, "imagenet_resnet50": 128}
_CHIPS_OF_HOST = {"v5e": 4, "h200": 8}


def scaling(options: Options) -> Iterator[Measured]:
    """Steps compiled for 1 to 256 TPUs and 1 and 8 GPUs: exchanges, memory, roofline, and what each host must feed.

    Needs the compilers for devices that are not here (pip install -e '.[devices]'); minutes for each of them.
    """
    for name, batch in FLAGSHIPS.items():
        for device in DEVICES:
            yield scaled(name, device, batch)


def scaled(name: str, device: str, batch: int) -> Measured:
    """One row: an experiment in bfloat16 with so many images on each chip of a device."""
    found = counted("scale", f"{name}, {device}", name, device, batch)
    (needed,) = found.values.get("images a second, each host", [0.0])
    if not needed:
        return found
    a_worker = decoded_a_second()
    workers = {
        "images a second, a worker that decodes": [a_worker],
        "such workers, each host": [needed / a_worker],
    }
    return dataclasses.replace(found, values={**found.values, **workers})


def count(name: str, device: str, batch: int) -> dict[str, float]:
    """What a compiled step needs on each chip. For a process that compiles for devices elsewhere.

    A host feeds images only where the training set is not on the chips themselves.
    """
    from cnnjax import config, experiments
    from cnnjax.inspect import step_costs
    from cnnjax.runtime import compile_for

    target = compile_for.find(device)
    chips = len(target.devices)
    changes: dict[str, Any] = {"data.batch_size": batch * chips, "model.dtype": "bfloat16"}
    training = step_costs.describe_training(config.changed(experiments.named(name), changes), None)
    costs = step_costs.compile_training(training, target)
    number, size = costs.exchanges.get("all-reduce", (0, 0))
    of_host = min(chips, _CHIPS_OF_HOST[device.split(":")[0].split("x")[0]])
    return {
        "chips": chips,
        "global batch": batch * chips,
        "all-reduces": number,
        "all-reduce, MB": size / 1e6,
        "memory of a chip, GB": costs.peak / 1e9,
        "step by the roofline, ms": 1e3 * costs.seconds,
        "images a second, each host": batch * of_host / costs.seconds if costs.streamed else 0.0,
    }


@functools.cache
def decoded_a_second(seconds: float = 3.0) -> float:
    """Photographs of ImageNet's usual size that one process here decodes and resizes in a second of a core's time."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from cnnjax import experiments
    from cnnjax.data import images

    data, content = experiments.named("imagenet_resnet50").data, io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize((500, 334)).save(content, "JPEG", quality=90)
    done, began = 0, time.process_time()  # what others do on this machine does not count
    while (taken := time.process_time() - began) < seconds:
        images.decode(content.getvalue(), "photograph", data, 3)
        done += 1
    return done / taken
