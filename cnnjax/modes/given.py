"""What the command line gives: changes of an experiment, workdirs, and what has no effect."""

import contextlib
import shlex
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax import config
from cnnjax.config import ConfigError, Experiment

FLAGS = flags.FLAGS
# Beside the run, where --output does not say otherwise.
MAKES_FILES = ("evaluate", "predict", "visualize", "slide", "export")


def flag_changes() -> dict[str, Any]:
    """The fields of the experiment that the command line sets, with values of the right type."""
    changes: dict[str, Any] = {}
    for name, field, _ in config.fields(Experiment()):
        value = FLAGS[name].value if name in FLAGS else None
        if value is None:
            continue
        if isinstance(field.type, types.GenericAlias):
            kind = config.element_type(field.type)
            try:
                value = tuple(kind(item) for item in value)
            except ValueError as error:
                raise ConfigError(
                    f"--{name}={','.join(value)}: expected numbers separated by commas"
                ) from error
        changes[name] = value
    return changes


def only_changes(*allowed: str) -> dict[str, Any]:
    """The changes of the command line, of which only these fields, or parts such as "evaluate.", may be changed."""
    changes = flag_changes()
    refused = [name for name in changes if not name.startswith(allowed)]
    if refused and FLAGS.list:
        raise ConfigError(f"--{refused[0]} has no effect with --list")
    if refused:
        raise ConfigError(
            f"--{refused[0]} cannot be changed by mode={FLAGS.mode}, which reads "
            f"{', '.join(sorted(allowed)) or 'none of an experiment'}"
        )
    return changes


def chosen_experiment(workdir: Any, default: str = "digits_lenet") -> Experiment:
    """The experiment of the flags: the named one, else that of the workdir, else the default, then the changes."""
    from cnnjax import experiments

    if FLAGS.experiment is None and workdir is not None and workdir.has_run():
        experiment = workdir.read_config()
    else:
        name = default if FLAGS.experiment is None else FLAGS.experiment
        experiment = experiments.named(name)
    changes = flag_changes()
    experiment = config.changed(experiment, changes)
    if FLAGS.mode == "prepare":  # has no task
        return experiment
    from cnnjax.runs import refusals

    if FLAGS.mode != "train":
        refusals.refuse_fitted(experiment.task, f"mode={FLAGS.mode}")
    if FLAGS.mode != "import":  # weights bring what is missing
        refusals.refuse_without_effect(experiment, changes)
    return experiment


def optional_workdir() -> Any:
    from cnnjax.runs.workdir import Workdir

    return Workdir(local_run(FLAGS.workdir)) if FLAGS.workdir else None


def local_run(path: str) -> str:
    """The folder of a run; of the URL of a mirrored one, a copy in the cache, where nothing is written for long."""
    if not config.is_url(path):
        return path
    if FLAGS.mode in MAKES_FILES and not FLAGS.output:
        raise ConfigError(f"mode={FLAGS.mode} of a mirrored run, {path}, needs --output=PATH on this machine")
    from cnnjax.remote.pull import local_folder

    return local_folder(path)


def mirror_of(workdir: Any) -> contextlib.AbstractContextManager[Any]:
    """What --mirror names, for as long as a run trains in the workdir, which tells it of each checkpoint."""
    if not FLAGS.mirror:
        return contextlib.nullcontext(lambda step: None)
    from cnnjax.remote.mirror import attached

    return attached(FLAGS.mirror, workdir)


def existing_workdir() -> Any:
    from cnnjax.runs.workdir import Workdir

    if not FLAGS.workdir:
        raise ConfigError(f"mode={FLAGS.mode} needs --workdir=DIR, the folder of a trained run")
    return Workdir(local_run(FLAGS.workdir))


def several_runs() -> list[str]:
    """The folders of the runs in --workdir where it names several, or a sweep, of which those that are done; else none."""
    from cnnjax.sweeps import sweep

    given = FLAGS.workdir or ""
    paths = [given] if Path(given).exists() else given.split(",")
    if len(paths) == 1 and not (given and sweep.is_sweep(Path(given))):
        return []
    return [run for path in paths for run in sweep.runs_in(Path(local_run(path)))]


def committee(changes: Mapping[str, Any] | None = None) -> Any:
    """That of several runs in --workdir; None for one run."""
    paths = several_runs()
    if not paths:
        if FLAGS.votes:
            raise ConfigError("--votes are for several runs: --workdir=A,B,C")
        return None
    from cnnjax.runs.committee import restore_all

    try:
        votes = tuple(map(float, FLAGS.votes))
    except ValueError as error:
        raise ConfigError(f"--votes={','.join(FLAGS.votes)}: expected numbers separated by commas") from error
    return restore_all(paths, FLAGS.checkpoint, votes, changes)


def is_fitted(workdir: Any) -> bool:
    """Whether the run is of a model that is fitted in one go, of which there is one only."""
    from cnnjax.faces.fitted import FITTED

    task = workdir.read_config().task if workdir.has_run() else ""
    if task in FITTED:
        without("checkpoint", f"task={task}, which has one model")
    return task in FITTED


def without(name: str, other: str) -> None:
    """Raises ConfigError if the flag is given, which has no effect beside the other."""
    if FLAGS[name].present:
        raise ConfigError(f"--{name} has no effect with {other}")


def command_line() -> str:
    """As it is typed in the folder of the launcher, wherever that lies on this machine."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
