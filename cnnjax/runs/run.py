"""A run as one of its checkpoints holds it: what evaluate, predict, visualize and export begin from."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import config
from cnnjax.augment.views import before_views
from cnnjax.config import ConfigError, Data, Experiment
from cnnjax.data import identity, labels
from cnnjax.data.buckets import canvas
from cnnjax.data.dataset import Dataset, shortcomings_of_evaluated
from cnnjax.data.examples import Columns
from cnnjax.data.images import read_image
from cnnjax.data.sources import check_folder, load_evaluated
from cnnjax.network import Batches, Committee, Network, of_seeds
from cnnjax.ops.arithmetic import Arithmetic
from cnnjax.runs import convolutions
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.plan import Given, abstract_state, are_published, described, with_chosen
from cnnjax.runs.refusals import refuse_fitted, refuse_without_effect
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import sharding
from cnnjax.tasks import Result
from cnnjax.training.evaluate import Evaluation, Evaluator
from cnnjax.training.recipe import Recipe, make_recipe
from cnnjax.training.step import TrainState

_FRAMING = ("image_size", "resize", "resize_short", "image_width", "interpolation")  # fields of data


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with the experiment that it comes from; it needs no dataset unless it is evaluated."""

    experiment: Experiment
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    recipe: Recipe
    state: TrainState  # leading axis: seeds
    step: int
    workdir: Workdir | None = None
    data: Dataset | None = None  # what a program trained it on, where that has no name

    @property
    def first(self) -> Network:
        """The network of the first seed."""
        variables = jax.tree.map(lambda a: a[0], self.state.variables)
        return self.recipe.network(variables, self.image_shape, self.classes)

    @property
    def network(self) -> Network | Committee:
        """The network or, of several seeds, their committee."""
        return of_seeds(self.recipe.network(self.state.variables, self.image_shape, self.classes))

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last evaluation in training until this step: means over seeds. Empty if there was none."""
        lines = self.workdir.read_metrics() if self.workdir else []
        found = [line for line in lines if line["split"] == "test" and line["step"] <= self.step]
        other = ("step", "split", "seconds")
        return {name: value for name, value in found[-1].items() if name not in other} if found else {}

    def for_images(self, count: int) -> "Run":
        """The same, computed as is fastest for so many images."""
        mesh = sharding.evaluation_mesh()
        recipe = convolutions.chosen(self.recipe, self.experiment.model, self.image_shape, count, mesh)
        return dataclasses.replace(self, recipe=recipe)

    def predictor(self) -> Batches:
        """Answers for pictures as mode=predict does, with the views of evaluate.augment."""
        return self.network.predictor(self.experiment.evaluate.augment)

    def predict(self, images: Sequence[str | Path | np.ndarray]) -> list[Result]:
        """The results for image files, or arrays uint8 [H, W, C], of any size. Raises ConfigError for the first file
        that cannot be read."""
        predictor, channels = self.predictor(), self.image_shape[-1]
        read = functools.partial(read_image, data=Data(), channels=channels)
        arrays = [one if isinstance(one, np.ndarray) else read(Path(one)) for one in images]
        for array in arrays:
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != channels:
                raise ConfigError(
                    f"an image is {array.dtype}{list(array.shape)}, not uint8 [H, W, {channels}]"
                )
        if not arrays:
            return []
        predictions = predictor.predictions([predictor.framed(array) for array in arrays])
        return [predictor.result(p, a.shape) for p, a in zip(predictions, arrays, strict=True)]

    def evaluate(self, changes: Mapping[str, Any] | None = None, data_dir: str | None = None) -> Evaluation:
        """Evaluates on the split that training evaluated, or on other data of the same classes.

        `changes` may be those of `under`. Of class folders that the network was not trained on, as
        after an import, all images count, and their names say which of its classes they are.
        """
        return self.evaluated(changes, data_dir).evaluation()

    def evaluated(self, changes: Mapping[str, Any] | None = None, data_dir: str | None = None) -> "Evaluated":
        """What `evaluate` looks at, framed and numbered as this network takes it, notes on it, and how."""
        run = self.under(changes or {})
        split, notes = run._split(self, data_dir)
        return Evaluated(run, split, notes)

    def under(self, changes: Mapping[str, Any]) -> "Run":
        """The same weights, used and looked at in another way: with other fields evaluate.*, data.name, model.precision and how
        images are brought to the network. What is read in another size is given to the network in that size. With
        data.validation=0 the test split is looked at, in place of what was held out.

        Raises ConfigError for what changes nothing, a size that the network cannot take, and another share held out than
        in training, whose examples were then learned.
        """
        check_folder(changes.get("data.name", ""))
        held_out = self.experiment.data.validation
        if changes.get("data.validation", 0.0) not in (0.0, held_out):
            raise ConfigError(
                f"data.validation={changes['data.validation']:g}: the run held out {held_out:g} of its training examples; "
                "0 stands for the test split"
            )
        experiment = config.check(config.replace(self.experiment, changes))
        data = experiment.data
        Given(self.data).check(experiment, ("data",))
        framing = [name for name in changes if name.removeprefix("data.") in _FRAMING]
        if framing or {"model.precision", "model.convolutions"} & set(changes):
            refuse_without_effect(experiment, changes)
        if not framing:
            arithmetic = Arithmetic(experiment.model.precision)
            recipe = dataclasses.replace(self.recipe, arithmetic=arithmetic)
            return dataclasses.replace(self, experiment=experiment, recipe=recipe)
        seen = self.step > 0 and data.name == self.experiment.data.name
        if seen and (self.data is not None or not data.image_size):
            raise ConfigError(
                f"--{framing[0]} has no effect: the images of data.name={data.name!r} come in the size of the network"
            )
        height, width, channels = self.image_shape
        height, width = data.image_size or height, data.image_width or data.image_size or width
        if self.recipe.task and experiment.data.resize == config.SHORT_SIDE:
            height, width = canvas((height, width))
        if data.resize in config.CROPPING and data.resize_short and data.resize_short < height:
            raise ConfigError(
                f"data.resize_short={data.resize_short} is smaller than data.image_size={height}"
            )
        shape = (height, width, channels)
        task = self.recipe.task if experiment.task.startswith(config.OWN) else None
        recipe = make_recipe(experiment, self.classes, shape, 1, model=self.recipe.model, task=task)
        run = dataclasses.replace(self, experiment=experiment, recipe=recipe, image_shape=shape)
        if shape != self.image_shape:
            run.first.check_size()
        return run

    def _split(self, trained: "Run", data_dir: str | None) -> tuple[Columns, tuple[str, ...]]:
        """The examples that are looked at, and notes on them; `trained` tells on what the network was trained."""
        settings, data = self.experiment.evaluate, self.experiment.data
        unseen = self.step == 0 or data.name != trained.experiment.data.name
        if self.data is not None and data.name == trained.experiment.data.name:
            split, classes = self.data.test, self.data.classes
        else:
            if unseen and not data.image_size:
                data = dataclasses.replace(data, image_size=self.image_shape[0])
            data = before_views(settings.augment, data)
            split, classes = load_evaluated(data, data_dir, self.image_shape[-1], unseen)
        notes = shortcomings_of_evaluated(split, classes)
        if not unseen:
            split = labels.of_run(split, data.name, classes, self.classes)
        elif data.name != trained.experiment.data.name or not are_published(data.name, classes, self.classes):
            split = labels.renumber(split, data.name, classes, self.classes, data_dir)
        side = data.image_size
        shape = (side, side) if settings.augment == "ten_crop" else self.image_shape[:2]
        if split["image"].shape[1:] != (*shape, self.image_shape[2]):
            given, taken = ("x".join(map(str, s)) for s in (split["image"].shape[1:], self.image_shape))
            raise ConfigError(f"data.name={data.name!r} has images of {given}, the network takes {taken}")
        return Columns.of(split), notes


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A run, as it is used in an evaluation, and the examples it is evaluated on."""

    run: Run
    split: Columns
    notes: tuple[str, ...]

    def evaluation(self) -> Evaluation:
        """What the network says of every example is told in full (Task.in_full)."""
        run, settings = self.run.for_images(len(self.split)), self.run.experiment.evaluate
        mesh = sharding.evaluation_mesh()
        recipe = dataclasses.replace(run.recipe, task=run.recipe.task.in_full())
        evaluator = Evaluator(recipe, self.split, settings.batch_size, mesh, settings.augment)
        evaluation = evaluator(jax.device_put(run.state.variables, sharding.replicated(mesh)))
        return dataclasses.replace(evaluation, notes=self.notes)

    @property
    def protocol(self) -> dict[str, Any]:
        """How images got from their files into the network, and which: what a number means nothing without."""
        experiment, preprocessing = self.run.experiment, self.run.recipe.preprocessing
        height, width, _ = self.run.image_shape
        return {
            "data": experiment.data.name,
            "images": len(self.split),
            "network input": [height, width],
            **dataclasses.asdict(preprocessing),
            "evaluate.augment": experiment.evaluate.augment,
            "model.precision": experiment.model.precision,
        }


def restore(
    workdir: Workdir,
    checkpoint: str = "",
    changes: Mapping[str, Any] | None = None,
    given: Given | None = None,
) -> Run:
    """A run at its newest good checkpoint, "last", the "best" one, or that of a step; by default the last one, of a run
    with train.patience the best.

    `changes` may set the fields config.PREDICTABLE.
    """
    there, given = workdir.read_config(), given or Given()
    refuse_fitted(there.task, f"workdir {workdir.path}")
    name, checkpoint = there.data.name, checkpoint or ("best" if there.train.patience else "last")
    with CheckpointStore(workdir.checkpoints) as store:
        steps = store.steps()
        if not steps:
            raise ConfigError(f"workdir {workdir.path} has no checkpoint yet")
        step = _wanted(store, steps, checkpoint, workdir)
        about = store.describe(step)
        experiment, classes, shape = described(about, workdir)
        experiment = with_chosen(experiment, about.get("chosen", {}))
        moved = {"data.name": name} if identity.is_moved(experiment.data.name, name) else {}
        experiment = config.check(config.replace(experiment, {**moved, **(changes or {})}))
        given.check(experiment, needed=("model", "task"))
        recipe = make_recipe(experiment, classes, shape, num_steps=1, model=given.model, task=given.task)
        mesh = sharding.make_mesh(1, data_parallel=False)
        abstract = abstract_state(recipe, experiment, shape, mesh)
        if step is None:
            newest = store.restore_newest(abstract)
            step, state = newest or (steps[-1], store.restore(steps[-1], abstract))
        else:
            state = store.restore(step, abstract)
    return Run(experiment, classes, shape, recipe, state, step, workdir, given.data)


def _wanted(store: CheckpointStore, steps: Sequence[int], checkpoint: str, workdir: Workdir) -> int | None:
    """The step of a checkpoint that is called "best" or by its number; None for "last"."""
    known = ", ".join(map(str, steps))
    if checkpoint == "last":
        return None
    if checkpoint == "best":
        step = store.best()
        if step is None:
            raise ConfigError(
                f"checkpoint=best: no checkpoint of {workdir.path} was evaluated; choose last or one of {known}"
            )
        return step
    if not checkpoint.isdecimal() or int(checkpoint) not in steps:
        raise ConfigError(f"checkpoint={checkpoint!r}: choose last, best or one of {known}")
    return int(checkpoint)
