"""What shuffling and augmentation cost: as a share of the training step, and against Grain."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.steps import Steps
from cnnjax.benchmarks.timing import comparison, interleave
from cnnjax.benchmarks.workload import CPU_WORKLOADS, Workload
from cnnjax.config import Augment
from cnnjax.data import batches
from cnnjax.training.step import augmented

EPOCH = 50_000
PAD, JITTER = 4, 0.1
AUGMENT = Augment(crop=PAD, flip="random", brightness=JITTER, contrast=JITTER)


def input_share(options: Options) -> list[Measured]:
    """Shuffle, crop, flip and jitter of an epoch on the device, as a share of ResNet-20's training step."""
    return [share("resnet20", CPU_WORKLOADS["resnet20"], options)]


def share(name: str, work: Workload, options: Options) -> Measured:
    plain, changing = Steps(work), Steps(work, augment=AUGMENT)
    seconds = interleave({"with": changing.train, "without": plain.train}, options.repetitions, options.calls)
    began = time.perf_counter()
    for step in range(EPOCH // work.batch_size):
        batches.train_indices(options.repetitions, step, EPOCH, work.batch_size)
    shuffle = (time.perf_counter() - began) / (EPOCH // work.batch_size)
    extra = [a + shuffle - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    values = {
        "step with augmentation, ms": [1e3 * s for s in seconds["with"]],
        "shuffle on the host, ms per step": [1e3 * shuffle],
        "share of the step, %": [
            100 * e / (a + shuffle) for e, a in zip(extra, seconds["with"], strict=True)
        ],
    }
    return Measured("input", f"share of the training step, {name}, batch {work.batch_size}", values)


def against_grain(options: Options) -> list[Measured]:
    """Shuffled, cropped, flipped and jittered batches of CIFAR-10's size: ours against Grain on the same cores."""
    return [pipelines(EPOCH, 128, 40, options)]


def pipelines(count: int, batch_size: int, steps: int, options: Options) -> Measured:
    """Seconds for so many batches of a shuffled set of `count` images."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    sides: dict[str, Any] = {"cnnjax": _ours(images, batch_size, steps)}
    note = missing("grain")
    if not note:
        sides["grain"] = _grain(images, batch_size, steps)
    values = comparison(interleave(sides, options.repetitions))
    subject = f"{steps} batches of {batch_size}, shuffle, crop, flip, jitter, 32x32x3"
    return Measured("input", subject, values, note=note, peers={} if note else version("grain"))


def _ours(images: np.ndarray, batch_size: int, steps: int) -> Any:
    """The part of the train step before the network, alone."""
    resident = jax.device_put(images)
    recipe = Steps(Workload("softmax_regression", (32, 32, 3), 1), augment=AUGMENT).recipe

    @jax.jit
    def batch(images: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
        root = jax.random.key(0)
        return augmented(recipe, {"image": images[index], "index": index, "epoch": epoch}, root)["image"]

    def call() -> None:
        for step in range(steps):
            found = batch(
                resident, *map(jnp.asarray, batches.train_indices(0, step, len(images), batch_size))
            )
        jax.block_until_ready(found)

    return call


def _grain(images: np.ndarray, batch_size: int, steps: int) -> Any:
    """The same in Grain: a shuffled map dataset of records, threads that prefetch."""
    import grain

    height, width = images.shape[1:3]

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        padded = np.zeros((height + 2 * PAD, width + 2 * PAD, 3), np.float32)
        padded[PAD:-PAD, PAD:-PAD] = image
        top, left = rng.integers(0, 2 * PAD + 1, 2)
        x = padded[top : top + height, left : left + width]
        if rng.random() < 0.5:
            x = x[:, ::-1]
        x = x + np.float32(255 * rng.uniform(-JITTER, JITTER))
        return np.float32(127.5) + np.float32(1 + rng.uniform(-JITTER, JITTER)) * (x - np.float32(127.5))

    dataset = grain.MapDataset.source(images).seed(0).shuffle().random_map(change)
    loader = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2)).batch(batch_size)

    def call() -> None:
        iterator: Iterator[np.ndarray] = iter(loader)
        for _ in range(steps):
            next(iterator)

    return call
