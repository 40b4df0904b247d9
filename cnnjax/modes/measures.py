"""Records of results and of speed, and the names that there are."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax.modes.given import chosen_experiment, command_line, only_changes, several_runs, without
from cnnjax.runtime import processes

FLAGS = flags.FLAGS
SPEED = (
    "benchmark.repetitions",
    "benchmark.seeds",
    "benchmark.airbench",
    "benchmark.hiverge",
    "benchmark.torchvision",
    "benchmark.faces",
    "benchmark.traditional",
    "benchmark.tiny",
    "benchmark.resume",
    "benchmark.minutes",
)


def mode_benchmark() -> None:
    from cnnjax.benchmarks import accuracy, records
    from cnnjax.runs.workdir import Workdir

    output = Path(FLAGS["benchmark.output"].value or records.RECORDS)
    if FLAGS["benchmark.name"].value:
        only_changes()
        without("experiment", "--benchmark.name")
        without("workdir", "--benchmark.name")
        benchmark_speed(output)
        return
    for name in SPEED:
        without(name, "mode=benchmark without --benchmark.name")
    note = FLAGS["benchmark.note"].value or ""
    runs = several_runs()
    if FLAGS.workdir and not runs and not FLAGS["experiment"].present and Workdir(FLAGS.workdir).has_run():
        runs = [FLAGS.workdir]
    if runs:
        only_changes()
        without("experiment", "runs in --workdir, which have their own")
        record = accuracy.benchmark_runs(runs, FLAGS.data_dir, command_line(), note)
    else:
        experiment = chosen_experiment(None)
        workdir = Workdir(FLAGS.workdir or Path("runs") / f"benchmark_{experiment.name}")
        record = accuracy.benchmark_accuracy(experiment, workdir, FLAGS.data_dir, command_line(), note)
    if processes.is_first():
        records.append(record, output)
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


def benchmark_speed(output: Path) -> None:
    from cnnjax import benchmarks
    from cnnjax.benchmarks import page, records

    def flag(name: str) -> Any:
        return FLAGS[f"benchmark.{name}"].value

    options = benchmarks.Options(
        repetitions=flag("repetitions"),
        seeds=flag("seeds"),
        data_dir=FLAGS.data_dir,
        airbench=flag("airbench"),
        hiverge=flag("hiverge"),
        torchvision=flag("torchvision"),
        faces=flag("faces"),
        traditional=flag("traditional"),
        tiny=bool(flag("tiny")),
    )
    note, began = flag("note") or "", time.monotonic()
    there = records.parts(output) if flag("resume") else set()
    for part, function in benchmarks.chosen(flag("name")).items():
        if part in there:
            print(f"{part}: recorded already")
            continue
        if flag("minutes") and time.monotonic() - began > 60 * flag("minutes"):
            print(
                f"{part}: not begun after {flag('minutes'):g} minutes; the same command with --benchmark.resume goes on"
            )
            continue
        for found in function(options):
            if found.skipped:
                print(f"skipped: {found.benchmark}, {found.subject}: {found.skipped}")
                continue
            notes = " ".join(text for text in (found.note, note) if text)
            record = records.make_record(
                found.benchmark,
                found.subject,
                found.values,
                command_line(),
                note=notes,
                peers=found.peers,
                part=part,
            )
            records.append(record, output)
            print(page.describe(record))
    print(f"recorded in {output} and {output.parent / 'RESULTS.md'}")


def print_names() -> None:
    """Experiments, or with mode=benchmark the measurements of speed, with their docstrings."""
    if FLAGS.mode == "benchmark":
        from cnnjax.benchmarks import BENCHMARKS, GROUPS

        for name, members in GROUPS.items():
            print(f"{name}: {', '.join(members)}")
        print_table_of(BENCHMARKS)
    else:
        from cnnjax import experiments

        print_table_of(experiments.EXPERIMENTS)


def print_table_of(functions: Mapping[str, Callable[..., Any]]) -> None:
    width = max(map(len, functions))
    for name, function in functions.items():
        title, *rest = [line.strip() for line in (function.__doc__ or "").splitlines() if line.strip()]
        expected = " ".join(line for line in rest if not line.startswith("python "))
        print(f"{name:<{width}}  {title} {expected}")
