"""A search for good settings: Optuna asks, ordinary runs answer, and what does badly ends early.

Runs know nothing of it. A worker starts them as processes, reads the evaluations that they write, and sends those that
it prunes the signal at which any run saves and ends. Several workers, on one machine or many, share a study.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cnnjax import config
from cnnjax.config import ConfigError, Stopped
from cnnjax.runs.workdir import InUse, Workdir
from cnnjax.runtime.signals import stop_on_signal
from cnnjax.sweeps import choice, processes, space, study
from cnnjax.sweeps.choice import Winner
from cnnjax.sweeps.processes import Running
from cnnjax.sweeps.space import Range, Space
from cnnjax.sweeps.study import Study
from cnnjax.sweeps.sweep import Member, Sweep, check_folder, write_about
from cnnjax.tasks import task_class

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_PAUSE = 0.2  # seconds between two looks at runs
_GLANCE = 1.0  # and at the study, which may be far away


@dataclasses.dataclass(frozen=True)
class Search:
    """What is varied and where, how many settings are tried, and where workers meet."""

    sweep: Sweep
    trials: int = 30
    storage: str = ""  # URL of a database, or journal:FILE; default: search.db in the folder
    study: str = ""  # its name there; default: that of the experiment
    prune: bool = True
    silence: float = 60.0  # seconds without a sign of life after which a worker's trials are given to others

    @property
    def judge(self) -> str:
        """The metric that trials are compared by."""
        return task_class(self.sweep.base.task).headline

    def open(self) -> Study:
        """The study. Raises ConfigError for what cannot be meant, before anything is written."""
        study.require()
        self._check()
        known = {name: value for name, _, value in config.fields(self.sweep.base)}
        path = self.sweep.path
        with _alone(path):
            if check_folder(self.sweep, "search"):
                write_about(self.sweep, "search")
            return study.open_study(
                name=self.study or self.sweep.base.name,
                storage=self.storage or f"sqlite:///{(path / 'search.db').absolute()}",
                about=self.sweep.to_json(),
                varied=self.sweep.space,
                default={name: known[name] for name in self.sweep.space.names},
                prune=self.prune,
                silence=self.silence,
            )

    def _check(self) -> None:
        if choice.SEED in self.sweep.space.names:
            raise ConfigError(
                f"search of {choice.SEED}: a seed is luck, no setting; {choice.SEED}s trains more"
            )
        space.experiments(self.sweep.base, _edges(self.sweep.space))

    def member(self, settings: dict[str, Any]) -> Member:
        """The run of a trial; trials of the same settings have one. Raises ConfigError if they cannot be meant."""
        ((_, experiment),) = space.experiments(self.sweep.base, [settings])
        return self.sweep.member(settings, experiment)

    def runs(self, trials: "Sequence[FrozenTrial]") -> list[Member]:
        """Those of finished trials, in their order and each once. What cannot be meant together has none."""
        found: dict[str, Member] = {}
        for trial in trials:
            if trial.state.is_finished():
                with contextlib.suppress(ConfigError):
                    member = self.member(study.settings(self.sweep.space, trial))
                    found.setdefault(member.name, member)
        return list(found.values())


def _edges(varied: Space) -> list[dict[str, Any]]:
    """Each value of each setting, and the ends of each range, beside the first of all others."""
    rows = []
    for axis in varied.axes:
        if isinstance(axis.values, Range):
            kind = space.field_type(axis.names[0])
            rows.append([(kind(axis.values.low),), (kind(axis.values.high),)])
        else:
            rows.append(list(axis.values))
    first = [row[0] for row in rows]
    found = []
    for i, values in enumerate(rows):
        for value in values:
            chosen = [*first[:i], value, *first[i + 1 :]]
            found.append(dict(zip(varied.names, [v for row in chosen for v in row], strict=True)))
    return found


def run_search(search: Search, jobs: int = 1, many: bool = False, command: str = "") -> "list[FrozenTrial]":
    """Works at the study, `jobs` runs at a time, until all its trials are finished, those of other workers, too; then
    evaluates the winner on the test set and writes search.html. With jobs=0: only the page, of what is there.

    Raises Stopped after a signal, which the runs are sent, too: what they had begun other workers go on with.
    """
    from cnnjax.sweeps import search_page

    optuna = study.require()
    space.check_count("jobs", jobs)
    space.check_count("trials", search.trials, 1)
    if search.trials > space.MANY and not many:
        raise ConfigError(f"a search of {search.trials:,} runs: with --yes, if that is meant")
    path = search.sweep.path
    try:
        with stop_on_signal() as stopped:
            shared = search.open()
            print(
                f"{search.trials:,} trials, {shared.finished():,} finished, {jobs} at a time: {path}",
                flush=True,
            )
            if jobs:
                _Worker(search, shared, jobs, stopped).work()
            if stopped.is_set():
                left = max(search.trials - shared.finished(), 0)
                raise Stopped(f"{left:,} of {search.trials:,} trials left; launch again to go on")
            with _alone(path):
                winner = _decide(search, shared) if shared.over(search.trials) else None
                search_page.write(search, shared, winner, command)
    except optuna.exceptions.StorageInternalError as error:
        raise ConfigError(f"the study's storage failed: {' '.join(str(error).split())[:200]}") from error
    return shared.trials


@contextlib.contextmanager
def _alone(path: Any) -> Iterator[None]:
    """One worker after another: of those that begin at the same moment, and so that the winner is evaluated by one of
    them and the others read what it found."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(Workdir(path).claim())
                break
            except InUse:
                time.sleep(_PAUSE)
        yield


class _Job:
    """A trial and the run that answers it, which another process may be training."""

    def __init__(self, shared: Study, trial: "Trial", member: Member, slot: int, slots: int):
        self.trial, self.member, self.pruned = trial, member, False
        self._shared = shared
        self._place = (slot, slots)
        self._running: Running | None = None
        self._reported = 0

    def outcome(self, data_dir: str | None) -> "tuple[str, str] | None":
        """None while it runs; then COMPLETE, PRUNED, FAIL with why, or nothing: stopped, with more to do."""
        ended = self._running.ended() if self._running else None
        busy = not self._running and processes.in_use(self.member.workdir)
        self._report(watching=self._running is not None and not ended)
        if busy or (self._running and not ended):
            return ("PRUNED", "") if busy and self.pruned else None
        if self.member.done and not (ended and ended.error):
            return self._value()
        if self.pruned:
            return "PRUNED", ""
        if ended is None or ended.error.endswith(InUse.words):  # by one that began at the same moment
            self.member.prepare()
            self._running = None if ended else Running(self.member.workdir, data_dir, *self._place)
            return None
        return ("FAIL", ended.error) if ended.error else ("", "")

    def stop(self) -> None:
        if self._running:
            self._running.stop()

    def wait(self) -> None:
        if self._running:
            self._running.wait()

    def _value(self) -> tuple[str, str]:
        lines = _fresh(self.member).lines
        value = lines[-1].get(self.member.judge) if lines else None
        if value is None or value != value:
            return "FAIL", f"{self.member.judge} is not a number"
        return "COMPLETE", repr(float(value))

    def _report(self, watching: bool) -> None:
        """What was evaluated since, by its number: trials of other lengths are compared at the same share."""
        lines = _fresh(self.member).lines
        for line in lines[self._reported :]:
            if self.member.judge in line:
                self._reported += 1
                value = float(line[self.member.judge])
                self.pruned |= self._shared.report(self.trial, value, self._reported)
        if self.pruned and watching:
            self.stop()


def _fresh(member: Member) -> Member:
    return dataclasses.replace(member)  # reads its lines again


class _Worker:
    """Runs of one process, `jobs` at a time."""

    def __init__(self, search: Search, shared: Study, jobs: int, stopped: threading.Event):
        self.search, self.shared, self.slots, self.stopped = search, shared, jobs, stopped
        self.jobs: dict[int, _Job] = {}
        self._glanced = -_GLANCE

    def work(self) -> None:
        """Until nothing is left to do, also for others, or `stopped` is set."""
        try:
            while not self.stopped.is_set():
                for slot, job in list(self.jobs.items()):
                    self._look(slot, job)
                if time.monotonic() - self._glanced > _GLANCE:
                    self._take_up()
                    if not self.jobs and self.shared.over(self.search.trials):
                        return
                self.stopped.wait(_PAUSE)
        finally:
            self._release()

    def _look(self, slot: int, job: _Job) -> None:
        try:
            self.shared.beat(job.trial)
            found = job.outcome(self.search.sweep.data_dir)
            if found is None:
                return
            del self.jobs[slot]
            self._glanced = -_GLANCE  # there is room
            self._tell(job, *found)
        except study.Taken:
            self.jobs.pop(slot, None)
            job.stop()
            print(f"taken over by another worker: {job.member.name}", flush=True)

    def _tell(self, job: _Job, state: str, what: str) -> None:
        trial, name = job.trial, job.member.name
        if not state:
            self.shared.give_back(trial.number)
            print(f"stopped, to go on later: {name}", flush=True)
            return
        job.member.note(what if state == "FAIL" else "")
        if state == "COMPLETE":
            self.shared.tell(trial, state, float(what))
            said = f"{job.member.judge} {float(what):.4f}"
        else:
            self.shared.tell(trial, state, error=what)
            said = f"failed: {what}" if what else "pruned"
        default = "  (the experiment's own settings)" if trial.user_attrs.get(study.DEFAULT) else ""
        print(f"{self.shared.finished()} of {self.search.trials}  {name}  {said}{default}", flush=True)

    def _take_up(self) -> None:
        self._glanced = time.monotonic()
        for trial in self.shared.take_up_lost([job.trial.number for job in self.jobs.values()]):
            print(
                f"its worker is gone, taken up again: {space.describe(self.shared.settings(trial))}",
                flush=True,
            )
        for slot in range(self.slots):
            while slot not in self.jobs and (asked := self.shared.ask(self.search.trials)):
                self._begin(slot, *asked)

    def _begin(self, slot: int, trial: "Trial", settings: dict[str, Any]) -> None:
        try:
            member = self.search.member(settings)
        except ConfigError as error:  # settings that each are fine, but not together
            self.shared.tell(trial, "FAIL", error=str(error))
            print(f"failed: {error}", flush=True)
            return
        trial.set_user_attr(study.RUN, f"{os.uname().nodename}:{member.workdir.path.absolute()}")
        self.jobs[slot] = _Job(self.shared, trial, member, slot, self.slots)

    def _release(self) -> None:
        """After a signal, or an error: what was begun is given back."""
        for job in self.jobs.values():
            job.stop()
        for job in self.jobs.values():
            job.wait()
            with contextlib.suppress(Exception):  # as the storage that failed; others find it lost
                self._tell(job, "", "")


def _decide(search: Search, shared: Study) -> Winner | None:
    """The best finished trial, evaluated on the test set where its run lies, unless test.json has it already."""
    whole = [one for one in shared.trials if one.state.name == "COMPLETE"]
    if not whole:
        print("no trial was finished that is neither pruned nor failed: there is no winner")
        return None
    best = max(whole, key=lambda one: one.value or 0.0)
    member = search.member(shared.settings(best))
    if default := next((one for one in whole if one.user_attrs.get(study.DEFAULT)), None):
        print(f"the experiment's own settings: {member.judge} {default.value:.4f} on validation data")
    if not member.done:
        where = best.user_attrs.get(study.RUN)
        print(f"best: {member.name}  {member.judge} {best.value:.4f} on validation data")
        print(f"its run is {where}: launch there again for what it comes to on the test set")
        return None
    group = choice.Group(member.settings, (member,))
    metrics, uses = choice.evaluate_once(search.sweep.path, member.name, [member], search.sweep)
    winner = Winner(group, metrics, uses)
    shown = f"{member.judge} {best.value:.4f} on validation data"
    print(f"best: {member.name}  {shown}, {winner.mean(member.judge):.4f} on the test set")
    return winner
