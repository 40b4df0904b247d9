"""Importing cnnjax changes nothing in the process."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the libraries themselves change when they are imported is theirs: they come first.
PROGRAM = """
import asyncio, importlib, logging, os, pkgutil, signal, sys, warnings
import absl.logging, flax.linen, grain, jax, matplotlib.figure, optax, PIL.Image, sklearn.svm, tqdm
from orbax.checkpoint import v1

def state():
    loggers = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    return {
        "warnings": list(warnings.filters),
        "root": (logging.root.level, list(logging.root.handlers), list(logging.root.filters)),
        "loggers": {name: (one.level, list(one.handlers), list(one.filters)) for name, one in loggers.items()
                    if not name.startswith("cnnjax")},
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "rcParams": dict(matplotlib.rcParams),
        "environment": dict(os.environ),
        "jax": {name: jax.config.values[name] for name in jax.config.values},
    }

before = state()
import cnnjax
names = [one.name for one in pkgutil.walk_packages(cnnjax.__path__, "cnnjax.")]
names = [name for name in names if "torch" not in name and "__main__" not in name]  # peers need peers
for name in names:
    importlib.import_module(name)
after = state()
for part, value in before.items():
    if isinstance(value, dict):  # a library may make a logger or a variable of its own, later
        assert value == {key: after[part].get(key) for key in value}, part
    else:
        assert value == after[part], (part, value, after[part])
print(len(names))
"""


def test_importing_every_module_changes_nothing_in_the_process():
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 100


def test_a_run_imports_nothing_that_only_some_runs_need():
    """scipy and sklearn take half a second, before the first step of every run."""
    program = "import sys; import cnnjax.runs.train, cnnjax.runs.fitted; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    imported = set(found.stdout.split())
    assert "numpy" in imported and not imported & {"scipy", "sklearn", "torch", "tensorflow"}
