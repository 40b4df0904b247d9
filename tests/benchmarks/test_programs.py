"""The benchmark that counts what compiled steps need on a GPU that is not here."""

import subprocess

from cnnjax import config
from cnnjax.benchmarks import programs
from cnnjax.benchmarks.options import Options
from experiments import EXPERIMENTS


def test_a_row_holds_what_was_counted_or_why_it_was_not(monkeypatch):
    out = '{"kernels": 180, "GB moved": 6.5}'
    done = subprocess.CompletedProcess((), 0, stdout=f"said before\n{out}\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(programs, "PROGRAMS", programs.PROGRAMS[:1])
    (row,) = programs.compiled_programs(Options())
    assert row.subject == "cifar10_airbench, h200" and row.values == {"kernels": [180.0], "GB moved": [6.5]}
    done = subprocess.CompletedProcess((), 1, stdout="", stderr="Traceback\nConfigError: no compiler\n")
    (row,) = programs.compiled_programs(Options())
    assert row.skipped == "ConfigError: no compiler" and not row.values


def test_the_programs_are_those_of_experiments():
    for _, name, changes, _ in programs.PROGRAMS:
        config.changed(EXPERIMENTS[name](), changes)
