"""What a run begins from: the first of these that there is. `Plan.begin` follows the list.

1. Resume: the newest whole checkpoint in its workdir.
2. Import: one of step 0, which --mode=import wrote there, is such a checkpoint; its head and classes are the weights'.
3. Init from: the weights that train.init_from names, of which it takes what fits; other classes get a head of their own.
4. Scratch: random numbers.

The preprocessing of weights comes with them (2, 3), but for what the user says of it. Here is how weights come in.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from cnnjax import config
from cnnjax.config import ConfigError, Data, Experiment
from cnnjax.data import darknet_resize
from cnnjax.data.dataset import some
from cnnjax.models import create_model
from cnnjax.models.head import head_layers
from cnnjax.models.parts import shapes_of
from cnnjax.network import Preprocessing
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import sharding
from cnnjax.tasks import task_class
from cnnjax.training.recipe import Recipe
from cnnjax.training.step import TrainState
from cnnjax.weights import hub
from cnnjax.weights.convert import fitting, preprocessing, read_weights
from cnnjax.weights.darknet import SUFFIX as DARKNET
from cnnjax.weights.darknet import input_size, is_darknet, is_darknet_model, load_darknet
from cnnjax.weights.files import FORMATS

Leaf = tuple[str, ...]
# [seeds, ...] by the path of a variable without its collection: ("conv1", "kernel").
Values = dict[Leaf, np.ndarray]
PREPROCESSING = tuple(field.name for field in dataclasses.fields(Preprocessing))  # fields of config.Data


@dataclasses.dataclass(frozen=True)
class Beginning:
    """Where a run stands before its next step, and lines that say how it came there."""

    step: int
    state: TrainState
    said: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Trained weights that another run may begin from."""

    path: Path
    data: Mapping[str, Any]  # their preprocessing, as fields of config.Data
    classes: tuple[str, ...]  # () if unknown
    # Of a recipe and the shapes of its variables: the values, and how many more the source has.
    read: Callable[[Recipe, Mapping[Leaf, Any]], tuple[Values, int]]
    hint: Callable[[], str] = lambda: ""  # what the weights do fit


def find(experiment: Experiment) -> Source:
    """The source that train.init_from names: a workdir, a checkpoint in one, or published weights: a file, a folder or
    a repository of the hub (weights/hub.py). Of URLs, a file of weights or a mirrored run, what is in the cache.

    Raises ConfigError if there is none.
    """
    name = experiment.train.init_from
    name = _in_cache(name) if config.is_url(name) else name
    path = Path(name).expanduser()
    if hub.is_published(name) and (published := hub.find(name)):
        return _of_published(experiment, published)
    if path.is_dir():
        if path.parent.name == "checkpoints" and path.name.isdecimal():
            return _of_run(path, Workdir(path.parents[1]), int(path.name))
        return _of_run(path, Workdir(path), None)
    if not path.is_file():
        raise ConfigError(f"train.init_from={path}: no such workdir, checkpoint or file of weights")
    return _of_file(experiment, path)


def _in_cache(url: str) -> str:
    """Where a file of weights, as its ending says, or a mirrored run is now."""
    from cnnjax.remote import fetch, pull

    if Path(urlsplit(url).path).suffix in (*FORMATS, DARKNET):
        return str(fetch.file(url))
    return pull.local_folder(url)


def with_preprocessing(
    experiment: Experiment, source: Mapping[str, Any], said: Collection[str]
) -> Experiment:
    """The experiment with the preprocessing `source`, but for what the user says of it.

    said: fields that stay as they are, such as "data.image_size"; data.mean and data.std go together. Follow what is
    said: the short side and the width in proportion to image_size, mean and std into the order of channels. Raises ConfigError if
    what is said does not go with the rest.
    """
    said = {*said}
    said |= {"data.mean", "data.std"} if {"data.mean", "data.std"} & said else set()
    source = dict(source)
    if "data.image_size" in said and source.get("image_size"):
        larger = experiment.data.image_size / source["image_size"]
        sides = {"resize_short", "image_width"} & {*source}
        source |= {name: round(larger * source[name]) for name in sides}
    if "data.channel_order" in said and experiment.data.channel_order != source["channel_order"]:
        source |= {name: tuple(source[name])[::-1] for name in ("mean", "std")}
    taken = {f"data.{name}": value for name, value in source.items() if f"data.{name}" not in said}
    experiment = config.check(config.replace(experiment, taken))
    side = experiment.data.image_size or 32
    if experiment.data.resize in config.CROPPING and 0 < experiment.data.resize_short < side:
        raise ConfigError(
            f"data.resize_short={experiment.data.resize_short} is smaller than data.image_size={side}"
        )
    return experiment


def said_of(experiment: Experiment) -> set[str]:
    """The fields of preprocessing that an experiment itself says: those that it does not leave as they are by default."""
    return {
        f"data.{name}" for name in PREPROCESSING if getattr(experiment.data, name) != getattr(Data(), name)
    }


def published_preprocessing(experiment: Experiment, weights: str | os.PathLike) -> dict[str, Any]:
    """What the fields of `data` should be for the images of published weights."""
    model = create_model(experiment.model.name, options=experiment.model.options)
    boxes = not experiment.task.startswith(config.OWN) and "boxes" in task_class(experiment.task).targets
    if is_darknet(weights) or is_darknet_model(model):
        height, width = input_size(model)
        fitted = {"image_size": height, "image_width": width, "resize": darknet_resize.LETTERBOX}
        if not boxes:
            fitted = {"image_size": height, "resize_short": height, "resize": "crop"}
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "channel_order": "rgb"} | fitted
    prepared = preprocessing(weights, experiment.model.name)
    changes = {"mean": prepared.mean, "std": prepared.std, "channel_order": prepared.channel_order}
    if prepared.image_size == 32:  # the images of CIFAR come as they are
        return changes
    size = {"image_size": prepared.image_size, "resize_short": prepared.resize_short}
    return changes | size | {"resize": "crop"}


def describe_preprocessing(experiment: Experiment, source: Source) -> str:
    """One line: what came with the weights, and what stays as the experiment says."""
    now = {name: getattr(experiment.data, name) for name in source.data}
    came = [f"{name}={short(value)}" for name, value in source.data.items() if now[name] == value]
    stays = [
        f"{name}={short(now[name])}, not {short(value)}"
        for name, value in source.data.items()
        if now[name] != value
    ]
    own = f"; as you said, or as follows from it: {'; '.join(stays)}" if stays else ""
    return f"preprocessing of the weights: {', '.join(came) or 'none'}{own}"


def short(value: Any) -> str:
    """The value of a field as a line of text shows it."""
    if isinstance(value, tuple):
        return "/".join(f"{one:.4g}" for one in value)
    return str(value)


def begin_from(
    source: Source, recipe: Recipe, state: TrainState, classes: tuple[str, ...], image_shape: Sequence[int], mesh: Mesh
) -> Beginning:  # fmt: skip
    """A fresh state of all seeds with what fits of the source: equal paths and shapes. Seed i takes that of seed i of
    the source, or of i modulo its number. The head is made anew for other classes, also if they are as many.

    Raises ConfigError if less than half of the arrays of the network, or of the source, fit.
    """
    variables = {"params": state.params, **state.model_state}
    template = {
        leaf: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for leaf, a in flatten_dict(variables).items()
    }
    values, more = source.read(recipe, template)
    fit = {leaf for leaf, a in template.items() if leaf[1:] in values and values[leaf[1:]].shape[1:] == a.shape}  # fmt: skip
    if 2 * len(fit) < max(len(template), len(values) + more):
        raise ConfigError(
            f"train.init_from={source.path}: {len(fit)} of its {len(values) + more} arrays fit the {len(template)} of "
            f"this network: they are of another architecture{source.hint()}"
        )
    if source.classes and source.classes != classes:
        head = head_layers(recipe.model, image_shape)
        fit = {leaf for leaf in fit if "/".join(leaf[1:-1]) not in head}
    where = sharding.replicated(mesh)

    def taken(tree: Mapping[str, Any]) -> Any:
        def leaf(name: Leaf, fresh: jax.Array) -> jax.Array:
            if name not in fit:
                return fresh
            found = values[name[1:]]
            rows = found[np.arange(len(fresh)) % len(found)].astype(fresh.dtype)
            return sharding.place(rows, where)

        return unflatten_dict({name: leaf(name, fresh) for name, fresh in flatten_dict(tree).items()})

    begun = taken(variables)
    params = begun.pop("params")
    # The optimizer's state stays: it begins with zeros, whatever the weights are.
    state = dataclasses.replace(
        state, params=params, model_state=begun, ema=taken(state.ema) if recipe.ema else {}
    )
    anew = [leaf for leaf in template if leaf not in fit]
    return Beginning(
        0,
        state,
        (
            f"taken from {source.path}: {len(fit)} of {len(template)} arrays: {some(_layers(fit))}",
            f"made anew: {len(anew)} arrays{': ' if anew else ''}{some(_layers(anew))}",
        ),
    )


def _layers(leaves: Collection[Leaf]) -> list[str]:
    return sorted({"/".join(leaf[1:-1]) or leaf[-1] for leaf in leaves})


def _of_run(path: Path, workdir: Workdir, step: int | None) -> Source:
    """A run at its newest checkpoint that is whole, with train.patience at its best, or at that of a step."""
    there = workdir.read_config()  # tells if there is none
    with CheckpointStore(workdir.checkpoints) as store:
        step = store.best() if step is None and there.train.patience else step
        if step is not None and step not in store.steps():
            raise ConfigError(f"train.init_from={path}: no such checkpoint")
        about = store.describe(step)
    data = config.from_dict(about.get("experiment")).data

    def read(recipe: Recipe, template: Mapping[Leaf, Any]) -> tuple[Values, int]:
        with CheckpointStore(workdir.checkpoints) as store:
            found = store.variables(step) if step is not None else store.newest_variables()
        return {leaf[1:]: value for leaf, value in flatten_dict(found).items()}, 0

    prepared = {name: getattr(data, name) for name in PREPROCESSING}
    if not data.image_size:  # of images as they came
        prepared = {
            name: prepared[name] for name in ("mean", "std", "channel_order", "contrast", "digit_width")
        }
    return Source(path, prepared, tuple(about.get("classes", ())), read)


def _of_published(experiment: Experiment, published: hub.Published) -> Source:
    source = _of_file(experiment, published.weights)

    def hint() -> str:
        same = experiment.model.name == published.model
        return "" if same else f"; give --model.name={published.model}"

    name = Path(published.name)
    return dataclasses.replace(source, path=name, data=published.data, classes=published.classes, hint=hint)


def _of_file(experiment: Experiment, path: Path) -> Source:
    name = experiment.model.name
    if name.startswith(config.OWN):
        raise ConfigError(f"train.init_from={path}: names of layers are known of models of the table only")

    def read(recipe: Recipe, template: Mapping[Leaf, Any]) -> tuple[Values, int]:
        more = 0
        if is_darknet(path):  # without names: it must hold all of the network as it was published
            model = create_model(name, options=experiment.model.options)
            found = flatten_dict(load_darknet(path, model, shapes_of(model, (*input_size(model), 3))))
        else:
            weights = read_weights(path, recipe.model, name, template)
            found, more = weights.values, len(weights.superfluous)
        return {leaf[1:]: np.asarray(value)[None] for leaf, value in found.items()}, more

    hint = functools.partial(fitting, path, name)
    return Source(path, published_preprocessing(experiment, path), (), read, hint)
