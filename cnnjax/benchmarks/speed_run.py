"""Whole runs against the clock: from fresh weights to the accuracy on the test set, many seeds."""

import dataclasses
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import config
from cnnjax.benchmarks.options import Measured, Options
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import Dataset
from cnnjax.data.sources import load
from cnnjax.data.statistics import channel_stats
from cnnjax.runtime import sharding
from cnnjax.training.evaluate import Evaluator
from cnnjax.training.loop import train_rows
from cnnjax.training.recipe import make_recipe
from cnnjax.training.resident import as_rows
from cnnjax.training.step import compile_init, compile_steps

# Where the experiments differ from what they follow; their docstrings and comments have the details.
DEPARTURES = {
    "cifar10_airbench": "Differs from airbench94_muon: views averaged as probabilities, not logits; bfloat16 with float32 "
    "weights, not float16.",
    "cifar10_airbench96": "Differs from airbench96: views averaged as probabilities, not logits; bfloat16 with float32 "
    "weights, not float16.",
    "mnist_speedrun": "Differs from train_mnist_fast: biases begin at 0, the last layer as linen's; another order of the "
    "images for each seed; the last 96 of an epoch are not seen.",
}
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
        on_cpu = sharding.on_cpu(mesh)
        self.per_call = experiment.train.steps_per_call or (1 if on_cpu else math.ceil(self.count / batch))
        self._place = sharding.sharded(mesh, 2)
        self._init = compile_init(self.recipe, shape, mesh)
        self._steps = {one: compile_steps(one, mesh) for one in self.recipe.programs}
        self._arrays = jax.device_put(as_rows(dict(dataset.train)), sharding.replicated(mesh))
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
            steps = self._steps[self.recipe.of_step(seed, start)]
            state, _ = steps(state, self._arrays, *jax.device_put(rows, self._place))
        accuracy = self._evaluator(state.variables).mean["accuracy"]
        return time.perf_counter() - began, accuracy


def cifar10_94(options: Options) -> list[Measured]:
    """Time to 94 % on CIFAR-10, mean of --benchmark.seeds."""
    from cnnjax import experiments

    return [time_to(experiments.cifar10_airbench(), 0.94, options)]


def cifar10_96(options: Options) -> list[Measured]:
    """Time to 96 % on CIFAR-10, mean of five runs."""
    from cnnjax import experiments

    few = dataclasses.replace(options, seeds=min(options.seeds, 5))
    return [time_to(experiments.cifar10_airbench96(), 0.96, few)]


def airbench94_muon(options: Options) -> list[Measured]:
    """Time to 94 % on CIFAR-10 by airbench94_muon, as many runs, with torch.compile in its default mode."""
    # Its own mode takes minutes to compile, its own 200 runs more.
    changes = {'mode="max-autotune"': 'mode="default"', "range(200)": f"range({options.seeds})"}
    flag = "--benchmark.airbench=PATH/airbench94_muon.py"
    return [peer_script("airbench94_muon", options.airbench, flag, changes)]


def hiverge(options: Options) -> list[Measured]:
    """Time to 94 % on CIFAR-10 by hiverge's speed run."""
    return [peer_script("hiverge", options.hiverge, "--benchmark.hiverge=PATH/cifar10_speedrun.py")]


def mnist_99(options: Options) -> list[Measured]:
    """Time to 99 % on MNIST, mean of --benchmark.seeds."""
    from cnnjax import experiments

    return [time_to(experiments.mnist_speedrun(), 0.99, options)]


def time_to(
    experiment: Experiment, target: float, options: Options, dataset: Dataset | None = None
) -> Measured:
    """The record of an experiment's speed runs; without an accelerator a reason to skip them."""
    subject = f"{experiment.name}, to {100 * target:g} %"
    if options.tiny:
        experiment, dataset = tiny(experiment)
    if dataset is None and sharding.process_on_cpu():
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
        note=f"The mean accuracy {'reaches' if mean >= target else 'misses'} {100 * target:g} %. "
        + DEPARTURES.get(experiment.name, ""),
    )


def tiny(experiment: Experiment) -> tuple[Experiment, Dataset]:
    """A narrow network and noise to learn from, with which a CPU can try a speed run."""
    small = experiment.data.name == "mnist"
    shape = (28, 28, 1) if small else (32, 32, 3)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (80, *shape), np.uint8), (np.arange(80) % 10).astype(np.int32)
    changes: dict[str, Any] = {"data.batch_size": 40, "train.epochs": 2.0, "evaluate.batch_size": 80}
    changes["model.options"] = () if small else ("widths=8/8/8",)
    return config.replace(experiment, changes), Dataset.of_arrays(x, y, x, y)


_ROW = re.compile(r"\|[^|]*\|\s*eval\s*\|[^|]*\|[^|]*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|")


def peer_script(name: str, path: str | None, flag: str, changes: Mapping[str, str] | None = None) -> Measured:
    """Runs a speed run of the airbench family in its folder, with these changes of its text if it has them, and reads the
    table that it prints."""
    subject = f"cifar10, {name}, torch"
    if not path:
        return Measured("time to accuracy", subject, skipped=f"give its place: {flag}")
    script = Path(path).resolve()
    if not script.is_file():
        raise ConfigError(f"{path} is not a file: {flag}")
    text = script.read_text()
    made = {old: new for old, new in (changes or {}).items() if old in text}
    for old, new in made.items():
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / script.name
        copy.write_text(text)
        # It looks for data in the folder it is run in.
        result = subprocess.run([sys.executable, copy], cwd=script.parent, capture_output=True, text=True)
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
        note=f"The script with {', '.join(made.values())}." if made else "",
    )
