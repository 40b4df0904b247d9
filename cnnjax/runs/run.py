"""One run from its workdir: what train, evaluate, predict and visualize share."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.augment.examples import before_views
from cnnjax.config import ConfigError, Experiment, Stopped
from cnnjax.data import identity, labels
from cnnjax.data.dataset import Dataset, shortcomings, shortcomings_of_evaluated
from cnnjax.data.sources import check_folder, is_path, load, load_evaluated
from cnnjax.data.statistics import channel_stats
from cnnjax.detection.anchors import kmeans_anchors
from cnnjax.runs import refusals, report
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.logs import MetricsLog, Progress
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import platform, processes, sharding
from cnnjax.tasks import TASKS, make_task
from cnnjax.training import nonfinite
from cnnjax.training.evaluate import Evaluation, Evaluator
from cnnjax.training.loop import Callbacks, Diverged, train
from cnnjax.training.step import Recipe, TrainState, compile_init, in_rgb, init_states, make_recipe

_LOOKED_AT = 5000  # training images that may determine initial weights
_MEASURED = 1000  # images of a streamed set that data.mean, data.std and initial weights may come from
_ANOTHER_ORDER = 1_000_003  # added to the seed when a run is rolled back; far from those of other runs
_CALLS_PER_AGREEMENT = 10  # compiled calls of several processes between two questions whether to stop
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A trained network as its checkpoint describes it; needs no dataset."""

    experiment: Experiment
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    recipe: Recipe
    state: TrainState  # leading axis: seeds
    step: int


def train_run(experiment: Experiment, workdir: Workdir, data_dir: str | None, command: str) -> Evaluation:
    """Trains in `workdir`, or goes on with the run that is there; ends with a report. Returns the last evaluation."""
    # The first process speaks for all; the others see it end if the folder is in use.
    with workdir.claim() if processes.is_first() else contextlib.nullcontext():
        processes.wait("the workdir is claimed")
        return _train_run(experiment, workdir, data_dir, command)


def _train_run(experiment: Experiment, workdir: Workdir, data_dir: str | None, command: str) -> Evaluation:
    if experiment.evaluate.augment == "ten_crop":
        raise ConfigError(
            "evaluate.augment=ten_crop needs larger images than training reads: use it with mode=evaluate"
        )
    refusals.check_names(experiment)
    if workdir.has_run():  # told before the data are read, which takes time; and again with what these decide
        refusals.refuse_another_experiment(workdir, experiment)
    dataset = with_classes_of_run(workdir, load(experiment.data, data_dir))
    experiment = with_statistics(experiment, dataset)
    image_shape = dataset.train["image"].shape[1:]
    if workdir.has_run():
        refusals.refuse_another_experiment(workdir, experiment)
    num_steps = config.total_steps(experiment.train, len(dataset.train["image"]), experiment.data.batch_size)
    recipe = make_recipe(experiment, dataset.classes, image_shape, num_steps)
    mesh = sharding.make_mesh(experiment.data.batch_size, experiment.train.data_parallel)
    data = identity.describe(dataset)
    metadata = {
        "experiment": dataclasses.asdict(experiment),
        "classes": list(dataset.classes),
        "image_shape": list(image_shape),
        "data": data,
        "versions": platform.versions(),
    }
    evaluator = Evaluator(
        recipe, dataset.test, experiment.evaluate.batch_size, mesh, experiment.evaluate.augment
    )
    validator = evaluator
    if dataset.validation is not None and dataset.validation is not dataset.test:
        validator = Evaluator(
            recipe, dataset.validation, experiment.evaluate.batch_size, mesh, experiment.evaluate.augment
        )
    store = CheckpointStore(workdir.checkpoints, experiment.train.keep_last, experiment.train.keep_best)
    first = processes.is_first()
    evaluations: list[Evaluation] = []

    def go_on(start: int, state: TrainState, stopped: threading.Event) -> TrainState:
        """From `start` steps to the end, with everything that is written and said on the way."""
        if first:
            workdir.write_config(experiment)
            workdir.rewind_metrics(start)
        lines = MetricsLog(
            workdir.metrics if first else Path(os.devnull), first and experiment.train.tensorboard
        )
        progress = Progress(num_steps, start, quiet=not first)
        if start:
            progress.say(f"going on from step {start:,} of {num_steps:,}")
        clock = _Clock(start)

        def on_metrics(step: int, metrics: dict[str, float]) -> None:
            rate = clock.lap(step) * experiment.data.batch_size * experiment.train.seeds
            lines.write(step, "train", {**metrics, "images_per_second": rate, "seconds": clock.seconds})
            shown = {name: metrics[name] for name in ("loss", recipe.task.headline) if name in metrics}
            progress.update(step, **shown)

        def on_evaluate(step: int, state: TrainState) -> float:
            """Returns the headline of the split that decides which checkpoint is best: validation where there is one."""
            evaluations[:] = [evaluator(state.variables)]
            found = evaluations[0] if validator is evaluator else validator(state.variables)
            for evaluation in (evaluations[0], found):
                _check_finite(evaluation, step, experiment.train.seed)
            lines.write(step, "test", {**evaluations[0].mean, "seconds": clock.seconds})
            if dataset.validation is not None:
                if found.chosen or validator is not evaluator:
                    lines.write(step, "validation", {**found.mean, **found.chosen, "seconds": clock.seconds})
            progress.say(f"step {step:,}  {describe_metrics(evaluations[0])}")
            clock.lap(step)
            return found.mean[recipe.task.headline]

        asked = itertools.count(1)

        def should_stop() -> bool:
            """Processes stop at the same step; to agree on it they wait for each other, so they seldom ask."""
            if jax.process_count() == 1:
                return stopped.is_set()
            return next(asked) % _CALLS_PER_AGREEMENT == 0 and processes.any_process(stopped.is_set())

        def on_checkpoint(step: int, state: TrainState, headline: float | None) -> None:
            store.save(step, state, headline, metadata)

        try:
            return train(
                experiment, recipe, dataset, mesh, state, num_steps,
                Callbacks(on_metrics, on_evaluate, on_checkpoint, should_stop),
            )  # fmt: skip
        finally:
            progress.close()
            lines.close()

    with store, _stop_on_signal() as stopped:
        refusals.refuse_other_data(store, experiment, data)
        tries: collections.Counter[int] = collections.Counter()  # by the step that they began from
        while True:
            start, state = _resume_or_init(store, recipe, experiment, dataset, mesh)
            if start > num_steps:
                raise ConfigError(
                    f"workdir {workdir.path} has {start:,} steps; the experiment asks for {num_steps:,}"
                )
            if tries[start]:
                # A function of the checkpoint: a run that is killed now will come to the same seed again.
                state = dataclasses.replace(state, seed=state.seed + tries[start] * _ANOTHER_ORDER)
            try:
                state = go_on(start, state, stopped)
                break
            except Diverged as error:
                store.wait()
                good = max(store.steps(), default=None)
                tries[good or 0] += 1
                settings = experiment.train
                if settings.on_nan != "roll_back" or tries[good or 0] > settings.nan_limit:
                    raise ConfigError(_explain(error, good)) from error
                if first:
                    tried = f"{tries[good or 0]} of {settings.nan_limit}"
                    log.warning(
                        "%s; going back to step %d (%s), the data in another order", error, good or 0, tried
                    )
        if int(jax.device_get(state.step)[0]) < num_steps:
            raise Stopped(f"stopped by a signal; launch again with --workdir={workdir.path} to go on")
    if not evaluations:
        evaluations.append(evaluator(state.variables))
        try:
            _check_finite(evaluations[0], num_steps, experiment.train.seed)
        except Diverged as error:
            raise ConfigError(str(error)) from error
    evaluation = dataclasses.replace(evaluations[0], notes=shortcomings(dataset))
    if first:
        variables = jax.device_get(state.variables)
        experiment = with_chosen(experiment, workdir, num_steps)
        recipe = dataclasses.replace(recipe, task=make_task(experiment, dataset.classes, image_shape))
        judged = "test" if validator is evaluator else "validation"
        report.write(workdir, experiment, dataset, recipe, variables, evaluation, command, judged)
    return evaluation


def restore(workdir: Workdir, checkpoint: str = "last", changes: Mapping[str, Any] | None = None) -> Restored:
    """The network of a run: its newest good checkpoint, the best one, or that of a step.

    `changes` may set the fields config.PREDICTABLE.
    """
    name = workdir.read_config().data.name
    with CheckpointStore(workdir.checkpoints) as store:
        steps = store.steps()
        if not steps:
            raise ConfigError(f"workdir {workdir.path} has no checkpoint yet")
        step: int | None = None
        if checkpoint == "best":
            step = store.best()
            if step is None:
                raise ConfigError(
                    f"checkpoint=best: no checkpoint of {workdir.path} was evaluated; choose last or one of "
                    f"{', '.join(map(str, steps))}"
                )
        elif checkpoint != "last":
            if not checkpoint.isdecimal() or int(checkpoint) not in steps:
                raise ConfigError(
                    f"checkpoint={checkpoint!r}: choose last, best or one of {', '.join(map(str, steps))}"
                )
            step = int(checkpoint)
        experiment, classes, shape = _described(store.describe(step), workdir)
        experiment = with_chosen(experiment, workdir, steps[-1] if step is None else step)
        moved = {"data.name": name} if identity.is_moved(experiment.data.name, name) else {}
        experiment = config.check(config.replace(experiment, {**moved, **(changes or {})}))
        recipe = make_recipe(experiment, classes, shape, num_steps=1)
        mesh = sharding.make_mesh(1, data_parallel=False)
        abstract = _abstract_state(recipe, experiment, shape, mesh)
        if step is None:
            newest = store.restore_newest(abstract)
            step, state = newest or (steps[-1], store.restore(steps[-1], abstract))
        else:
            state = store.restore(step, abstract)
    return Restored(experiment, classes, shape, recipe, state, step)


def _described(
    about: Mapping[str, Any], workdir: Workdir
) -> tuple[Experiment, tuple[str, ...], tuple[int, ...]]:
    """Experiment, classes and image shape that a checkpoint tells of; ConfigError if they are no such things."""
    classes, shape = (tuple(about.get(name) or ()) for name in ("classes", "image_shape"))
    texts, sides = (isinstance(name, str) for name in classes), (isinstance(side, int) for side in shape)
    if not (all(texts) and all(sides) and classes and len(shape) == 3 and min(shape) > 0):
        raise ConfigError(f"checkpoint in {workdir.checkpoints}: its classes or image_shape are damaged")
    return config.from_dict(about.get("experiment")), classes, shape


def evaluate_run(
    workdir: Workdir, data_dir: str | None, checkpoint: str, changes: Mapping[str, Any]
) -> Evaluation:
    """Evaluates a checkpoint on the split that training evaluated, or on other data of the same classes.

    `changes` may set evaluate.* fields and data.name. Of class folders that the network was not trained on, as
    after an import, all images count, and their names say which of its classes they are.
    """
    check_folder(changes.get("data.name", ""))
    run = restore(workdir, checkpoint)
    experiment = config.check(config.replace(run.experiment, changes))
    settings, data = experiment.evaluate, experiment.data
    unseen = run.step == 0 or data.name != run.experiment.data.name
    if unseen and not data.image_size:
        data = dataclasses.replace(data, image_size=run.image_shape[0])
    data = before_views(settings.augment, data)
    split, classes = load_evaluated(data, data_dir, run.image_shape[-1], unseen)
    notes = shortcomings_of_evaluated(split, classes)
    if not unseen:
        split = labels.of_run(split, data.name, classes, run.classes)
    elif not (data.name == run.experiment.data.name and _published(data.name, classes, run.classes)):
        split = labels.renumber(split, data.name, classes, run.classes, data_dir)
    shape = (data.image_size, data.image_size) if settings.augment == "ten_crop" else run.image_shape[:2]
    if split["image"].shape[1:] != (*shape, run.image_shape[2]):
        given, taken = ("x".join(map(str, s)) for s in (split["image"].shape[1:], run.image_shape))
        raise ConfigError(f"data.name={data.name!r} has images of {given}, the network takes {taken}")
    mesh = sharding.evaluation_mesh()
    evaluator = Evaluator(run.recipe, split, settings.batch_size, mesh, settings.augment)
    evaluation = evaluator(jax.device_put(run.state.variables, sharding.replicated(mesh)))
    return dataclasses.replace(evaluation, notes=notes)


def with_classes_of_run(workdir: Workdir, dataset: Dataset) -> Dataset:
    """The dataset with its labels numbered as the run in `workdir` learned them; as it is if there is no checkpoint.

    Raises ConfigError if the data has other classes by now.
    """
    if not workdir.has_run():
        return dataset
    with CheckpointStore(workdir.checkpoints) as store:
        if not store.steps():
            return dataset
        about = store.describe()
    _, classes, _ = _described(about, workdir)
    if "weights" in about and _published(dataset.name, dataset.classes, classes):
        return dataset
    return labels.as_trained(dataset, classes)


def _published(name: str, names: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    """Whether classes are the same by number, however those of imported weights are called: a publication's."""
    return not is_path(name) and len(names) == len(classes)


def _check_finite(evaluation: Evaluation, step: int, seed: int) -> None:
    """Raises Diverged if a seed's evaluation has a metric that is not finite."""
    for number, values in enumerate(evaluation.per_seed):
        for name, value in values.items():
            if not np.isfinite(value):
                raise Diverged(step, seed + number, f"the evaluated {name}")


def with_statistics(experiment: Experiment, dataset: Dataset) -> Experiment:
    """Fills from the training split what the experiment leaves empty: data.mean and data.std, and anchors.

    Raises ConfigError if the experiment does not fit the data.
    """
    name, channels = experiment.data.name, dataset.train["image"].shape[-1]
    if experiment.task in TASKS:
        wanted = TASKS[experiment.task].targets
        if not set(wanted) <= set(dataset.train):
            has = "boxes" if "boxes" in dataset.train else "one label per image"
            learns = "boxes" if "boxes" in wanted else "one label per image"
            raise ConfigError(f"data.name={name!r} has {has}; task={experiment.task} learns {learns}")
    if len(experiment.data.mean) not in (0, 1, channels):
        given = len(experiment.data.mean)
        raise ConfigError(
            f"data.mean has {given} numbers, the images of data.name={name!r} {channels} channels"
        )
    changes: dict[str, Any] = {}
    if not (experiment.data.mean and experiment.data.std):
        looked_at = dataset.train["image"]
        if dataset.streamed:  # a fixed sample: the images of a streamed set come in a shuffled order
            looked_at = np.asarray(looked_at[:_MEASURED])
        mean, std = channel_stats(looked_at)
        std = tuple(value or 1.0 for value in std)  # 0: a constant channel
        changes |= {"data.mean": in_rgb(mean, experiment.data), "data.std": in_rgb(std, experiment.data)}
    detection = experiment.detection
    if (
        (detection.form == "anchors" or detection.kmeans)
        and not detection.anchors
        and "boxes" in dataset.train
    ):
        boxes = dataset.train["boxes"][dataset.train["valid"]]
        try:
            anchors = kmeans_anchors(boxes[:, 2:] - boxes[:, :2], detection.num_anchors)
        except ValueError as error:
            cause = f"; {dataset.note}" if dataset.note else ""  # perhaps that boxes were lost
            raise ConfigError(f"detection.num_anchors={detection.num_anchors}: {error}{cause}") from error
        changes["detection.anchors"] = tuple(side for anchor in anchors for side in anchor)
    return config.replace(experiment, changes)


def with_chosen(experiment: Experiment, workdir: Workdir, step: int) -> Experiment:
    """Fills the fields CHOSEN that are 0 from the last evaluation on a validation split until `step`."""
    empty = {name for name, _, value in config.fields(experiment) if name in config.CHOSEN and not value}
    lines = [
        line for line in workdir.read_metrics() if line["split"] == "validation" and line["step"] <= step
    ]
    last = lines[-1] if lines else {}
    return config.replace(experiment, {name: last[name] for name in empty if name in last})


def describe_metrics(evaluation: Evaluation) -> str:
    """One line: each metric, followed by its other columns where there are several seeds."""
    table = evaluation.table
    parts = []
    for name in evaluation.mean:
        others = [f"{column} {format_metric(name, table[column][name])}" for column in list(table)[1:]]
        text = f"{name} {format_metric(name, evaluation.mean[name])}"
        parts.append(f"{text} ({', '.join(others)})" if others else text)
    return "  ".join(parts)


def format_metric(name: str, value: float) -> str:
    """Shares in percent; losses and numbers of collisions, means over the images, as they are."""
    share = "loss" not in name and name != "collisions" and 0 <= value <= 1
    return f"{100 * value:.2f} %" if share else f"{value:.4f}"


def _explain(error: Diverged, good: int | None) -> str:
    """One line about a run that diverged when `good` was the newest checkpoint."""
    where = f"; {nonfinite.first_appearance(*error.before)}" if error.before else ""
    kept = "no checkpoint was written yet" if good is None else f"the last good checkpoint is step {good:,}"
    look = "" if error.before else "; --train.debug_nans names the layer where it began"
    return (
        f"{error}{where}; {kept}. Try a lower --optimizer.learning_rate, some --optimizer.warmup or "
        f"--optimizer.clip_norm=1{look}"
    )


def _resume_or_init(
    store: CheckpointStore, recipe: Recipe, experiment: Experiment, dataset: Dataset, mesh: Mesh
) -> tuple[int, TrainState]:
    image_shape = dataset.train["image"].shape[1:]
    found = store.restore_newest(_abstract_state(recipe, experiment, image_shape, mesh))
    if found:
        return found
    init = compile_init(recipe, image_shape, mesh)
    images = np.asarray(dataset.train["image"][: _MEASURED if dataset.streamed else _LOOKED_AT])
    return 0, init(_seeds(experiment), images)


def _seeds(experiment: Experiment) -> np.ndarray:
    return np.arange(experiment.train.seeds, dtype=np.int32) + np.int32(experiment.train.seed)


def _abstract_state(
    recipe: Recipe, experiment: Experiment, image_shape: tuple[int, ...], mesh: Mesh
) -> TrainState:
    shapes = jax.eval_shape(functools.partial(init_states, recipe, image_shape), _seeds(experiment))
    place = sharding.replicated(mesh)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)


class _Clock:
    """Steps per second since the last lap, and seconds since the start."""

    def __init__(self, step: int):
        self._start = self._last = time.monotonic()
        self._step = step

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def lap(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._last, 1e-9)
        self._last, self._step = now, step
        return round(rate, 3)


class _stop_on_signal:
    """While active, signals ask the loop to stop: those of a person (SIGINT, a second of which ends the process at
    once) and those of schedulers (SIGTERM, SIGUSR1, SIGUSR2), which may come several times for one reason."""

    def __enter__(self) -> threading.Event:
        self._event = threading.Event()
        self._old: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                self._old[number] = signal.signal(number, self._handle)
        return self._event

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self._event.is_set() and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._event.set()
