"""Each option changes what a run computes, or is refused with a reason: for every task, and in every named experiment."""

import functools
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import config, experiments, tasks
from cnnjax.config import ConfigError, Data, Experiment, Model, Train
from cnnjax.data import sources
from cnnjax.data.synthetic import figures, scenes
from cnnjax.faces.fitted import FITTED
from cnnjax.runs.plan import with_statistics
from cnnjax.runs.refusals import refuse_without_effect
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import augmented, init_state, train_step

QUICK = Train(epochs=0.0, steps=8)
# the same for all, as drawing is slow to compile
SCENES = Data(name="shapes", objects=1, limit=8, batch_size=4)
TASKS = {
    "classification": Experiment(
        data=Data(name="digits", image_size=28, limit=40, batch_size=8),
        model=Model(name="lenet5"),
        train=QUICK,
    ),
    "localization": Experiment(
        task="localization",
        data=SCENES,
        model=Model(name="localizer"),
        train=QUICK,
    ),
    "grid_detection": Experiment(
        task="grid_detection",
        data=SCENES,
        model=Model(name="grid8"),
        train=QUICK,
    ),
    "multiscale_detection": Experiment(
        task="multiscale_detection",
        data=SCENES,
        model=Model(name="tiny_yolov3_tiny"),
        train=QUICK,
    ),
    "two_stage": Experiment(
        task="two_stage",
        data=Data(name="shapes", image_size=64, masks=True, limit=4, batch_size=2),
        model=Model(name="maskrcnn_small"),
        train=QUICK,
    ),
    "points": Experiment(
        task="points",
        data=Data(name="figures", limit=8, batch_size=4),
        model=Model(name="point_net"),
        train=QUICK,
    ),
    "heatmaps": Experiment(
        task="heatmaps",
        data=Data(name="figures", limit=8, batch_size=4),
        model=Model(name="heatmaps_small"),
        train=QUICK,
    ),
}
# What decides how long a run is, where it runs and on whose kernels, how much is written and shown: not what a step
# computes.
ELSEWHERE = ("name", "train.", "evaluate.", "visualize.", "data.stream", "data.workers", "model.convolutions")
# Names that stand for a whole choice; a test of their own walks each of these tables.
TABLES = ("task", "data.name", "model.name")
OTHERS = {
    "data.mean": {"data.mean": (0.5,), "data.std": (0.5,)},
    "data.std": {"data.mean": (0.5,), "data.std": (0.25,)},
    "data.image_size": {"data.image_size": 96},
    "data.resize": {"data.resize": "crop"},
    "data.split": {"data.split": "val"},
    "data.keep": {"data.keep": ("square",)},
    "data.masks": {"data.masks": True},
    "data.backgrounds": {"data.backgrounds": "nowhere"},
    "data.validation": {"data.validation": 0.5},
    "model.options": {"model.options": ("nothing=1",)},
    "augment.sizes": {"augment.sizes": (32,)},
    "augment.scale": {"augment.scale": 0.3},
    "augment.random_crop": {"augment.random_crop": 0.3},
    "augment.cutout": {"augment.cutout": 4},
    "augment.crop": {"augment.crop": 2},
    "augment.colour_jitter": {"augment.colour_jitter": (0.4, 0.4, 0.0, 0.0)},
    "detection.anchors": {"detection.anchors": (10.0, 20.0)},
    "cascade.stumps": {"cascade.stumps": (3,)},
    "shape_model.reach": {"shape_model.reach": (3,)},
    "shape_model.cascade": {"shape_model.cascade": "cascade.xml"},
    "mtcnn.steps": {"mtcnn.steps": (3, 2, 1)},
    "mtcnn.samples": {"mtcnn.samples": (3, 2, 1)},
    "mtcnn.mined": {"mtcnn.mined": (0.5, 0.5)},
    "mtcnn.thresholds": {"mtcnn.thresholds": (0.5, 0.5, 0.5)},
    "mtcnn.landmarks": {"mtcnn.landmarks": "points:FACES"},
    "mtcnn.weights": {"mtcnn.weights": "FOLDER"},
    "detection.similar": {"detection.similar": ("circle/square",)},
    "optimizer.boundaries": {"optimizer.boundaries": (0.5,)},
    "optimizer.schedule": {"optimizer.schedule": "linear"},
    "optimizer.warmup": {"optimizer.warmup": 0.5},
    "optimizer.lookahead": {"optimizer.lookahead": 2, "optimizer.ema": 0.9},
    "classification.class_weights": {"classification.class_weights": (2.0,) + 9 * (1.0,)},
    "optimizer.frozen": {"optimizer.frozen": ("output",)},
    "optimizer.whitening": {"optimizer.whitening": 0.5},
}


def other(name: str, field) -> dict:
    """A change of one option to a value that it does not have by itself."""
    if name in OTHERS:
        return OTHERS[name]
    if choices := field.metadata["choices"]:
        return {name: next(choice for choice in choices if choice != field.default)}
    if field.type is bool:
        return {name: not field.default}
    if field.type is int:
        return {name: field.default + 1}
    assert field.type is float and not isinstance(field.type, types.GenericAlias), name
    return {name: 0.5 if field.default != 0.5 else 0.6}


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """So that any number of pictures is drawn by one program."""
    monkeypatch.setattr(scenes, "CHUNK", 4)
    monkeypatch.setattr(figures, "CHUNK", 4)


@functools.cache
def loaded(data: Data):
    return sources.load(data, None)


def prepared(experiment: Experiment):
    dataset = loaded(experiment.data)
    shape = dataset.train["image"].shape[1:]
    steps = config.total_steps(experiment.train, 1, 1)
    return dataset, shape, make_recipe(with_statistics(experiment, dataset), dataset.classes, shape, steps)


@functools.cache
def values(experiment: Experiment):
    """What decides the numbers of a run beside the program of a step: data, preprocessing, task and network."""
    dataset, _, recipe = prepared(experiment)
    splits = [dataset.train, dataset.test] + ([dataset.validation] if dataset.validation else [])
    data = [(k, v.shape, zlib.crc32(np.ascontiguousarray(v).tobytes())) for s in splits for k, v in s.items()]
    return data, repr(recipe.task), repr(recipe.preprocessing), repr(recipe.model)


@functools.cache
def programs(experiment: Experiment, whole: bool):
    """The program of a step, or its first part, augmentation, for each size of images, with its constants."""
    dataset, shape, recipe = prepared(experiment)
    count = experiment.data.batch_size
    batch = {name: jnp.asarray(np.asarray(rows[:count])) for name, rows in dataset.train.items()}
    batch |= {"index": jnp.arange(count), "epoch": jnp.zeros(count, jnp.int32)}
    state = jax.eval_shape(functools.partial(init_state, recipe, shape), jnp.int32(0)) if whole else None
    found = []
    for one in recipe.sized or (recipe,):
        trace = jax.make_jaxpr(functools.partial(train_step if whole else augmented, one))
        closed = trace(state, batch) if whole else trace(batch, jax.random.key(0))
        found.append((hash(str(closed.jaxpr)), [zlib.crc32(np.asarray(a).tobytes()) for a in closed.consts]))
    return found


def check(experiment: Experiment, changes: dict) -> str:
    """ "refused" in words, or "changed"; an assertion fails if the change has no effect."""
    try:
        changed = config.check(config.replace(experiment, changes))
        refuse_without_effect(changed, changes)
        # The quickest first: what changes the data needs no look at the program.
        same = values(changed) == values(experiment)
        same = same and programs(changed, whole=False) == programs(experiment, whole=False)
        same = same and programs(changed, whole=True) == programs(experiment, whole=True)
        assert not same, f"{changes} change nothing"
    except ConfigError as error:
        return f"refused: {error}"
    return "changed"


OPTIONS = {
    name: field
    for name, field, _ in config.fields(Experiment())
    if not name.startswith(ELSEWHERE) and name not in TABLES
}


ROWS = [
    "classification",
    *(
        pytest.param(name, marks=pytest.mark.full)
        for name in ("localization", "grid_detection", "points", "heatmaps")
    ),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("two_stage", "multiscale_detection")),
]


def test_every_task_has_a_row():
    assert set(TASKS) == set(tasks.TASKS) == {getattr(row, "values", (row,))[0] for row in ROWS}


@pytest.mark.parametrize("task", ROWS)
def test_every_option_changes_the_program_or_is_refused(task):
    refused = {}
    for name, field in OPTIONS.items():
        if task != "classification" and name.startswith("optimizer."):
            continue  # an update is the same whatever the task
        if config.replace(TASKS[task], other(name, field)) == TASKS[task]:
            continue  # it is so already
        said = check(TASKS[task], other(name, field))
        if said != "changed":
            refused[name] = said
    # The sections of other tasks are refused wholly, and say nothing of this one.
    learners = [*tasks.TASKS.values(), *FITTED.values()]
    others = {section for of in learners for section in of.options} - {*tasks.TASKS[task].options}
    own = [name for name in OPTIONS if name.partition(".")[0] not in others]
    assert len({*refused} & {*own}) < len(own) / 2
    for name, said in refused.items():
        assert name in said or any(name in text for text in other(name, OPTIONS[name])), (name, said)


@pytest.mark.full
def test_an_option_that_needs_another_changes_the_program_beside_it():
    tried = 0
    for name, field in OPTIONS.items():
        needs = {k: v for k, v in field.metadata["needs"].items() if "." in k and k != "model.name"}
        if not needs:
            continue
        usual = "grid_detection" if name.startswith("detection.") else "classification"
        task = field.metadata["needs"].get("task", (usual,))[0]
        beside = {}
        for needed, allowed in needs.items():
            beside |= {needed: allowed[0]} if allowed else other(needed, OPTIONS[needed])
        if "optimizer.schedule" in beside and name != "optimizer.boundaries":
            beside |= {"optimizer.boundaries": (0.5,)} if beside["optimizer.schedule"] == "piecewise" else {}
        if name == "data.resize_short":
            beside |= {"data.image_size": 28}
        experiment = config.replace(TASKS[task], beside)
        change = {"data.resize_short": 32} if name == "data.resize_short" else other(name, field)
        if name == "optimizer.boundaries":
            experiment = config.replace(experiment, {"optimizer.boundaries": (0.25,)})
        assert check(experiment, change) == "changed", name
        tried += 1
    assert tried > 12


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_named_experiments_say_nothing_without_effect(name):
    experiment = experiments.EXPERIMENTS[name]()
    refuse_without_effect(experiment, {field for field, _, _ in config.fields(experiment)})
