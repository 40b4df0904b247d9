"""A study of Optuna (Akiba et al. 2019) that several workers share: which trial is next, and which were lost.

Optuna knows that a trial runs, not whether its worker still lives. A worker here counts up an attribute of each of its
trials; one that stands still is given to another worker, with the same values. This needs nothing of the storage but
what every storage has, and no clock that machines would have to share.
"""

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax.config import ConfigError
from cnnjax.sweeps import space
from cnnjax.sweeps.space import Axis, Range, Space

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "journal:"  # of a file, in place of a database
_ABOUT = "cnnjax"  # attribute of a study: Sweep.to_json
_BEAT, _AGAIN, ERROR, DEFAULT, RUN = "beat", "again", "error", "default", "run"  # attributes of a trial
_MOST_AGAIN = 3  # times that a trial whose worker was lost is given to another
_TRIES = 8  # to open a database that others open at the same moment


class Taken(Exception):
    """The trial is finished already: another worker took this one for lost."""


def require() -> Any:
    """Optuna. Raises ConfigError where it is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError("a search needs Optuna: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclasses.dataclass
class Study:
    """What workers have in common. `silence`: seconds without a sign of life after which a trial counts as lost."""

    study: "optuna.Study"
    space: Space
    silence: float
    _seen: dict[int, tuple[Any, float]] = dataclasses.field(default_factory=dict)
    _beats: dict[int, tuple[int, float]] = dataclasses.field(default_factory=dict)

    @property
    def trials(self) -> "list[FrozenTrial]":
        """Without those that were given back."""
        return [one for one in self.study.get_trials(deepcopy=False) if not _given_back(one)]

    @property
    def names(self) -> list[str]:
        """Of the parameters."""
        return [parameter(axis) for axis in self.space.axes]

    def finished(self) -> int:
        return sum(one.state.is_finished() for one in self.trials)

    def over(self, most: int) -> bool:
        """Whether `most` trials are finished, and none runs."""
        trials = self.trials
        return len(trials) >= most and all(one.state.is_finished() for one in trials)

    def ask(self, most: int) -> "tuple[Trial, dict[str, Any]] | None":
        """The next trial with its settings: one that was given back, else a new one; None if `most` have begun.

        The draws of a trial follow from its number and from what is finished.
        """
        optuna = require()
        trials = self.trials
        if len(trials) >= most and not any(one.state.name == "WAITING" for one in trials):
            return None
        trial = self.study.ask()
        self.beat(trial)
        if sum(one.number < trial.number for one in self.trials) >= most:  # another worker was faster
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        self.study.sampler = optuna.samplers.TPESampler(seed=trial.number, constant_liar=True)
        found: dict[str, Any] = {}
        for axis in self.space.axes:
            found |= _suggest(trial, axis)
        return trial, found

    def beat(self, trial: "Trial") -> None:
        """A sign of life, so often that nobody misses it. Raises Taken."""
        count, last = self._beats.get(trial.number, (0, -self.silence))
        if time.monotonic() - last > self.silence / 5:
            with _unless_taken():
                trial.set_user_attr(_BEAT, count + 1)
            self._beats[trial.number] = count + 1, time.monotonic()

    def report(self, trial: "Trial", value: float, number: int) -> bool:
        """Of an evaluation, the first of which is 1: whether to go on is of no use. Raises Taken."""
        with _unless_taken():
            trial.report(value, number)
            return trial.should_prune()

    def tell(self, trial: "Trial", state: str, value: float | None = None, error: str = "") -> None:
        """Ends the trial: COMPLETE with its value, PRUNED, or FAIL with why. Raises Taken."""
        with _unless_taken():
            if error:
                trial.set_user_attr(ERROR, error)
            self.study.tell(trial, value, require().trial.TrialState[state])

    def give_back(self, number: int, lost: bool = False) -> None:
        """Ends the trial; another with the same values waits for a worker. Raises Taken."""
        with _unless_taken():
            self.study.tell(number, state=require().trial.TrialState.FAIL)
        trial = self.study.get_trials(deepcopy=False)[number]
        again = trial.user_attrs.get(_AGAIN, 0) + lost
        if again <= _MOST_AGAIN:
            # What was asked for but not yet taken by the trial counts, too.
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            kept = {name: trial.user_attrs[name] for name in (DEFAULT,) if name in trial.user_attrs}
            self.study.enqueue_trial(params, {_AGAIN: again, **kept})

    def take_up_lost(self, own: Sequence[int]) -> "list[FrozenTrial]":
        """Gives back the trials that show no sign of life, but for those of these numbers; returns them."""
        lost, now = [], time.monotonic()
        for trial in self.trials:
            if trial.state.name != "RUNNING" or trial.number in own:
                continue
            sign = (trial.user_attrs.get(_BEAT), len(trial.intermediate_values))
            seen, since = self._seen.get(trial.number, (None, now))
            if sign != seen:
                self._seen[trial.number] = sign, now
            elif now - since > self.silence:
                with contextlib.suppress(Taken):  # it is finished by now, or another worker was faster
                    self.give_back(trial.number, lost=True)
                    lost.append(trial)
        return lost

    def settings(self, trial: "FrozenTrial") -> dict[str, Any]:
        """What a run of the trial is given, of all that the trial has so far."""
        return settings(self.space, trial)


def settings(varied: Space, trial: "FrozenTrial") -> dict[str, Any]:
    """{setting: value} of the parameters that the trial has so far."""
    return {
        name: value
        for axis in varied.axes
        if parameter(axis) in trial.params
        for name, value in _values(axis, trial.params[parameter(axis)]).items()
    }


@contextlib.contextmanager
def _unless_taken() -> Iterator[None]:
    try:
        yield
    except require().exceptions.UpdateFinishedTrialError as error:
        raise Taken from error
    except ValueError as error:
        if "Cannot tell a" not in str(error):
            raise
        raise Taken from error


def _given_back(trial: "FrozenTrial") -> bool:
    failed = trial.state.name == "FAIL" and ERROR not in trial.user_attrs
    return failed and trial.user_attrs.get(_AGAIN, 0) < _MOST_AGAIN


def open_study(
    name: str, storage: str, about: Mapping[str, Any], varied: Space, default: Mapping[str, Any], prune: bool,
    silence: float,
) -> Study:  # fmt: skip
    """The study of this name, which begins with the default settings, where the space has them.

    about: Sweep.to_json. Raises ConfigError if the study is about something else, or cannot be opened.
    """
    optuna = require()
    pruner = optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner()
    study = _retried(
        lambda: optuna.create_study(
            storage=_storage(storage), study_name=name, pruner=pruner, direction="maximize", load_if_exists=True
        ),
        storage,
    )  # fmt: skip
    found = Study(study, varied, silence)
    begun = bool(study.get_trials(deepcopy=False))
    there = study.user_attrs.get(_ABOUT)  # which is older than any trial
    if there is None:
        if begun:
            raise ConfigError(f"study {name!r} was not made by mode=search: use another --search.study")
        study.set_user_attr(_ABOUT, json.dumps(about))
        if params := _params(varied, default):
            study.enqueue_trial(params, {DEFAULT: True}, skip_if_exists=True)
    elif differs := space.differences(json.loads(there), about):
        raise ConfigError(
            f"study {name!r} is about something else: use another --search.study. It differs in {differs}"
        )
    return found


def _storage(url: str) -> Any:
    optuna = require()
    if url.startswith(JOURNAL):
        from optuna.storages import journal

        return journal.JournalStorage(journal.JournalFileBackend(url.removeprefix(JOURNAL)))
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=wait)


def _retried(make: Callable[[], Any], url: str) -> Any:
    """Databases are made by whoever comes first, and whoever comes at the same moment has to try again."""
    for left in reversed(range(_TRIES)):
        try:
            return make()
        except ImportError as error:
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            name = getattr(missing, "name", None) or "a driver"
            raise ConfigError(f"--search.storage={_hidden(url)} needs {name}: pip install it") from error
        except Exception as error:  # of the database's own driver
            if isinstance(error, TypeError | AttributeError | NameError):
                raise
            if not left or isinstance(error, OSError):
                said = " ".join(str(error).split())[:200].replace(url, _hidden(url))
                raise ConfigError(f"--search.storage={_hidden(url)} cannot be opened: {said}") from error
        time.sleep(random.uniform(0.05, 0.3))


def _hidden(url: str) -> str:
    """Without the password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def parameter(axis: Axis) -> str:
    """Its name in the study."""
    return ";".join(axis.names)


def choices(axis: Axis) -> list[Any]:
    """The rows of an axis as Optuna takes them, plain values or text."""
    assert not isinstance(axis.values, Range)
    plain = len(axis.names) == 1 and all(isinstance(row[0], int | float | str) for row in axis.values)
    return [row[0] if plain else ";".join(map(space.show, row)) for row in axis.values]


def _suggest(trial: "Trial", axis: Axis) -> dict[str, Any]:
    name, values = parameter(axis), axis.values
    if not isinstance(values, Range):
        return _values(axis, trial.suggest_categorical(name, choices(axis)))
    if space.field_type(name) is int:
        return _values(axis, trial.suggest_int(name, int(values.low), int(values.high), log=values.log))
    return _values(axis, trial.suggest_float(name, values.low, values.high, log=values.log))


def _values(axis: Axis, chosen: Any) -> dict[str, Any]:
    """{setting: value} of what Optuna chose."""
    if isinstance(axis.values, Range):
        (name,) = axis.names
        return {name: int(chosen) if space.field_type(name) is int else axis.values.rounded(chosen)}
    return dict(zip(axis.names, axis.values[choices(axis).index(chosen)], strict=True))


def _params(varied: Space, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings as the parameters of a trial; None if the space has them not."""
    found: dict[str, Any] = {}
    for axis in varied.axes:
        row = tuple(settings[name] for name in axis.names)
        if isinstance(axis.values, Range):
            if not axis.values.low <= row[0] <= axis.values.high:
                return None
            found[parameter(axis)] = row[0]
        elif row in axis.values:
            found[parameter(axis)] = choices(axis)[axis.values.index(row)]
        else:
            return None
    return found
