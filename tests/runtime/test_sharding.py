"""Devices: which are used, and what fits them."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cnnjax.config import ConfigError
from cnnjax.runtime import sharding


def devices(count, platform, **stats):
    one = SimpleNamespace(platform=platform, memory_stats=lambda: stats or None)
    return [one] * count


def test_devices_that_would_stay_idle_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: devices(8, "gpu"))
    for batch in (100, 127, 4):
        with pytest.raises(ConfigError, match=f"data.batch_size={batch} does not divide over 8 devices"):
            sharding.make_mesh(batch)
    monkeypatch.undo()
    assert sharding.make_mesh(6).size == 3  # of four virtual devices, which share the cores of the CPU
    assert sharding.make_mesh(6, data_parallel=False).size == 1


def test_data_that_do_not_fit_a_device_are_told_to_stream():
    arrays = {"image": np.zeros((1000, 1000), np.uint8)}
    sharding.check_fits(arrays, SimpleNamespace(local_devices=devices(1, "gpu", bytes_limit=2**21)))
    sharding.check_fits(arrays, sharding.make_mesh(1))  # a CPU does not tell
    small = SimpleNamespace(local_devices=devices(1, "gpu", bytes_limit=2**21, bytes_in_use=2**20 + 2**17))
    with pytest.raises(ConfigError, match="--data.stream"):
        sharding.check_fits(arrays, small)


def test_no_module_asks_what_this_process_computes_on_by_default():
    """A program is made for the devices of its mesh, or for the platform it is lowered for; both may be elsewhere."""
    root = Path(__file__).parents[2]
    allowed = {
        r"default_backend": (),
        # What devices are is asked in one place, of a mesh; before JAX has any, of what may become of this process.
        r"\.platform [!=]=|\.platform in|device_kind [!=]=": ("runtime/sharding", "runtime/platform"),
        # Of what decides no program: which workload is measured, a word in a text.
        r"process_on_cpu": ("runtime/sharding", "benchmarks/", "inspect/summary"),
    }
    for asks, where in allowed.items():
        asking = [
            str(path.relative_to(root))
            for folder in ("cnnjax", "experiments")
            for path in (root / folder).rglob("*.py")
            if re.search(asks, path.read_text())
            and not str(path.relative_to(root)).startswith(tuple(f"cnnjax/{part}" for part in where))
        ]
        assert asking == [], asks
