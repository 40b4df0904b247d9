"""Experiments as trees of named fields: listed, replaced, checked, written and read."""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from cnnjax.config.errors import ConfigError, check_local
from cnnjax.config.experiment import Experiment
from cnnjax.config.training import Train


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every leaf of a nested dataclass: ("optimizer.learning_rate", its field, its value)."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field, value


def replace(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of the nested dataclass with the leaves named like "train.epochs" changed."""
    direct: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in {f.name for f in dataclasses.fields(config)}:
            raise ConfigError(f"unknown field {name!r}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    direct |= {head: replace(getattr(config, head), rest) for head, rest in nested.items()}
    return dataclasses.replace(config, **direct)


LENGTHS = ("train.epochs", "train.steps", "train.examples")


def changed(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """`replace`, checked. A length given in one unit takes the place of that which the experiment gives in another."""
    if any(name in changes for name in LENGTHS):
        changes = {"train.epochs": 0.0, "train.steps": 0, "train.examples": 0} | dict(changes)
    return check(replace(experiment, changes))


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment; raises ConfigError with one line if a value cannot be meant."""
    for name, field, value in fields(experiment):
        _check_type(name, field.type, value)
        choices = field.metadata.get("choices", ())
        for one in value if isinstance(value, tuple) else (value,):
            if choices and one not in choices:
                raise ConfigError(f"{name}={one!r}: choose one of {', '.join(choices)}")
    check_local("data.name", experiment.data.name.partition(":")[2])
    check_local("data.backgrounds", experiment.data.backgrounds)
    check_local("visualize.guide", experiment.visualize.guide)
    if not re.fullmatch(r"\w[\w.-]*", experiment.name):  # files are called after it
        raise ConfigError(f"name={experiment.name!r}: expected letters, digits, '_', '-' and '.'")
    train, data = experiment.train, experiment.data
    given = [name for name in ("epochs", "steps", "examples") if getattr(train, name)]
    if len(given) != 1:
        raise ConfigError(
            f"give exactly one of train.epochs, train.steps and train.examples, not {' and '.join(given) or 'none'}"
        )
    for name, field, value in fields(experiment):
        if not isinstance(value, int | float):
            continue
        if value < 0:
            raise ConfigError(f"{name}={value}: must not be negative")
        limits = field.metadata
        if value <= limits["above"]:
            raise ConfigError(f"{name}={value}: must be above {limits['above']:,}")
        if value > limits["most"]:
            raise ConfigError(f"{name}={value}: must be at most {limits['most']:,}")
        if value >= limits["below"]:
            raise ConfigError(f"{name}={value}: must be below {limits['below']:,}")
    if experiment.optimizer.lookahead and not experiment.optimizer.ema:
        raise ConfigError("optimizer.lookahead needs optimizer.ema, the decay of its average")
    if len(data.mean) != len(data.std):
        raise ConfigError("give data.mean and data.std alike: a number per channel each, or neither of them")
    if data.std and min(data.std) <= 0:
        raise ConfigError(f"data.std={data.std}: must be above 0")
    if not 0 <= data.validation < 1:
        raise ConfigError(f"data.validation={data.validation}: must be at least 0 and below 1")
    return experiment


def total_steps(train: Train, num_examples: int, batch_size: int) -> int:
    """The length of the run in steps, at least 1."""
    if train.steps:
        return train.steps
    return max(1, round((train.examples or train.epochs * num_examples) / batch_size))


def to_json(experiment: Experiment) -> str:
    return json.dumps(dataclasses.asdict(experiment), indent=2)


def from_json(text: str) -> Experiment:
    """Reads what `to_json` wrote. Raises ConfigError if the text is not an experiment."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config is not valid JSON: {error}") from error
    return from_dict(tree)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """Lines "data.batch_size: 128 -> 64" of the fields in which two experiments differ."""
    before = {name: value for name, _, value in fields(old)}
    return [
        f"{name}: {before[name]!r} -> {value!r}"
        for name, _, value in fields(new)
        if before.get(name) != value
    ]


def from_dict(tree: Any) -> Experiment:
    """The experiment that `dataclasses.asdict` turned into `tree`; raises ConfigError if it is none."""
    return check(_from_dict(Experiment, tree, ""))


# Fields that older runs have, with the value at which they had no effect.
_GONE = {"heatmaps.flip_test": False}


def _from_dict(cls: type, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config: {prefix or 'the file'} is not an object")
    known = typing.get_type_hints(cls)
    tree = {name: value for name, value in tree.items() if _GONE.get(prefix + name, ...) != value}
    unknown = sorted(set(tree) - set(known))
    if unknown:
        raise ConfigError(
            f"config has an unknown field {prefix}{unknown[0]}: misspelt, or of another version"
        )
    values = {}
    for name, value in tree.items():
        if dataclasses.is_dataclass(known[name]):
            value = _from_dict(typing.cast(type, known[name]), value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def element_type(field_type: Any) -> type:
    """float for `tuple[float, ...]`, else the type itself."""
    return typing.get_args(field_type)[0] if isinstance(field_type, types.GenericAlias) else field_type


def _check_type(name: str, field_type: Any, value: Any) -> None:
    kind = element_type(field_type)
    several = isinstance(field_type, types.GenericAlias)
    if several and not isinstance(value, tuple):
        raise ConfigError(f"{name}={value!r}: expected a list of {kind.__name__}")
    values = value if several else (value,)
    allowed = (int, float) if kind is float else (kind,)
    for item in values:
        if not isinstance(item, allowed) or (isinstance(item, bool) and kind is not bool):
            raise ConfigError(f"{name}={value!r}: expected {kind.__name__}, got {type(item).__name__}")
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{name}={value!r}: must be finite")
