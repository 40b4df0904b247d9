"""What a sweep varies: settings and their values, as words of a command line or from Python.

optimizer.learning_rate=0.05,0.1,0.2     each of these values
train.seed=0:5                           0, 1, 2, 3, 4; 0:10:2 in steps of 2
augment.sizes=32+48,64                   values of a list are joined by +
optimizer.name=sgd,adamw;optimizer.learning_rate=0.1,0.001     together: the first with the first (zip)
optimizer.weight_decay=1e-5..1e-2:log    any number between, here with a uniform logarithm
"""

import dataclasses
import itertools
import json
import math
import re
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax import config
from cnnjax.config import RESUMABLE, ConfigError, Experiment

MANY = 1000  # runs that need --yes
_MOST_VALUES = 1_000_000  # of one setting
# What may change when a run goes on but decides its numbers all the same.
_DECIDING = {
    *config.LENGTHS,
    "train.on_nan",
    "train.nan_limit",
    "evaluate.augment",
    "model.precision",
    "model.convolutions",
}
_DIGITS = 4  # that a drawn number keeps


@dataclasses.dataclass(frozen=True)
class Range:
    """Any number from `low` to `high`, both included where numbers are whole."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator, whole: bool) -> float | int:
        """A number with a uniform value or logarithm, rounded to four digits."""
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        if self.log:
            value = math.exp(rng.uniform(math.log(max(low, 0.5) if whole else low), math.log(high)))
        else:
            value = rng.uniform(low, high)
        if whole:
            return int(min(max(round(value), self.low), self.high))
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """To the four digits that a drawn number keeps, within the range."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{':log' * self.log}"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Settings that change together: their names, and the rows of their values; or one setting and its range."""

    names: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...] | Range

    def to_json(self) -> dict[str, Any]:
        values = str(self.values) if isinstance(self.values, Range) else list(map(list, self.values))
        return {"names": list(self.names), "values": values}


@dataclasses.dataclass(frozen=True)
class Space:
    """The axes of a sweep."""

    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for axis in self.axes for name in axis.names)

    @property
    def ranges(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if isinstance(axis.values, Range))

    def count(self, draws: int) -> int:
        """How many combinations there are: `draws` of the ranges, each with all of the lists."""
        lists = [len(axis.values) for axis in self.axes if not isinstance(axis.values, Range)]
        return math.prod(lists) * (draws if self.ranges else 1)

    def combinations(self, draws: int, seed: int = 0) -> Iterator[dict[str, Any]]:
        """{name: value} of each run; the same draws for the same seed, whatever their number."""
        rng = np.random.default_rng(seed)
        for _ in range(draws if self.ranges else 1):
            rows = [
                [(axis.values.draw(rng, field_type(axis.names[0]) is int),)]
                if isinstance(axis.values, Range)
                else axis.values
                for axis in self.axes
            ]
            for chosen in itertools.product(*rows):
                yield dict(zip(self.names, itertools.chain(*chosen), strict=True))

    def to_json(self) -> list[dict[str, Any]]:
        return json.loads(json.dumps([axis.to_json() for axis in self.axes]))


def parse(words: Sequence[str]) -> Space:
    """The space of the words of --sweep. Raises ConfigError with one line for the first that means nothing."""
    axes = []
    for word in words:
        settings = []
        for part in word.split(";"):
            name, equals, values = part.strip().partition("=")
            if not equals:
                raise ConfigError(
                    f"--sweep={word}: expected name=values, as optimizer.learning_rate=0.05,0.1,0.2"
                )
            settings.append((name, _values(name, values)))
        axes.append(_axis(settings))
    return _checked(axes)


def of_mapping(settings: Mapping[Any, Any]) -> Space:
    """The space of {name: values} or, of settings that change together, {(name, name): [(value, value), ...]}.

    Values are any iterable, such as range(5), or words as on the command line.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"a sweep needs settings, as {{'optimizer.learning_rate': [0.05, 0.1]}}, not {settings!r}"
        )
    axes = []
    for key, values in settings.items():
        names = key if isinstance(key, tuple) and key else (key,)
        for name in names:
            field_type(name)
        if isinstance(values, str) and len(names) == 1:
            axes.append(_axis([(names[0], _values(names[0], values))]))
        else:
            columns = _columns(names, values, key in names)
            axes.append(_axis(list(zip(names, columns, strict=True))))
    return _checked(axes)


def _columns(names: tuple[str, ...], values: Any, plain: bool) -> list[list[Any]]:
    """The values of each setting, of rows of them from Python; of `plain` values each is a row."""
    what = f"sweep of {' and '.join(names)}"
    try:
        rows = list(itertools.islice(values, _MOST_VALUES + 1))
    except TypeError as error:
        raise ConfigError(f"{what}: give a list of values, not {values!r}") from error
    if len(rows) > _MOST_VALUES:
        raise ConfigError(f"{what}: more than {_MOST_VALUES:,} values of one setting")
    rows = [(row,) for row in rows] if plain else rows
    if any(not isinstance(row, list | tuple) or len(row) != len(names) for row in rows):
        raise ConfigError(f"{what}: give rows of {len(names)} values each, not {values!r}"[:300])
    return [_plain(field_type(name), [row[i] for row in rows]) for i, name in enumerate(names)]


def of_json(entries: Sequence[Mapping[str, Any]]) -> Space:
    """What `Space.to_json` gave."""
    axes: dict[Any, Any] = {}
    for entry in entries:
        names, values = tuple(entry["names"]), entry["values"]
        axes[names[0] if isinstance(values, str) else names] = values
    return of_mapping(axes)


def field_type(name: str) -> Any:
    """The type of a setting. Raises ConfigError if there is none of this name, or none that a run's numbers depend on."""
    known = {known: field.type for known, field, _ in config.fields(Experiment())}
    if name not in known:
        hint = config.did_you_mean(str(name), known, "--helpshort lists all", most=2)
        raise ConfigError(f"sweep of {name!r}: there is no such setting; {hint}")
    if name == "name" or name in RESUMABLE - _DECIDING:
        raise ConfigError(f"sweep of {name}: it has no effect on the numbers of a run")
    if name == "data.validation":
        raise ConfigError("sweep of data.validation: its runs would be judged on other images")
    return known[name]


def experiments(
    base: Experiment, combinations: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Experiment]]:
    """Each combination with its experiment. Raises ConfigError for the first that cannot be meant."""
    from cnnjax.runs.refusals import check_names, refuse_without_effect

    found = []
    for changes in combinations:
        try:
            experiment = config.changed(base, changes)
            check_names(experiment)
            refuse_without_effect(experiment, changes)
        except ConfigError as error:
            raise ConfigError(f"{describe(changes)}: {error}") from error
        found.append((changes, experiment))
    return found


def check_count(name: str, value: Any, least: int = 0) -> None:
    """Raises ConfigError for what is no whole number, or too small a one."""
    if not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}={value!r}: expected a whole number, {least} or more")


def describe(changes: Mapping[str, Any]) -> str:
    """learning_rate=0.1,seed=3: the last words of the names, or the whole where two are alike."""
    last = [name.rpartition(".")[2] for name in changes]
    shown = [word if last.count(word) == 1 else name for word, name in zip(last, changes, strict=True)]
    return ",".join(f"{name}={show(value)}" for name, value in zip(shown, changes.values(), strict=True))


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    return (
        f"{value:.12g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def folder_name(changes: Mapping[str, Any]) -> str:
    """`describe` as the name of a folder: without what paths and shells take apart, and of bounded length."""
    text = describe(changes)
    name = re.sub(r"[^\w.=,+-]", "-", text)
    if name != text or len(name) > 120:
        name = f"{name[:100]}-{zlib.crc32(text.encode()):08x}"
    return name


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what two of `Sweep.to_json` differ; empty where they are the same."""
    if there == wanted:
        return ""
    varied = there["space"] != wanted["space"] or there["draws"] != wanted["draws"]
    old, new = (config.from_dict(tree["experiment"]) for tree in (there, wanted))
    return "; ".join(["what it varies"] * varied + list(config.differences(old, new)))


def _axis(settings: Sequence[tuple[str, Any]]) -> Axis:
    names = tuple(name for name, _ in settings)
    if len(settings) == 1 and isinstance(settings[0][1], Range):
        return Axis(names, settings[0][1])
    if any(isinstance(values, Range) for _, values in settings):
        raise ConfigError(f"sweep of {' and '.join(names)}: ranges do not go together with other settings")
    lengths = {len(values) for _, values in settings}
    if 0 in lengths:
        raise ConfigError(f"sweep of {' and '.join(names)}: there are no values, so there is nothing to run")
    if len(lengths) > 1:
        counts = " and ".join(f"{len(values)} of {name}" for name, values in settings)
        raise ConfigError(f"sweep of settings that change together: {counts} values")
    rows = tuple(zip(*(values for _, values in settings), strict=True))
    if len(set(rows)) < len(rows):
        raise ConfigError(f"sweep of {' and '.join(names)}: a value is there twice")
    return Axis(names, rows)


def _checked(axes: Sequence[Axis]) -> Space:
    if not axes:
        raise ConfigError("a sweep needs settings: --sweep=optimizer.learning_rate=0.05,0.1,0.2")
    space = Space(tuple(axes))
    for name in space.names:
        if space.names.count(name) > 1:
            raise ConfigError(f"sweep of {name}: it is given twice")
    return space


def _values(name: str, text: str) -> Any:
    """A Range or a list of values."""
    kind = field_type(name)
    number = r"[-+]?[\d.]*\d\.?(?:[eE][-+]?\d+)?"
    if kind in (int, float) and (found := re.fullmatch(rf"({number}?)\.\.({number})(:log)?", text)):
        return _range(name, kind, *found.groups())
    if kind is int and (found := re.fullmatch(r"(-?\d+):(-?\d+)(?::(-?\d+))?", text)):
        start, stop, step = (int(part or 1) for part in found.groups())
        if step == 0:
            raise ConfigError(f"sweep of {name}={text}: steps of 0")
        numbers = range(start, stop, step)
        if len(numbers) > _MOST_VALUES:
            raise ConfigError(f"sweep of {name}={text}: {len(numbers):,} values of one setting")
        return list(numbers)
    return [_value(name, kind, part) for part in text.split(",")] if text else []


def _range(name: str, kind: type, low: str, high: str, log: str | None) -> Range:
    try:
        found = Range(kind(low), kind(high), bool(log))
    except ValueError as error:
        raise ConfigError(f"sweep of {name}={low}..{high}: expected {kind.__name__}") from error
    if not found.low < found.high:
        raise ConfigError(f"sweep of {name}={found}: the range is empty")
    if found.log and found.low <= 0:
        raise ConfigError(f"sweep of {name}={found}: a logarithm needs numbers above 0")
    return found


def _value(name: str, kind: Any, text: str) -> Any:
    if isinstance(kind, types.GenericAlias):
        return tuple(_value(name, config.element_type(kind), part) for part in text.split("+") if part)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ConfigError(f"sweep of {name}={text}: expected true or false")
        return text.lower() in ("true", "1")
    try:
        return kind(text)
    except ValueError as error:
        raise ConfigError(f"sweep of {name}: {text!r} is no {kind.__name__}") from error


def _plain(kind: Any, values: Sequence[Any]) -> list[Any]:
    """Values of Python, NumPy or JSON as a field's own type; config.check refuses what is not."""
    found = []
    for value in values:
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(kind, types.GenericAlias) and isinstance(value, list | tuple):
            value = tuple(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        found.append(value)
    return found
