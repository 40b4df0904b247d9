"""The result of an experiment, trained from scratch with all its seeds, as a record."""

import time
from typing import Any

from cnnjax.benchmarks.records import make_record
from cnnjax.config import ConfigError, Experiment
from cnnjax.data.dataset import join
from cnnjax.runs.train import train_run
from cnnjax.runs.workdir import Workdir


def benchmark_accuracy(
    experiment: Experiment, workdir: Workdir, data_dir: str | None, command: str, note: str
) -> dict[str, Any]:
    """Trains all seeds of an experiment from scratch and returns the record of their results."""
    if workdir.has_run():
        raise ConfigError(f"workdir {workdir.path} holds a run already: a benchmark starts in a new one")
    began = time.monotonic()
    evaluation = train_run(experiment, workdir, data_dir, command)
    return make_record(
        "accuracy",
        experiment.name,
        {name: [m[name] for m in evaluation.per_seed] for name in evaluation.mean}
        | {"seconds, all seeds, with compilation": [time.monotonic() - began]},
        command,
        seeds=[experiment.train.seed, experiment.train.seeds],
        note=join(note, *evaluation.notes),
    )
