"""What a run will be: its experiment, completed from the data, and all that follows from it before the first step."""

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.augment.augment import check_images
from cnnjax.config import ConfigError, Experiment
from cnnjax.data import identity, labels
from cnnjax.data.dataset import Dataset, some
from cnnjax.data.sources import is_path, load
from cnnjax.data.statistics import channel_stats
from cnnjax.detection.anchors import kmeans_anchors
from cnnjax.models import Model, create_model
from cnnjax.network import Preprocessing
from cnnjax.runs import beginning, convolutions, refusals
from cnnjax.runs.beginning import Beginning
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import platform, sharding
from cnnjax.tasks import TASKS, Task
from cnnjax.training.recipe import Recipe, make_recipe
from cnnjax.training.step import TrainState, compile_init, init_states

_LOOKED_AT = 5000  # training images that may determine initial weights
_AT_ONCE = 500  # images that are evened out together
_BYTES = 2**29  # that they may take, decoded
_MEASURED = 1000  # images of a streamed set that data.mean, data.std and initial weights may come from


@dataclasses.dataclass(frozen=True)
class Given:
    """What a program brings itself, in place of what an experiment names."""

    data: Dataset | None = None
    model: Model | None = None
    task: Task | None = None

    def named(self, experiment: Experiment) -> Experiment:
        """The experiment with the names of what is given."""
        names = {"data.name": self.data, "model.name": self.model, "task": self.task}
        return config.replace(experiment, {k: _own(v) for k, v in names.items() if v is not None})

    def check(self, experiment: Experiment, needed: Sequence[str] = ("data", "model", "task")) -> None:
        """Raises ConfigError if one of these parts of the experiment has to be given and is not."""
        names = {"data": experiment.data.name, "model": experiment.model.name, "task": experiment.task}
        for part in needed:
            name = names[part]
            if name.startswith(config.OWN) and getattr(self, part) is None:
                raise ConfigError(
                    f"{part} {name.removeprefix(config.OWN)} was given by a program, which alone has it: "
                    f"use cnnjax.load_run(workdir, {part}=...)"
                )


def _own(given: Any) -> str:
    return config.OWN + (given.name if isinstance(given, Dataset) else type(given).__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that is about to begin, or to go on."""

    experiment: Experiment  # with everything that the data decide
    dataset: Dataset
    recipe: Recipe
    mesh: Mesh
    num_steps: int
    metadata: Mapping[str, Any]  # of each checkpoint
    source: beginning.Source | None = None  # that of train.init_from, if it was looked up already

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.dataset.train["image"].shape[1:]

    @property
    def looked_at(self) -> np.ndarray | None:
        """Training images that determine initial weights, where the model looks at them."""
        if not hasattr(self.recipe.model, "initialize_from"):
            return None
        return np.asarray(self.dataset.train["image"][: _MEASURED if self.dataset.streamed else _LOOKED_AT])

    def begin(self, store: CheckpointStore) -> Beginning:
        """In the order of runs/beginning.py: from the newest whole checkpoint of this run (resumed, or imported), else
        from the weights of train.init_from, else from random numbers."""
        found = store.restore_newest(
            abstract_state(self.recipe, self.experiment, self.image_shape, self.mesh)
        )
        if found:
            return Beginning(*found, self.going_on(found[0]))
        init = compile_init(self.recipe, self.image_shape, self.mesh)
        state = init(_seeds(self.experiment), self.looked_at)
        frozen = self.what_is_frozen(state)
        if not self.experiment.train.init_from:
            return Beginning(0, state, (*frozen, *self.what_is_random()))
        source, classes = self.source or beginning.find(self.experiment), self.dataset.classes
        begun = beginning.begin_from(source, self.recipe, state, classes, self.image_shape, self.mesh)
        prepared = beginning.describe_preprocessing(self.experiment, source)
        return dataclasses.replace(begun, said=(*begun.said, prepared, *frozen))

    def what_is_frozen(self, state: TrainState) -> tuple[str, ...]:
        """The line that says which parameters stay as they are, if there are such."""
        paths = ["/".join(path) for path in flatten_dict(state.params)]
        frozen = [path for path in paths if path in self.recipe.frozen]
        layers = sorted({path.rpartition("/")[0] for path in frozen})
        return (f"frozen: {len(frozen)} of {len(paths)} parameters: {some(layers)}",) if frozen else ()

    def what_is_random(self) -> tuple[str, ...]:
        """The line of a run from scratch that holds back what was never trained."""
        rule = self.experiment.optimizer
        held = [f"optimizer.frozen={','.join(rule.frozen)}"] if rule.frozen else []
        held += (
            [f"optimizer.trunk_learning_rate={rule.trunk_learning_rate}"]
            if rule.trunk_learning_rate < 1
            else []
        )
        if not held:
            return ()
        return (
            f"note: {' and '.join(held)} of random numbers; --train.init_from begins from trained weights",
        )

    def going_on(self, step: int) -> tuple[str, ...]:
        """The line of a run that goes on; none at step 0, that of an import."""
        return (f"going on from step {step:,} of {self.num_steps:,}",) if step else ()


def make_plan(
    experiment: Experiment, workdir: Workdir, data_dir: str | None, given: Given, said: Collection[str] = ()
) -> Plan:
    """Reads the data. Raises ConfigError for what cannot be meant, or is another run than that in `workdir`.

    said: fields that the user gave, beside what differs from the defaults: weights do not change these.
    """
    if experiment.evaluate.augment == "ten_crop":
        raise ConfigError(
            "evaluate.augment=ten_crop needs larger images than training reads: use it with mode=evaluate"
        )
    experiment = workdir.with_own_cfg(given.named(experiment))
    given.check(experiment)
    refusals.check_names(experiment)
    source = None
    if experiment.train.init_from:
        source = None if workdir.has_run() else beginning.find(experiment)
        experiment = _with_preprocessing_of_weights(experiment, source, workdir, said)
    if workdir.has_run():  # told before the data are read, which takes time; and again with what these decide
        refusals.refuse_another_experiment(workdir, experiment)
    dataset = with_classes_of_run(workdir, given.data or load(experiment.data, data_dir))
    refusals.refuse_patience_without_validation(experiment, dataset)
    experiment = with_statistics(experiment, dataset, given.task)
    if workdir.has_run():
        refusals.refuse_another_experiment(workdir, experiment)
    image_shape = dataset.train["image"].shape[1:]
    check_images(experiment.augment, image_shape)
    num_steps = config.total_steps(experiment.train, len(dataset.train["image"]), experiment.data.batch_size)
    recipe = make_recipe(
        experiment, dataset.classes, image_shape, num_steps, model=given.model, task=given.task
    )
    mesh = sharding.make_mesh(experiment.data.batch_size, experiment.train.data_parallel)
    return Plan(
        experiment=experiment,
        dataset=dataset,
        recipe=convolutions.for_training(recipe, experiment, image_shape, num_steps, mesh),
        mesh=mesh,
        num_steps=num_steps,
        metadata={
            "experiment": dataclasses.asdict(experiment),
            "classes": list(dataset.classes),
            "image_shape": list(image_shape),
            "data": identity.describe(dataset),
            "versions": platform.versions(),
        },
        source=source,
    )


def _with_preprocessing_of_weights(
    experiment: Experiment, source: beginning.Source | None, workdir: Workdir, said: Collection[str]
) -> Experiment:
    """With the preprocessing of the source of weights; of a run that goes on, without one, as it has it already."""
    there = source.data if source else _preprocessing_of(workdir.read_config())
    return beginning.with_preprocessing(experiment, there, {*said, *beginning.said_of(experiment)})


def _preprocessing_of(experiment: Experiment) -> dict[str, Any]:
    return {name: getattr(experiment.data, name) for name in beginning.PREPROCESSING}


def with_statistics(experiment: Experiment, dataset: Dataset, task: Task | None = None) -> Experiment:
    """Fills from the training split what the experiment leaves empty: data.mean and data.std, anchors, class weights.

    Raises ConfigError if the experiment does not fit the data.
    """
    name, channels = experiment.data.name, dataset.train["image"].shape[-1]
    learner = task or TASKS.get(experiment.task)
    if learner and not set(learner.targets) <= set(dataset.train):
        has, learns = (
            next((kind for kind in ("boxes", "points") if kind in of), "one label per image")
            for of in (dataset.train, learner.targets)
        )
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
            most = min(_MEASURED, max(1, _BYTES // math.prod(looked_at.shape[1:])))
            looked_at = np.asarray(looked_at[:most])
        preprocessing = Preprocessing.of(experiment.data)
        mean, std = channel_stats(_evened(preprocessing, looked_at))
        std = tuple(value or 1.0 for value in std)  # 0: a constant channel
        in_order = preprocessing.in_rgb
        changes |= {"data.mean": in_order(mean), "data.std": in_order(std)}
    changes |= _class_weights(experiment, dataset)
    if "boxes" in dataset.train and (count := _anchors_to_find(experiment)):
        boxes = dataset.train["boxes"][dataset.train["valid"]]
        try:
            anchors = kmeans_anchors(boxes[:, 2:] - boxes[:, :2], count)
        except ValueError as error:
            cause = f"; {dataset.note}" if dataset.note else ""  # perhaps that boxes were lost
            asked = "detection.kmeans" if experiment.detection.kmeans else f"detection.num_anchors={count}"
            raise ConfigError(f"{asked}: {error}{cause}") from error
        changes["detection.anchors"] = tuple(side for anchor in anchors for side in anchor)
    return config.replace(experiment, changes)


def _evened(preprocessing: Preprocessing, images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] as normalization will find them."""
    if preprocessing.contrast == "none" and not preprocessing.digit_width:
        return images
    evened = jax.jit(lambda part: jnp.round(255 * preprocessing.evened(part.astype(jnp.float32) / 255)))
    parts = [images[at : at + _AT_ONCE] for at in range(0, len(images), _AT_ONCE)]
    return np.concatenate([np.asarray(evened(part)).astype(np.uint8) for part in parts])


def _class_weights(experiment: Experiment, dataset: Dataset) -> dict[str, Any]:
    """What classification.balanced makes of the number n of training examples of each of K classes: N / (K n), of
    which the mean over all N is 1 (King & Zeng 2001; scikit-learn's "balanced").

    Raises ConfigError if weights that are given are not one for each class, or all are zero.
    """
    asked, classes = experiment.classification, dataset.classes
    if asked.class_weights:
        if len(asked.class_weights) != len(classes):
            raise ConfigError(
                f"classification.class_weights has {len(asked.class_weights)} numbers, "
                f"data.name={dataset.name!r} {len(classes)} classes: {some(classes)}"
            )
        if min(asked.class_weights) < 0 or not any(asked.class_weights):
            raise ConfigError("classification.class_weights: no weight may be negative, and not all 0")
    if asked.class_weights or not asked.balanced:
        return {}
    counts = np.bincount(dataset.train["label"], minlength=len(classes))
    present = counts > 0
    weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
    return {"classification.class_weights": tuple(weights.tolist())}


def _anchors_to_find(experiment: Experiment) -> int:
    """How many anchors k-means should find; 0 if it is not asked to."""
    detection = experiment.detection
    if detection.anchors:
        return 0
    if detection.kmeans:
        return len(
            getattr(create_model(experiment.model.name, options=experiment.model.options), "anchors", ())
        )
    return detection.num_anchors if detection.form == "anchors" else 0


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
    _, classes, _ = described(about, workdir)
    if "weights" in about and are_published(dataset.name, dataset.classes, classes):
        return dataset
    return labels.as_trained(dataset, classes)


def are_published(name: str, names: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    """Whether classes are the same by number, however those of imported weights are called: a publication's."""
    return not is_path(name) and len(names) == len(classes)


def described(
    about: Mapping[str, Any], workdir: Workdir
) -> tuple[Experiment, tuple[str, ...], tuple[int, ...]]:
    """Experiment, classes and image shape that a checkpoint tells of; ConfigError if they are no such things."""
    classes, shape = (tuple(about.get(name) or ()) for name in ("classes", "image_shape"))
    texts, sides = (isinstance(name, str) for name in classes), (isinstance(side, int) for side in shape)
    if not (all(texts) and all(sides) and classes and len(shape) == 3 and min(shape) > 0):
        raise ConfigError(f"checkpoint in {workdir.checkpoints}: its classes or image_shape are damaged")
    return workdir.with_own_cfg(config.from_dict(about.get("experiment"))), classes, shape


def with_chosen(experiment: Experiment, chosen: Mapping[str, float]) -> Experiment:
    """The experiment where a validation split has decided what it leaves at 0."""
    empty = {name for name, _, value in config.fields(experiment) if not value}
    return config.replace(experiment, {name: value for name, value in chosen.items() if name in empty})


def abstract_state(
    recipe: Recipe, experiment: Experiment, image_shape: tuple[int, ...], mesh: Mesh
) -> TrainState:
    """Shapes, types and places of the state of a run, for restoring it."""
    shapes = jax.eval_shape(functools.partial(init_states, recipe, image_shape), _seeds(experiment))
    place = sharding.replicated(mesh)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)


def _seeds(experiment: Experiment) -> np.ndarray:
    return np.arange(experiment.train.seeds, dtype=np.int32) + np.int32(experiment.train.seed)
