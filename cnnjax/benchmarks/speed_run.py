"""Whole runs against the clock: from fresh weights to the accuracy on the test set, many seeds."""

import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import config
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import Dataset
from cnnjax.data.sources import load
from cnnjax.data.statistics import channel_stats
from cnnjax.runtime import sharding
from cnnjax.training.evaluate import Evaluator
from cnnjax.training.loop import train_rows
from cnnjax.training.step import compile_init, compile_steps, make_recipe

INITIALIZED_FROM = 5000  # training images from which the whitening layer is computed


class SpeedRun:
    """An experiment that can be run again and again, compiled once, its data on the devices."""

    def __init__(self, experiment: Experiment, dataset: Dataset):
        mean, std = channel_stats(dataset.train["image"])
        self.experiment = config.replace(experiment, {"data.mean": mean, "data.std": std})
        batch, self.count = experiment.data.batch_size, len(dataset.train["image"])
        self.num_steps = config.total_steps(experiment.train, self.count, batch)
        shape = dataset.train["image"].shape[1:]
        self.recipe = make_recipe(self.experiment, dataset.classes, shape, self.num_steps)
        mesh = sharding.make_mesh(batch)
        on_cpu = jax.default_backend() == "cpu"
        self.per_call = experiment.train.steps_per_call or (1 if on_cpu else math.ceil(self.count / batch))
        self._place = sharding.sharded(mesh, 2)
        self._init = compile_init(self.recipe, shape, mesh)
        self._steps = compile_steps(self.recipe, mesh)
        self._arrays = jax.device_put(dict(dataset.train), sharding.replicated(mesh))
        self._evaluator = Evaluator(
            self.recipe, dataset.test, experiment.evaluate.batch_size, mesh, experiment.evaluate.augment
        )

    def __call__(self, seed: int) -> tuple[float, float]:
        """Seconds and test accuracy of one run: initialization, shuffling, all steps, and evaluation with its
        views. The host waits for the device at the end only."""
        began = time.perf_counter()
        state = self._init(jnp.full(1, seed, jnp.int32), self._arrays["image"][:INITIALIZED_FROM])
        for start in range(0, self.num_steps, self.per_call):
            stop = min(start + self.per_call, self.num_steps)
            rows = train_rows([seed], start, stop, self.count, self.experiment.data.batch_size)
            state, _ = self._steps(state, self._arrays, *jax.device_put(rows, self._place))
        accuracy = self._evaluator(state.variables).mean["accuracy"]
        return time.perf_counter() - began, accuracy


def cifar10_94(options: Options) -> list[Measured]:
    """Time to 94 % on CIFAR-10, mean of --benchmark.seeds, against airbench94_muon and hiverge's speed run."""
    from cnnjax import experiments

    return [
        time_to(experiments.cifar10_airbench(), 0.94, options),
        peer_script("airbench94_muon", options.airbench, "--benchmark.airbench=PATH/airbench94_muon.py"),
        peer_script("hiverge", options.hiverge, "--benchmark.hiverge=PATH/cifar10_speedrun.py"),
    ]


def mnist_99(options: Options) -> list[Measured]:
    """Time to 99 % on MNIST, mean of --benchmark.seeds."""
    from cnnjax import experiments

    return [time_to(experiments.mnist_speedrun(), 0.99, options)]


def time_to(
    experiment: Experiment, target: float, options: Options, dataset: Dataset | None = None
) -> Measured:
    """The record of an experiment's speed runs; without an accelerator a reason to skip them."""
    subject = f"{experiment.name}, to {100 * target:g} %"
    if dataset is None and jax.default_backend() == "cpu":
        return Measured("time to accuracy", subject, skipped="there is no accelerator")
    run = SpeedRun(experiment, dataset or load(experiment.data, options.data_dir))
    cold, _ = run(0)  # compiles everything
    results = [run(seed) for seed in range(1, options.seeds + 1)]
    seconds, accuracies = zip(*results, strict=True)
    mean = sum(accuracies) / len(accuracies)
    return Measured(
        "time to accuracy",
        subject,
        {
            "run with evaluation, s": seconds,
            "test accuracy": accuracies,
            "first run, with compilation, s": [cold],
        },
        note=f"The mean accuracy {'reaches' if mean >= target else 'misses'} {100 * target:g} %.",
    )


_ROW = re.compile(r"\|[^|]*\|\s*eval\s*\|[^|]*\|[^|]*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|")


def peer_script(name: str, path: str | None, flag: str) -> Measured:
    """Runs a speed run of the airbench family unmodified, in its folder, and reads the table that it prints."""
    subject = f"cifar10, {name}, torch"
    if not path:
        return Measured("time to accuracy", subject, skipped=f"give its place: {flag}")
    script = Path(path).resolve()
    if not script.is_file():
        raise ConfigError(f"{path} is not a file: {flag}")
    result = subprocess.run([sys.executable, script.name], cwd=script.parent, capture_output=True, text=True)
    rows: list[Any] = _ROW.findall(result.stdout)[1:]  # the first one warms up
    if result.returncode or not rows:
        reason = (result.stderr.strip().splitlines() or ["it printed no results"])[-1]
        return Measured("time to accuracy", subject, skipped=f"it failed: {reason}")
    return Measured(
        "time to accuracy",
        subject,
        {
            "run with evaluation, s": [float(seconds) for _, seconds in rows],
            "test accuracy": [float(accuracy) for accuracy, _ in rows],
        },
    )
