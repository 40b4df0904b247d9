"""RESULTS.md: the lecture's table and what a row shows first, from made-up records."""

import math

from cnnjax.benchmarks import page


def record(benchmark, subject, device="a CPU", **values):
    return {
        "benchmark": benchmark, "subject": subject, "values": values, "command": "python launch.py", "commit": "abc",
        "device": device, "versions": {"jax": "1.0"},
    }  # fmt: skip


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_lectures_table_has_errors_in_percent_and_says_what_waits():
    text = page.render(
        [
            record("accuracy", "mnist_lenet", **{"accuracy": [0.992, 0.994], "seconds, all seeds": [150.0]}),
            record("committee", "gtsrb", accuracy=[0.99, 0.992, 0.994], committee=[0.9955]),
            record("accuracy", "imagenet_resnet50", accuracy=[0.76], top5=[0.93]),
        ]
    )
    digits = row(text, "handwritten digits")
    assert digits[3:] == [f"0.70 ± {math.sqrt(0.02):.2g} %, n=2", "", "no", "2 min", "`mnist_lenet` on a CPU"]
    signs = row(text, "traffic signs")
    assert signs[3:6] == ["0.80 ± 0.2 %, n=3", "0.45 %", "yes"]
    assert row(text, "ImageNet")[3] == "7.00 %, n=1"  # of five guesses
    assert "not measured" in row(text, "Arabic")[-1] and row(text, "Arabic")[3:7] == ["", "", "", ""]


def test_what_is_shown_as_the_published_figure_is_not_below_it():
    for wrong, said in ((22, "yes"), (23, "equal"), (24, "no")):
        found = record("committee", "mnist_committee", accuracy=[0.99], committee=[1 - wrong / 10_000])
        assert row(page.render([found]), "handwritten digits")[5] == said


def test_a_committee_is_shown_before_single_runs_and_the_newest_before_older_ones():
    single = record("accuracy", "ahcd", accuracy=[0.9])
    old, new = (record("committee", "ahcd", accuracy=[0.9, 0.9], committee=[a]) for a in (0.95, 0.99))
    assert row(page.render([old, new, single]), "Arabic")[4] == "1.00 %"


def test_a_row_begins_with_its_ratio_or_headline_and_the_rest_is_folded_away():
    text = page.render(
        [
            record("speed", "net", **{"compilation, s": [9.0], "ours, ms": [2.0], "peer / ours": [1.5, 2.5]}),
            record("accuracy", "bccd_grid", **{"loss": [3.0], "ap50": [0.8, 0.9], "seconds, all": [60.0]}),
            record("other", "thing", **{"one": [1.0], "two": [2.0], "three": [3.0], "four": [4.0]}),
        ]
    )
    table, details = text.split("## speed")[1].split("<details>", 1)
    assert "| net | **2.00 ± 0.71** peer / ours; ours 2 ms | 2 | a CPU |" in table
    assert "compilation" not in table and "| net | compilation, s | 9 |  | 1 |" in details
    assert (
        "**0.8500 ± 0.071** ap50; 60 s for all" in text
        and "four |" not in text.split("## other")[1].split("<details>")[0]
    )
