"""Strict numerics for every test: no implicit promotion, no reused key, full matmul precision."""

import dataclasses
import gc
import os
import sys
from pathlib import Path

import pytest

from cnnjax.runtime import hush, platform

os.environ.setdefault("JAX_PLATFORMS", "cpu")
platform.configure()
hush.hush_libraries()  # as the launcher does

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_num_cpu_devices", 4)

import launch as launcher  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--first-cases", action="store_true", help="of a test with several cases only the first")


@pytest.hookimpl(trylast=True)  # of what is not left out otherwise
def pytest_collection_modifyitems(config, items):
    if config.getoption("--first-cases"):
        first = {}
        for item in items:
            first.setdefault((item.path, item.cls, item.originalname), item)
        items[:] = first.values()


def pytest_collection_finish():
    """What is imported stays; what a trace leaves is mostly no cycle, and looking for cycles took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def shared():
    """Finds real data beside the project: the folder that CNNJAX_SHARED names."""

    def find(path: str) -> Path:
        root = os.environ.get("CNNJAX_SHARED")
        if not root:
            pytest.skip(f"needs real data ({path}): set CNNJAX_SHARED to its folder")
        full = Path(root) / path
        if not full.exists():
            pytest.skip(f"{full} is missing")
        return full

    return find


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def launch(capsys, monkeypatch):
    """Runs launch.py in this process with the given flags; returns exit code, stdout and stderr."""
    import grain  # noqa: F401  # defines flags of its own, which flagsaver would take away after the first launch
    from absl.testing import flagsaver

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])
        code = 0
        with flagsaver.flagsaver():
            try:
                launcher.main(launcher.parse_flags(["launch.py", *arguments]))
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
                if isinstance(stop.code, str):
                    print(stop.code, file=sys.stderr)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(params=["cpu", "default"])
def platform_form(request, monkeypatch):
    """What is compiled for CPUs, and what for accelerators, both computed here."""

    def chosen(*args, default, **forms):
        return forms.get(request.param, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
