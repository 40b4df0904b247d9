"""Several runs side by side: one table and one figure of curves, from what lies in their workdirs."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.data import identity
from cnnjax.drawing import pages
from cnnjax.drawing.figures import compared_curves, save
from cnnjax.faces.fitted import FITTED
from cnnjax.models import create_model
from cnnjax.models.parts import shapes_of
from cnnjax.remote.pull import local_folder
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.evaluated import as_csv, cells
from cnnjax.runs.workdir import Workdir, write_atomically
from cnnjax.tasks import make_task, task_class
from cnnjax.tasks.significance import exact_interval
from cnnjax.tasks.task import Table

# Fields that say which examples are evaluated; and those of which no column is wanted, since others tell the same.
_EVALUATED = ("data.validation", "data.split", "data.keep", "data.masks")
_UNTOLD = ("name", "data.mean", "data.std", "data.name", "train.checkpoint_every", "evaluate.batch_size")
_BESIDE = ("step", "split", "seconds")  # in a line, beside the metrics
_SETTINGS = 8  # columns of what differs


@dataclasses.dataclass(frozen=True)
class Compared:
    """One run: what it is, and what was measured of it.

    evaluated: how many examples; None of a run whose checkpoint does not tell. lines: of metrics.jsonl.
    """

    name: str
    experiment: Experiment
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    evaluated: int | None
    lines: Sequence[Mapping[str, Any]]
    headline: str

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        """The lines of the evaluated split, in order."""
        return [line for line in self.lines if line["split"] == "test"]

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last evaluation: means over seeds."""
        return {name: value for name, value in self.evaluations[-1].items() if name not in _BESIDE}

    @property
    def best(self) -> tuple[float, int]:
        """The highest headline metric of any evaluation, and its step."""
        found = [line for line in self.evaluations if self.headline in line]
        line: Mapping[str, Any] = max(found, key=lambda line: line[self.headline])
        return float(line[self.headline]), int(line["step"])

    @property
    def parameters(self) -> int | None:
        """Of one seed; None of a network that a program brought, and of what is none."""
        named, task = self.experiment.model, self.experiment.task
        if not self.image_shape or named.name.startswith(config.OWN) or task.startswith(config.OWN):
            return None
        outputs = make_task(self.experiment, self.classes, self.image_shape).num_outputs
        model = create_model(named.name, outputs, options=named.options)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model, self.image_shape)["params"]))

    @property
    def seconds(self) -> float:
        return training_seconds(self.lines)


def training_seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    """Of the lines of metrics.jsonl: of all processes that trained the run, each of which counts from its own start."""
    told = [float(line["seconds"]) for line in lines if "seconds" in line]
    return sum(a for a, b in itertools.pairwise([*told, -1.0]) if b < a)


def read(path: str) -> Compared:
    """Of a run in a folder, or behind the URL of its mirror.

    Raises ConfigError if there is no run, or nothing was measured of it yet.
    """
    workdir = Workdir(local_folder(path))
    experiment = workdir.read_config()
    if experiment.task in FITTED:
        headline, classes, evaluated, shape = "", (), None, ()
    else:
        with CheckpointStore(workdir.checkpoints) as store:
            about = store.describe() if store.steps() else {}
        classes, evaluated = tuple(about.get("classes", ())), about.get("data", {}).get("test")
        own = experiment.task.startswith(config.OWN)
        headline = "accuracy" if own else task_class(experiment.task).headline
        shape = tuple(about.get("image_shape", ()))
    lines = workdir.read_metrics()
    if not any(line["split"] == "test" for line in lines):
        lines = [*lines, _measured(workdir)]
        evaluated = lines[-1].pop("images")
    # of what is fitted in one go
    headline = headline or next(name for name in lines[-1] if name not in _BESIDE)
    return Compared(path.rstrip("/"), experiment, classes, shape, evaluated, lines, headline)


def _measured(workdir: Workdir) -> dict[str, Any]:
    """What mode=evaluate wrote of a run that was not evaluated in training, such as one of published weights."""
    path = workdir.path / "evaluation" / "metrics.json"
    try:
        found = json.loads(path.read_text())
        about = {"step": found["checkpoint"], "split": "test", "images": found["protocol"]["images"]}
        return {**found["metrics"]["mean"], **about}
    except FileNotFoundError as error:
        raise ConfigError(
            f"workdir {workdir.path} was not evaluated yet: --mode=evaluate --workdir={workdir.path}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def read_all(paths: Sequence[str]) -> list[Compared]:
    """Raises ConfigError, in one line, for fewer than two, and for runs whose numbers are of other things."""
    if len(paths) < 2:
        raise ConfigError("mode=compare needs --workdirs=A,B, the folders of two runs or more")
    if len(set(paths)) < len(paths):
        raise ConfigError("a run is named twice in --workdirs")
    runs = [read(path) for path in paths]
    for one in runs[1:]:
        if problem := _incomparable(runs[0], one):
            raise ConfigError(f"{one.name} cannot be compared with {runs[0].name}: {problem}")
    return runs


def _incomparable(one: Compared, other: Compared) -> str:
    """Why the numbers of two runs are not of the same thing; "" if they are."""
    a, b = one.experiment, other.experiment
    if a.task != b.task:
        return f"task={b.task} there, {a.task} here"
    if a.data.name != b.data.name and not identity.is_moved(a.data.name, b.data.name):
        return f"data.name={b.data.name!r} there, {a.data.name!r} here"
    if sorted(one.classes) != sorted(other.classes):
        return f"it has other classes ({len(other.classes)}, not {len(one.classes)})"
    values = [dict((name, value) for name, _, value in config.fields(of)) for of in (a, b)]
    for name in _EVALUATED:
        if values[0][name] != values[1][name]:
            return f"{name}={values[1][name]} there, {values[0][name]} here: other examples are evaluated"
    if None not in (one.evaluated, other.evaluated) and one.evaluated != other.evaluated:
        return f"{other.evaluated:,} examples are evaluated there, {one.evaluated:,} here"
    return ""


def differing(runs: Sequence[Compared]) -> list[str]:
    """The fields of the experiments that are not the same in all runs."""
    first = runs[0].experiment
    found = [line.split(":")[0] for one in runs[1:] for line in config.differences(first, one.experiment)]
    return [name for name in dict.fromkeys(found) if not name.startswith(_UNTOLD + ("visualize.",))]


def table(runs: Sequence[Compared]) -> Table:
    """A row for each run, in the order given: what differs, how long, and what was measured."""
    settings = differing(runs)[:_SETTINGS]
    headline = runs[0].headline
    metrics = [name for name in runs[0].metrics if all(name in one.metrics for one in runs)]
    metrics.sort(key=lambda name: name != headline)
    sure = "accuracy" in metrics and all(one.evaluated and one.experiment.train.seeds == 1 for one in runs)
    head = ["run", *settings, "parameters", "step", "seconds", *metrics]
    head += ["accuracy: 95 % interval"] if sure else []
    head += [f"best {headline}", "at step"]
    rows = []
    for one in runs:
        values = {name: value for name, _, value in config.fields(one.experiment)}
        row: list[Any] = [one.name, *(_shown(values[name]) for name in settings), one.parameters]
        row += [one.lines[-1]["step"], one.seconds or None, *(one.metrics[name] for name in metrics)]
        if sure and one.evaluated:
            low, high = exact_interval(round(one.metrics["accuracy"] * one.evaluated), one.evaluated)
            row.append(f"{low:.4f} - {high:.4f}")
        rows.append([*row, *one.best])
    return Table(head, rows)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write(runs: Sequence[Compared], folder: Path, command: str) -> Table:
    """Writes comparison.csv, curves.png and comparison.html, and returns the table.

    Raises ConfigError if the folder cannot be written.
    """
    found = table(runs)
    picture = compared_curves({one.name: one.lines for one in runs}, runs[0].headline)
    left = differing(runs)[_SETTINGS:]
    evaluated = runs[0].evaluated
    facts = {
        "data": f"{runs[0].experiment.data.name}{f', {evaluated:,} examples evaluated' if evaluated else ''}",
        "metrics": "of the last evaluation; of several seeds their means",
        "command": command,
    }
    if left:
        facts["differ, too"] = ", ".join(left)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "comparison.csv", as_csv(found))
        save(picture.figure, folder / "curves.png")
        body = [
            pages.table(list(found.head), cells(found)),
            pages.section(picture, (folder / "curves.png").read_bytes()),
            pages.facts(facts),
            *(pages.folded(f"Configuration of {one.name}", config.to_json(one.experiment)) for one in runs),
        ]
        title = f"{len(runs)} runs of {runs[0].experiment.data.name}"
        write_atomically(folder / "comparison.html", pages.page(title, "\n".join(body)))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; choose another --output") from error
    return found
