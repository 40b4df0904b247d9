"""The speed runs, made small enough for a CPU, beside the same reduction of their originals in torch: equal width, epochs
and batch. What is compared is the accuracy."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnjax import config
from cnnjax.benchmarks.options import Measured, Options, missing, version
from cnnjax.benchmarks.speed_run import SpeedRun
from cnnjax.config import Experiment
from cnnjax.data.dataset import Dataset
from cnnjax.data.sources import load


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A speed run of other width, epochs and batch."""

    experiment: str
    widths: tuple[int, int, int] = (0, 0, 0)
    epochs: int = 1
    batch: int = 256
    whiten_epochs: int = 3

    def of(self, original: Experiment) -> Experiment:
        """Its experiment. Rates of a sum over the batch, as airbench gives them, are those of a mean over `batch`."""
        if not self.widths[0]:
            return config.replace(
                original, {"data.batch_size": self.batch, "train.epochs": float(self.epochs)}
            )
        rule, share = original.optimizer, self.batch / original.data.batch_size
        rates = {
            f"optimizer.{n}": share * getattr(rule, n) for n in ("bias_learning_rate", "dense_learning_rate")
        }
        if rule.name == "sgd":  # Muon's own does not depend on how large gradients are
            rates["optimizer.learning_rate"] = share * rule.learning_rate
        return config.replace(
            original,
            {
                **rates,
                "data.batch_size": self.batch,
                "train.epochs": float(self.epochs),
                "model.options": (f"widths={'/'.join(map(str, self.widths))}",),
                "model.dtype": "float32",
                "optimizer.whitening": self.whiten_epochs / self.epochs,
            },
        )


REDUCTIONS = (
    Reduction("cifar10_airbench", (16, 64, 64), epochs=8, batch=500),
    Reduction("cifar10_airbench96", (16, 48, 64), epochs=8, batch=500),
    Reduction("mnist_speedrun"),
)


def reduced_recipes(options: Options) -> list[Measured]:
    """Accuracy of the three speed runs, reduced, and of their originals in torch: the mean of --benchmark.seeds."""
    from cnnjax import experiments

    found = []
    for one in REDUCTIONS:
        experiment = one.of(experiments.named(one.experiment))
        found.append(compare(one, experiment, load(experiment.data, options.data_dir), options.seeds))
    return found


def compare(one: Reduction, experiment: Experiment, dataset: Dataset, seeds: int) -> Measured:
    """The record of a reduction: the accuracy of every seed of both sides, and what separates their means."""
    ours = SpeedRun(experiment, dataset)
    note, peers = missing("torch"), {}
    values: dict[str, list[float]] = {"accuracy, cnnjax": [ours(seed)[1] for seed in range(seeds)]}
    if not note:
        theirs, peers = original(one), version("torch")
        values["accuracy, torch"] = [theirs(dataset.train, dataset.test, seed) for seed in range(seeds)]
        note = apart(*values.values())
    width = f", widths {'/'.join(map(str, one.widths))}" if one.widths[0] else ""
    subject = f"{one.experiment}{width}, {one.epochs} epochs, batch {one.batch}"
    return Measured("recipes", subject, values, note=note, peers=peers)


def original(one: Reduction) -> Callable[[Any, Any, int], float]:
    """The same recipe in torch: (train, test, seed) -> accuracy."""
    from cnnjax.benchmarks import torch_speed_runs as torch_runs

    if not one.widths[0]:
        return lambda train, test, seed: torch_runs.run_mnist(train, test, seed, one.batch)
    rule = torch_runs.SGD if one.experiment == "cifar10_airbench96" else torch_runs.MUON
    recipe = torch_runs.Airbench(rule, one.widths, one.epochs, one.batch, one.whiten_epochs)
    return lambda train, test, seed: torch_runs.run_airbench(recipe, train, test, seed)


def apart(ours: list[float], theirs: list[float]) -> str:
    """How far the means are from each other, in their standard error; that needs two runs of each."""
    if len(ours) < 2:
        return ""
    error = math.sqrt(np.var(ours, ddof=1) / len(ours) + np.var(theirs, ddof=1) / len(theirs))
    gap = float(np.mean(ours) - np.mean(theirs))
    return f"Means differ by {100 * gap:+.2f} points; the standard error of that is {100 * error:.2f}."
