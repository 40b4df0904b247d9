"""What a step follows: what is trained, on what task and how, made from an experiment."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from cnnjax import config
from cnnjax.config import SHORT_SIDE, ConfigError, Experiment, is_on
from cnnjax.data import batches, buckets
from cnnjax.data.buckets import Buckets
from cnnjax.data.letterbox import PLACES
from cnnjax.models import Model, create_model
from cnnjax.models.parts import variables_of
from cnnjax.network import Network, Preprocessing
from cnnjax.ops.arithmetic import AS_IT_IS, Arithmetic
from cnnjax.tasks import Task, make_task
from cnnjax.training import gradient, parts, sizes
from cnnjax.training.optimizers import make_optimizer, scaled_rates

_WORTH_A_PROGRAM = 100  # steps


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The static part of a step: what is trained, on what task and how. Hashable by identity."""

    model: Model
    task: Task
    optimizer: optax.GradientTransformation
    augment: config.Augment
    preprocessing: Preprocessing
    workers: int = 0  # that read streamed images
    ema: float = 0.0
    lookahead: int = 0
    num_updates: int = 0
    # height and width that a training batch is resized to; None: its own
    frame: tuple[int, int] | None = None
    # Height and width of the corner of the images that a batch shows (data/buckets.py); None: all of them.
    bucket: tuple[int, int] | None = None
    # Of augment.sizes, or of all buckets: what a step follows instead of this.
    sized: tuple["Recipe", ...] = ()
    arithmetic: Arithmetic = AS_IT_IS
    loss_scale: float = 1.0  # by which losses are multiplied, and gradients divided
    norm_parts: int = 1  # of a batch, each with its own statistics
    frozen: frozenset[str] = frozenset()  # paths of variables that stay as they are, as in training.parts
    skip_nonfinite: bool = False  # leave everything as it was where the loss or the gradient is not finite
    varied: "Varied | None" = None  # settings of which each seed has its own
    # what is followed from the step `late_from` on, to the same effect at less cost
    late: "Recipe | None" = None
    late_from: int = 0

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def network(self, variables: Any, image_shape: tuple[int, ...], classes: tuple[str, ...] = ()) -> Network:
        """What these variables make of the model, without what is only for training."""
        height, width, channels = image_shape
        shape = (height, width, channels)
        return Network(self.model, variables, shape, self.preprocessing, classes, self.task, self.arithmetic)

    def buckets(self, examples: Mapping[str, Any]) -> Buckets | None:
        """Which of the examples are of which frame; None where all have one."""
        return Buckets.find(examples, self.preprocessing.resize, config.frame_of(self.preprocessing))

    def of_step(self, seed: int, step: int, buckets: Buckets | None = None) -> "Recipe":
        """What a training step follows: this, the recipe of the size, or of the frame of the examples, whose turn it is,
        or the late one."""
        if buckets:
            return self.sized[buckets.of_step(seed, step)]
        if self.sized:
            return self.sized[batches.train_size(seed, step, len(self.sized))]
        return self.programs[-1] if step >= self.late_from else self

    def computed_by(self, arithmetic: Arithmetic) -> "Recipe":
        """This, and all that steps follow instead of it, computed in this way."""
        return dataclasses.replace(
            self,
            arithmetic=arithmetic,
            sized=tuple(one.computed_by(arithmetic) for one in self.sized),
            late=self.late and self.late.computed_by(arithmetic),
        )

    @property
    def programs(self) -> tuple["Recipe", ...]:
        """All that steps follow, each of which is compiled by itself."""
        # What is varied is not known to the late one.
        return self.sized or ((self, self.late) if self.late and not self.varied else (self,))

    def of_seed(self, values: Mapping[str, Any]) -> "Recipe":
        """What the step of a seed follows that has these values of what varies."""
        return self.varied.recipe_of(values) if self.varied else self


@dataclasses.dataclass(frozen=True)
class Varied:
    """Settings of the experiment of which each seed has its own: numbers that decide no shape.

    recipe_of: the recipe with such values, which are plain numbers where seeds follow each other in a program, and
    are traced under vmap.
    """

    values: Mapping[str, tuple[float, ...]]  # by name; one for each seed
    recipe_of: Callable[[Mapping[str, Any]], Recipe]


def make_recipe(
    experiment: Experiment,
    classes: tuple[str, ...],
    image_shape: tuple[int, ...],
    num_steps: int,
    model: Model | None = None,
    task: Task | None = None,
) -> Recipe:
    """Builds model, task and optimizer of an experiment whose data.mean and data.std are filled in.

    A model or a task that is given is taken instead of the named one; the model as it is, with its outputs.

    Raises ConfigError if the model cannot take one of augment.sizes, or has nothing that optimizer.frozen names, or the
    task cannot average the views of evaluate.augment.
    """
    given = task

    def of_size(shape: tuple[int, ...]) -> Task:
        return given or make_task(experiment, classes, shape)

    task = of_size(image_shape)
    task.check_views(experiment.evaluate.augment)
    preprocessing = Preprocessing.of(experiment.data)
    # Images with places in them are always read so, and must be predicted and exported alike.
    if any(place in task.targets for place in PLACES):
        preprocessing = dataclasses.replace(preprocessing, resize=task.framing(experiment.data.resize))
    named, rule = experiment.model, scaled_rates(experiment.optimizer, experiment.data.batch_size)
    model = model or create_model(named.name, task.num_outputs, named.dtype, named.options)
    frozen = parts.frozen_variables(model, image_shape, rule.frozen)
    trunk = parts.in_trunk(model, image_shape) if rule.trunk_learning_rate != 1 else ()
    augment = experiment.augment
    gradient.check_parts(experiment, model, image_shape)
    if experiment.data.stream_crop:  # images come as windows of their files
        augment = dataclasses.replace(augment, random_crop=0.0)
    recipe = Recipe(
        model=model,
        task=task,
        optimizer=make_optimizer(rule, num_steps, frozen, trunk),
        augment=augment,
        preprocessing=preprocessing,
        workers=experiment.data.workers,
        ema=rule.ema,
        lookahead=rule.lookahead,
        num_updates=max(1, num_steps // rule.accumulate),
        arithmetic=Arithmetic(named.precision),
        loss_scale=experiment.data.batch_size if named.dtype == "float16" else 1.0,
        norm_parts=experiment.train.norm_parts,
        frozen=frozen,
        skip_nonfinite=experiment.train.on_nan == "skip",
    )
    if preprocessing.resize == SHORT_SIDE:
        _check_buckets(experiment)
        frames = buckets.frames(config.frame_of(preprocessing))
        sized = tuple(dataclasses.replace(recipe, bucket=frame) for frame in frames)
    else:
        sized = tuple(
            dataclasses.replace(recipe, frame=frame, task=of_size((*frame, image_shape[2])))
            for frame in sizes.frames(recipe.model, experiment.augment.sizes, image_shape)
        )
    recipe = dataclasses.replace(recipe, sized=sized)
    return _with_late(recipe, rule, image_shape, num_steps) if is_on(rule.whitening) else recipe


def _with_late(
    recipe: Recipe, rule: config.Optimizer, image_shape: tuple[int, ...], num_steps: int
) -> Recipe:
    """With a recipe for when the whitening's rate has come to zero: nothing below the first layer has a gradient then.

    Only where many steps are left: it is another program to compile.
    """
    first = math.ceil(rule.whitening * max(1, num_steps // rule.accumulate)) * rule.accumulate
    # the whole gradient's norm counts there
    if num_steps - first < _WORTH_A_PROGRAM or is_on(rule.clip_norm):
        return recipe
    still = {path for path in variables_of(recipe.model, image_shape) if "whitening" in path.split("/")}
    late = dataclasses.replace(recipe, frozen=recipe.frozen | still)
    return dataclasses.replace(recipe, late=late, late_from=first)


def _check_buckets(experiment: Experiment) -> None:
    """Raises ConfigError if images cannot be brought to frames for their shapes, or would be resized then."""
    if not experiment.data.image_size:
        raise ConfigError(f"data.resize={SHORT_SIDE} needs --data.image_size, the pixels of a short side")
    if experiment.augment.sizes:
        raise ConfigError(
            f"augment.sizes has no effect with data.resize={SHORT_SIDE}: images keep their sizes"
        )
