"""Which settings are the best, by validation data alone; and what they come to on the test set, which is used once."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import config
from cnnjax.config import ConfigError, Experiment
from cnnjax.runs.plan import Given
from cnnjax.runs.workdir import write_atomically
from cnnjax.sweeps import space

if TYPE_CHECKING:
    from cnnjax.sweeps.sweep import Member, Sweep

SEED = "train.seed"
_TEST = "test.json"


def judged(lines: Sequence[dict[str, Any]], experiment: Experiment) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that were evaluated on validation data: with data.validation those are called test."""
    split = "test" if experiment.data.validation else "validation"
    return [line for line in lines if line["split"] == split]


def check_validation(experiment: Experiment, data_dir: str | None, given: Given) -> None:
    """Raises ConfigError if settings would have to be chosen on the test set."""
    if experiment.data.validation and given.data is None:
        return
    from cnnjax.data.sources import load

    dataset = given.data or load(experiment.data, data_dir)
    if dataset.validation is None or dataset.validation is dataset.test:
        share = (
            "data with a validation split" if given.data else "--data.validation=0.1 of the training images"
        )
        raise ConfigError(
            f"the best settings are chosen on validation data, of which there is none: give {share}"
        )


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds; 0 of one run."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of equal settings but for the seed."""

    settings: Mapping[str, Any]
    members: "tuple[Member, ...]"

    @property
    def name(self) -> str:
        return space.describe(self.settings) or "all"

    @property
    def values(self) -> list[float]:
        return [value for one in self.members if (value := one.headline) is not None]

    @property
    def whole(self) -> bool:
        return len(self.values) == len(self.members)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else float("nan")

    @property
    def std(self) -> float:
        return spread(self.values)


def groups(members: "Sequence[Member]") -> list[Group]:
    """Best first; those with failed runs, of which the survivors tell too much good, come last."""
    found: dict[str, list[Member]] = {}
    for member in members:
        settings = {name: value for name, value in member.settings.items() if name != SEED}
        found.setdefault(space.describe(settings), []).append(member)
    made = [
        Group({k: v for k, v in some[0].settings.items() if k != SEED}, tuple(some))
        for some in found.values()
    ]
    return sorted(made, key=lambda group: (not group.whole, -group.mean if group.values else np.inf))


@dataclasses.dataclass(frozen=True)
class Winner:
    """The best group and its metrics on the test set, of each run."""

    group: Group
    metrics: Sequence[Mapping[str, float]]
    uses: int  # how many groups this sweep has evaluated on the test set: more than one if failed runs came back

    def mean(self, name: str) -> float:
        return float(np.mean([one[name] for one in self.metrics]))

    def std(self, name: str) -> float:
        return spread([one[name] for one in self.metrics])


def decide(sweep: "Sweep", members: "Sequence[Member]") -> Winner | None:
    """The best group of those without a failed run, evaluated on the test set unless test.json has it already.

    Prints what it comes to. None if no group is whole.
    """
    ranked = [group for group in groups(members) if group.whole]
    if not ranked:
        print("no settings without a failed run: there is no winner")
        return None
    best = ranked[0]
    metrics, uses = evaluate_once(sweep.path, best.name, best.members, sweep)
    winner = Winner(best, metrics, uses)
    name = best.members[0].judge
    shown = f"{name} {best.mean:.4f} +- {best.std:.4f} on validation data"
    print(f"best: {best.name}  {shown}, {winner.mean(name):.4f} +- {winner.std(name):.4f} on the test set")
    return winner


def evaluate_once(
    path: Path, name: str, members: "Sequence[Member]", sweep: "Sweep"
) -> tuple[list[dict[str, float]], int]:
    """Test metrics of the runs, read from test.json if they are there; and how many names it holds by now."""
    file = path / _TEST
    try:
        known = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    if name not in known:
        known[name] = [_test(one, sweep) for one in members]
        write_atomically(file, json.dumps(known, indent=2) + "\n")
    return known[name], len(known)


def _test(member: "Member", sweep: "Sweep") -> dict[str, float]:
    """The metrics of a run's last checkpoint on the test split, which was not looked at before."""
    from cnnjax.runs.run import restore

    run = restore(member.workdir, given=sweep.given)
    tested = config.replace(run.experiment, {"data.validation": 0.0})
    return dict(dataclasses.replace(run, experiment=tested).evaluate(data_dir=sweep.data_dir).mean)
