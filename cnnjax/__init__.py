"""Convolutional networks in JAX: what `python launch.py` does, from Python and without flags.

>>> import cnnjax as cj
>>> run = cj.train(cj.experiments.digits_lenet(), "runs/digits")  # doctest: +SKIP
>>> run.metrics["accuracy"]  # doctest: +SKIP
0.992

Importing this package changes nothing in the process, and none of its parts is imported before it is used.
"""

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnjax.config import Augment as Augment
    from cnnjax.config import Classification as Classification
    from cnnjax.config import ConfigError as ConfigError
    from cnnjax.config import Data as Data
    from cnnjax.config import Detection as Detection
    from cnnjax.config import Evaluate as Evaluate
    from cnnjax.config import Experiment as Experiment
    from cnnjax.config import Localization as Localization
    from cnnjax.config import Model as Model
    from cnnjax.config import Optimizer as Optimizer
    from cnnjax.config import Train as Train
    from cnnjax.config import replace as replace
    from cnnjax.data.dataset import Dataset as Dataset
    from cnnjax.inspect.step_costs import StepCosts as StepCosts
    from cnnjax.models import create_model as create_model
    from cnnjax.network import Committee as Committee
    from cnnjax.network import Network as Network
    from cnnjax.network import Preprocessing as Preprocessing
    from cnnjax.runs.run import Run as Run
    from cnnjax.sweeps.sweep import Member as Member
    from cnnjax.tasks import Judgement as Judgement
    from cnnjax.tasks import Result as Result
    from cnnjax.tasks import Task as Task

# Where each name is; imported when it is first used.
_NAMES = {
    **dict.fromkeys(
        (
            "Augment",
            "Classification",
            "ConfigError",
            "Data",
            "Detection",
            "Evaluate",
            "Experiment",
            "Localization",
            "Model",
            "Optimizer",
            "Train",
            "replace",
        ),
        "config",
    ),
    "Dataset": "data.dataset",
    "StepCosts": "inspect.step_costs",
    "create_model": "models",
    **dict.fromkeys(("Committee", "Network", "Preprocessing"), "network"),
    "Run": "runs.run",
    **dict.fromkeys(("Judgement", "Result", "Task"), "tasks"),
}
__all__ = ["device_costs", "experiments", "load_run", "search", "sweep", "train", *_NAMES]  # noqa: PLE0604 (they are strings)


def train(
    experiment: "Experiment",
    workdir: str | os.PathLike | None = None,
    *,
    data: "Dataset | None" = None,
    model: Any = None,
    task: "Task | None" = None,
    data_dir: str | None = None,
    mirror: str | None = None,
) -> "Run":
    """Trains, or goes on with what is in `workdir`; returns the run at its last checkpoint.

    Args:
      experiment: all settings; `replace` changes them: `cj.replace(experiment, {"train.epochs": 5})`.
      workdir: folder of the run. Default: runs/<name of the experiment>.
      data, model, task: used in place of those that the experiment names: a Dataset, a linen module with the call
        `model(images, train)` and as many outputs as the task takes, and a Task. To go on with such a run, or to
        load it, give them again.
      data_dir: where datasets are. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      mirror: URL of a copy of `workdir` in a store, such as gs://bucket/run, from which an empty one goes on.
    Raises:
      ConfigError: with one line, for what cannot be meant, and where the run in `workdir` is another one.

    >>> import cnnjax as cj
    >>> quick = {"model.name": "softmax_regression", "train.epochs": 1.0, "data.image_size": 0}
    >>> experiment = cj.replace(cj.experiments.digits_lenet(), quick)
    >>> run = cj.train(experiment, "runs/doctest")  # doctest: +ELLIPSIS
    step ...
    >>> sorted(run.metrics), run.step
    (['accuracy', 'loss', 'top5'], 22)
    >>> run.evaluate().mean == run.metrics
    True
    """
    _configure()
    from pathlib import Path

    from cnnjax.config import check
    from cnnjax.remote.mirror import attached
    from cnnjax.runs.plan import Given
    from cnnjax.runs.run import restore
    from cnnjax.runs.train import train_run
    from cnnjax.runs.workdir import Workdir

    folder = Workdir(workdir or Path("runs") / experiment.name)
    given = Given(data, model, task)
    with attached(mirror, folder) as saved:
        train_run(check(experiment), folder, data_dir, "cnnjax.train", given, saved=saved)
    return restore(folder, given=given)


def load_run(
    workdir: str | os.PathLike,
    checkpoint: str = "",
    *,
    data: "Dataset | None" = None,
    model: Any = None,
    task: "Task | None" = None,
) -> "Run":
    """A trained run, in a folder or behind the URL of its mirror: `checkpoint` is last, best or the number of a step; by default
    last, with train.patience best.

    data, model, task: what the run was trained with, where `train` was given it. Without its data a run can predict,
    but not be evaluated.

    >>> import cnnjax as cj, numpy as np
    >>> run = cj.load_run("runs/doctest")
    >>> run.network.image_shape
    (8, 8, 1)
    >>> (result,) = run.predict([np.zeros((8, 8, 1), np.uint8)])
    >>> list(result.to_json())
    ['class', 'index', 'top']
    """
    _configure()
    from cnnjax.remote.pull import local_folder
    from cnnjax.runs.plan import Given
    from cnnjax.runs.run import restore
    from cnnjax.runs.workdir import Workdir

    return restore(Workdir(local_folder(os.fspath(workdir))), checkpoint, given=Given(data, model, task))


def sweep(
    experiment: "Experiment",
    settings: Mapping[Any, Any],
    workdir: str | os.PathLike | None = None,
    *,
    jobs: int = 1,
    draws: int = 0,
    data: "Dataset | None" = None,
    model: Any = None,
    task: "Task | None" = None,
    data_dir: str | None = None,
) -> "list[Member]":
    """Trains every combination of settings, or goes on with the sweep in `workdir`; returns its runs.

    The best settings are chosen on validation data, evaluated on the test set once, and shown in sweep.html.

    Args:
      experiment: all other settings; it needs data.validation, or data with a validation split.
      settings: {"optimizer.learning_rate": [0.05, 0.1], "train.seed": range(5)}; settings that change together as
        {("optimizer.name", "optimizer.learning_rate"): [("sgd", 0.1), ("adamw", 1e-3)]}; a range to draw from as
        {"optimizer.learning_rate": "1e-4..1:log"}.
      workdir: folder of the sweep, with runs/ in it. Default: runs/sweep_<name of the experiment>.
      jobs: runs at a time, as processes; 0 trains nothing.
      draws: how many values are drawn of the ranges, each combined with all others.
      data, model, task: as of `train`; the runs then follow each other in this process.
    Raises:
      ConfigError: with one line, for what cannot be meant, and where `workdir` holds another sweep. A run that fails
        raises nothing: it has an `error`.

    >>> import cnnjax as cj
    >>> quick = {"model.name": "softmax_regression", "train.epochs": 1.0, "data.validation": 0.2}
    >>> experiment = cj.replace(cj.experiments.digits_lenet(), quick)
    >>> runs = cj.sweep(experiment, {"optimizer.learning_rate": [0.001, 0.01]}, "runs/rates")  # doctest: +ELLIPSIS
    2 runs, 2 to do, 1 at a time: runs/rates
    ...
    >>> [run.name for run in runs], all(run.done for run in runs)
    (['learning_rate=0.001', 'learning_rate=0.01'], True)
    """
    _configure()
    from pathlib import Path

    from cnnjax.config import check
    from cnnjax.runs.plan import Given
    from cnnjax.sweeps import space
    from cnnjax.sweeps.sweep import Sweep, run_sweep

    path, given = Path(workdir or Path("runs") / f"sweep_{experiment.name}"), Given(data, model, task)
    varied = space.of_mapping(settings)
    one = Sweep(path, check(experiment), varied, draws, data_dir, given)
    return run_sweep(one, jobs, many=True, command="cnnjax.sweep")


def search(
    experiment: "Experiment",
    settings: Mapping[Any, Any],
    workdir: str | os.PathLike | None = None,
    *,
    trials: int = 30,
    jobs: int = 1,
    storage: str = "",
    study: str = "",
    prune: bool = True,
    data_dir: str | None = None,
) -> "list[Member]":
    """Lets Optuna choose settings from a space, or goes on with the search in `workdir`; returns its runs.

    The best settings are chosen on validation data, evaluated on the test set once, and shown in search.html.

    Args:
      experiment: all other settings; it needs data.validation, or data with a validation split.
      settings: as of `sweep`; ranges such as {"optimizer.learning_rate": "1e-4..1:log"} need no draws here.
      workdir: folder of the search, with runs/ in it. Default: runs/search_<name of the experiment>.
      trials: of all workers together, who may call this at the same time.
      jobs: runs at a time, as processes.
      storage: where workers meet, a URL of a database or journal:FILE. Default: search.db in `workdir`.
      study: its name there. Default: that of the experiment.
      prune: a run that is below the median at an evaluation saves and ends; it is then not `done`, without an `error`.
    Raises:
      ConfigError: with one line, for what cannot be meant, and where `workdir` or the study holds another search.

    >>> import cnnjax as cj
    >>> experiment = cj.replace(cj.experiments.digits_lenet(), {"data.validation": 0.2})
    >>> rates = {"optimizer.learning_rate": "1e-4..1e-1:log"}
    >>> runs = cj.search(experiment, rates, "runs/best", trials=10)  # doctest: +SKIP
    >>> best = max((run for run in runs if run.done), key=lambda run: run.headline)  # doctest: +SKIP
    >>> cj.load_run(best.workdir.path).metrics["accuracy"] == best.headline  # doctest: +SKIP
    True
    """
    _configure()
    from pathlib import Path

    from cnnjax.config import check
    from cnnjax.sweeps import space
    from cnnjax.sweeps.search import Search, run_search
    from cnnjax.sweeps.sweep import Sweep

    path = Path(workdir or Path("runs") / f"search_{experiment.name}")
    varied = Sweep(path, check(experiment), space.of_mapping(settings), data_dir=data_dir)
    one = Search(varied, trials, storage, study, prune)
    return one.runs(run_search(one, jobs, many=True, command="cnnjax.search"))


def device_costs(
    experiment: "Experiment",
    device: str,
    *,
    data: "Dataset | None" = None,
    model: Any = None,
    task: "Task | None" = None,
    data_dir: str | None = None,
) -> "StepCosts":
    """What a training step would need on a device that need not be here: memory, kernels, bytes, time by its roofline.

    Needs JAX's compiler for the device: pip install 'cnnjax[devices]', in an environment of its own.

    Args:
      experiment: all settings.
      device: such as h200, h200x8, v5e or v5e:2x2.
      data, model, task: as of `train`.
    Returns:
      The numbers; `print` shows them as --mode=summarize --compiler --device does.
    Raises:
      ConfigError: with one line, for another name, without the compiler, and for a step that does not fit the
        device's memory, with what would.
    """
    from cnnjax.runtime import compile_for

    _configure()
    compile_for.start()
    from cnnjax.config import check
    from cnnjax.inspect.step_costs import compile_training, describe_training
    from cnnjax.runs.plan import Given

    target = compile_for.find(device)
    return compile_training(describe_training(check(experiment), data_dir, Given(data, model, task)), target)


def _configure() -> None:
    from cnnjax.runtime import platform

    platform.configure_late()


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"cnnjax.{_NAMES[name]}"), name)
    if name == "experiments":
        try:
            return importlib.import_module("cnnjax.experiments")  # as it is installed
        except ModuleNotFoundError:
            return importlib.import_module("experiments")  # a checkout, where they stand beside the package
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
