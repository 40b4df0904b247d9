"""The page of a sweep: what won, every run, the curves, and what each varied setting does."""

import io
import json
from collections.abc import Sequence

import numpy as np

from cnnjax import config
from cnnjax.drawing import pages
from cnnjax.drawing.figures import Picture, logarithmic, names_as_they_are, save, subplots
from cnnjax.runs.workdir import write_atomically
from cnnjax.sweeps import space
from cnnjax.sweeps.choice import SEED, Group, Winner, groups
from cnnjax.sweeps.sweep import Member, Sweep

_MOST_CURVES = 60


def write(sweep: Sweep, members: Sequence[Member], winner: Winner | None, command: str) -> None:
    """Writes sweep.html, and results.json with the numbers of its table."""
    ranked = groups(members)
    pictures = [_curves(members)]
    pictures += [_effect(name, ranked) for name in sweep.space.names if name != SEED]
    sections = "".join(pages.section(picture, png(picture)) for picture in pictures)
    about = {
        "winner": _describe(winner, len(members)),
        "command": command,
        "settings": "; ".join(map(describe_axis, sweep.to_json()["space"])),
    }
    body = (
        f"{pages.facts(about)}<h2>Settings, best first</h2>{_ranking(ranked)}"
        f"<h2>Runs</h2>{_runs(sweep, members)}{sections}{pages.folded('Configuration', config.to_json(sweep.base))}"
    )
    write_atomically(sweep.path / "sweep.html", pages.page(f"{sweep.base.name}: {len(members):,} runs", body))
    entries = [
        {"run": one.name, "settings": one.settings, one.judge: one.headline, "state": _state(one)}
        for one in members
    ]
    write_atomically(sweep.path / "results.json", json.dumps(entries, indent=2) + "\n")


def _describe(winner: Winner | None, count: int) -> str:
    if winner is None:
        return "none yet: it is chosen when all runs are done or have failed"
    judge, group = winner.group.members[0].judge, winner.group
    again = f" The test set was used for {winner.uses} winners by now." if winner.uses > 1 else ""
    return (
        f"{group.name}: the best mean {judge} on validation data over {len(group.values)} run(s), {group.mean:.4f} "
        f"+- {group.std:.4f}. On the test set, which was used for nothing before: "
        + ", ".join(f"{name} {winner.mean(name):.4f} +- {winner.std(name):.4f}" for name in winner.metrics[0])
        + f". The best of many is lucky, too: of {count:,} runs, trust the test set.{again}"
    )


def describe_axis(axis: dict) -> str:
    values = axis["values"]
    shown = values if isinstance(values, str) else ", ".join("/".join(map(str, row)) for row in values)
    return f"{' and '.join(axis['names'])}: {shown}"


def _ranking(ranked: Sequence[Group]) -> str:
    judge = ranked[0].members[0].judge
    rows = [
        [
            one.name,
            f"{one.mean:.4f}" if one.values else "",
            f"{one.std:.4f}" if len(one.values) > 1 else "",
            f"{len(one.values)} of {len(one.members)}",
        ]
        for one in ranked
    ]
    return pages.table(["settings", f"{judge} on validation data", "std over seeds", "runs"], rows)


def _runs(sweep: Sweep, members: Sequence[Member]) -> str:
    rows = [
        [
            one.name,
            "" if one.headline is None else f"{one.headline:.4f}",
            _state(one),
            str(one.workdir.path.relative_to(sweep.path)),
        ]
        for one in members
    ]
    return pages.table(["run", members[0].judge, "", "folder"], rows)


def _state(member: Member) -> str:
    if member.done:
        return "done"
    return f"failed: {member.error}" if member.error else "not finished"


@names_as_they_are()
def _curves(members: Sequence[Member]) -> Picture:
    figure, axis = subplots(figsize=(9, 5))
    shown = [one for one in members if one.lines][:_MOST_CURVES]
    for member in shown:
        points = [(line["step"], line[member.judge]) for line in member.lines if member.judge in line]
        axis.plot(*zip(*points, strict=True), ".-", linewidth=1, label=member.name)
    axis.set(xlabel="training step", ylabel=f"{members[0].judge} on validation data")
    axis.grid(alpha=0.3)
    if 0 < len(shown) <= 16:
        axis.legend(fontsize=7)
    of = f", the first {len(shown)}" if len(shown) == _MOST_CURVES < len(members) else ""
    return Picture("curves", "Learning curves", f"Each run{of}.", figure)


@names_as_they_are()
def _effect(name: str, ranked: Sequence[Group]) -> Picture:
    """The runs over the values of one setting, whatever the others are; a bar is one deviation over seeds."""
    figure, axis = subplots(figsize=(7, 4))
    found = [one for one in ranked if one.values]
    values = [one.settings[name] for one in found]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    labels = list(dict.fromkeys(map(space.show, values)))
    places = values if numbers else [labels.index(space.show(value)) for value in values]
    if found:
        axis.errorbar(places, [one.mean for one in found], [one.std for one in found], fmt="o", capsize=3)
    for place in dict.fromkeys(places):
        means = [one.mean for one, at in zip(found, places, strict=True) if at == place]
        axis.plot([place], [np.mean(means)], "_", color="black", markersize=18)
    if not numbers:
        axis.set_xticks(range(len(labels)), labels)
    elif places and min(places) > 0 and max(places) / min(places) >= 8:
        logarithmic(axis, "x")
    judge = ranked[0].members[0].judge
    axis.set(xlabel=name, ylabel=f"{judge} on validation data")
    axis.grid(alpha=0.3)
    caption = (
        "A point is the mean over seeds, its bar one standard deviation of a seed; a black line is the mean over all "
        "other settings."
    )
    return Picture(name, f"What {name} does", caption, figure)


def png(picture: Picture) -> bytes:
    content = io.BytesIO()
    save(picture.figure, content, "png")
    return content.getvalue()
