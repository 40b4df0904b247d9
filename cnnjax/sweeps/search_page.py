"""The page of a search: what won, every trial, how it went, and which settings matter."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax import config
from cnnjax.drawing import pages
from cnnjax.drawing.figures import Picture, names_as_they_are, subplots
from cnnjax.runs.workdir import write_atomically
from cnnjax.sweeps import space, study
from cnnjax.sweeps.choice import Winner
from cnnjax.sweeps.page import describe_axis, png
from cnnjax.sweeps.search import Search
from cnnjax.sweeps.space import Range, Space
from cnnjax.sweeps.study import Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_COLOURS = {"COMPLETE": "tab:blue", "PRUNED": "tab:orange"}
_MOST_CURVES = 200


def write(search: Search, shared: Study, winner: Winner | None, command: str) -> None:
    """Writes search.html, and results.json with the numbers of its table."""
    trials, judge = shared.trials, search.judge
    pictures = [_history(trials, judge), _curves(trials, judge), _parallel(shared, trials, judge)]
    if matter := importance(shared):
        pictures.insert(1, _importance(matter, judge))
    states = [one.state.name for one in trials]
    about = {
        "winner": _describe(winner, trials, judge),
        "trials": f"{states.count('COMPLETE')} finished, {states.count('PRUNED')} pruned at an evaluation at which they "
        f"were below the median of the finished, {states.count('FAIL')} failed, of {search.trials}",
        "command": command,
        "settings": "; ".join(map(describe_axis, search.sweep.to_json()["space"])),
    }
    body = (
        f"{pages.facts(about)}<h2>Trials, best first</h2>{_table(shared, trials, judge)}"
        + "".join(pages.section(picture, png(picture)) for picture in pictures)
        + pages.folded("Configuration", config.to_json(search.sweep.base))
    )
    title = f"{search.sweep.base.name}: {len(trials):,} trials"
    write_atomically(search.sweep.path / "search.html", pages.page(title, body))
    entries = [
        {"trial": one.number, "settings": shared.settings(one), judge: one.value, "state": _state(one)}
        for one in trials
    ]
    write_atomically(search.sweep.path / "results.json", json.dumps(entries, indent=2) + "\n")


def importance(shared: Study) -> Mapping[str, float]:
    """Share of each parameter in the variance of the values, by functional ANOVA of a random forest (Hutter et al. 2014);
    empty while too little is known."""
    optuna = study.require()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return optuna.importance.get_param_importances(shared.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # fewer than two trials, or all of the same value
            return {}


def _describe(winner: Winner | None, trials: "Sequence[FrozenTrial]", judge: str) -> str:
    if winner is None:
        return "none yet: it is chosen when all trials are finished"
    default = next((one for one in trials if one.user_attrs.get(study.DEFAULT)), None)
    beaten = (
        f" The experiment's own settings have {default.value:.4f}."
        if default and default.value is not None
        else ""
    )
    again = f" The test set was used for {winner.uses} winners by now." if winner.uses > 1 else ""
    tested = ", ".join(f"{name} {value:.4f}" for name, value in winner.metrics[0].items())
    return (
        f"{winner.group.name}: the best {judge} on validation data, {winner.group.mean:.4f}.{beaten} On the test set, "
        f"which was used for nothing before: {tested}. The best of many is lucky, too: trust the test set.{again}"
    )


def _state(trial: "FrozenTrial") -> str:
    if error := trial.user_attrs.get(study.ERROR):
        return f"failed: {error}"
    words = {
        "COMPLETE": "done",
        "FAIL": "failed: its workers were lost, one after the other",
        "PRUNED": "pruned",
    }
    return words.get(trial.state.name, "not finished")


def _table(shared: Study, trials: "Sequence[FrozenTrial]", judge: str) -> str:
    def rank(one: "FrozenTrial") -> tuple[bool, float]:
        return one.state.name != "COMPLETE", -(one.value if one.value is not None else -np.inf)

    rows = [
        [
            space.describe(shared.settings(one)),
            "" if one.value is None else f"{one.value:.4f}",
            _state(one),
            str(len(one.intermediate_values)),
            "the experiment's own" if one.user_attrs.get(study.DEFAULT) else f"{one.number}",
            str(one.user_attrs.get(study.RUN, "")),
        ]
        for one in sorted(trials, key=rank)
    ]
    return pages.table(
        ["settings", f"{judge} on validation data", "", "evaluations", "trial", "folder"], rows
    )


@names_as_they_are()
def _history(trials: "Sequence[FrozenTrial]", judge: str) -> Picture:
    figure, axis = subplots(figsize=(9, 4))
    for state, colour in _COLOURS.items():
        shown = [one for one in trials if one.state.name == state and one.value is not None]
        label = "finished" if state == "COMPLETE" else "pruned, at its last evaluation"
        axis.plot([one.number for one in shown], [one.value for one in shown], "o", color=colour, label=label)
    finished = {
        one.number: one.value for one in trials if one.state.name == "COMPLETE" and one.value is not None
    }
    if finished:
        best = np.maximum.accumulate(list(finished.values()))
        axis.plot(list(finished), best, color="tab:red", drawstyle="steps-post", label="best so far")
    axis.set(xlabel="trial", ylabel=f"{judge} on validation data")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return Picture("history", "History", "Each trial in the order in which they began.", figure)


@names_as_they_are()
def _importance(matter: Mapping[str, float], judge: str) -> Picture:
    figure, axis = subplots(figsize=(7, 0.6 + 0.4 * len(matter)))
    names = list(matter)[::-1]
    axis.barh(names, [matter[name] for name in names])
    axis.set(xlabel=f"share of the variance of {judge}", xlim=(0, 1))
    caption = (
        "By functional ANOVA of a random forest, over the finished trials: what a setting does by itself, averaged over "
        "all others in this space. Few trials say little."
    )
    return Picture("importance", "Which settings matter", caption, figure)


@names_as_they_are()
def _curves(trials: "Sequence[FrozenTrial]", judge: str) -> Picture:
    figure, axis = subplots(figsize=(9, 4))
    shown = [one for one in trials if one.intermediate_values][:_MOST_CURVES]
    for one in shown:
        colour = _COLOURS.get(one.state.name, "grey")
        points = sorted(one.intermediate_values.items())
        axis.plot(*zip(*points, strict=True), ".-", linewidth=1, color=colour, alpha=0.6)
    axis.set(xlabel="evaluation", ylabel=f"{judge} on validation data")
    axis.grid(alpha=0.3)
    return Picture("curves", "Learning curves", "Blue: finished. Orange: pruned.", figure)


@names_as_they_are()
def _parallel(shared: Study, trials: "Sequence[FrozenTrial]", judge: str) -> Picture:
    """A line for each finished trial through its value of each parameter, and its result."""
    shown = sorted((one for one in trials if one.state.name == "COMPLETE"), key=lambda one: one.value or 0.0)
    columns = [_column(shared.space, name, shown) for name in shared.names]
    results = np.array([one.value for one in shown], np.float64)
    low, high = (float(results.min()), float(results.max())) if shown else (0.0, 1.0)
    columns.append((_share(results, low, high), [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")]))
    figure, axis = subplots(figsize=(max(6.0, 1.8 * len(columns)), 4.5))
    colours = _share(np.arange(len(shown)), 0, max(len(shown) - 1, 1))
    import matplotlib

    for i in range(len(shown)):
        colour = matplotlib.colormaps["viridis"](colours[i])
        axis.plot(range(len(columns)), [places[i] for places, _ in columns], color=colour, alpha=0.7)
    for x, (_, ticks) in enumerate(columns):
        axis.axvline(x, color="black", linewidth=0.8)
        for y, text in ticks:
            axis.annotate(text, (x, y), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    axis.set_xticks(
        range(len(columns)), [*(name.replace(";", "\n") for name in shared.names), judge], fontsize=8
    )
    axis.set_yticks([])
    axis.set(ylim=(-0.05, 1.05), xlim=(-0.2, len(columns) - 0.5))
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    caption = "A line is a finished trial; the brighter, the better."
    return Picture("parallel", "Parallel coordinates", caption, figure)


def _column(
    varied: Space, name: str, trials: "Sequence[FrozenTrial]"
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where the trials cross the line of a parameter, from 0 to 1, and what is written there."""
    (axis,) = (one for one in varied.axes if study.parameter(one) == name)
    chosen: list[Any] = [one.params[name] for one in trials]
    if isinstance(axis.values, Range):
        low, high = axis.values.low, axis.values.high
        scale = np.log if axis.values.log else np.asarray
        places = _share(scale(np.array(chosen, np.float64)), float(scale(low)), float(scale(high)))
        return places, [(0.0, f"{low:g}"), (1.0, f"{high:g}")]
    choices = study.choices(axis)
    last = max(len(choices) - 1, 1)
    places = np.array([choices.index(value) / last for value in chosen])
    return places, [(i / last, space.show(value)) for i, value in enumerate(choices)]


def _share(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
