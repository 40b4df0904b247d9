"""Training in a workdir, from the flags of an experiment to its report."""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection

import jax

from cnnjax.config import ConfigError, Experiment, Stopped
from cnnjax.runs import refusals, report, trackers
from cnnjax.runs.checkpoint import CheckpointStore
from cnnjax.runs.journal import Journal
from cnnjax.runs.plan import Given, Plan, abstract_state, make_plan, with_chosen
from cnnjax.runs.workdir import Workdir
from cnnjax.runtime import processes
from cnnjax.runtime.signals import stop_on_signal
from cnnjax.training import loop, nonfinite
from cnnjax.training.evaluate import Evaluation
from cnnjax.training.loop import Diverged
from cnnjax.training.recipe import make_recipe
from cnnjax.training.step import TrainState

_ANOTHER_ORDER = 1_000_003  # added to the seed when a run is rolled back; far from those of other runs
log = logging.getLogger(__name__)


def train_run(
    experiment: Experiment,
    workdir: Workdir,
    data_dir: str | None = None,
    command: str = "",
    given: Given | None = None,
    said: Collection[str] = (),
    saved: Callable[[int], None] = lambda step: None,
) -> Evaluation:
    """Trains in `workdir`, or goes on with the run that is there; ends with a report. Returns the last evaluation.

    said: fields that the user gave on a command line, which the weights of train.init_from do not change. saved:
    called with the step of each checkpoint, which is being written then."""
    first, given = processes.is_first(), given or Given()
    trackers.refuse_missing(experiment.train.trackers)
    # The first process speaks for all; the others see it end if the folder is in use.
    with workdir.claim() if first else contextlib.nullcontext():
        processes.wait("the workdir is claimed")
        plan = make_plan(experiment, workdir, data_dir, given, said)
        settings = plan.experiment.train
        with trackers.following(plan.experiment, workdir, settings.trackers if first else ()) as told:
            with (
                stop_on_signal() as stopped,  # until the store is closed, and so the last checkpoint written
                CheckpointStore(workdir.checkpoints, settings.keep_last, settings.keep_best) as store,
            ):
                refusals.refuse_other_data(store, plan.experiment, plan.metadata["data"])
                journal = Journal(plan, workdir, store, stopped, told, saved)
                state = _to_the_end(plan, store, journal)
                finished = int(jax.device_get(state.step)[0]) >= plan.num_steps or journal.has_enough()
                if finished and settings.patience:
                    state = _best(plan, store, journal, state)
            if not finished:
                raise Stopped(f"stopped by a signal; launch again with --workdir={workdir.path} to go on")
            evaluation = _final_evaluation(journal, state)
            if first:
                _write_report(plan, workdir, state, evaluation, command, journal, given)
                told.report(workdir.path / "report.html")
    return evaluation


def _to_the_end(plan: Plan, store: CheckpointStore, journal: Journal) -> TrainState:
    """Trains until all steps are done, train.patience is at its end or a signal came; after a divergence, where train.on_nan says so, again from the
    newest checkpoint."""
    tries: collections.Counter[int] = collections.Counter()  # by the step that they began from
    while True:
        begun = plan.begin(store)
        start, state = begun.step, begun.state
        if start > plan.num_steps:
            path = journal.workdir.path
            raise ConfigError(
                f"workdir {path} has {start:,} steps; the experiment asks for {plan.num_steps:,}"
            )
        if tries[start]:
            # A function of the checkpoint: a run that is killed now will come to the same seed again.
            state = dataclasses.replace(state, seed=state.seed + tries[start] * _ANOTHER_ORDER)
        try:
            with journal.following(start, begun.said) as callbacks:
                if journal.has_enough():  # it stopped early, and is launched again
                    return state
                return loop.train(
                    plan.experiment, plan.recipe, plan.dataset, plan.mesh, state, plan.num_steps, callbacks
                )
        except Diverged as error:
            store.wait()
            good = max(store.steps(), default=None)
            tries[good or 0] += 1
            _refuse_to_go_on(plan, error, good, tries[good or 0])


def _best(plan: Plan, store: CheckpointStore, journal: Journal, state: TrainState) -> TrainState:
    """The state of the best checkpoint, of which the journal is told."""
    store.wait()
    best = store.best()
    if best is None or best == int(jax.device_get(state.step)[0]):
        return state
    journal.take_best(best)
    return store.restore(best, abstract_state(plan.recipe, plan.experiment, plan.image_shape, plan.mesh))


def _refuse_to_go_on(plan: Plan, error: Diverged, good: int | None, tried: int) -> None:
    """Raises ConfigError unless the run may go back to its newest checkpoint `good` once more, which it says."""
    settings = plan.experiment.train
    if settings.on_nan != "roll_back" or tried > settings.nan_limit:
        raise ConfigError(_explain(error, good)) from error
    if processes.is_first():
        count = f"{tried} of {settings.nan_limit}"
        log.warning("%s; going back to step %d (%s), the data in another order", error, good or 0, count)


def _final_evaluation(journal: Journal, state: TrainState) -> Evaluation:
    try:
        return journal.final_evaluation(state)
    except Diverged as error:
        raise ConfigError(str(error)) from error


def _write_report(
    plan: Plan,
    workdir: Workdir,
    state: TrainState,
    evaluation: Evaluation,
    command: str,
    journal: Journal,
    given: Given,
) -> None:
    variables = jax.device_get(state.variables)
    experiment = with_chosen(plan.experiment, journal.chosen)
    chosen = make_recipe(experiment, plan.dataset.classes, plan.image_shape, 1, given.model, given.task)
    recipe = dataclasses.replace(plan.recipe, task=chosen.task)
    report.write(workdir, experiment, plan.dataset, recipe, variables, evaluation, command, journal.judged_by)


def _explain(error: Diverged, good: int | None) -> str:
    """One line about a run that diverged when `good` was the newest checkpoint."""
    where = f"; {nonfinite.first_appearance(*error.before)}" if error.before else ""
    kept = "no checkpoint was written yet" if good is None else f"the last good checkpoint is step {good:,}"
    look = "" if error.before else "; --train.debug_nans names the layer where it began"
    return (
        f"{error}{where}; {kept}. Try a lower --optimizer.learning_rate, some --optimizer.warmup or "
        f"--optimizer.clip_norm=1{look}"
    )
