"""A trained network: all that it needs to answer for a picture, and nothing of how it was trained."""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from cnnjax.augment.views import VIEWS, before_views, test_views
from cnnjax.config import ConfigError, Data
from cnnjax.data.batches import evaluation_indices
from cnnjax.data.images import resize
from cnnjax.models import Model
from cnnjax.models.parts import still_norms
from cnnjax.ops.arithmetic import AS_IT_IS, Arithmetic
from cnnjax.ops.contrast import CONTRASTS, fit_width
from cnnjax.runtime import sharding
from cnnjax.tasks import Outputs, Result, Task, average

_BATCH = 64  # images, or views of them, that prediction sees at once, if they are no larger than
_SIDE = 256  # pixels; of larger ones fewer
IMAGE = "image"  # the key of the picture itself among the stages

Stages = Mapping[str, Array]
Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes what a model takes: as much a part of trained weights as the numbers.

    It is brought to the frame of the model as `resize`, `image_size`, `resize_short` and `interpolation` say, there evened
    out as `digit_width` and `contrast` say (the fields of config.Data); its values, in [0, 1], become
    (value - mean) / std. `mean` and `std` have one number per channel,
    in the order that the model sees, or one for all. Pictures are RGB (or grey) everywhere else.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "rgb"
    image_size: int = 0
    resize_short: int = 0
    image_width: int = 0
    resize: str = "stretch"
    interpolation: str = "bilinear"
    contrast: str = "none"
    digit_width: int = 0

    @classmethod
    def of(cls, data: Data) -> "Preprocessing":
        """That of an experiment whose data.mean and data.std are filled in."""
        return cls(**{field.name: getattr(data, field.name) for field in dataclasses.fields(cls)})

    def check(self, channels: int) -> None:
        """Raises ConfigError if it cannot be that of images with so many channels."""
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} values for images of {channels} channels"
                )
        if self.channel_order not in ("rgb", "bgr"):
            raise ConfigError(f"channel_order={self.channel_order!r}: choose rgb or bgr")

    def in_rgb(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Numbers per channel in the order of channel_order, such as `mean`, in that of images, and back."""
        return values[::-1] if self.channel_order == "bgr" else values

    def __call__(self, images: Array | np.ndarray) -> Array:
        """Images [..., H, W, C] in the frame of the model, values 0 to 255, as it takes them, float32."""
        return self.of_shares(jnp.asarray(images).astype(jnp.float32) / 255)

    def of_shares(self, images: Array) -> Array:
        """The same of images with values in [0, 1], in their type."""
        images = self.evened(images)
        if self.channel_order == "bgr":
            images = images[..., ::-1]
        ones = (1,) * (images.ndim - 1)
        mean, std = (jnp.asarray(v, images.dtype).reshape(*ones, -1) for v in (self.mean, self.std))
        return (images - mean) / std

    def evened(self, images: Array) -> Array:
        """Images [..., H, W, C] of values in [0, 1] as digit_width and contrast leave them."""
        if self.digit_width:
            images = fit_width(images, self.digit_width)
        return CONTRASTS[self.contrast](images) if self.contrast != "none" else images

    def frame(self, image: np.ndarray, shape: Sequence[int], views: str = "none") -> np.ndarray:
        """A picture, uint8 [H, W, C], brought to the frame [height, width, C], or larger for views that are crops."""
        return resize(image, before_views(views, self), shape)


class Apply:
    """A model with its variables, for `Task.forward`: called with images [N, H, W, C], 0 to 255, it normalizes them.

    What a call changes, such as running statistics, is in `changed` afterwards and what the next call begins from.
    Norms whose variables, such as "bn1/mean", are among `frozen` are in training what they are in evaluation.
    """

    def __init__(
        self,
        model: Model,
        variables: Mapping[str, Any],
        preprocessing: Preprocessing,
        train: bool = False,
        key: Array | None = None,
        frozen: Collection[str] = (),
        arithmetic: Arithmetic = AS_IT_IS,
    ):
        self.model = model
        self.changed = {name: value for name, value in variables.items() if name != "params"}
        self._mutable = list(self.changed) if train else []
        self._params, self._preprocessing = variables["params"], preprocessing
        self._train, self._key, self._frozen, self._arithmetic = train, key, frozen, arithmetic

    def __call__(self, images: Array, **more: Any) -> Any:
        return self._run(images, more, [])[0]

    def with_stages(self, images: Array, **more: Any) -> tuple[Any, dict[str, Any]]:
        outputs, changed = self._run(images, more, ["stages"])
        return outputs, dict(changed.get("stages", {}))

    def _run(self, images: Array, more: Mapping[str, Any], extra: list[str]) -> tuple[Any, Mapping[str, Any]]:
        still = still_norms(self._frozen) if self._frozen else contextlib.nullcontext()
        with still, self._arithmetic.used():
            outputs, changed = self.model.apply(
                {"params": self._params, **self.changed},
                self._preprocessing(images),
                train=self._train,
                mutable=[*self._mutable, *extra],
                rngs=None if self._key is None else {"dropout": self._key},
                **more,
            )
        self.changed = {**self.changed, **{name: changed[name] for name in self._mutable if name in changed}}
        return outputs, changed


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["variables"],
    meta_fields=["model", "image_shape", "preprocessing", "classes", "task", "arithmetic"],
)
@dataclasses.dataclass(frozen=True)
class Network:
    """A trained model, how pictures enter it and what its outputs mean. A pytree whose leaves are the variables.

    model: a module with `apply(variables, x, train=..., mutable=...)`; `stages` and `layers` need its layers named
      by `cnnjax.models.layers.stage`.
    image_shape: height, width, channels of the pictures that it is run on.
    classes: names of the outputs, where known.
    task: what the outputs are; needed to predict.
    arithmetic: how its products and convolutions are computed.
    """

    model: Any
    variables: Any
    image_shape: Shape
    preprocessing: Preprocessing = Preprocessing()
    classes: tuple[str, ...] = ()
    task: Task | None = None
    arithmetic: Arithmetic = AS_IT_IS

    def __post_init__(self) -> None:
        self.preprocessing.check(self.image_shape[2])

    def outputs(self, images: Array, views: str = "none") -> Outputs:
        """What the network says of images [N, H, W, C], 0 to 255, averaged over test-time views; pure."""
        task = self._task()
        task.check_views(views)
        seen = test_views(views, images.astype(jnp.float32), self.preprocessing.image_size)
        # One large batch: the compiler sees the network once. Examples stay on the devices that hold them.
        stacked = jnp.stack([view.images for view in seen], axis=1)
        batch = {"image": stacked.reshape(-1, *stacked.shape[2:])}
        apply = Apply(self.model, self.variables, self.preprocessing, arithmetic=self.arithmetic)
        outputs = task.forward(apply, batch)
        if len(seen) == 1:
            return outputs
        of_views = jax.tree.map(lambda a: a.reshape(*stacked.shape[:2], *a.shape[1:]), outputs)
        turned = [
            task.flipped_back(jax.tree.map(lambda a, i=i: a[:, i], of_views), view.flipped)
            for i, view in enumerate(seen)
        ]
        return average(task, turned, [view.weight for view in seen])

    def frame(self, image: np.ndarray, views: str = "none") -> np.ndarray:
        """A picture, uint8 [H, W, C], as `outputs` takes it, without the axis of a batch."""
        return self.preprocessing.frame(image, self.image_shape, views)

    @property
    def longest_side(self) -> int:
        """The most pixels that `frame` makes of a side of a square picture."""
        asked = self.preprocessing
        return max(*self.image_shape[:2], asked.image_size, asked.resize_short, asked.image_width)

    def predictor(self, views: str = "none") -> "Batches":
        """Answers for pictures of any size."""
        return Batches(self, views)

    def stages(self, images: Array, perturbations: Stages | None = None) -> dict[str, Array]:
        """Every named stage of the model on pictures [N, H, W, C] in [0, 1], as "block/stage" -> [N, ...], and "image".

        Under jit, what is not used is not computed. `perturbations` are added to the stages they name: the
        gradient with respect to a zero perturbation is the gradient with respect to that stage.
        """
        _, stages = self._run(self.preprocessing.of_shares(images), perturbations)
        return {IMAGE: images, **flatten_dict(dict(stages), sep="/")}

    def logits(self, images: Array) -> Array:
        """The outputs of a classifier, [N, classes], of pictures in [0, 1]."""
        return self._run(self.preprocessing.of_shares(images), None)[0].astype(jnp.float32)

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes (without the batch) of all stages in the order of the forward pass.

        Nothing is computed. Raises ConfigError if the model cannot take images of `image_shape`.
        """
        return dict(_layers(self.model, structure(self.variables), self.image_shape))

    def at_size(self, height: int, width: int) -> "Network":
        """The same network run on larger or smaller pictures. Raises ConfigError if it cannot."""
        resized = dataclasses.replace(self, image_shape=(height, width, self.image_shape[2]))
        resized.layers()
        return resized

    def exact(self) -> "Network":
        """The same network with products of float32 that are float32 on every device."""
        return dataclasses.replace(self, arithmetic=dataclasses.replace(self.arithmetic, precision="highest"))

    def check_size(self) -> None:
        """Raises ConfigError if the model cannot take images of `image_shape`. Nothing is computed."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        try:
            jax.eval_shape(lambda network, x: network.outputs(x), self, images)
        except ConfigError:
            raise
        except Exception as error:  # whatever a layer says about a shape that it cannot take
            raise _cannot_take(self.model, self.image_shape, error) from error

    def _task(self) -> Task:
        if self.task is None:
            raise ConfigError(f"{type(self.model).__name__}: a network without a task has no predictions")
        return self.task

    def _run(self, x: Array, perturbations: Stages | None) -> tuple[Array, Any]:
        variables = dict(self.variables)
        if perturbations:
            variables["perturbations"] = unflatten_dict(dict(perturbations), sep="/")
        with self.arithmetic.used():
            output, state = self.model.apply(variables, x, train=False, mutable=["stages"])
        if not state.get("stages"):
            raise ConfigError(
                f"{type(self.model).__name__} names no stages: call cnnjax.models.layers.stage(self, name, x) in it"
            )
        return output, state["stages"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["members"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Committee:
    """Networks of one task that answer as one: by the average of their outputs or, where these have none, the first."""

    members: tuple[Network, ...]

    @property
    def task(self) -> Task | None:
        return self.members[0].task

    @property
    def classes(self) -> tuple[str, ...]:
        return self.members[0].classes

    @property
    def image_shape(self) -> Shape:
        return self.members[0].image_shape

    @property
    def preprocessing(self) -> Preprocessing:
        return self.members[0].preprocessing

    def frame(self, image: np.ndarray, views: str = "none") -> np.ndarray:
        """As that of a network; all members have the same."""
        return self.members[0].frame(image, views)

    @property
    def longest_side(self) -> int:
        """As that of a network; all members have the same."""
        return self.members[0].longest_side

    def outputs(self, images: Array, views: str = "none") -> Outputs:
        """As those of a network."""
        each = [member.outputs(images, views) for member in self.members]
        with contextlib.suppress(ConfigError):  # outputs of this task cannot be averaged
            return average(self.members[0]._task(), each, [1 / len(each)] * len(each))
        return each[0]

    def predictor(self, views: str = "none") -> "Batches":
        """Answers for pictures of any size."""
        return Batches(self, views)


def of_seeds(network: Network) -> Network | Committee:
    """The network whose variables have a leading axis of seeds; of several seeds their committee."""
    seeds = jax.tree.leaves(network.variables)[0].shape[0]
    members = tuple(jax.tree.map(lambda a, i=i: a[i], network) for i in range(seeds))
    return members[0] if seeds == 1 else Committee(members)


class Predictor(Protocol):
    """Whatever answers for a picture, uint8 [H, W, C] of any size."""

    def __call__(self, image: np.ndarray) -> Result: ...


class Answering(Protocol):
    """A network, or several that answer as one: a pytree."""

    @property
    def task(self) -> Task | None: ...

    @property
    def longest_side(self) -> int: ...

    def frame(self, image: np.ndarray, views: str = "none") -> np.ndarray: ...

    def outputs(self, images: Array, views: str = "none") -> Outputs: ...


class Batches:
    """A compiled network on all devices, as a Predictor; or, step by step, for many pictures at once."""

    def __init__(self, network: Answering, views: str = "none"):
        if network.task is None:
            raise ConfigError("a network without a task has no predictions")
        task = network.task
        self._frame = functools.partial(network.frame, views=views)
        self.result = task.result
        self.longest_side = network.longest_side
        self._mesh = sharding.evaluation_mesh()
        self._network = jax.device_put(network, sharding.replicated(self._mesh))
        many = _BATCH * _SIDE**2 // (VIEWS[views] * max(network.longest_side, _SIDE) ** 2)
        self.batch = max(1, -(-many // self._mesh.size)) * self._mesh.size  # fills all devices
        self._predict = jax.jit(lambda network, images: task.predict(network.outputs(images, views)))

    def __call__(self, image: np.ndarray) -> Result:
        (prediction,) = self.predictions([self.framed(image)])
        return self.result(prediction, image.shape)

    def framed(self, image: np.ndarray) -> np.ndarray:
        """A picture in the frame of the network."""
        return self._frame(image)

    def predictions(
        self, images: Sequence[np.ndarray] | np.ndarray, at_once: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """What the task predicts of each of the pictures [H, W, C], which are `framed`; see Task.predict. Those of one
        frame are computed together.

        at_once: so many of them, most `batch`, also if there are fewer: the last batch of many is compiled already.
        """
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        answers: list[dict[str, np.ndarray]] = [{}] * len(images)
        for chosen in by_shape.values():
            found = self._of_one_shape(np.stack([images[i] for i in chosen]), at_once)
            for i, answer in zip(chosen, found, strict=True):
                answers[i] = answer
        return answers

    def _of_one_shape(self, images: np.ndarray, at_once: int) -> list[dict[str, np.ndarray]]:
        wanted = min(self.batch, at_once or len(images))
        size = -(-wanted // self._mesh.size) * self._mesh.size
        rows: list[dict[str, np.ndarray]] = []
        for index, mask in evaluation_indices(len(images), size):
            batch = jax.device_put(images[index], sharding.sharded(self._mesh, 0))
            found = jax.device_get(self._predict(self._network, batch))
            rows += [{name: values[i] for name, values in found.items()} for i in np.flatnonzero(mask)]
        return rows


def structure(variables: Any) -> Any:
    """Shapes and types of variables as one hashable value; `abstract` turns it back into a tree."""
    leaves, tree = jax.tree.flatten(variables)
    return tree, tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)


def abstract(structure: Any) -> Any:
    """The tree of jax.ShapeDtypeStruct that `structure` describes."""
    tree, leaves = structure
    return jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in leaves])


def _cannot_take(model: Any, image_shape: Shape, error: Exception) -> ConfigError:
    height, width, _ = image_shape
    return ConfigError(
        f"{type(model).__name__} cannot be run on {height}x{width} images: {str(error).splitlines()[0]}"
    )


@functools.lru_cache(maxsize=64)
def _layers(model: Any, variables: Any, image_shape: Shape) -> tuple:
    order: list[str] = []

    def forward(variables: Any, images: Array) -> Any:
        stages = Network(model, variables, image_shape).stages(images)
        order.extend(name for name in stages if name != IMAGE)  # pytrees sort their keys
        return stages

    height, width, _ = image_shape
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(forward, abstract(variables), images)
    except ConfigError:
        raise
    except Exception as error:  # whatever a layer says about a shape that it cannot take
        raise _cannot_take(model, image_shape, error) from error
    empty = [name for name in order if 0 in shapes[name].shape]
    if empty:
        raise ConfigError(f"images of {height}x{width} are too small: nothing is left at {empty[0]}")
    return tuple((name, shapes[name].shape[1:]) for name in order)
