"""A sweep in its workdir: sweep.json says what is varied, runs/ holds an ordinary run for each combination.

Whether a run is done its own workdir tells, so a sweep that was killed goes on, and other programs, such as a job
array, may train the runs as well.
"""

import contextlib
import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnnjax import config
from cnnjax.config import ConfigError, Experiment, Stopped
from cnnjax.runs.plan import Given
from cnnjax.runs.workdir import Workdir, write_atomically
from cnnjax.runtime.signals import stop_on_signal
from cnnjax.sweeps import choice, processes, space
from cnnjax.sweeps.processes import Ended
from cnnjax.sweeps.space import Space
from cnnjax.tasks import task_class

_FAILED = "failed.json"  # in the folder of a run: why it failed


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    settings: Mapping[str, Any]  # the values that are its own
    experiment: Experiment
    workdir: Workdir
    judge: str  # the metric that runs are compared by; more is better

    @property
    def name(self) -> str:
        return space.describe(self.settings)

    def prepare(self) -> None:
        """Its folder with config.json, which is all that a process needs to train it."""
        if not self.workdir.has_run():
            self.workdir.path.mkdir(parents=True, exist_ok=True)
            self.workdir.write_config(self.experiment)

    @property
    def done(self) -> bool:
        """The report is what a run ends with."""
        return (self.workdir.path / "report.html").exists()

    @property
    def error(self) -> str:
        """Why it failed; empty where it did not."""
        try:
            return str(json.loads((self.workdir.path / _FAILED).read_text())["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def note(self, error: str) -> None:
        """Keeps why it failed; empty: it did not."""
        failed = self.workdir.path / _FAILED
        if error:
            write_atomically(failed, json.dumps({"error": error}) + "\n")
        else:
            failed.unlink(missing_ok=True)

    @functools.cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Of its evaluations on the split that judges."""
        return choice.judged(self.workdir.read_metrics(), self.experiment)

    @property
    def headline(self) -> float | None:
        """What it is judged by; None until it is done."""
        name = self.judge
        return float(self.lines[-1][name]) if self.done and self.lines and name in self.lines[-1] else None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is varied, and where."""

    path: Path
    base: Experiment
    space: Space
    draws: int = 0
    data_dir: str | None = None
    given: Given = Given()

    def members(self) -> list[Member]:
        """A run for each combination. Raises ConfigError for the first that cannot be meant."""
        found, taken = [], set()
        combinations = list(self.space.combinations(self.draws))
        for settings, tried in space.experiments(self.base, combinations):
            name = space.folder_name(settings)
            if name not in taken:  # draws may come to one combination twice
                taken.add(name)
                found.append(self.member(settings, tried))
        return found

    def member(self, settings: Mapping[str, Any], tried: Experiment) -> Member:
        """The run of these settings, of which `tried` is the experiment."""
        judge = (self.given.task or task_class(tried.task)).headline
        folder = self.path / "runs" / space.folder_name(settings)
        return Member(settings, self.given.named(tried), Workdir(folder), judge)

    def to_json(self) -> dict[str, Any]:
        experiment = json.loads(config.to_json(self.base))
        return {"experiment": experiment, "space": self.space.to_json(), "draws": self.draws}


def open_sweep(sweep: Sweep, many: bool = False) -> list[Member]:
    """The members of the sweep in its workdir, each with its config.json, which begins the folder if it is new.

    Raises ConfigError if something else lies there, if the runs are many and `many` is false, and if there would be
    no validation data to choose by.
    """
    count = sweep.space.count(sweep.draws)
    if sweep.space.ranges and not sweep.draws:
        raise ConfigError(
            f"sweep of {sweep.space.ranges[0].names[0]}: a range needs --sweep.draws=N, a number of random draws"
        )
    if sweep.draws and not sweep.space.ranges:
        raise ConfigError("--sweep.draws has no effect without a range, such as 0.01..1:log")
    if count > space.MANY and not many:
        raise ConfigError(f"a sweep of {count:,} runs: with --yes, if that is meant")
    new = check_folder(sweep, "sweep")
    members = sweep.members()
    if new:
        write_about(sweep, "sweep")
    for member in members:
        member.prepare()
    return members


def is_sweep(path: Path) -> bool:
    """Whether the folder is that of a sweep."""
    return (path / "sweep.json").exists()


def runs_in(path: Path) -> list[str]:
    """The folders of the runs of a sweep that are done, in order; of a run its own folder.

    Raises ConfigError if none of them is done.
    """
    if not is_sweep(path):
        return [str(path)]
    done = [str(member.workdir.path) for member in read_sweep(path).members() if member.done]
    if not done:
        raise ConfigError(f"workdir {path}: no run of this sweep is done yet")
    return done


def check_folder(sweep: Sweep, what: str) -> bool:
    """Whether the folder of a sweep or a search is new. Raises ConfigError if something else lies there, and if there
    would be no validation data to choose by."""
    if (sweep.path / f"{what}.json").exists():
        if differs := space.differences(read_sweep(sweep.path, what=what).to_json(), sweep.to_json()):
            raise ConfigError(
                f"workdir {sweep.path} holds another {what}; use another --workdir. It differs in {differs}"
            )
        return False
    others = {"config": "run", "sweep": "sweep", "search": "search"}
    for name, other in others.items():
        if (sweep.path / f"{name}.json").exists():
            raise ConfigError(f"workdir {sweep.path} holds a {other}, not a {what}")
    choice.check_validation(sweep.base, sweep.data_dir, sweep.given)
    return True


def write_about(sweep: Sweep, what: str) -> None:
    """The file that tells what lies in the folder."""
    write_atomically(sweep.path / f"{what}.json", json.dumps(sweep.to_json(), indent=2) + "\n")


def read_sweep(path: Path, data_dir: str | None = None, what: str = "sweep") -> Sweep:
    """The sweep that lies in a folder, or what a search there varies."""
    file = path / f"{what}.json"
    if not file.exists():
        raise ConfigError(f"workdir {path} holds no {what}: give --sweep=name=values")
    try:
        tree = json.loads(file.read_text())
        draws = int(tree["draws"])
        return Sweep(
            path, config.from_dict(tree["experiment"]), space.of_json(tree["space"]), draws, data_dir
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


def run_sweep(
    sweep: Sweep, jobs: int = 1, many: bool = False, command: str = "", together: int = 0
) -> list[Member]:
    """Trains what is not trained yet, `jobs` at a time, evaluates the winner on the test set and writes sweep.html.

    With jobs=0 nothing is trained. What failed is a row and, once nothing else is left to do, tried again.
    together: at most so many runs that can are trained in one program, here (sweeps.together).

    Raises Stopped after a signal, which the runs are sent, too.
    """
    from cnnjax.sweeps import page

    space.check_count("jobs", jobs)
    space.check_count("draws", sweep.draws)
    with Workdir(sweep.path).claim(), stop_on_signal() as stopped:
        members = open_sweep(sweep, many)
        todo = [one for one in members if not one.done and not one.error]
        if not todo and jobs:
            todo = [one for one in members if not one.done]
        if jobs:
            _train(sweep, members, todo, jobs, stopped, together)
        left = [one for one in members if not one.done and not one.error]
        if stopped.is_set() or (left and jobs):
            page.write(sweep, members, None, command)
            raise Stopped(f"{len(left):,} of {len(members):,} runs left; launch again to go on")
        winner = None if left else choice.decide(sweep, members)
        page.write(sweep, members, winner, command)
    return members


def _train(
    sweep: Sweep,
    members: list[Member],
    todo: list[Member],
    jobs: int,
    stopped: threading.Event,
    together: int,
) -> None:
    """Prints a line for each run that ends."""
    by_path = {one.workdir.path: one for one in members}
    done = len(members) - len(todo)
    print(f"{len(members):,} runs, {len(todo):,} to do, {jobs} at a time: {sweep.path}", flush=True)

    def tell(workdir: Workdir, ended: Ended) -> None:
        nonlocal done
        member = by_path[workdir.path]
        member.__dict__.pop("lines", None)  # there are more by now
        if ended.stopped:
            print(f"stopped, to go on later: {member.name}", flush=True)
            return
        done += 1
        member.note(ended.error)
        if ended.error:
            print(f"{done} of {len(members)}  {member.name}  failed: {ended.error}", flush=True)
            return
        name, value = member.judge, member.headline
        shown = "" if value is None else f"{name} {value:.4f}"
        print(f"{done} of {len(members)}  {member.name}  {shown}", flush=True)

    if sweep.given == Given():
        grouped = _grouped(todo, together)
        alone = [one.workdir for group in grouped for one in group if len(group) == 1]
        processes.run_all(alone, jobs, sweep.data_dir, stopped, tell)
        for group in grouped:
            if len(group) > 1 and not stopped.is_set():
                _train_group(sweep, group, stopped, tell)
        return
    for member in todo:  # what a program brings itself no other process has
        if not stopped.is_set():
            tell(member.workdir, train_here(sweep, member))
            # A run has its own handler of signals: what it was told, it tells by ending early.
            if not member.done and not member.error:
                stopped.set()


def _grouped(members: list[Member], together: int) -> list[list[Member]]:
    if together < 2:
        return [[member] for member in members]
    from cnnjax.sweeps.together import groups

    return groups(members, together)


def _train_group(
    sweep: Sweep,
    members: list[Member],
    stopped: threading.Event,
    tell: Callable[[Workdir, Ended], None],
) -> None:
    from cnnjax.sweeps.together import train_group

    print(f"{len(members)} runs in one program, from {members[0].name} to {members[-1].name}", flush=True)
    train_group(sweep, members, stopped, tell)


def train_here(sweep: Sweep, member: Member) -> Ended:
    """Trains the run in this process; it says what it says in its log."""
    from cnnjax.runs.train import train_run

    log = member.workdir.path / processes.LOG
    with open(log, "a") as file, contextlib.redirect_stdout(file):
        try:
            train_run(member.experiment, member.workdir, sweep.data_dir, "cnnjax.sweep", sweep.given)
        except Stopped:
            return Ended(stopped=True)
        except ConfigError as error:
            return Ended(error=str(error))
    return Ended()
