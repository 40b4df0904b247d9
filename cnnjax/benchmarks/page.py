"""RESULTS.md: the recorded results as a page that a person reads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Record = Mapping[str, Any]
_HEAD = """# Results

Written by `python launch.py --mode=benchmark` from the runs recorded in `results.jsonl`; not edited by hand.
Means over n values, with their sample standard deviation; of each subject and device the newest record. What was measured
beside, commands, commits and versions are folded away below each table. A ratio is a peer's time over that of cnnjax: above 1
cnnjax is faster.
"""
_SHOWN = 3  # quantities of a row that has neither a ratio nor a headline


class Claim(NamedTuple):
    """A row of the lecture's table of results: error rates in percent."""

    what: str
    slide: str
    published: str
    subjects: tuple[str, ...]  # of records of ours, of which the first that is there is shown
    target: float  # the published error, which a record may be below
    launch: str  # the command where there is no record, and what it waits for
    metric: str = "accuracy"


# Figures of the papers' abstracts and tables. The slides' 0.17 % is in none of Ciresan's papers, nor is 0.56 %.
LECTURE = (
    Claim(
        "handwritten digits, MNIST",
        "0.17 %",
        "0.23 % (35 networks; Ciresan, Meier, Schmidhuber, CVPR 2012)",
        ("mnist_committee", "mnist_lenet"),
        0.23,
        "`--experiment=mnist_committee`",
    ),
    Claim(
        "Arabic letters, AHCD",
        "named",
        "5.1 % (El-Sawy, Loey, El-Bakry, 2017)",
        ("ahcd",),
        5.1,
        "`--experiment=ahcd`",
    ),
    Claim(
        "Chinese characters, HWDB",
        "named",
        "6.5 % (Ciresan, Meier, Schmidhuber, CVPR 2012)",
        ("hwdb",),
        6.5,
        "a folder of HWDB's images with `--data.name=folder:HWDB --model.name=mcdnn_chinese`, on a GPU",
    ),
    Claim(
        "traffic signs, GTSRB; people 1.16 %",
        "0.56 %",
        "0.54 % (25 networks; Ciresan et al., Neural Networks 2012), of all 12,630 test images",
        ("gtsrb",),
        0.54,
        "`--experiment=gtsrb`",
    ),
    Claim(
        "CIFAR-10",
        "9.3 %",
        "9.32 % (12 networks with DropConnect; Wan et al., ICML 2013)",
        ("cifar10_laptop", "cifar10_dropconnect"),
        9.32,
        "`--experiment=cifar10_laptop`",
    ),
    Claim(
        "ImageNet, five guesses",
        "2.25 %",
        "2.25 % (several networks; Hu, Shen, Sun, CVPR 2018)",
        ("imagenet_resnet50",),
        2.25,
        "`--experiment=imagenet_resnet50`, on GPUs",
        "top5",
    ),
)


def render(records: Sequence[Record]) -> str:
    """The page: the lecture's numbers, then a table per benchmark."""
    newest = {(r["benchmark"], r["subject"], r["device"]): r for r in records}
    parts = [_HEAD, *_lecture(list(newest.values()))]
    for benchmark in dict.fromkeys(key[0] for key in newest):
        rows = [r for r in newest.values() if r["benchmark"] == benchmark]
        parts += [f"\n## {benchmark}\n", "| what | result | n | device |", "|---|---|---|---|"]
        for record in rows:
            leading, count = _leading(record)
            parts.append(f"| {record['subject']} | {leading} | {count} | {record['device']} |")
        parts += ["\n<details><summary>All values, and how they were measured</summary>\n"]
        parts += ["| what | quantity | mean | std | n |", "|---|---|---|---|---|"]
        for record in rows:
            parts += [_row(record["subject"], name, values) for name, values in record["values"].items()]
        parts.append("")
        parts += [_conditions(record) for record in rows]
        parts.append("\n</details>")
    return "\n".join(parts) + "\n"


def describe(record: Record) -> str:
    """One line: each quantity with its mean and, of several values, their standard deviation."""
    parts = []
    for name, values in record["values"].items():
        spread = f" +- {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
        parts.append(f"{name} {np.mean(values):.4g}{spread}")
    return f"{record['subject']}: " + "; ".join(parts)


def _lecture(records: Sequence[Record]) -> list[str]:
    of = {(r["benchmark"], r["subject"]): r for r in records}
    return [
        "\n## The lecture's table\n",
        "Errors on test sets: the mean of several networks, and that of all of them together; and how long they trained.\n",
        "| what | the slide | published | one network | committee | below it | training of all | where |",
        "|---|---|---|---|---|---|---|---|",
        *(_claim(claim, of) for claim in LECTURE),
    ]


def _claim(claim: Claim, of: Mapping[tuple[str, str], Record]) -> str:
    kinds = ("committee", "accuracy")  # the record of a committee tells of its members, too
    found = [of[kind, subject] for subject in claim.subjects for kind in kinds if (kind, subject) in of]
    cells = ["", "", "", "", f"not measured: {claim.launch}"]
    if found:
        values = found[0]["values"]
        errors = 100 * (1 - np.array(values[claim.metric]))
        alone = f"{_with_spread(errors, '{:.2f}')} %, n={len(errors)}"
        together = [100 * (1 - value) for value in values.get("committee", ())]
        best = round(float(min([errors.mean(), *together])), 2)  # no more is shown: 0.23 is not below 0.23
        shown = "".join(f"{value:.2f} %" for value in together)
        took = "".join(f"{sum(v) / 60:.0f} min" for name, v in values.items() if name.startswith("seconds"))
        cells = [
            alone,
            shown,
            "yes" if best < claim.target else "equal" if best == claim.target else "no",
            took,
            f"`{found[0]['subject']}` on {found[0]['device']}",
        ]
    return f"| {claim.what} | {claim.slide} | {claim.published} | {' | '.join(cells)} |"


def _leading(record: Record) -> tuple[str, int]:
    """What a reader looks for first, and of how many values it is the mean."""
    values = record["values"]
    ratios = [name for name in values if " / " in name]
    headline = _headline(record)
    if ratios:
        times = [name for name in values if name.endswith(", ms")]
        shown = [f"**{_with_spread(values[name], '{:.2f}')}** {name}" for name in ratios]
        shown += [f"{name.removesuffix(', ms')} {np.mean(values[name]):.4g} ms" for name in times]
        return "; ".join(shown), len(values[ratios[0]])
    if headline in values:
        shown = [f"**{_with_spread(values[headline], '{:.4f}')}** {headline}"]
        shown += [f"{np.mean(values[name]):,.0f} s for all" for name in values if name.startswith("seconds")]
        return "; ".join(shown), len(values[headline])
    first = [*values][:_SHOWN]
    return "; ".join(f"{np.mean(values[name]):.4g} {name}" for name in first), len(values[first[0]])


def _headline(record: Record) -> str:
    """The metric by which the task of a recorded experiment is judged; empty where the subject is none."""
    from cnnjax import experiments
    from cnnjax.faces.fitted import FITTED
    from cnnjax.tasks import task_class

    if record["subject"] not in experiments.EXPERIMENTS:
        return ""
    task = experiments.EXPERIMENTS[record["subject"]]().task
    return next(iter(record["values"])) if task in FITTED else task_class(task).headline


def _with_spread(values: Sequence[float] | np.ndarray, form: str) -> str:
    mean = form.format(np.mean(values))
    return f"{mean} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else mean


def _row(subject: str, quantity: str, values: Sequence[float]) -> str:
    std = f"{np.std(values, ddof=1):.4g}" if len(values) > 1 else ""
    return f"| {subject} | {quantity} | {np.mean(values):.5g} | {std} | {len(values)} |"


def _conditions(record: Record) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in {**record["versions"], **record.get("peers", {})}.items()
    )
    note = f" {record['note']}" if record.get("note") else ""
    return f"- {record['subject']}: `{record['command']}` on {record['device']}; commit {record['commit']}; {versions}.{note}"
